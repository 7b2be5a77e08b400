"""Cost: allocations that weigh what an arm earns against what it costs.

Model
    A dollar is worth lambda of reward. Arm i is best where theta_i - lambda c_i is the largest, and Thompson Sampling
    chooses it with exactly that probability,

        p_i(lambda) = P(theta_i - lambda c_i is the largest).

    With a ceiling on the expected cost of a decision, lambda is the smallest for which the final allocation, after floor
    and caps, keeps it. E max_i (theta_i - lambda c_i) is convex in lambda, and its slope is minus the expected cost
    sum_i p_i c_i, which therefore never rises with lambda. A floor is affine and keeps that. Caps do not: what exceeds the
    cap of a cheap arm may go to a dear control. With caps, lambda is then found on a grid, 2^(1/2) apart, and refined.

    From lambda = 1 / (smallest difference of two costs) on, no difference of rewards outweighs one of costs: the
    allocation does not change any more. What it costs there is the least that can be had.

Assumes
    What `bandit.posterior` assumes. Costs are known: means over many calls, not estimates with an error worth modelling.

Source
    Badanidiyuru, Kleinberg & Slivkins (2018), "Bandits with knapsacks", section 3, for a price on the resource; Danskin
    (1967), "The theory of max-min", for the slope; Scott (2010) for choosing by the probability of being best.

Shapes
    K          number of arms
    cost_usd   (K,)   mean cost of a decision for each arm, >= 0
    lambda     `reward_per_usd`, >= 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from bandit.allocation import AllocationRule, NoEligibleArmError, finish
from bandit.posterior import parameters
from bandit.quadrature import Array
from bandit.shifted import probability_largest

#: Expected costs this much over the ceiling, as a share of it, are rounding.
_ROUNDING: Final = 1e-9
#: Where the grid of lambda begins, as a share of 1 / (largest difference of two costs): posteriors are hardly narrower.
_FIRST: Final = 1e-6
_RATIO: Final = math.sqrt(2.0)


class CeilingError(ValueError):
    """No allocation within floor and caps is as cheap as the ceiling; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Priced:
    """The allocation that keeps a cost ceiling."""

    #: lambda: what a dollar is worth in reward; 0 where the ceiling does not bind.
    reward_per_usd: float
    #: (K,), after floor and caps; read-only.
    allocation: Array
    #: Expected cost of a decision under it.
    cost_usd: float


def probability_best_value(alpha: ArrayLike, beta: ArrayLike, cost_usd: ArrayLike, reward_per_usd: float) -> Array:
    """Return P(theta_i - reward_per_usd cost_usd_i is the largest), shape (K,), before floor and caps.

    Errors are at most 1e-8; it sums to 1. At reward_per_usd = 0, or with equal costs, it is `probability_best`.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    cost = _costs(cost_usd, len(a))
    if not 0.0 <= reward_per_usd < math.inf:
        raise ValueError(f"reward_per_usd is {reward_per_usd}: it must be a finite number >= 0")
    # A shift of more than 1 loses to the cheapest arm whatever the rewards are, so it may be cut there.
    with np.errstate(over="ignore"):
        shift = np.minimum(reward_per_usd * (cost - cost.min()), 2.0)
    return probability_largest(a, b, shift)


def keep_ceiling(
    rule: AllocationRule,
    alpha: ArrayLike,
    beta: ArrayLike,
    cost_usd: ArrayLike,
    ceiling_usd: float,
    eligible: Sequence[int] | None = None,
) -> Priced:
    """Return the allocation of the smallest lambda whose expected cost of a decision is at most `ceiling_usd`.

    The strategy is Thompson Sampling on reward less lambda times cost, whatever `rule.kind` says; then come the rule's floor
    and caps, which are aligned with the arms. Lambda is right to 1e-6 of itself, on the side that keeps the ceiling. Only
    `eligible` arms (all if None) with a cap above 0 take part.
    Raises CeilingError if no lambda keeps the ceiling, with what floor and caps alone cost; NoEligibleArmError if no arm
    may be drawn; ValueError naming the argument, its value and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    cost = _costs(cost_usd, len(a))
    if len(rule.caps) != len(a):
        raise ValueError(f"rule.caps has {len(rule.caps)} entries and alpha has {len(a)}: every arm needs one")
    if not 0.0 <= ceiling_usd < math.inf:
        raise ValueError(f"ceiling_usd is {ceiling_usd}: it must be a finite number >= 0")
    arms = np.arange(len(a)) if eligible is None else np.asarray(sorted(eligible), dtype=np.intp)
    arms = arms[np.asarray(rule.caps)[arms] > 0.0]
    if arms.size == 0:
        raise NoEligibleArmError("every eligible arm has probability 0, or none is eligible")

    def price(reward_per_usd: float) -> Priced:
        p = probability_best_value(a[arms], b[arms], cost[arms], reward_per_usd)
        allocation = finish(rule, p, arms)
        allocation.setflags(write=False)
        return Priced(reward_per_usd, allocation, float(allocation @ cost))

    return _smallest(price, np.unique(cost[arms]), ceiling_usd, bool(min(np.asarray(rule.caps)[arms]) >= 1.0))


