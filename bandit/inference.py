"""Inference: what the observations of a rate allow to be said of it, at one look or at every look.

Model
    Observations x_1, x_2, ... in [0, 1] with s = x_1 + ... + x_n and f = n - s. Against the mean mu, the likelihood
    ratio of another mean theta is (theta / mu)^s ((1 - theta) / (1 - mu))^f. Averaged over a fixed mixture of theta it
    starts at 1 and is a non-negative supermartingale if the mean is mu, so it ever reaches 1 / alpha with probability at
    most alpha (Ville). The means against which it has not done so are a confidence set that may be looked at after every
    observation, and at which one may stop for any reason.

    confidence_sequence  theta ~ Beta(1, 1):       B(s + 1, f + 1) / (mu^s (1 - mu)^f) < 1 / alpha
    lower_bound          theta uniform on (mu, 1): B(s + 1, f + 1) P(theta > mu | s, f) / (mu^s (1 - mu)^(f + 1)) < 1 / alpha

Assumes
    Each observation has the mean mu given those before it. No distribution is assumed: the ratio of one observation,
    (theta / mu)^x ((1 - theta) / (1 - mu))^(1 - x), is convex in x, so no observation in [0, 1] has a larger expectation
    than a Bernoulli one of the same mean. Fractions of a success are therefore as valid, and the sets too wide for them.
    The one-sided bounds need less: with theta > mu the ratio's expectation grows with the observation's mean, so the mean
    may drift. If it never exceeds mu, `lower_bound` ever exceeds mu with probability at most alpha.

Source
    Ville (1939); Robbins (1970), "Statistical methods related to the law of the iterated logarithm", for mixtures;
    Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", for the
    beta-binomial mixture; Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", for
    bounded observations; Wilson (1927), "Probable inference".

Shapes
    s, f   successes and failures, numbers >= 0, fractions allowed; n = s + f from 0 to 1e9 and beyond
    u      log(mu n / s), at most 0: how far below the observed mean a mean lies
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from scipy.special import betaincc, ndtri

#: Sums of fractions may pass n by their rounding; by no more than this share of it.
_ROUNDING: Final = 1e-9
#: From here on three terms of Stirling's series are exact to the last digit.
_STIRLING_FROM: Final = 64.0


def confidence_sequence(successes: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """Return (lower, upper) for the mean of `n` observations in [0, 1] whose sum is `successes`, valid at every look.

    With probability 1 - alpha or more the mean is inside after every n at once. The mean must not drift. 0 <= lower <=
    successes / n <= upper <= 1; with n = 0 the result is (0, 1). Relative errors are at most 1e-9.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    s, f = _counts(successes, n)
    threshold = -math.log(_fraction("alpha", alpha)) - _log_mixture(s, f)
    lower = s * math.exp(_distance(s, f, threshold)) / (s + f) if s else 0.0
    # The upper bound is the mirror image; written so that a small one keeps its digits.
    upper = (s - f * math.expm1(_distance(f, s, threshold))) / (s + f) if f else 1.0
    return lower, upper


