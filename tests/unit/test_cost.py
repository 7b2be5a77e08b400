"""Allocations with costs: against 25-digit integrals, closed forms, and the definition of the smallest lambda."""

import csv
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import betainc, betaincc

from bandit.allocation import AllocationKind, AllocationRule, NoEligibleArmError, apply_floor
from bandit.cost import CeilingError, cheapest, keep_ceiling, pareto_front, probability_best_value
from bandit.posterior import probability_best
from bandit.shifted import Contest

TABLE = Path(__file__).parents[2] / "router/data/llm_outcomes_3arms_cost.csv"


def reference(alpha: list[float], beta: list[float], shift: list[float]) -> list[float]:
    """P(theta_i - shift_i is the largest) by quadrature over theta in 25 digits, cut where any arm's support ends."""
    arms = range(len(alpha))
    chances = []
    with mpmath.workdps(25):
        for i in arms:
            a, b = mpmath.mpf(alpha[i]), mpmath.mpf(beta[i])

            def integrand(x: mpmath.mpf, i: int = i, a: mpmath.mpf = a, b: mpmath.mpf = b) -> mpmath.mpf:
                value = x ** (a - 1) * (1 - x) ** (b - 1) / mpmath.beta(a, b)
                for j in arms:
                    if j != i:
                        at = min(1, max(0, x + shift[j] - shift[i]))
                        value *= mpmath.betainc(alpha[j], beta[j], 0, at, regularized=True)
                return value

            low = max(0.0, *(shift[i] - shift[j] for j in arms))
            cuts = {low, 1.0, *(1 - shift[j] + shift[i] for j in arms)}
            for j in arms:
                mean = alpha[j] / (alpha[j] + beta[j])
                sd = (mean * (1 - mean) / (alpha[j] + beta[j] + 1)) ** 0.5
                cuts |= {mean + z * sd - shift[j] + shift[i] for z in (-12, -8, -5, -3, -1, 0, 1, 3, 5, 8, 12)}
            chances.append(0.0 if low >= 1 else float(mpmath.quad(integrand, sorted(c for c in cuts if low <= c <= 1))))
    assert sum(chances) == pytest.approx(1, abs=1e-12), "the reference itself"
    return chances


@pytest.mark.parametrize(
    ("alpha", "beta", "shift"),
    [
        ([2, 1], [1, 2], [0, 0.3]),
        ([2, 1, 3], [1, 2, 3], [0.1, 0.3, 0]),
        pytest.param([20, 10, 40], [10, 20, 60], [0.4, 0, 0.1], marks=pytest.mark.slow),
        ([0.5, 2, 1], [0.5, 0.7, 3], [0.2, 0, 0.35]),
        ([900, 30], [100, 40], [0.5, 0]),
        ([2, 3], [3, 2], [0, 1.2]),
    ],
)
def test_against_high_precision(alpha: list[float], beta: list[float], shift: list[float]) -> None:
    found = probability_best_value(alpha, beta, [s / 4 for s in shift], 4.0)
    np.testing.assert_allclose(found, reference(alpha, beta, shift), rtol=0, atol=1e-10)


@pytest.mark.parametrize("d", [0.0, 1e-12, 0.01, 0.5, 0.999, 1.0, 30.0])
def test_uniform_posteriors_have_a_closed_form(d: float) -> None:
    # P(U - d > V) = (1 - d)^2 / 2.
    expected = max(0.0, 1 - d) ** 2 / 2
    np.testing.assert_allclose(probability_best_value([1, 1], [1, 1], [d, 0], 1.0), [expected, 1 - expected], atol=1e-10)


