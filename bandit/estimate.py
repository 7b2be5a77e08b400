"""Estimate: a value with its standard error and interval, from the influence of every decision on it.

Model
    The error of an estimate is about the sum of the influences of its decisions, which add up to 0. Within each of G
    clusters they add up to s_g, and h_g is the share of the estimate's terms that cluster g has. Its standard error is the
    jackknife's,

        stderr^2 = (G - 1) / G sum (s_g / (1 - h_g))^2,

    where s_g / (1 - h_g) is what the estimate would change by without cluster g. With equal shares this is the usual
    standard error of a mean. A cluster with half of the terms draws the estimate to itself, which halves s_g.

    The interval is Student's. Were there one number y_g of one variance in each cluster, and the estimate sum h_g y_g, then
    stderr^2 would be a quadratic form in y of matrix B, whose mean and variance are those of chi-squared with
    (tr B)^2 / tr B^2 degrees of freedom: G - 1 with equal shares, and 1 where one cluster has nearly all. The degrees of
    freedom are the smaller of those for the shares of the terms and those for the shares of the weight: where most clusters
    weigh nothing, the few others are all that says how much clusters differ.

Assumes
    Clusters are independent, or what one adds given those before it has expectation 0, as in an adaptive experiment; and no
    few of them carry the sum, which the alarms look at.

Source
    Liang & Zeger (1986), "Longitudinal data analysis using generalized linear models", for sums by cluster; Bell & McCaffrey
    (2002), "Bias reduction in standard errors for linear regression with multi-stage samples", for the jackknife and for
    the degrees of freedom; MacKinnon, Nielsen & Webb (2023), "Fast and reliable jackknife and bootstrap methods for
    cluster-robust inference", for unequal clusters.

Shapes
    n   number of decisions
    G   number of clusters
    h   (G,)   adds up to 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from bandit.logged import Indices, Vector, fraction
from bandit.weights import LARGEST_WEIGHT_SHARE, effective_size, weight_alarms

#: If the interval has the degrees of freedom of fewer equal clusters than this, it leans on their being alike.
FEW_CLUSTERS = 30
#: A cluster with a larger share than this leaves one degree of freedom.
_NEARLY_ALL = 0.999


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
    #: Degrees of freedom of the interval: at most the number of clusters that have weight, less 1; at least 1.
    df: float
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
    w: Vector,
    shares: Vector | None = None,
    clipped: float = 0.0,
    warnings: tuple[str, ...] = (),
) -> Estimate:
    """Return `value` with a standard error and an interval; its error is about the sum of `influence`, (n,).

    `groups` are indices of clusters, (n,), every one of them used. `w` are the decisions' weights, and `shares` in
    proportion to what each of their terms has of the estimate, both (n,); None for equal shares. `warnings` are added to
    the alarms found here. Raises ValueError if there are fewer than 2 clusters.
    """
    n = influence.size
    sums = np.bincount(groups, influence).astype(np.float64)
    g = sums.size
    kind = "cluster" if g < n else "decision"
    if g < 2:
        raise ValueError(f"there is 1 {kind}: a standard error needs at least 2 that are independent")
    terms = _shares(groups, np.ones(n) if shares is None else shares)
    weight = _shares(groups, w)
    stderr = _jackknife(sums, terms)
    df = min(degrees_of_freedom(terms), degrees_of_freedom(weight))
    half = float(stdtrit(df, 0.5 + 0.5 * fraction("level", level))) * stderr
    found = weight_alarms(w, groups) + _alarms(terms, weight, df, kind) + warnings
    if stderr == 0.0:
        found += ("all terms are equal, so that the standard error of 0 says nothing about the error",)
    interval = f"Student t, {shown(df)} degrees of freedom, robust by {kind}, at one look"
    ends = value - half, value + half
    return Estimate(method, value, stderr, *ends, level, interval, n, g, df, effective_size(w), clipped, found)


def degrees_of_freedom(shares: Vector) -> float:
    """Return (tr B)^2 / tr B^2 for clusters with these shares, (G,), which add up to 1: from 1 to the non-zero less 1.

    A single cluster with all has 1 as well.
    """
    h = shares[shares > 0.0]
    if h.max() > _NEARLY_ALL:
        # The sums below would cancel, and differ from 1 by less than the rest has.
        return 1.0
    # B has entries u_g u_k (1{g = k} - x_g - x_k) with u = h / (1 - h); c is u squared.
    x = h - 0.5 * float(h @ h)
    c = (h / (1.0 - h)) ** 2
    trace = float(c @ (1.0 - 2.0 * x))
    squares = 2.0 * float(c.sum() * (c @ x**2) + (c @ x) ** 2) + float(c**2 @ (1.0 - 4.0 * x))
    # Rounding can take it past its bounds.
    return min(max(1.0, trace**2 / squares), max(1.0, h.size - 1.0))


def shown(number: float) -> str:
    """Return a number with a digit after the point, unless that is 0."""
    return f"{number:.1f}".removesuffix(".0")


def _shares(groups: Indices, amounts: Vector) -> Vector:
    sums = np.bincount(groups, amounts)
    return np.asarray(sums / sums.sum())


def _jackknife(sums: Vector, h: Vector) -> float:
    # A cluster with all terms is the estimate: nothing is left to tell it from.
    moved = np.divide(sums, 1.0 - h, out=np.zeros_like(sums), where=h < 1.0)
    g = np.count_nonzero(h)
    return math.sqrt((g - 1) / g * float(moved @ moved))


def _alarms(terms: Vector, weight: Vector, df: float, kind: str) -> tuple[str, ...]:
    found = []
    largest = float(terms.max())
    # Where the weight is spread like the terms, its own alarm has said it.
    if largest > max(LARGEST_WEIGHT_SHARE, float(weight.max())):
        found.append(f"one {kind} has {largest:.1%} of the terms, more than {LARGEST_WEIGHT_SHARE:.0%}")
    # Rounding may leave the degrees of freedom of equal clusters a little below their number less 1.
    if round(df + 1.0, 6) < FEW_CLUSTERS:
        found.append(
            f"the standard error is as rough as that of {shown(df + 1.0)} {kind}s of equal weight, fewer than {FEW_CLUSTERS}"
        )
    return tuple(found)
