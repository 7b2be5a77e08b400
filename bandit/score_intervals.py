"""Score intervals: rates and net rates of observations that may come in clusters, never of width 0.

Model
    n observations; x_i in [0, 1] of a rate, or in [-1, 1] of a net rate (1: won, 0: a tie, -1: lost). An interval holds the
    values that a score test does not reject, the variance taken at the value that is tested: so unanimous observations do
    not claim to be certain.

    rate         Wilson's interval
    net          Tango's interval for won less lost of one multinomial, with a correction for continuity: at 0 it is
                 McNemar's test with Edwards' correction, which for a fair judge errs with at most the level that is stated
    difference   of two independent rates, from their two intervals by the method of variance estimates recovery

    Clusters take the place of n by n / deff, deff being the variance that the sums of clusters show over that of independent
    observations, never below 1; and z by the quantile of Student's t with one degree of freedom less than clusters.

Assumes
    Clusters are independent. Fractions vary less than the outcomes 0 and 1, or 1 and -1, of the same mean: they make the
    intervals too wide, not too narrow. Where nothing varies, deff cannot be told: it is taken as if a cluster were one
    observation. With very few clusters (below ten) deff itself is uncertain.

Source
    Wilson (1927), "Probable inference"; Tango (1998), "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design"; Edwards (1948), "Note on the correction for continuity"; Newcombe (1998),
    "Interval estimation for the difference between independent proportions", method 10, and Zou & Donner (2008) for the
    recovery of variances; Kish (1965), "Survey Sampling", for deff; Korn & Graubard (1998), "Confidence intervals for
    proportions with small expected number of positive counts", for intervals from n / deff and t.

Shapes
    x, cluster   (n,); equal numbers in `cluster` are one cluster
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from bandit.inference import rate_interval

LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its interval, for one look at the end."""

    #: None where there is nothing to tell it from.
    value: float | None
    lower: float
    upper: float
    #: Observations.
    n: int


def clustered_rate(x: ArrayLike, cluster: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of observations in [0, 1]. Raises ValueError naming the argument and the rule it breaks."""
    values, clusters = _observations(x, cluster, 0.0)
    if not values.size:
        return Estimate(None, 0.0, 1.0, 0)
    mean = float(np.clip(values.mean(), 0.0, 1.0))
    n = _effective(values, clusters, mean * (1.0 - mean), level)
    return Estimate(mean, *rate_interval(mean * n, n, level), values.size)


def clustered_net(x: ArrayLike, cluster: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of observations in [-1, 1]. Raises ValueError naming the argument and the rule it breaks."""
    values, clusters = _observations(x, cluster, -1.0)
    if not values.size:
        return Estimate(None, -1.0, 1.0, 0)
    won, lost = float(np.maximum(values, 0.0).mean()), float(np.maximum(-values, 0.0).mean())
    n = _effective(values, clusters, won + lost - (won - lost) ** 2, level)
    return Estimate(won - lost, *net_interval(won * n, lost * n, n, level), values.size)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a's rate less b's, as if they were independent; n is the sum. Absent if either is."""
    n = a.n + b.n
    if a.value is None or b.value is None:
        return Estimate(None, -1.0, 1.0, n)
    value = a.value - b.value
    down = math.hypot(a.value - a.lower, b.upper - b.value)
    up = math.hypot(a.upper - a.value, b.value - b.lower)
    return Estimate(value, max(-1.0, value - down), min(1.0, value + up), n)


def net_interval(won: float, lost: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return (lower, upper) for the chance to win less that to lose; (-1, 1) if n is 0. Counts may be fractions."""
    if not (won >= 0.0 and lost >= 0.0 and won + lost <= n * (1.0 + 1e-9) and n < math.inf):
        raise ValueError(f"won, lost and n are {won}, {lost} and {n}: they must be >= 0, and won + lost at most n")
    if n == 0.0:
        return -1.0, 1.0
    z = float(ndtri(0.5 + 0.5 * _fraction(level)))
    return _lowest_net(won, lost, n, z), -_lowest_net(lost, won, n, z)


def exact_rate(successes: int, n: int, level: float = LEVEL) -> Estimate:
    """Return the Clopper-Pearson interval of a rate: independent observations of 0 and 1, never less sure than `level`."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}: it must be at least 0 and at most n, which is {n}")
    tail = 0.5 - 0.5 * _fraction(level)
    lower = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    upper = float(betaincinv(successes + 1, n - successes, 1.0 - tail)) if successes < n else 1.0
    return Estimate(successes / n if n else None, lower, upper, n)


def _lowest_net(won: float, lost: float, n: float, z: float) -> float:
    """Return the least net that is not rejected: (won - lost - 1 - n net) / sqrt(n variance at net) = z."""
    # Imported here: it takes longer to load than everything else together, and no decision needs it.
    from scipy.optimize import brentq

    def excess(net: float) -> float:
        return won - lost - 1.0 - n * net - z * math.sqrt(n * _variance_at(net, won, lost, n))

    if excess(-1.0) <= 0.0:
        return -1.0
    return float(brentq(excess, -1.0, (won - lost) / n, xtol=1e-12))


def _variance_at(net: float, won: float, lost: float, n: float) -> float:
    """Return the variance of one observation where the net is `net` and the chance q to lose is the likeliest given that.

    q is the greater root of 2 n q^2 + b q + c = 0.
    """
    b = (2.0 * n - won + lost) * net - won - lost
    c = -lost * net * (1.0 - net)
    q = (math.sqrt(max(0.0, b * b - 8.0 * n * c)) - b) / (4.0 * n)
    return max(0.0, 2.0 * q + net * (1.0 - net))


def _effective(values: NDArray[np.float64], clusters: NDArray[np.int64], variance: float, level: float) -> float:
    """Return how many independent observations tell as much, `variance` being that of an independent one."""
    n = values.size
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    groups = sizes.size
    if groups == n:
        return float(n)
    if groups < 2:
        return 0.0
    sums = np.bincount(index, values - values.mean())
    clustered = groups / (groups - 1.0) * float(np.square(sums).sum()) / n
    deff = max(1.0, clustered / variance) if variance > 0.0 else float(np.square(sizes).sum()) / n
    upper = 0.5 + 0.5 * _fraction(level)
    return n / deff * float(ndtri(upper) / stdtrit(groups - 1, upper)) ** 2


def _observations(x: ArrayLike, cluster: ArrayLike, least: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, clusters = np.asarray(x, dtype=np.float64), np.asarray(cluster, dtype=np.int64)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise ValueError(f"x and cluster have the shapes {values.shape} and {clusters.shape}: both must be (n,)")
    # Written so that NaN fails it too.
    outside = ~((values >= least) & (values <= 1.0))
    if outside.any():
        raise ValueError(f"x holds {values[outside][0]}: it must be at least {least:g} and at most 1")
    return values, clusters


def _fraction(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: it must be greater than 0 and less than 1")
    return level
