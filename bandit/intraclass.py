"""Intraclass correlation: how much of the variance of outcomes lies between clusters, such as sessions.

Model
    Outcome j of cluster i is mean + u_i + e_ij, where u has the variance b between clusters and e the variance w within
    them; two outcomes of one cluster have the correlation b / (b + w). From the mean squares of a one-way analysis,

        b = (MSB - MSW) / m0,   w = MSW,   m0 = (n - sum m_i^2 / n) / (k - 1).

Assumes
    Clusters are independent, and their sizes say nothing of their outcomes. Where arms differ, outcomes are taken as
    differences from their arm's mean, or the arms' difference counts as one between clusters.

Source
    Donner (1986), "A review of inference procedures for the intraclass correlation coefficient in the one-way random effects
    model", section 2, for the analysis of variance estimator with clusters of unequal sizes.

Shapes
    k    clusters, i = 1..k
    m_i  outcomes of cluster i, n in all
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """What the estimate needs of a log: sums, which a database can add up."""

    #: k.
    clusters: int
    #: n.
    outcomes: int
    #: Sum of m_i^2.
    squared_sizes: float
    #: Sum of the squared outcomes.
    squares: float
    #: Sum over the clusters of (sum of their outcomes)^2 / m_i.
    cluster_squares: float
    #: Sum of the outcomes.
    total: float


def intraclass_correlation(sums: ClusterSums) -> float | None:
    """Return the correlation of two outcomes of one cluster, in [0, 1]; negative estimates are 0.

    None where nothing can be said: fewer than 2 clusters, none with 2 outcomes, or outcomes that are all equal.
    Raises ValueError unless the counts are those of clusters with an outcome each.
    """
    k, n = sums.clusters, sums.outcomes
    if not 0 <= k <= n:
        raise ValueError(f"clusters is {k}: it must be from 0 to the number of outcomes, {n}")
    if k < 2 or n == k:
        return None
    # Rounding may leave a sum of squares of 0 a little below it.
    within = max(0.0, sums.squares - sums.cluster_squares) / (n - k)
    between = max(0.0, sums.cluster_squares - sums.total**2 / n) / (k - 1)
    size = (n - sums.squared_sizes / n) / (k - 1)
    scale = between + (size - 1.0) * within
    if scale <= 0.0:
        return None
    return min(1.0, max(0.0, (between - within) / scale))
