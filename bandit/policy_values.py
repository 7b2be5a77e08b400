"""What a policy is worth that never ran: every estimator of `bandit.offpolicy` side by side, or why there is none.

Model
    That of `bandit.offpolicy`, for a policy given as probability vectors: see `bandit.targets`.

Assumes
    As `bandit.offpolicy`. The log must have been able to draw every arm that the policy draws, in each of its decisions.

Source
    That of `bandit.offpolicy`.

Shapes
    As in `bandit.logged`; policy (n, K) or (K,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bandit.estimate import Estimate
from bandit.logged import LARGEST, arm_indices, cluster_indices, numbers, probability_table, propensity_vector
from bandit.offpolicy import adaptive_doubly_robust, doubly_robust, ips, running_means, snips


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """The value of a policy by each estimator; None where the log cannot tell."""

    #: Why there are no estimates, in words; empty if there are.
    insufficient: str
    #: Inverse propensity weighting.
    ips: Estimate | None = None
    #: The same, self-normalised.
    snips: Estimate | None = None
    #: Doubly robust, with running means.
    dr: Estimate | None = None
    #: Doubly robust with evened out variances.
    adaptive: Estimate | None = None


def policy_value(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    allocations: ArrayLike,
    policy: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> PolicyValue:
    """Return what `policy` is worth by a log whose decisions were drawn from `allocations`, (n, K) or (K,).

    Each decision's propensity is the entry of its vector. Raises ValueError naming the argument, its value and the rule it
    breaks; what is no fault of the arguments but of the log is `insufficient`.
    """
    r = numbers("rewards", rewards)
    p = probability_table("allocations", allocations, r.size)
    k = p.shape[1]
    a = arm_indices(arms, k, r.size)
    drawn = propensity_vector(propensities, r.size)
    pi = probability_table("policy", policy, r.size, k)
    # An entry so small that no weight can be made of it is as good as 0.
    barred = (pi > LARGEST * p).sum(axis=0)
    tried = np.bincount(a, minlength=k) > 0
    for arm in range(k):
        if not tried[arm] and (pi[:, arm] > 0.0).any():
            return PolicyValue(f"arm {arm} was never tried, and the policy draws it")
        if barred[arm]:
            return PolicyValue(
                f"arm {arm} could not be drawn in {barred[arm]} of {r.size} decisions, and the policy draws it"
            )
    groups = cluster_indices(clusters, r.size)[0]
    target = pi[np.arange(r.size), a]
    speaking = np.unique(groups[target > 0.0]).size
    if speaking < 2:
        return PolicyValue(f"the log has decisions of {speaking} clusters that the policy would make: it needs at least 2")
    labels = None if clusters is None else groups
    q = running_means(r, a, k, clusters=labels)
    return PolicyValue(
        "",
        ips=ips(r, drawn, target, labels, level=level),
        snips=snips(r, drawn, target, labels, level=level),
        dr=doubly_robust(r, a, drawn, pi, q, labels, level=level),
        adaptive=adaptive_doubly_robust(r, a, p, pi, q, labels, level=level),
    )