def _smallest(price: Callable[[float], Priced], costs: Array, ceiling_usd: float, monotone: bool) -> Priced:
    """Return the first lambda that keeps the ceiling; `costs` are those that occur, ascending."""
    allowed = ceiling_usd * (1.0 + _ROUNDING)
    free = price(0.0)
    if free.cost_usd <= allowed:
        return free
    if len(costs) == 1:
        raise _refusal(ceiling_usd, free)
    last = 1.0 / float(np.diff(costs).min())
    steps = [last]
    if not monotone:
        first = _FIRST / float(costs[-1] - costs[0])
        steps = [*np.geomspace(first, last, 2 + math.ceil(math.log(last / first) / math.log(_RATIO))).tolist()]
    low, cheapest = 0.0, free
    for step in steps:
        found = price(step)
        if found.cost_usd <= allowed:
            return _bisect(price, low, found, allowed)
        low, cheapest = step, min(cheapest, found, key=lambda one: one.cost_usd)
    raise _refusal(ceiling_usd, cheapest)


def _bisect(price: Callable[[float], Priced], low: float, high: Priced, allowed: float) -> Priced:
    """Return the end that keeps the ceiling of a bracket narrowed to 1e-6 of itself."""
    while high.reward_per_usd - low > 1e-6 * high.reward_per_usd:
        # Geometric steps find the scale of lambda, which may be far below the bracket's end.
        middle = math.sqrt(low * high.reward_per_usd) if low else 0.125 * high.reward_per_usd
        found = price(middle)
        if found.cost_usd <= allowed:
            high = found
        else:
            low = middle
        if high.reward_per_usd < 1e-300:
            break
    return high


def _refusal(ceiling_usd: float, cheapest: Priced) -> CeilingError:
    shares = ", ".join(f"{share:.4g}" for share in cheapest.allocation)
    return CeilingError(
        f"ceiling_usd is {ceiling_usd:g}: within floor and caps a decision costs at least {cheapest.cost_usd:g} USD, "
        f"at the shares {shares}; raise the ceiling, lower the floor, or take out a dear arm"
    )


def pareto_front(reward: ArrayLike, cost_usd: ArrayLike) -> tuple[int, ...]:
    """Return the arms that no other arm beats, cheapest first: none earns at least as much for at most the cost.

    `reward` and `cost_usd` are means, (K,). Of arms equal in both, all are on the front.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    earned = np.array(reward, dtype=np.float64)
    if earned.ndim != 1 or earned.size == 0 or not np.isfinite(earned).all():
        raise ValueError(f"reward is {reward!r}: it must be finite numbers, one for each of at least one arm")
    cost = _costs(cost_usd, len(earned))
    front: list[int] = []
    best = -math.inf
    for arm in np.lexsort((-earned, cost)).tolist():
        same = bool(front) and earned[arm] == earned[front[-1]] and cost[arm] == cost[front[-1]]
        if earned[arm] > best or same:
            front.append(arm)
            best = float(earned[arm])
    return tuple(front)


def _costs(values: ArrayLike, arms: int) -> Array:
    cost = np.array(values, dtype=np.float64)
    if cost.shape != (arms,):
        raise ValueError(f"cost_usd has shape {cost.shape}: it must have an entry for each of {arms} arms")
    bad = np.flatnonzero(~((cost >= 0.0) & (cost < math.inf)))
    if bad.size:
        raise ValueError(f"cost_usd[{bad[0]}] is {cost[bad[0]]}: every cost must be finite and at least 0")
    return cost
