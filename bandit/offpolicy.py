"""Estimates from adaptively collected data: what a policy is worth, from decisions that another one made.

Model
    Decision t drew arm A_t with propensity p_t and earned r_t. The target policy would have drawn arm a with probability
    pi_t(a); w_t = pi_t(A_t) / p_t.

    raw        mean of r_t: what the log earned. Of one arm's decisions: biased downwards under adaptive allocation,
               because an arm that looked bad early was tried less and had no chance to make up for it
    ips        mean of w_t r_t: unbiased
    snips      sum w_t r_t / sum w_t: a bias of order 1/n, usually far less variance, and always within the rewards' range
    dr         mean of G_t,  G_t = sum_a pi_t(a) q_t(a) + w_t (r_t - q_t(A_t)): unbiased for any q_t made from earlier
               decisions; the better q, the less variance
    adaptive   sum h_t G_t / sum h_t,  h_t = (sum_a pi_t(a)^2 / p_t(a))^(-1/2): each term gets the same variance, up to
               that of the rewards. Without that, dr need not tend to a normal law where propensities follow the data

    Standard errors and intervals are those of `bandit.estimate`, for one look fixed beforehand.
    `bandit.sequences` has intervals that may be looked at all the time.

Assumes
    Rewards of a decision depend on its own arm only. Clusters are independent, apart from what the learner made of them.
    Without clusters, so is every decision. For `adaptive`: no drift, and allocations that depend on the past alone, not on
    what is known of the decision itself; otherwise it weighs some times or segments more than others.

Source
    Horvitz & Thompson (1952); Swaminathan & Joachims (2015), "The self-normalized estimator for counterfactual learning";
    Dudik, Langford & Li (2011), "Doubly robust policy evaluation and learning"; Hadad, Hirshberg, Zhan, Wager & Athey
    (2021), "Confidence intervals for policy evaluation in adaptive experiments", for the bias of means and `adaptive`
    (constant allocation weights, which their two-point weights become where exploration has a constant floor).

Shapes
    As in `bandit.logged`; target is (n,) for `ips` and `snips`, (n, K) or (K,) elsewhere; q (n, K) or (K,).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bandit.estimate import Estimate, estimate_from
from bandit.logged import (
    LARGEST,
    Indices,
    Vector,
    arm_indices,
    cluster_indices,
    numbers,
    probability_table,
    propensity_vector,
    table,
    unit_numbers,
)
from bandit.targets import check_support
from bandit.weights import importance_weights


def raw_mean(rewards: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95) -> Estimate:
    """Return the mean reward of the decisions given: what they earned, and biased for an arm that was chosen adaptively.

    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    r = numbers("rewards", rewards)
    groups = cluster_indices(clusters, r.size)[0]
    value = float(r.mean())
    return estimate_from("raw", value, (r - value) / r.size, groups, level, np.ones(r.size))


