"""Top-two Thompson Sampling: the allocation that finds the best arm soonest.

Model
    The leader is a draw from P(best): arm i with probability P_i. With probability `leader_share` it is chosen; otherwise
    draws go on until another arm comes, the challenger, and that is chosen: arm j with probability P_j / (1 - P_i). So

        psi_i = P_i (s + (1 - s) sum_{j != i} P_j / (1 - P_j)),   s = leader_share.

    Thompson Sampling is s = 1: it stops measuring challengers once it is fairly sure. Here they keep their share, divided
    among them as their chances are, so that what is still unsure is what is measured.

Assumes
    What `bandit.posterior` assumes. It learns soonest and does not earn most: while it runs, about 1 - s of the traffic
    goes to arms that are probably worse.

Source
    Russo (2020), "Simple Bayesian algorithms for best-arm identification", sections 3.3 and 5, where the best share is
    also discussed: 1/2 learns at least half as fast as the best one.

Shapes
    K    number of arms
    P    (K,)   probability of being best, in logarithms: 1 - P_j is a sum of the others, not a difference
    psi  (K,)   the allocation, sums to 1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bandit.quadrature import Array
from bandit.tails import log_probability_best

DEFAULT_LEADER_SHARE = 0.5


def top_two(alpha: ArrayLike, beta: ArrayLike, leader_share: float = DEFAULT_LEADER_SHARE) -> Array:
    """Return the allocation psi, shape (K,), for posteriors Beta(alpha_i, beta_i), before floor and caps.

    0 < `leader_share` <= 1; at 1 it is `probability_best`. Errors are at most 1e-6 of an entry, and 1e-8 for parameters up
    to 1e6: also where the leader is sure but for exp(-1e6), its challengers divide their share as their chances are.
    An entry that would be below 1e-308 is 0. With one arm the result is 1.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    # Written so that NaN fails it too.
    if not 0.0 < leader_share <= 1.0:
        raise ValueError(f"leader_share is {leader_share}: it must be greater than 0 and at most 1")
    return from_log_chances(log_probability_best(alpha, beta), leader_share)


def from_log_chances(log_p: Array, leader_share: float = DEFAULT_LEADER_SHARE) -> Array:
    """Return psi, shape (K,), from the logarithms of P, shape (K,); -inf is an arm that cannot be the best."""
    k = len(log_p)
    live = np.flatnonzero(log_p > -np.inf)
    psi = np.zeros(k)
    if live.size == 1:
        psi[live] = 1.0
        return psi
    log_live = log_p[live]
    itself = np.eye(live.size, dtype=bool)
    # log(1 - P_j): a sum without the largest term keeps the digits of the others.
    log_rest = np.logaddexp.reduce(np.where(itself, -np.inf, log_live), axis=1)
    # [j, i]: the leader is j and the challenger i.
    pairs = np.exp(np.where(itself, -np.inf, (log_live - log_rest)[:, None] + log_live))
    psi[live] = leader_share * np.exp(log_live) + (1.0 - leader_share) * pairs.sum(axis=0)
    return np.asarray(psi / psi.sum())