def lower_bound(successes: float, n: float, alpha: float = 0.05) -> float:
    """Return what the mean exceeds, at every look at once with probability 1 - alpha or more; 0 if `successes` is 0.

    A mean that drifts is not all above it: then the bound is one for the largest mean so far. Higher than the lower end of
    `confidence_sequence`, which guards the other side too. Relative errors are at most 1e-8.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    s, f = _counts(successes, n)
    level = _fraction("alpha", alpha)
    return s * math.exp(_one_sided_distance(s, f, level)) / (s + f) if s else 0.0


def upper_bound(successes: float, n: float, alpha: float = 0.05) -> float:
    """Return what the mean stays below: the mirror image of `lower_bound`, 1 if every observation was 1."""
    s, f = _counts(successes, n)
    level = _fraction("alpha", alpha)
    return (s - f * math.expm1(_one_sided_distance(f, s, level))) / (s + f) if f else 1.0


def rate_interval(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return (lower, upper) of the Wilson score interval: for a rate at one look fixed beforehand, (0, 1) if n is 0.

    Looked at again and again it misses the rate far more often than 1 - level: see `confidence_sequence`.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    s, f = _counts(successes, n)
    z = float(ndtri(0.5 + 0.5 * _fraction("level", level)))
    if s + f == 0.0:
        return 0.0, 1.0
    total = s + f + z * z
    middle = (s + 0.5 * z * z) / total
    half = z * math.sqrt(s * (f / (s + f)) + 0.25 * z * z) / total
    return max(0.0, middle - half) if s else 0.0, min(1.0, middle + half) if f else 1.0


def _one_sided_distance(s: float, f: float, alpha: float) -> float:
    """Return u of the one-sided bound, s > 0.

    With theta = mu + (1 - mu) t the mixture is the integral of (1 + t (1 - mu) / mu)^s (1 - t)^f over t in (0, 1), which
    falls as mu rises, so the bound is its one crossing of 1 / alpha. It lies between the two-sided bound, whose mixture
    spends some of its weight on theta < mu, and the mean that the best theta alone would reject.
    """
    threshold = -math.log(alpha) - _log_mixture(s, f)

    def excess(u: float) -> float:
        rest = (f - s * math.expm1(u)) / (s + f)
        above = float(betaincc(s + 1.0, f + 1.0, s * math.exp(u) / (s + f)))
        return _divergence(s, f, u) - threshold + math.log(above) - math.log(rest)

    return _crossing(excess, _distance(s, f, threshold), _distance(s, f, -math.log(alpha)))


def _distance(s: float, f: float, threshold: float) -> float:
    """Return u < 0 with n KL(s/n || mu) = threshold > 0, for s > 0."""
    if f == 0.0:
        return -threshold / s
    mean = s / (s + f)
    # Two means that are surely too low, one good for small s and one for large: KL >= (mean - mu)^2 / (2 variance),
    # the variance being the largest of a mean between mu and `mean`.
    start = -(threshold + f * math.log1p(s / f)) / s
    gap = math.sqrt(2.0 * (mean * (1.0 - mean) if mean < 0.5 else 0.25) * threshold / (s + f)) / mean
    if gap < 1.0:
        start = max(start, math.log1p(-gap))
    return _crossing(lambda u: _divergence(s, f, u) - threshold, start, 0.0)


def _divergence(s: float, f: float, u: float) -> float:
    """Return n KL(s/n || mu): in counts and u, no digits are lost where mu is near s/n, 0 or 1."""
    return -s * u - (f * math.log1p(-s * math.expm1(u) / f) if f else 0.0)


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function passes 0 in [low, high], or the end beyond which rounding has moved that point."""
    # Imported here: it takes longer to load than everything else together, and no decision needs it.
    from scipy.optimize import brentq

    if falling(low) <= 0.0:
        return low
    if falling(high) >= 0.0:
        return high
    return float(brentq(falling, low, high, xtol=1e-300, rtol=1e-13))


def _log_mixture(s: float, f: float) -> float:
    """Return log of B(s + 1, f + 1) / (m^s (1 - m)^f) at the observed mean m = s/n: at most 0, and 0 if n is 0."""
    return _stirling(s) + _stirling(f) - _stirling(s + f) - math.log1p(s + f)


def _stirling(x: float) -> float:
    """Return log(x! / (x/e)^x): what is left of log x! once the powers, which are huge and cancel, are taken out."""
    if x == 0.0:
        return 0.0
    if x < _STIRLING_FROM:
        return math.lgamma(x + 1.0) - x * math.log(x) + x
    return 0.5 * math.log(2.0 * math.pi * x) + (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * x * x)) / (x * x)) / x


def _counts(successes: float, n: float) -> tuple[float, float]:
    """Return successes and failures, or raise ValueError."""
    # Written so that NaN fails it too.
    if not 0.0 <= n < math.inf:
        raise ValueError(f"n is {n}: it must be a finite number >= 0")
    if not 0.0 <= successes <= n * (1.0 + _ROUNDING):
        raise ValueError(f"successes is {successes}: it must be at least 0 and at most n, which is {n}")
    s = float(min(successes, n))
    # Less than a rounding error of one observation: it would only overflow the quotient s / f.
    return (0.0, float(n)) if s < 1e-200 else (s, float(n) - s)


def _fraction(name: str, value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1")
    return float(value)
