"""Confidence sequences against the defining bound, exact enumeration and numerical tuning; and bad input."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from histories import histories
from scipy.optimize import minimize_scalar

from bandit.inference import confidence_sequence
from bandit.sequences import arm_bounds, arm_sequence, difference_sequence, mixture_scale, pseudo_outcomes


def log(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.3, 0.7, n)
    arms = (rng.random(n) > p).astype(int)
    return (rng.random(n) < 0.4 + 0.2 * arms).astype(float), arms, np.where(arms == 0, p, 1 - p)


def test_pseudo_outcomes_by_hand() -> None:
    found = pseudo_outcomes([1.0, 0.0], [1, 0], [0.5, 0.25], 2, [[0.5, 0.25], [0.5, 0.75]])
    # .25 + .75 / .5 and .5 - .5 / .25; the arm that was not drawn keeps its prediction.
    np.testing.assert_allclose(found, [[0.5, 1.75], [-1.5, 0.75]])
    np.testing.assert_allclose(pseudo_outcomes([1.0, 0.0], [1, 0], [0.5, 0.25], 2, [0, 0]), [[0, 2], [0, 0]])


def test_each_pseudo_outcome_is_unbiased_whatever_was_learned() -> None:
    """Exact, over all 256 histories of four decisions that learn, with running means of the decisions before."""
    means = [Fraction(1, 2), Fraction(1, 5)]
    expected = np.zeros((4, 2))
    for history in histories(means, 4):
        expected += float(history.probability) * pseudo_outcomes(history.rewards, history.arms, history.propensities, 2)
    np.testing.assert_allclose(expected, np.tile([0.5, 0.2], (4, 1)), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-6])
def test_the_scale_is_tightest_where_it_says(alpha: float) -> None:
    def half_width(log_v: float) -> float:
        v = math.exp(log_v)
        return (700.0 + v) * (math.log1p(700.0 / v) - 2 * math.log(alpha))

    best = minimize_scalar(half_width, bounds=(-5, 12), method="bounded", options={"xatol": 1e-9})
    assert mixture_scale(700.0, alpha) == pytest.approx(math.exp(best.x), rel=1e-5)


def test_the_bound_inverts_the_mixture_of_normal_likelihood_ratios() -> None:
    """At both ends, the average of exp(l S - l^2 V / 2) over l ~ N(0, 1 / v) is 1 / alpha, by quadrature."""
    rewards, arms, propensities = log(400, 1)
    q = np.full((400, 2), 0.5)
    found = arm_sequence(rewards, arms, propensities, 0, 2, q, alpha=0.1, planned=1000)
    terms = pseudo_outcomes(rewards, arms, propensities, 2, q)[:, 0]
    v = mixture_scale(0.25 * 2 * 1000, 0.1)
    for t in (150, 400):
        largest = max(1 / p for p, arm in zip(propensities[:t], arms[:t], strict=True) if arm == 0)
        variance = float(np.var(terms[:t])) * t + 2 * largest**2
        for end in (found.lower[t - 1], found.upper[t - 1]):
            assert 0 < end < 1
            total = float(terms[:t].sum()) - t * end

            def ratio(x: float, total: float = total, variance: float = variance) -> float:
                return mpmath.exp(x * total - x * x * variance / 2 - x * x * v / 2) * mpmath.sqrt(v / (2 * mpmath.pi))

            mode, spread = total / (variance + v), 1 / math.sqrt(variance + v)
            cuts = [mode + spread * i for i in range(-12, 13, 3)]
            assert float(mpmath.quad(ratio, cuts)) == pytest.approx(10.0, rel=1e-6)


def test_differences_are_concurrent_and_change_sign_with_their_order() -> None:
    rewards, arms, propensities = log(600, 2)
    one = difference_sequence(rewards, arms, propensities, 1, 0, 2)
    other = difference_sequence(rewards, arms, propensities, 0, 1, 2)
    np.testing.assert_allclose(one.lower, -other.upper, atol=1e-12)
    np.testing.assert_allclose(one.center, -other.center, atol=1e-12)
    g = pseudo_outcomes(rewards, arms, propensities, 2)
    assert one.center[-1] == pytest.approx((g[:, 1] - g[:, 0]).mean())
    # What moves both arms alike cancels: .3 more for both, from perfect predictions, leaves the differences alone.
    base, moved = (np.where(arms == 1, 0.6, 0.4) + shift for shift in (0.0, np.where(np.arange(600) < 300, 0.0, 0.3)))
    models = [np.tile([0.4, 0.6], (600, 1)) + shift for shift in (0.0, np.where(np.arange(600) < 300, 0.0, 0.3)[:, None])]
    still, drifting = (
        difference_sequence(r, arms, propensities, 1, 0, 2, q) for r, q in zip((base, moved), models, strict=True)
    )
    np.testing.assert_allclose(still.lower, drifting.lower, atol=1e-9)


def test_nothing_is_said_before_the_start() -> None:
    rewards, arms, propensities = log(400, 3)
    thirtieth = int(np.flatnonzero(arms == 1)[29])
    found = arm_sequence(rewards, arms, propensities, 1, 2)
    assert found.start == thirtieth
    assert (found.lower[:thirtieth] == 0).all()
    assert (found.upper[:thirtieth] == 1).all()
    assert found.lower[-1] > 0
    both = difference_sequence(rewards, arms, propensities, 1, 0, 2)
    assert both.start == max(thirtieth, int(np.flatnonzero(arms == 0)[29]))
    assert both.lower[both.start - 1] == -1
    rare = arm_sequence(rewards, arms, propensities, 2, 3, [0.5, 0.5, 0.5])
    assert rare.start is None
    assert (rare.lower.max(), rare.upper.min()) == (0, 1)


def test_sequences_stay_within_what_is_possible_and_narrow() -> None:
    rewards, arms, propensities = log(20_000, 4)
    found = arm_sequence(rewards, arms, propensities, 1, 2)
    assert (found.lower >= 0).all()
    assert (found.upper <= 1).all()
    width = found.upper - found.lower
    assert width[-1] < width[2000] < width[200]
    assert found.lower[-1] < 0.6 < found.upper[-1]
    with pytest.raises(ValueError, match="read-only"):
        found.lower[0] = 1.0


def test_arms_share_alpha() -> None:
    bounds = arm_bounds([120.0, 3.5], [1000.0, 10.0], 0.1)
    assert bounds == (confidence_sequence(120, 1000, 0.05), confidence_sequence(3.5, 10, 0.05))
    assert arm_bounds([0.0], [0.0]) == ((0.0, 1.0),)


REWARDS, ARMS, HALF = [1.0, 0.0], [0, 1], [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pseudo_outcomes([2.0, 0.0], ARMS, HALF, 2), r"rewards\[0\] is 2\.0: every entry must be from 0 to 1"),
        (lambda: pseudo_outcomes(REWARDS, ARMS, [0.5, 0.0], 2), r"propensities\[1\] is 0\.0"),
        (lambda: pseudo_outcomes(REWARDS, ARMS, None, 2), "propensities is None"),
        (lambda: pseudo_outcomes(REWARDS, [0, 2], HALF, 2), r"arms\[1\] is 2"),
        (lambda: pseudo_outcomes([], [], [], 2), "rewards is empty"),
        (lambda: arm_sequence(REWARDS, ARMS, HALF, 2, 2), "arm is 2"),
        (lambda: arm_sequence(REWARDS, ARMS, HALF, 0, 2, alpha=0.0), "alpha is 0.0"),
        (lambda: arm_sequence(REWARDS, ARMS, HALF, 0, 2, planned=0), "planned is 0"),
        (lambda: difference_sequence(REWARDS, ARMS, HALF, 1, 1, 2), "control is 1, the arm itself"),
        (lambda: difference_sequence(REWARDS, ARMS, HALF, 1, -1, 2), "control is -1"),
        (lambda: arm_bounds([1.0], [2.0, 3.0]), "successes has 1 entries and n has 2"),
        (lambda: arm_bounds([3.0], [2.0]), "successes is 3.0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
