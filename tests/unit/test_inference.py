"""Confidence sequences against their defining equations in 40 digits, closed forms, and enumeration of every sequence."""

from collections.abc import Iterator
from itertools import product

import mpmath
import pytest
from scipy.stats import binomtest

from bandit.inference import confidence_sequence, lower_bound, rate_interval, upper_bound

#: successes, n, alpha
COUNTS = [
    (120, 1000, 0.05),
    (1, 2, 0.01),
    (0.3, 7, 0.2),
    (63.9, 100, 1e-4),
    (3, 10**9, 0.05),
    (10**9 - 3, 10**9, 0.05),
    (5 * 10**8, 10**9, 0.01),
    (1e-3, 10**6, 0.5),
    (12_345.678, 10**5, 1e-9),
]


def ratio(s: float, n: float, mu: mpmath.mpf) -> mpmath.mpf:
    """log of B(s + 1, n - s + 1) / (mu^s (1 - mu)^(n - s))."""
    s, n = mpmath.mpf(s), mpmath.mpf(n)
    log_beta = mpmath.loggamma(s + 1) + mpmath.loggamma(n - s + 1) - mpmath.loggamma(n + 2)
    return log_beta - s * mpmath.log(mu) - (n - s) * mpmath.log1p(-mu)


def one_sided_ratio(s: float, n: float, mu: mpmath.mpf) -> mpmath.mpf:
    """log of the average over theta uniform on (mu, 1) of (theta / mu)^s ((1 - theta) / (1 - mu))^(n - s), by quadrature."""
    s, n, mu = mpmath.mpf(s), mpmath.mpf(n), mpmath.mpf(mu)

    def log_integrand(theta: mpmath.mpf) -> mpmath.mpf:
        return s * mpmath.log(theta / mu) + (n - s) * mpmath.log((1 - theta) / (1 - mu))

    mean, spread = s / n, mpmath.sqrt((s + 1) * (n - s + 1) / n) / n
    peak = log_integrand(mean) if 0 < mean < 1 else log_integrand((s + 0.5) / (n + 1))
    cuts = sorted({mu, mpmath.mpf(1), *(x for x in (mean + k * spread for k in range(-40, 41, 2)) if mu < x < 1)})
    integral = mpmath.quad(lambda theta: mpmath.exp(log_integrand(theta) - peak) if 0 < theta < 1 else 0, cuts)
    return mpmath.log(integral / (1 - mu)) + peak


def test_the_published_value() -> None:
    lower, upper = confidence_sequence(120, 1000)
    assert lower == pytest.approx(0.0859139, abs=5e-8)
    assert upper == pytest.approx(0.1607975, abs=5e-8)


@pytest.mark.parametrize(("s", "n", "alpha"), COUNTS)
def test_both_ends_solve_the_equation(s: float, n: float, alpha: float) -> None:
    lower, upper = confidence_sequence(s, n, alpha)
    # A relative error e of an end x moves the log ratio by e |s - n x| / (1 - x).
    with mpmath.workdps(40):
        for x in (lower, upper):
            if 1e-300 < x < 1:
                slack = 1e-9 * abs(s - n * x) / (1 - x) + 1e-9
                assert float(ratio(s, n, mpmath.mpf(x)) + mpmath.log(alpha)) == pytest.approx(0, abs=slack), x
    assert lower < s / n < upper


@pytest.mark.parametrize(("s", "n", "alpha"), COUNTS)
def test_one_sided_bounds_solve_theirs(s: float, n: float, alpha: float) -> None:
    with mpmath.workdps(40):
        lower = lower_bound(s, n, alpha)
        if lower > 1e-300:
            slack = 1e-8 * abs(s - n * lower) / (1 - lower) + 1e-8
            assert float(one_sided_ratio(s, n, lower) + mpmath.log(alpha)) == pytest.approx(0, abs=slack)
        rest = 1 - upper_bound(s, n, alpha)
        if rest > 1e-6:
            # The mirror image; here `rest` carries the rounding of upper, 1e-16 of 1.
            slack = 1e-8 * abs(n - s - n * rest) / (1 - rest) * (1 + 1e-8 / rest) + 1e-8
            assert float(one_sided_ratio(n - s, n, rest) + mpmath.log(alpha)) == pytest.approx(0, abs=slack)


def test_hand_computed_one_sided_bounds() -> None:
    # One success of one: the average of theta / mu over (mu, 1) is (1 + mu) / (2 mu) = 1 / alpha.
    assert lower_bound(1, 1, 0.05) == pytest.approx(0.05 / 1.95, rel=1e-12)
    assert upper_bound(0, 1, 0.05) == pytest.approx(1 - 0.05 / 1.95, rel=1e-12)
    # Two of two: (1 + mu + mu^2) / (3 mu^2) = 1 / alpha, with alpha = .1: 29 mu^2 - mu - 1 = 0.
    assert lower_bound(2, 2, 0.1) == pytest.approx((1 + 117**0.5) / 58, rel=1e-12)


