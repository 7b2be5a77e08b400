"""Target policies: another way to choose, written as probabilities of the arms that were logged.

Model
    A policy gives each decision a probability vector over the arms: one vector for all decisions (uniform, a fixed arm,
    any split), or one for each (the logged allocation with another floor). Estimates need its entry for the arm drawn.

    The vectors are taken as given. Where they come from what a learner had seen, the estimate is the value of deviating
    once, on the history that the logging policy made. Another learner would have made another history: that is
    `bandit.rejection`.

Assumes
    The logging policy could draw every arm that the target draws. An arm that the log never tried is refused by name.

Source
    Li, Chu, Langford & Schapire (2010), "A contextual-bandit approach to personalized news article recommendation", §4,
    for the difference between the value of a policy and that of a learner.

Shapes
    n            number of decisions
    K            number of arms
    policy       (n, K) or (K,)
    allocations  (n, K)   the vectors that the decisions were drawn from
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bandit.allocation import apply_floor
from bandit.logged import Indices, Vector, arm_indices, probability_table

#: A strategy's probability may come out this far below 0 when a floor is taken out again.
_ROUNDING = 1e-9


def uniform(k: int) -> Vector:
    """Return the policy that draws each of `k` arms alike, (K,)."""
    return np.full(_arms(k), 1.0 / k)


def fixed_arm(arm: int, k: int) -> Vector:
    """Return the policy that always draws `arm`, (K,)."""
    if not 0 <= arm < _arms(k):
        raise ValueError(f"arm is {arm}: it must be the index of an arm, from 0 to {k - 1}")
    policy = np.zeros(k)
    policy[arm] = 1.0
    return policy


def with_floor(allocations: ArrayLike, floor: float, other: float) -> Vector:
    """Return what allocations of an experiment with `floor` would be with the floor `other`, on the same evidence, (n, K).

    Exact for allocations without caps over all K arms. Raises ValueError naming the decision if an entry is below
    `floor`, or if either floor is refused.
    """
    given = np.atleast_2d(np.asarray(allocations, dtype=np.float64))
    p = probability_table("allocations", given, given.shape[0])
    k = p.shape[1]
    # Refuses floors that leave too little to the strategy.
    for least in (floor, other):
        apply_floor(uniform(k), least)
    strategy = (p - floor) / (1.0 - k * floor)
    below = np.argwhere(strategy < -_ROUNDING)
    if below.size:
        row, arm = below[0]
        raise ValueError(f"allocations[{row}, {arm}] is {p[row, arm]:.6g}: it must be at least the floor, {floor:g}")
    strategy = np.maximum(strategy, 0.0)
    return np.asarray(other + (1.0 - k * other) * strategy / strategy.sum(axis=1, keepdims=True))


def target_of(policy: ArrayLike, arms: ArrayLike) -> Vector:
    """Return the policy's probability of each decision's arm, (n,): the `target` of `ips` and `snips`.

    `policy` is (n, K) or (K,). Raises ValueError naming the argument, its value and the rule it breaks; an arm that the
    policy draws and the log never tried is named.
    """
    a = arm_indices(arms)
    pi = probability_table("policy", policy, a.size)
    a = arm_indices(a, pi.shape[1])
    check_support(pi, a)
    return np.asarray(pi[np.arange(a.size), a])


def check_support(policy: Vector, arms: Indices) -> None:
    """Raise ValueError naming the first arm that `policy`, (n, K), draws and the log never tried."""
    untried = np.bincount(arms, minlength=policy.shape[1]) == 0
    for arm in np.flatnonzero(untried & (policy > 0.0).any(axis=0)):
        raise ValueError(
            f"arm {arm} was never tried in {arms.size} decisions: no policy that draws it can be estimated from them"
        )


def _arms(k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k}: there must be at least 1 arm")
    return k
