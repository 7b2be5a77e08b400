"""What a log says of each arm: its raw mean beside the estimates that undo the allocation.

Model
    The value of arm k is that of the policy that always draws it. Each arm gets every estimator of `bandit.offpolicy`, so
    that a reader sees where they part: raw from the others by adaptivity, ips from snips by the luck of the weights.

    A decision that could not have drawn an arm says nothing of it: with it, ips is too low, and snips is about other
    decisions than the log's. An arm with probability 0 in some decision is therefore not estimated. Leaving such decisions
    out is sound where what barred the arm was settled beforehand, as before it was added, and not where the allocation gave
    it up after bad luck. Only the caller knows, so it is not done here. Other arms are estimated all the same.

Assumes
    As `bandit.offpolicy`. Intervals are for one arm at one look. The arm that looks best looks better than it is.

Source
    That of `bandit.offpolicy`.

Shapes
    As in `bandit.logged`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bandit.estimate import Estimate
from bandit.logged import (
    LARGEST,
    Indices,
    Vector,
    arm_indices,
    cluster_indices,
    numbers,
    probability_table,
    propensity_vector,
)
from bandit.offpolicy import adaptive_doubly_robust, doubly_robust, ips, raw_mean, running_means, snips
from bandit.targets import fixed_arm

#: Propensities of buckets are rounded to 1 / 10,000.
_ROUNDING = 2e-4


@dataclass(frozen=True, slots=True)
class ArmEstimates:
    """The estimates of one arm; None where it has too few decisions, or could not be drawn in all of them."""

    #: Index of the arm.
    arm: int
    #: Decisions for it.
    decisions: int
    #: Why there are no estimates, in words; empty if there are.
    insufficient: str
    #: Mean reward of its own decisions.
    raw: Estimate | None = None
    #: Inverse propensity weighting.
    ips: Estimate | None = None
    #: The same, self-normalised.
    snips: Estimate | None = None
    #: Doubly robust, with running means.
    dr: Estimate | None = None
    #: Doubly robust with evened out variances; None if no allocations were given.
    adaptive: Estimate | None = None


def estimate_arms(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    k: int,
    clusters: ArrayLike | None = None,
    allocations: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> tuple[ArmEstimates, ...]:
    """Return the estimates of each of `k` arms.

    With `allocations`, the whole vectors (n, K) or (K,), there are adaptive ones too; each decision's propensity must be
    the entry of its vector, which is not so for later decisions of stored sticky units. An arm is insufficient if it has
    decisions of fewer than 2 clusters, or probability 0 in any of these vectors; without them the caller must see to that.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    r = numbers("rewards", rewards)
    a = arm_indices(arms, k, r.size)
    p = propensity_vector(propensities, r.size)
    barred = np.zeros(k, dtype=np.intp)
    if allocations is not None:
        vectors = probability_table("allocations", allocations, r.size, k)
        _check_drawn_from(vectors, a, p)
        # One over an entry so small is no weight that an estimate could take.
        barred = (vectors < 1.0 / LARGEST).sum(axis=0)
    groups = cluster_indices(clusters, r.size)[0]
    # Labels that are all different only cost the time to sort them.
    labels = None if clusters is None else groups
    q = running_means(r, a, k, clusters=labels)
    found = []
    for arm in range(k):
        own = a == arm
        decisions, independent = int(own.sum()), np.unique(groups[own]).size
        why = _insufficient(arm, decisions, independent, int(barred[arm]), r.size)
        if why:
            found.append(ArmEstimates(arm, decisions, why))
            continue
        always = fixed_arm(arm, k)
        adaptive = None
        if allocations is not None:
            adaptive = adaptive_doubly_robust(r, a, allocations, always, q, labels, level=level)
        found.append(
            ArmEstimates(
                arm,
                decisions,
                "",
                raw=raw_mean(r[own], None if labels is None else labels[own], level=level),
                ips=ips(r, p, own, labels, level=level),
                snips=snips(r, p, own, labels, level=level),
                dr=doubly_robust(r, a, p, always, q, labels, level=level),
                adaptive=adaptive,
            )
        )
    return tuple(found)


def _insufficient(arm: int, decisions: int, independent: int, barred: int, n: int) -> str:
    if barred:
        return (
            f"arm {arm} had probability 0 in {barred} of {n} decisions: it is estimated only from those that could draw it"
        )
    if independent < 2:
        return f"arm {arm} has {decisions} decisions of {independent} clusters: it needs at least 2 that are independent"
    return ""


def _check_drawn_from(allocations: Vector, arms: Indices, propensities: Vector) -> None:
    own = allocations[np.arange(arms.size), arms]
    off = np.flatnonzero(np.abs(own - propensities) > _ROUNDING)
    if off.size:
        row = off[0]
        raise ValueError(
            f"allocations[{row}, {arms[row]}] is {own[row]:.6g} and propensities[{row}] is {propensities[row]:.6g}: "
            f"decision {row} was not drawn from that vector; of stored sticky units keep the first, or give no allocations"
        )
