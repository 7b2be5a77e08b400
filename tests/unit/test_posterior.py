"""Posterior comparisons against closed forms, published identities and 40-digit quadrature."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaincinv, betaln

from bandit.posterior import (
    Comparison,
    compare,
    credible_interval,
    expected_loss,
    probability_best,
    value_remaining,
)

#: alpha, beta, P(best), expected loss; made by `reference` below, 13 digits.
HARD = [
    pytest.param(
        [0.01, 1e9, 1], [0.01, 1e9, 1],
        [0.4965981529922, 0.2500000000025, 0.2534018470053],
        [0.3095735863325, 0.3095735863325, 0.3095735863325],
        id="two-points-a-spike-and-uniform",
    ),
    pytest.param(
        [1e9, 999970000], [1e9, 1e9],
        [0.6823737544391, 0.3176262455609],
        [3.254435613105e-06, 1.075454811479e-05],
        id="a-billion-of-each",
    ),
    pytest.param(
        [0.01, 0.02, 0.5], [1e9, 1e9, 1e9],
        [0.01670775097401, 0.03352352113201, 0.949768727894],
        [5.060277242974e-10, 4.960277242977e-10, 1.602772454725e-11],
        id="all-near-zero",
    ),
    pytest.param(
        [1e9, 1e9, 1e9], [0.01, 0.02, 1],
        [0.666599718556, 0.3331622688632, 0.0002380125807528],
        [9.761987419173e-12, 1.976198741887e-11, 9.997619864193e-10],
        id="all-near-one",
    ),
    pytest.param(
        [3.5, 0.5, 1000], [1e6, 2e5, 4e8],
        [0.5273671731851, 0.2403872913365, 0.2322455354784],
        [1.209139343709e-06, 2.209133343736e-06, 2.209133343736e-06],
        id="rare-successes",
    ),
    pytest.param(
        [0.5, 50, 5e3, 5e5, 5e7], [0.5, 50, 5e3, 5e5, 5e7],
        [0.4865906331531, 0.2543467949034, 0.1296029345038, 0.0669153522273, 0.06254428521241],
        [0.1700506082346, 0.1700506082346, 0.1700506082346, 0.1700506082346, 0.1700506082346],
        id="nested-scales",
    ),
    pytest.param(
        [10, 12, 3, 100, 1000], [20, 22, 9, 210, 2050],
        [0.2918375321302, 0.386926162007, 0.1374734811614, 0.09458621803718, 0.08917660666423],
        [0.07728046386644, 0.05767262072919, 0.1606137971998, 0.08803315203848, 0.08274494474076],
        id="ordinary",
    ),
    pytest.param(
        [1e6, 5e5, 300], [1, 1, 0.01],
        [0.05444174535559, 0.02722087267779, 0.9183373819666],
        [9.455572868592e-07, 1.945554286866e-06, 3.327778054612e-05],
        id="nearly-always-successful",
    ),
    pytest.param(
        [620, 500], [400, 500],
        [0.9999994765238, 5.234761928319e-07],
        [2.206346589827e-09, 0.1078431394612],
        id="nearly-decided",
    ),
    pytest.param(
        [5.647590846720421, 339914.27, 30467232.6, 0.2885, 1109.1768], [0.01, 0.01028, 0.92329, 0.01, 0.01],
        [0.2422121889514, 0.2711137990403, 0.0001390019576734, 0.2264245557368, 0.2601104543139],
        [0.001767536792258, 3.023887469774e-08, 3.030031540825e-08, 0.03350083751689, 9.015609917339e-06],
        id="long-right-tails",
    ),
]  # fmt: skip


def reference(alpha: list[float], beta: list[float]) -> tuple[list[float], list[float]]:
    """P(best) and expected loss in 40 digits: panels halved until they agree, tails integrated node by node."""
    with mpmath.workdps(40):
        arms = [(mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(alpha, beta, strict=True)]
        constants = [mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b) for a, b in arms]
        coarse, fine = _legendre(6), _legendre(12)

        def log_density(i: int, y: mpmath.mpf) -> mpmath.mpf:
            a, b = arms[i]
            bend = mpmath.log1p(mpmath.exp(-abs(y)))
            log_x, log_rest = (-bend, -y - bend) if y > 0 else (y - bend, -bend)
            return a * log_x + b * log_rest - constants[i]

        def end(i: int, side: int) -> mpmath.mpf:
            peak = mpmath.log(arms[i][0] / arms[i][1])
            distance = mpmath.mpf("1e-6")
            while log_density(i, peak) - log_density(i, peak + side * distance) < 40:
                distance *= mpmath.mpf("1.1")
            return peak + side * distance

        def integrals(a: mpmath.mpf, b: mpmath.mpf, rule: list[tuple[mpmath.mpf, mpmath.mpf]]) -> list[mpmath.mpf]:
            half, middle = (b - a) / 2, (a + b) / 2
            return [half * sum(w * mpmath.exp(log_density(i, middle + half * x)) for x, w in rule) for i in range(len(arms))]

        panels: list[tuple[mpmath.mpf, mpmath.mpf]] = []

        def split(a: mpmath.mpf, b: mpmath.mpf, whole: list[mpmath.mpf]) -> None:
            middle = (a + b) / 2
            left, right = integrals(a, middle, fine), integrals(middle, b, fine)
            if max(abs(p + q - r) for p, q, r in zip(left, right, whole, strict=True)) < 1e-20:
                panels.extend([(a, middle), (middle, b)])
            else:
                split(a, middle, left)
                split(middle, b, right)

        lows, highs = ([end(i, side) for i in range(len(arms))] for side in (-1, 1))
        peaks = [mpmath.log(a / b) for a, b in arms]
        lower, upper = max(lows), max(highs)
        cuts = sorted({lower, upper} | {y for y in lows + highs + peaks if lower < y < upper})
        for start, stop in pairwise(cuts):
            for k in range(4):
                a, b = start + (stop - start) * k / 4, start + (stop - start) * (k + 1) / 4
                split(a, b, integrals(a, b, fine))
        tails = [mpmath.mpf(0)] * len(arms)
        best, mean = [mpmath.mpf(0)] * len(arms), mpmath.mpf(0)
        for a, b in reversed(panels):
            half, right = (b - a) / 2, b
            for x, w in sorted(fine, reverse=True):
                y = (a + b) / 2 + half * x
                tails = [t + s for t, s in zip(tails, integrals(y, right, coarse), strict=True)]
                right = y
                for i in range(len(arms)):
                    share = half * w * mpmath.exp(log_density(i, y))
                    share *= mpmath.fprod(1 - tails[j] for j in range(len(arms)) if j != i)
                    best[i] += share
                    mean += share / (1 + mpmath.exp(-y))
            tails = [t + s for t, s in zip(tails, integrals(a, right, coarse), strict=True)]
        return [float(p) for p in best], [float(mean - a / (a + b)) for a, b in arms]


def _legendre(n: int) -> list[tuple[mpmath.mpf, mpmath.mpf]]:
    rule = []
    for guess in np.polynomial.legendre.leggauss(n)[0]:
        x = mpmath.findroot(lambda t: mpmath.legendre(n, t), mpmath.mpf(float(guess)))
        slope = n * (x * mpmath.legendre(n, x) - mpmath.legendre(n - 1, x)) / (x * x - 1)
        rule.append((x, 2 / ((1 - x * x) * slope * slope)))
    return rule


@pytest.mark.parametrize(("alpha", "beta", "best", "loss"), HARD)
def test_hard_cases_agree_with_stated_values(
    alpha: list[float], beta: list[float], best: list[float], loss: list[float]
) -> None:
    result = compare(alpha, beta)
    np.testing.assert_allclose(result.probability_best, best, rtol=0, atol=1e-11)
    np.testing.assert_allclose(result.expected_loss, loss, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "beta", "best", "loss"), HARD)
def test_stated_values_come_from_the_reference(
    alpha: list[float], beta: list[float], best: list[float], loss: list[float]
) -> None:
    p, gap = reference(alpha, beta)
    assert sum(p) == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(p, best, rtol=1e-12)
    np.testing.assert_allclose(gap, loss, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20, 100])
@pytest.mark.parametrize("pair", [(0.01, 0.01), (1, 1), (0.01, 1e9), (1e9, 0.01), (3, 5), (1e3, 1e6), (1e9, 1e9)])
def test_identical_arms_share_equally(k: int, pair: tuple[float, float]) -> None:
    result = compare([pair[0]] * k, [pair[1]] * k)
    np.testing.assert_allclose(result.probability_best, 1 / k, rtol=0, atol=1e-13)
    np.testing.assert_allclose(result.expected_loss, result.expected_loss[0], rtol=0, atol=1e-15)


def _power_family(k: int) -> NDArray[np.float64]:
    return 10 ** np.random.default_rng(k).uniform(-2, 9, k)


@pytest.mark.parametrize("k", [2, 3, 5, 20, 100])
def test_power_distributions_have_a_closed_form(k: int) -> None:
    # theta = U^(1/a) ~ Beta(a, 1); the maximum of such draws is Beta(sum a, 1).
    a = _power_family(k)
    result = compare(a, np.ones(k))
    np.testing.assert_allclose(result.probability_best, a / a.sum(), rtol=0, atol=1e-10)
    gap = a.sum() / (a.sum() + 1) - a / (a + 1)
    np.testing.assert_allclose(result.expected_loss, gap, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("first", "second"), [((3, 7), (5, 6)), ((1, 1), (40, 60)), ((120, 880), (150, 850)), ((900, 2), (30, 1))]
)
def test_two_arms_with_whole_parameters(first: tuple[int, int], second: tuple[int, int]) -> None:
    # Miller (2014), Formulas for Bayesian A/B testing: a finite sum of Beta functions.
    i = np.arange(second[0])
    terms = betaln(first[0] + i, first[1] + second[1]) - np.log(second[1] + i)
    terms -= betaln(1 + i, second[1]) + betaln(*first)
    second_wins = np.exp(terms).sum()
    p = probability_best([first[0], second[0]], [first[1], second[1]])
    np.testing.assert_allclose(p, [1 - second_wins, second_wins], rtol=0, atol=1e-10)


def test_two_arms_are_each_others_complement_when_mirrored() -> None:
    alpha, beta = np.array([0.3, 2e4]), np.array([7.0, 3e5])
    p = probability_best(alpha, beta)
    np.testing.assert_allclose(probability_best(beta, alpha), p[::-1], rtol=0, atol=1e-12)


def test_separated_arms_are_decided() -> None:
    result = compare([1e9, 0.01, 1e9], [0.01, 1e9, 1e9])
    np.testing.assert_allclose(result.probability_best, [1, 0, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.expected_loss, [0, 1, 0.5], rtol=0, atol=1e-10)


def test_one_arm_is_the_best() -> None:
    assert probability_best([3], [4]).tolist() == [1.0]
    assert expected_loss([3], [4])[0] <= 1e-15
    assert value_remaining([3], [4]) == 0.0


def test_a_comparison_cannot_be_changed_but_single_vectors_can() -> None:
    result = compare([1, 2], [2, 1])
    assert isinstance(result, Comparison)
    with pytest.raises(ValueError, match="read-only"):
        result.probability_best[0] = 0.5
    probability_best([1, 2], [2, 1])[0] = 0.5
    expected_loss([1, 2], [2, 1])[0] = 0.5


@pytest.mark.parametrize("k", [2, 3, 5, 20, 100])
@pytest.mark.parametrize("q", [0.3, 0.6, 0.95, 0.999])
def test_value_remaining_of_power_distributions(k: int, q: float) -> None:
    # Rivals' maximum M ~ Beta(A, 1), leader ~ Beta(a, 1): P(M > r theta) = A / (A + a) r^-a.
    a = _power_family(k) ** 0.3
    leader = a.max()
    tail = 1 - leader / a.sum()
    expected = max(0.0, np.expm1(np.log(tail / (1 - q)) / leader))
    assert value_remaining(a, np.ones(k), q) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("a", [0.01, 1.0, 1e4, 1e9])
def test_value_remaining_of_identical_arms_at_every_scale(a: float) -> None:
    expected = np.expm1(np.log(10) / a)
    assert value_remaining([a, a], [1, 1]) == pytest.approx(expected, rel=1e-6)


#: alpha, beta, q, value remaining; `overtaking` below brackets each.
REMAINING = [
    ([10, 12, 3], [20, 22, 9], 0.95),
    ([700, 690, 60], [300, 310, 25], 0.95),
    ([0.5, 0.2, 4], [0.5, 0.1, 3], 0.9),
    ([40, 3], [4e4, 5e3], 0.99),
]


def overtaking(alpha: list[float], beta: list[float], star: int, v: float) -> float:
    """P(max_j theta_j > (1 + v) theta_star) in 20 digits, over theta_star up to 1 / (1 + v) and beyond."""
    with mpmath.workdps(20):
        rivals = [j for j in range(len(alpha)) if j != star]

        def kept(x: mpmath.mpf) -> mpmath.mpf:
            log_f = (alpha[star] - 1) * mpmath.log(x) + (beta[star] - 1) * mpmath.log1p(-x)
            product = mpmath.fprod(
                mpmath.betainc(alpha[j], beta[j], 0, min(1, (1 + v) * x), regularized=True) for j in rivals
            )
            return mpmath.exp(log_f) / mpmath.beta(alpha[star], beta[star]) * (1 - product)

        top = 1 / (1 + mpmath.mpf(v))
        levels = [1e-12, 1e-6, 1e-3, 0.05, 0.3, 0.7, 0.95, 0.999, 1 - 1e-6]
        cuts = {float(x) for x in betaincinv(alpha[star], beta[star], levels)}
        for j in rivals:
            cuts |= {float(x / (1 + v)) for x in betaincinv(alpha[j], beta[j], levels)}
        return float(mpmath.quad(kept, [0, *sorted(x for x in cuts if 0 < x < top), top]))


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "beta", "q"), REMAINING)
def test_value_remaining_is_the_quantile(alpha: list[float], beta: list[float], q: float) -> None:
    star = int(np.argmax(probability_best(alpha, beta)))
    v = value_remaining(alpha, beta, q)
    assert overtaking(alpha, beta, star, v * (1 - 1e-6)) > 1 - q > overtaking(alpha, beta, star, v * (1 + 1e-6))


def test_value_remaining_is_zero_for_a_clear_leader_and_infinite_beyond_floats() -> None:
    assert value_remaining([900, 10], [100, 90]) == 0.0
    assert value_remaining([1e-4, 1e-4], [1e-4, 1e-4]) == float("inf")


def test_value_remaining_counts_the_first_of_tied_leaders() -> None:
    # Both pairs are even odds, but only the leader's own spread is divided by.
    assert value_remaining([1, 50], [1, 50]) == pytest.approx(_remaining_of_uniform_leader(), rel=1e-6)


def _remaining_of_uniform_leader() -> float:
    # Leader U uniform, rival R ~ Beta(50, 50): P(R > (1 + v) U) = E[R] / (1 + v).
    return 0.5 / 0.05 - 1


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
def test_intervals_of_power_distributions(level: float) -> None:
    a = np.array([0.01, 0.3, 1, 40, 1e5, 1e9])
    low, high = (1 - level) / 2, (1 + level) / 2
    lower, upper = credible_interval(a, np.ones(6), level)
    np.testing.assert_allclose(lower, low ** (1 / a), rtol=1e-8)
    np.testing.assert_allclose(upper, high ** (1 / a), rtol=1e-8)
    lower, upper = credible_interval(np.ones(6), a, level)
    np.testing.assert_allclose(lower, -np.expm1(np.log(high) / a), rtol=1e-8)
    np.testing.assert_allclose(upper, -np.expm1(np.log(low) / a), rtol=1e-8)


def test_intervals_agree_with_scipy_where_scipy_is_right() -> None:
    alpha, beta = np.array([2.0, 30, 700, 0.4]), np.array([5.0, 20, 300, 9])
    lower, upper = credible_interval(alpha, beta, 0.9)
    np.testing.assert_allclose(lower, betaincinv(alpha, beta, 0.05), rtol=1e-9)
    np.testing.assert_allclose(upper, betaincinv(alpha, beta, 0.95), rtol=1e-9)


def test_an_interval_that_inverse_functions_miss() -> None:
    # scipy 1.17's betaincinv(1e3, 1e9, .025) has another mass. Stated ends: roots of `lower_mass` in 30 digits.
    lower, upper = credible_interval([1e3], [1e9])
    assert lower[0] == pytest.approx(9.38972108556396e-07, rel=1e-10)
    assert upper[0] == pytest.approx(1.06292005539621e-06, rel=1e-10)
    assert lower_mass(1e3, 1e9, lower[0]) == pytest.approx(0.025, abs=1e-10)
    assert 1 - lower_mass(1e3, 1e9, upper[0]) == pytest.approx(0.025, abs=1e-10)


def lower_mass(alpha: float, beta: float, x: float) -> float:
    """P(theta < x) by the power series of the incomplete Beta function, in 30 digits."""
    with mpmath.workdps(30):
        a, b, x = mpmath.mpf(alpha), mpmath.mpf(beta), mpmath.mpf(x)
        term = total = mpmath.mpf(1)
        n = 0
        while term > total * mpmath.mpf("1e-25"):
            term *= (a + b + n) / (a + 1 + n) * x
            total += term
            n += 1
        constant = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
        return float(total * mpmath.exp(a * mpmath.log(x) + b * mpmath.log1p(-x) - constant) / a)


@pytest.mark.parametrize(
    ("alpha", "beta", "message"),
    [
        ([], [], "alpha is empty"),
        ([1, 2], [1], "beta has 1 entries and alpha has 2"),
        ([1, 0], [1, 1], r"alpha\[1\] is 0.0: every alpha must be positive and finite"),
        ([1, 1], [1, -2], r"beta\[1\] is -2.0: every beta must be positive and finite"),
        ([float("nan")], [1], r"alpha\[0\] is nan"),
        ([1], [float("inf")], r"beta\[0\] is inf"),
        ([1e-13], [1], r"alpha\[0\] is 1e-13: .* from 1e-12 to 1e\+15"),
        ([[1, 2]], [[1, 2]], r"alpha has shape \(1, 2\)"),
        (3, 4, r"alpha has shape \(\)"),
        (["many"], [1], "alpha is .*many"),
        ([1, [2, 3]], [1, 1], "alpha is "),
    ],
)
def test_bad_parameters_are_named(alpha: list[float], beta: list[float], message: str) -> None:
    for function in (probability_best, expected_loss, compare, value_remaining, credible_interval):
        with pytest.raises(ValueError, match=message):
            function(alpha, beta)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan"), "half"])
def test_bad_levels_are_named(value: float) -> None:
    with pytest.raises(ValueError, match=f"q is .*{value}"):
        value_remaining([1, 2], [1, 1], value)
    with pytest.raises(ValueError, match=f"level is .*{value}"):
        credible_interval([1, 2], [1, 1], value)