@pytest.mark.parametrize("a", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("d", [0.001, 0.25, 0.8])
def test_a_uniform_arm_against_any_other(a: float, d: float) -> None:
    # P(U > theta + d) = E max(0, 1 - d - theta), from incomplete Beta functions: singular supports included.
    b, t = 0.4, 1 - d
    wins = t * betainc(a, b, t) - a / (a + b) * betainc(a + 1, b, t)
    np.testing.assert_allclose(probability_best_value([1, a], [1, b], [d, 0], 1.0), [wins, 1 - wins], atol=1e-9)


@pytest.mark.parametrize("b", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("d", [0.001, 0.25, 0.8])
def test_a_uniform_arm_against_any_other_that_costs_more(b: float, d: float) -> None:
    # P(theta - d > U) = E max(0, theta - d): theta may be next to 1, where the other arm's integrand has a step.
    a = 0.4
    loses = a / (a + b) * betaincc(a + 1, b, d) - d * betaincc(a, b, d)
    np.testing.assert_allclose(probability_best_value([1, a], [1, b], [0, d], 1.0), [1 - loses, loses], atol=1e-9)


def test_against_drawn_posteriors() -> None:
    """Four standard errors of 4e6 draws: from a right program a false alarm in 5e3 seeds for each of 3 entries."""
    rng = np.random.default_rng(77)
    alpha, beta, cost = np.array([40.0, 4000.0, 3.0]), np.array([60.0, 6100.0, 5.0]), np.array([0.02, 0.0, 0.05])
    p = probability_best_value(alpha, beta, cost, 1.5)
    best = (rng.beta(alpha, beta, (4_000_000, 3)) - 1.5 * cost).argmax(axis=1)
    share = np.bincount(best, minlength=3) / len(best)
    assert np.all(np.abs(share - p) <= 4 * np.sqrt(p * (1 - p) / len(best)))


@pytest.mark.parametrize("k", [1, 2, 3, 10, 30])
def test_without_a_price_or_a_difference_it_is_probability_best(k: int) -> None:
    rng = np.random.default_rng(k)
    alpha, beta, cost = 10 ** rng.uniform(-2, 8, k), 10 ** rng.uniform(-2, 8, k), rng.uniform(0, 1, k)
    expected = probability_best(alpha, beta)
    np.testing.assert_allclose(probability_best_value(alpha, beta, cost, 0.0), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(probability_best_value(alpha, beta, np.full(k, 0.7), 9.0), expected, rtol=0, atol=1e-10)


def test_a_tiny_price_changes_little() -> None:
    alpha, beta = [30, 300, 0.02], [50, 470, 0.01]
    found = probability_best_value(alpha, beta, [1.0, 0.0, 0.5], 1e-12)
    np.testing.assert_allclose(found, probability_best(alpha, beta), atol=1e-8)


def test_the_largest_price_leaves_the_cheapest_arms() -> None:
    found = probability_best_value([9, 5, 1, 2], [1, 5, 9, 8], [0.02, 0.01, 0.01, 1e300], 1e308)
    assert found[[0, 3]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(found[1:3], probability_best([5, 1], [5, 9]), atol=1e-10)


@pytest.mark.parametrize("largest", [1, 4, 6])
def test_one_grid_for_all_arms_gives_what_a_grid_for_each_gives(largest: int) -> None:
    """Two programs for one number; the one grid is taken where no density is infinite."""
    rng = np.random.default_rng(largest)
    for _ in range(20):
        k = int(rng.integers(2, 9))
        alpha, beta = 1 + 10 ** rng.uniform(-1, largest, (2, k))
        shift = 10 ** rng.uniform(-6, 0.2, k) * (rng.random(k) < 0.8)
        contest = Contest(alpha, beta)
        together = contest.probability_largest(shift)
        contest._smooth[:] = False
        np.testing.assert_allclose(together, contest.probability_largest(shift), rtol=0, atol=1e-9)


ALPHA, BETA, COST = [920.0, 600.0, 880.0], [80.0, 400.0, 120.0], [0.015, 0.00003, 0.0006]


def rule(floor: float = 0.01, caps: tuple[float, ...] = (1.0, 1.0, 1.0), control: int | None = None) -> AllocationRule:
    return AllocationRule(AllocationKind.THOMPSON, floor, caps, control)


def test_the_smallest_price_that_keeps_the_ceiling() -> None:
    found = keep_ceiling(rule(), ALPHA, BETA, COST, 0.003)
    assert found.cost_usd <= 0.003 * (1 + 1e-9)
    np.testing.assert_allclose(
        found.allocation, apply_floor(probability_best_value(ALPHA, BETA, COST, found.reward_per_usd), 0.01), atol=1e-12
    )
    assert found.cost_usd == pytest.approx(float(found.allocation @ COST))
    lower = apply_floor(probability_best_value(ALPHA, BETA, COST, found.reward_per_usd * (1 - 2e-6)), 0.01)
    assert lower @ COST > 0.003


def test_a_ceiling_that_does_not_bind_costs_nothing() -> None:
    found = keep_ceiling(rule(), ALPHA, BETA, COST, 0.02)
    assert found.reward_per_usd == 0.0
    np.testing.assert_allclose(found.allocation, apply_floor(probability_best(ALPHA, BETA), 0.01), atol=1e-10)


def test_a_ceiling_below_the_floor_is_refused_with_the_numbers() -> None:
    # The floor alone: .01 each, and the cheapest arm the rest.
    least = 0.01 * 0.015 + 0.98 * 0.00003 + 0.01 * 0.0006
    with pytest.raises(
        CeilingError, match=r"ceiling_usd is 0\.0001: .* at least 0\.0001854 USD, at the shares 0\.01, 0\.98"
    ):
        keep_ceiling(rule(), ALPHA, BETA, COST, 0.0001)
    assert keep_ceiling(rule(), ALPHA, BETA, COST, least * (1 + 1e-6)).cost_usd == pytest.approx(least, rel=2e-6)
    with pytest.raises(CeilingError, match=r"at least 0\.5 USD"):
        keep_ceiling(rule(), ALPHA, BETA, [0.5] * 3, 0.4)


def test_the_expected_cost_never_rises_with_the_price() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        alpha, beta, cost = 10 ** rng.uniform(-1, 4, 4), 10 ** rng.uniform(-1, 4, 4), rng.uniform(0, 1, 4)
        costs = [probability_best_value(alpha, beta, cost, x) @ cost for x in np.geomspace(1e-4, 1e2, 30)]
        assert np.all(np.diff(costs) <= 1e-9)


def test_with_caps_the_first_price_counts_though_the_cost_rises_again() -> None:
    # The free arm is capped, and what it cannot take goes to the dear control.
    limited = rule(0.0, (0.3, 1.0, 1.0), control=2)
    args = ([50.0, 80.0, 52.0], [50.0, 20.0, 48.0], [0.0, 0.5, 1.0])

    def cost(price: float) -> float:
        p = probability_best_value(*args, price)
        return float(np.array([0, 0.5, 1]) @ [min(p[0], 0.3), p[1], p[2] + max(0.0, p[0] - 0.3)])

    assert cost(20.0) == pytest.approx(0.7)
    found = keep_ceiling(limited, *args, 0.4)
    assert found.cost_usd == pytest.approx(0.4, rel=1e-4)
    assert all(cost(x) > 0.4 for x in np.linspace(0, found.reward_per_usd * (1 - 1e-5), 40))


@pytest.mark.parametrize("n", [100, 10_000, 1_000_000])
def test_with_caps_a_ceiling_that_is_kept_only_in_passing_is_found(n: int) -> None:
    """At the price where the free arm just fills its cap a decision costs .35; before and after it costs more.

    The stretch of prices is as narrow as the posteriors are.
    """
    found = keep_ceiling(
        rule(0.0, (0.3, 1.0, 1.0), control=2), [0.5 * n, 0.8 * n, 0.52 * n], [0.5 * n, 0.2 * n, 0.48 * n], [0, 0.5, 1], 0.38
    )
    assert found.reward_per_usd < 1.0
    assert found.cost_usd == pytest.approx(0.38, rel=1e-4)


def test_where_no_price_keeps_the_ceiling_the_cheapest_allocation_does() -> None:
    # Whatever the price, the excess of the free arm's cap goes to the control, never to the arm between.
    found = keep_ceiling(rule(0.0, (0.3, 1.0, 1.0), control=2), [9000, 1, 9], [1000, 99, 1], [0, 0.5, 1.0], 0.4)
    assert found.reward_per_usd == float("inf")
    assert found.allocation.tolist() == pytest.approx([0.3, 0.7, 0.0])
    assert found.cost_usd == pytest.approx(0.35)


def test_the_cheapest_allocation_by_hand() -> None:
    def shares(*args, **named) -> list[float]:
        return cheapest(*args, **named).allocation.tolist()

    assert shares(rule(), COST) == pytest.approx([0.01, 0.98, 0.01])
    assert shares(rule(caps=(1.0, 0.5, 0.3)), COST) == pytest.approx([0.2, 0.5, 0.3])
    assert shares(rule(caps=(1.0, 0.5, 1.0)), COST, eligible=[0, 1]) == pytest.approx([0.5, 0.5, 0])
    assert shares(rule(caps=(0.2, 0.3, 0.9)), COST, eligible=[0, 1]) == pytest.approx([0.4, 0.6, 0])
    assert shares(rule(caps=(1.0, 0.0, 0.6)), COST) == pytest.approx([0.4, 0, 0.6])
    assert shares(rule(0.0), [0.5, 0.1, 0.1]) == [0, 1, 0]
    assert shares(rule(0.0), [0.5, 0.1, 0.1], reward=[0.9, 0.4, 0.5]) == [0, 0, 1]
    with pytest.raises(NoEligibleArmError):
        cheapest(rule(caps=(1.0, 0.0, 1.0)), COST, eligible=[1])


def test_no_allocation_within_floor_and_caps_is_cheaper_than_the_cheapest() -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        k = int(rng.integers(2, 6))
        caps = tuple(rng.uniform(0.3, 1.0, k).tolist())
        limits = AllocationRule(AllocationKind.THOMPSON, 0.02, caps, int(rng.integers(k)))
        if sum(caps) < 1:
            continue
        cost = rng.uniform(0, 1, k)
        bounds = [(min(0.02, cap), cap) for cap in caps]
        expected = linprog(cost, A_eq=np.ones((1, k)), b_eq=[1], bounds=bounds).fun
        assert cheapest(limits, cost).cost_usd == pytest.approx(expected, abs=1e-9)


def test_only_eligible_arms_take_part() -> None:
    found = keep_ceiling(rule(), ALPHA, BETA, COST, 0.008, eligible=[0, 2])
    assert found.allocation[1] == 0.0
    assert found.cost_usd == pytest.approx(0.008, rel=1e-4)
    with pytest.raises(NoEligibleArmError):
        keep_ceiling(rule(), ALPHA, BETA, COST, 0.008, eligible=[])
    with pytest.raises(ValueError, match="read-only"):
        found.allocation[0] = 1.0


def test_the_front_of_three_real_models() -> None:
    """gemini earns most, llama costs least, mistral is between in both: none beats another."""
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    names = [name.removesuffix(":reward") for name in rows[0] if name.endswith(":reward")]
    reward = np.array([np.mean([float(row[f"{name}:reward"]) for row in rows]) for name in names])
    cost = np.array([np.mean([float(row[f"{name}:cost_usd"]) for row in rows]) for name in names])
    front = pareto_front(reward, cost)
    assert [names[arm].split("/")[1] for arm in front] == [
        "llama-3.1-8b-instruct",
        "mistral-large-2512",
        "gemini-2.5-pro",
    ]
    # A made-up arm that is as good as the middle one and dearer, or as dear and worse, is not on it.
    worse = pareto_front([*reward, reward[2], reward[2] - 0.01], [*cost, cost[2] * 1.1, cost[2]])
    assert worse == front


def test_fronts_by_hand() -> None:
    assert pareto_front([0.5, 0.6, 0.4, 0.6], [1.0, 2.0, 0.5, 3.0]) == (2, 0, 1)
    assert set(pareto_front([0.5, 0.5, 0.4], [1.0, 1.0, 1.0])) == {0, 1}
    assert pareto_front([0.5], [0.0]) == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probability_best_value([1, 1], [1, 1], [1], 1.0), r"cost_usd has shape \(1,\)"),
        (lambda: probability_best_value([1, 1], [1, 1], [1, -1], 1.0), r"cost_usd\[1\] is -1\.0"),
        (lambda: probability_best_value([1, 1], [1, 1], [float("nan"), 1], 1.0), r"cost_usd\[0\] is nan"),
        (lambda: probability_best_value([1, 1], [1, 1], [1, 1], -1.0), r"reward_per_usd is -1\.0"),
        (lambda: probability_best_value([1, 1], [1, 1], [1, 1], float("inf")), "reward_per_usd is inf"),
        (lambda: keep_ceiling(rule(), ALPHA, BETA, COST, float("nan")), "ceiling_usd is nan"),
        (lambda: keep_ceiling(rule(), ALPHA[:2], BETA[:2], COST[:2], 1.0), r"rule\.caps has 3 entries"),
        (lambda: pareto_front([0.5, float("nan")], [1, 1]), "reward is .*nan"),
        (lambda: pareto_front([], []), "reward is "),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