@pytest.mark.parametrize("n", [1, 7, 1000, 10**9])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-6])
def test_all_or_nothing(n: int, alpha: float) -> None:
    # With s = 0 the equation is (1 - mu)^n = alpha / (n + 1).
    end = -float(mpmath.expm1(mpmath.log(mpmath.mpf(alpha) / (n + 1)) / n))
    lower, upper = confidence_sequence(0, n, alpha)
    assert lower == 0.0
    assert upper == pytest.approx(end, rel=1e-9)
    lower, upper = confidence_sequence(n, n, alpha)
    assert lower == pytest.approx(1 - end, rel=1e-12)
    assert upper == 1.0
    assert lower_bound(0, n, alpha) == 0.0
    assert upper_bound(n, n, alpha) == 1.0


def test_nothing_seen_says_nothing() -> None:
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)
    assert rate_interval(0, 0) == (0.0, 1.0)


def test_sums_of_fractions_may_round_beyond_n() -> None:
    assert confidence_sequence(10.000000000000002, 10) == confidence_sequence(10, 10)


def sequences(mu: float, n: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Every sequence of n Bernoulli(mu) observations with its probability."""
    for xs in product((0, 1), repeat=n):
        yield mu ** sum(xs) * (1 - mu) ** (n - sum(xs)), xs


@pytest.mark.parametrize("mu", [0.08, 0.5, 0.8])
def test_the_mean_is_inside_at_every_look(mu: float) -> None:
    """By enumeration of all sequences of 12: it is ever outside, or beyond a one-sided bound, with probability <= alpha."""
    alpha, n = 0.2, 12
    inside = {
        (s, k): (
            confidence_sequence(s, k, alpha)[0] <= mu <= confidence_sequence(s, k, alpha)[1],
            lower_bound(s, k, alpha) <= mu,
            upper_bound(s, k, alpha) >= mu,
        )
        for k in range(1, n + 1)
        for s in range(k + 1)
    }
    missed = [0.0, 0.0, 0.0]
    for probability, xs in sequences(mu, n):
        looks = [inside[sum(xs[:k]), k] for k in range(1, n + 1)]
        for side in range(3):
            missed[side] += probability * (not all(look[side] for look in looks))
    assert max(missed) <= alpha
    assert sum(missed) >= 0.02, "nothing ever missed: the test would say little"


def test_a_mean_that_drifts_below_its_bound_is_not_exceeded() -> None:
    """By enumeration: with means that alternate between .3 and .02 the bound ever exceeds .3 with probability <= alpha."""
    alpha, means = 0.1, [0.3, 0.02] * 6
    over = {(s, k): lower_bound(s, k, alpha) > 0.3 for k in range(1, 13) for s in range(k + 1)}
    total = 0.0
    for xs in product((0, 1), repeat=12):
        probability = 1.0
        for x, mean in zip(xs, means, strict=True):
            probability *= mean if x else 1 - mean
        total += probability * any(over[sum(xs[:k]), k] for k in range(1, 13))
    assert 0.001 < total <= alpha


def test_fractions_are_covered_too() -> None:
    """By enumeration of all sequences of 8 of 0, .4 and 1 with mean .42."""
    alpha, values, weights = 0.2, (0.0, 0.4, 1.0), (0.4, 0.3, 0.3)
    total = 0.0
    bounds: dict[tuple[float, int], bool] = {}
    for picks in product(range(3), repeat=8):
        probability, s, missed = 1.0, 0.0, False
        for k, pick in enumerate(picks, start=1):
            probability *= weights[pick]
            s = round(s + values[pick], 6)
            if (s, k) not in bounds:
                lower, upper = confidence_sequence(s, k, alpha)
                bounds[s, k] = lower <= 0.42 <= upper
            missed = missed or not bounds[s, k]
        total += probability * missed
    assert total <= alpha


@pytest.mark.parametrize(("s", "n"), [(0, 10), (10, 10), (3, 40), (120, 1000), (1, 10**6)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_rate_intervals_are_wilsons(s: int, n: int, level: float) -> None:
    expected = binomtest(s, n).proportion_ci(level, method="wilson")
    assert rate_interval(s, n, level) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("s", "n", "message"),
    [
        (1, -1, "n is -1"),
        (0, float("nan"), "n is nan: it must be a finite"),
        (0, float("inf"), "n is inf"),
        (-0.1, 5, r"successes is -0.1: it must be at least 0 and at most n, which is 5"),
        (6, 5, "successes is 6"),
        (float("nan"), 5, "successes is nan"),
    ],
)
def test_bad_counts_are_named(s: float, n: float, message: str) -> None:
    for function in (confidence_sequence, lower_bound, upper_bound, rate_interval):
        with pytest.raises(ValueError, match=message):
            function(s, n)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
def test_bad_levels_are_named(value: float) -> None:
    for function in (confidence_sequence, lower_bound, upper_bound):
        with pytest.raises(ValueError, match=f"alpha is {value}: it must be greater than 0 and less than 1"):
            function(1, 2, value)
    with pytest.raises(ValueError, match=f"level is {value}"):
        rate_interval(1, 2, value)