def ips(
    rewards: ArrayLike,
    propensities: ArrayLike,
    target: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Return the inverse propensity estimate of the target policy's value.

    `target` is the target policy's probability of each decision's arm, (n,) or one number: `bandit.targets.target_of`
    makes it. Weights above `clip` are cut to it. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    r = numbers("rewards", rewards)
    groups = cluster_indices(clusters, r.size)[0]
    weights = importance_weights(
        unit_numbers("target", target, r.size), propensity_vector(propensities, r.size), groups, clip
    )
    terms = weights.w * r
    value = float(terms.mean())
    influence = (terms - value) / r.size
    return estimate_from(
        "ips", value, influence, groups, level, weights.w, clipped=weights.clipped, warnings=weights.warnings
    )


def snips(
    rewards: ArrayLike,
    propensities: ArrayLike,
    target: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Return the self-normalised inverse propensity estimate; arguments and errors as of `ips`."""
    r = numbers("rewards", rewards)
    groups = cluster_indices(clusters, r.size)[0]
    weights = importance_weights(
        unit_numbers("target", target, r.size), propensity_vector(propensities, r.size), groups, clip
    )
    total = float(weights.w.sum())
    value = float(weights.w @ r) / total
    influence = weights.w * (r - value) / total
    return estimate_from("snips", value, influence, groups, level, weights.w, weights.w, weights.clipped, weights.warnings)


def doubly_robust(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Return the doubly robust estimate of the target policy's value.

    `target` holds the target policy's vectors and `q` the predicted reward of every arm, both (n, K) or (K,). Predictions
    must come from earlier decisions only: `running_means` makes such. Weights above `clip` are cut to it.
    Raises ValueError naming the argument, its value and the rule it breaks; an arm that the target draws and the log never
    tried is named.
    """
    r, a, pi, model = _policy_log(rewards, arms, target, q)
    groups = cluster_indices(clusters, r.size)[0]
    every = np.arange(r.size)
    weights = importance_weights(pi[every, a], propensity_vector(propensities, r.size), groups, clip)
    terms = np.einsum("ij,ij->i", pi, model) + weights.w * (r - model[every, a])
    value = float(terms.mean())
    influence = (terms - value) / r.size
    return estimate_from(
        "dr", value, influence, groups, level, weights.w, clipped=weights.clipped, warnings=weights.warnings
    )


def adaptive_doubly_robust(
    rewards: ArrayLike,
    arms: ArrayLike,
    allocations: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """Return the doubly robust estimate with weights that even out the variance of its terms.

    `allocations` are the whole vectors that the decisions were drawn from, (n, K) or (K,), and propensities their entries;
    the rest is as for `doubly_robust`. Raises ValueError naming the argument, its value and the rule it breaks; a decision
    that could not have drawn an arm of the target is named.
    """
    r, a, pi, model = _policy_log(rewards, arms, target, q)
    groups = cluster_indices(clusters, r.size)[0]
    p = probability_table("allocations", allocations, r.size, pi.shape[1])
    # An entry so small that the variance overflows is as good as 0.
    barred = np.argwhere(pi > LARGEST * p)
    if barred.size:
        row, arm = barred[0]
        raise ValueError(
            f"allocations[{row}, {arm}] is {p[row, arm]:g}: decision {row} could not draw arm {arm}, which the target draws"
        )
    every = np.arange(r.size)
    weights = importance_weights(pi[every, a], propensity_vector(p[every, a], r.size), groups, None)
    terms = np.einsum("ij,ij->i", pi, model) + weights.w * (r - model[every, a])
    h = 1.0 / np.sqrt(np.divide(pi**2, p, out=np.zeros_like(pi), where=p > 0.0).sum(axis=1))
    value = float(h @ terms / h.sum())
    influence = h * (terms - value) / h.sum()
    return estimate_from("adaptive", value, influence, groups, level, h * weights.w, h, warnings=weights.warnings)


def running_means(
    rewards: ArrayLike,
    arms: ArrayLike,
    k: int,
    prior: tuple[float, float] = (0.5, 1.0),
    clusters: ArrayLike | None = None,
) -> Vector:
    """Return for each decision the mean reward of every arm over earlier decisions, (n, K): a model for `doubly_robust`.

    `prior` is (mean, weight): as if each arm had that many decisions of that mean before the log. With `clusters` a unit's
    decisions all get what was known before its first one, since a sticky unit's later decisions draw no new arm.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    r = numbers("rewards", rewards)
    a = arm_indices(arms, k, r.size)
    mean, weight = prior
    if not (math.isfinite(mean) and 0.0 < weight < math.inf):
        raise ValueError(f"prior is {prior}: it must be a finite mean and a positive weight")
    drawn = np.zeros((r.size + 1, k))
    earned = np.zeros((r.size + 1, k))
    after = np.arange(1, r.size + 1)
    drawn[after, a] = 1.0
    earned[after, a] = r
    q = (mean * weight + earned.cumsum(axis=0)) / (weight + drawn.cumsum(axis=0))
    groups, first = cluster_indices(clusters, r.size)
    return np.asarray(q[first[groups]])


def _policy_log(
    rewards: ArrayLike, arms: ArrayLike, target: ArrayLike, q: ArrayLike
) -> tuple[Vector, Indices, Vector, Vector]:
    r = numbers("rewards", rewards)
    pi = probability_table("target", target, r.size)
    a = arm_indices(arms, pi.shape[1], r.size)
    check_support(pi, a)
    return r, a, pi, table("q", q, r.size, pi.shape[1])
