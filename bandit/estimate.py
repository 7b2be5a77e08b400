"""Estimate: a value with its standard error and interval, from the influence of every decision on it.

Model
    The error of an estimate is about the sum of the influences of its decisions. Their sandwich is the sum within each of G
    clusters, squared, summed, times G / (G - 1): without clusters it is the usual standard error of a mean. The interval is
    Student's with G - 1 degrees of freedom, which few clusters make wider.

Assumes
    Clusters are independent, or what one adds given those before it has expectation 0, as in an adaptive experiment; and no
    few of them carry the sum, which the alarms of `bandit.weights` look at.

Source
    Liang & Zeger (1986), "Longitudinal data analysis using generalized linear models", for the sandwich; Bell & McCaffrey
    (2002), "Bias reduction in standard errors for linear regression with multi-stage samples", for Student's t.

Shapes
    n   number of decisions
    G   number of clusters
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from bandit.logged import Indices, Vector, fraction

#: With fewer clusters than this even Student's interval leans on their being alike.
FEW_CLUSTERS = 30


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a log says about the value of a policy, in units of reward."""

    #: Which estimator made it: raw, ips, snips, dr or adaptive.
    method: str
    #: The estimate.
    value: float
    #: Its standard error.
    stderr: float
    #: Ends of the interval; not cut to the range of the rewards.
    lower: float
    upper: float
    #: The level of the interval, such as 0.95.
    level: float
    #: What kind of interval it is, in words.
    interval: str
    #: Decisions it was made from.
    n: int
    #: Independent clusters among them; n where none were named.
    clusters: int
    #: Effective sample size, in decisions.
    ess: float
    #: Share of decisions whose weight was clipped: 0 unless `clip` was given and took effect.
    clipped: float
    #: What makes it doubtful, in words; empty if nothing was found.
    warnings: tuple[str, ...]


def estimate_from(
    method: str,
    value: float,
    influence: Vector,
    groups: Indices,
    level: float,
    ess: float,
    clipped: float,
    warnings: tuple[str, ...],
) -> Estimate:
    """Return `value` with a standard error and an interval; its error is about the sum of `influence`, (n,).

    `groups` are indices of clusters, (n,), every one of them used. Raises ValueError if there are fewer than 2.
    """
    sums = np.bincount(groups, influence)
    g, n = sums.size, influence.size
    if g < 2:
        kind = "decision" if n == 1 else "cluster"
        raise ValueError(f"there is 1 {kind}: a standard error needs at least 2 that are independent")
    stderr = math.sqrt(g / (g - 1) * float(sums @ sums))
    half = float(stdtrit(g - 1, 0.5 + 0.5 * fraction("level", level))) * stderr
    named = "cluster" if g < n else "decision"
    if g < min(n, FEW_CLUSTERS):
        warnings += (f"there are only {g} clusters: fewer than {FEW_CLUSTERS} make a rough standard error",)
    if stderr == 0.0:
        warnings += ("all terms are equal, so that the standard error of 0 says nothing about the error",)
    interval = f"Student t, {g - 1} degrees of freedom, robust by {named}, at one look"
    return Estimate(method, value, stderr, value - half, value + half, level, interval, n, g, ess, clipped, warnings)
