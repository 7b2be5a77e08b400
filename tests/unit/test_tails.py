"""Chances far below a float's resolution beside 1, against 30-digit quadrature and closed forms."""

import mpmath
import numpy as np
import pytest

from bandit.posterior import probability_best
from bandit.tails import log_cdf, log_probability_best


def reference_log_cdf(a: float, b: float, y: float) -> float:
    """log P(logit theta <= y), y below the mean, by quadrature of the density in 30 digits, outwards from y."""
    with mpmath.workdps(30):
        alpha, beta, at = mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(y)

        def log_kernel(u: mpmath.mpf) -> mpmath.mpf:
            if u < 0:
                return alpha * u - (alpha + beta) * mpmath.log1p(mpmath.exp(u))
            return -beta * u - (alpha + beta) * mpmath.log1p(mpmath.exp(-u))

        top = log_kernel(at)
        slope = alpha - (alpha + beta) / (1 + mpmath.exp(-at))
        cuts = [at - 8 * k / slope for k in range(10, -1, -1)]
        integral = mpmath.quad(lambda u: mpmath.exp(log_kernel(u) - top), cuts)
        constant = mpmath.loggamma(alpha) + mpmath.loggamma(beta) - mpmath.loggamma(alpha + beta)
        return float(mpmath.log(integral) + top - constant)


@pytest.mark.parametrize("z", [0.5, 3, 20, 60, 400])
@pytest.mark.parametrize(
    ("a", "b"),
    [(1e3, 1e9), (1e9, 1e3), (1e9, 1e9), (3e5, 7e5), (20, 1e6), (0.01, 1e9), (2.3e8, 0.0775), (50, 70), (0.01, 0.01)],
)
def test_both_tails(a: float, b: float, z: float) -> None:
    y = np.log(a / b) - z * np.sqrt((a + b) / (a * b))
    expected = reference_log_cdf(a, b, y)
    assert log_cdf(np.array([a]), np.array([b]), np.array([y]))[0] == pytest.approx(expected, rel=1e-14, abs=1e-9)
    upper = log_cdf(np.array([b]), np.array([a]), np.array([-y]))[0]
    assert upper == pytest.approx(np.log1p(-np.exp(expected)), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("y", [-2000.0, -800.0, -1.0, 0.0, 5.0, 800.0, 5000.0])
def test_power_distributions_where_x_itself_underflows(y: float) -> None:
    # P(theta <= x) = x^a for Beta(a, 1).
    a = np.array([0.01, 1.0, 40.0])
    expected = -a * np.logaddexp(0.0, -y)
    np.testing.assert_allclose(log_cdf(a, np.ones(3), np.full(3, y)), expected, rtol=1e-12, atol=1e-300)


#: Two arms (a, 1) and (1, b): the first loses with chance b B(a + 1, b), whatever the size of a and b.
@pytest.mark.parametrize("size", [10, 300, 10_000, 1_000_000])
def test_two_arms_far_apart(size: int) -> None:
    with mpmath.workdps(30):
        loses = mpmath.log(size * mpmath.beta(size + 1, size))
    found = log_probability_best([size, 1], [1, size])
    assert found[1] == pytest.approx(float(loses), rel=1e-14, abs=1e-8)
    assert found[0] == pytest.approx(float(mpmath.log1p(-mpmath.exp(loses))), rel=1e-6, abs=1e-300)


def reference(alpha: list[int], beta: list[int], arm: int) -> mpmath.mpf:
    """P(arm is best) exactly: for whole parameters F is a polynomial, and so is the integrand (Fractions would do too)."""
    with mpmath.workdps(400):
        integrand = [mpmath.mpf(1)]
        for j, (a, b) in enumerate(zip(alpha, beta, strict=True)):
            # x^(a-1) (1-x)^(b-1) / B(a, b), integrated from 0 unless it is the arm's own.
            c = [mpmath.mpf(0)] * (a - 1)
            c += [(-1) ** k * mpmath.binomial(b - 1, k) / mpmath.beta(a, b) for k in range(b)]
            if j != arm:
                c = [mpmath.mpf(0)] + [value / (k + 1) for k, value in enumerate(c)]
            product = [mpmath.mpf(0)] * (len(integrand) + len(c) - 1)
            for m, u in enumerate(integrand):
                for k, v in enumerate(c):
                    if v:
                        product[m + k] += u * v
            integrand = product
        return mpmath.fsum(value / (k + 1) for k, value in enumerate(integrand))


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [
        ([60, 20, 10], [40, 80, 90]),
        ([90, 3, 2, 30], [10, 97, 90, 70]),
        ([95, 5, 5, 1], [5, 95, 95, 1]),
    ],
)
def test_several_arms_against_exact_polynomials(alpha: list[int], beta: list[int]) -> None:
    exact = [float(mpmath.log(reference(alpha, beta, arm))) for arm in range(len(alpha))]
    np.testing.assert_allclose(log_probability_best(alpha, beta), exact, rtol=0, atol=1e-9)


def test_chances_that_floats_resolve_are_those_of_probability_best() -> None:
    rng = np.random.default_rng(8)
    for k in (2, 3, 6, 12):
        alpha, beta = 10 ** rng.uniform(-2, 9, k), 10 ** rng.uniform(-2, 9, k)
        np.testing.assert_allclose(np.exp(log_probability_best(alpha, beta)), probability_best(alpha, beta), atol=1e-10)


def test_beyond_every_float() -> None:
    # P = exp(-1e8) and less: the order is kept, and equal arms have equal chances.
    found = log_probability_best([1e9, 1e3, 1e3, 10], [1e3, 1e9, 1e9, 1e9])
    assert np.isfinite(found).all()
    assert found[0] == 0.0
    assert found[1] == found[2] > found[3]
    assert found[1] < -1e4


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"alpha\[1\] is nan"):
        log_probability_best([1.0, float("nan")], [1.0, 1.0])
