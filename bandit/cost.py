"""Cost: allocations that weigh what an arm earns against what it costs.

Model
    A dollar is worth lambda of reward. Arm i is best where theta_i - lambda c_i is the largest, and Thompson Sampling
    chooses it with exactly that probability,

        p_i(lambda) = P(theta_i - lambda c_i is the largest).

    With a ceiling on the expected cost of a decision, lambda is the smallest for which the final allocation, after floor
    and caps, keeps it. E max_i (theta_i - lambda c_i) is convex in lambda, and its slope is minus the expected cost
    sum_i p_i c_i, which therefore never rises with lambda: the root is bracketed at once. A floor is affine and keeps that.
    Caps do not: what exceeds the cap of a cheap arm may go to a dear control, so that the ceiling may be kept only where one
    arm takes over from another.

    Lambda is looked for on a ladder. It begins where a price moves scores by a tenth of the narrowest posterior's standard
    deviation, and doubles. It ends at 1 / (smallest difference between a cost and the least one): from there on no reward
    makes up for a higher cost. It also has the prices at which one arm's mean score falls below that of the next, and
    those up to three standard deviations of their difference before and after, in halves. Without caps the first step that
    keeps the ceiling is found by bisection; with caps each is tried. Between it and the step before, a root is found.

    The same evidence gives the same lambda, to the last digit: nothing is carried over from an allocation before.

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
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit.allocation import AllocationRule, NoEligibleArmError, finish, normalised
from bandit.posterior import parameters, probability_best
from bandit.quadrature import Array
from bandit.shifted import Contest

#: Expected costs this much over the ceiling, as a share of it, are rounding.
ROUNDING: Final = 1e-9
#: The first step of the ladder moves scores by this share of the narrowest posterior's standard deviation.
_FIRST: Final = 0.1
_RATIO: Final = 2.0
#: Where one arm takes over from another the ladder has a step at each of these standard deviations.
_TAKING_OVER: Final[Array] = np.arange(-3.0, 3.5, 0.5)
#: Lambda is found to this share of itself.
_PRECISION: Final = 1e-6
#: A lambda this far below the first step changes less than quadrature resolves.
_NOTHING: Final = 1e-9


class CeilingError(ValueError):
    """No allocation within floor and caps is as cheap as the ceiling; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Priced:
    """The allocation that keeps a cost ceiling."""

    #: lambda: what a dollar is worth in reward; 0 where the ceiling does not bind, inf where cost alone decides.
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
    return _Market(a, b, cost).shares(reward_per_usd)


class _Market:
    """Posteriors and costs, looked at for many prices."""

    def __init__(self, alpha: Array, beta: Array, cost: Array) -> None:
        self._alpha, self._beta = alpha, beta
        self._over = cost - cost.min()
        self._contest = Contest(alpha, beta)

    def shares(self, reward_per_usd: float) -> Array:
        if reward_per_usd == 0.0 or not self._over.any():
            return probability_best(self._alpha, self._beta)
        # A shift of more than 1 loses to the cheapest arm whatever the rewards are, so it may be cut there.
        with np.errstate(over="ignore"):
            return self._contest.probability_largest(np.minimum(reward_per_usd * self._over, 2.0))

    def ladder(self) -> list[float]:
        """Return the lambdas between which allocations change, ascending; costs must differ."""
        total = self._alpha + self._beta
        mean = self._alpha / total
        sd = np.sqrt(mean * (self._beta / total) / (total + 1.0))
        last = float(np.minimum(1.0 / self._over[self._over > 0.0].min(), 1e300))
        first = min(float(_FIRST * sd.min() / self._over.max()), last)
        steps = np.geomspace(first, last, 2 + math.ceil(math.log(last / first, _RATIO)))
        crossings = [
            (mean[dear] - mean[cheap] + _TAKING_OVER * math.hypot(sd[dear], sd[cheap]))
            / (self._over[dear] - self._over[cheap])
            for dear, cheap in _takeovers(mean, self._over)
        ]
        every = np.unique(np.concatenate((steps, *crossings)))
        return [float(step) for step in every if first <= step <= last]


def _takeovers(mean: Array, cost: Array) -> Iterator[tuple[int, int]]:
    """Yield the pairs of arms of which the second has the largest mean score from some lambda on, and the first before."""
    arm = int(np.lexsort((cost, -mean))[0])
    while (cheaper := np.flatnonzero(cost < cost[arm])).size:
        at = (mean[arm] - mean[cheaper]) / (cost[arm] - cost[cheaper])
        after = int(cheaper[at.argmin()])
        yield arm, after
        arm = after


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
    `eligible` arms (all if None) with a cap above 0 take part. Where no lambda keeps the ceiling though an allocation does,
    because of what caps send to a dear control, it is that of `cheapest`.
    Raises CeilingError if no allocation within floor and caps keeps the ceiling, with what the cheapest one costs;
    NoEligibleArmError if no arm may be drawn; ValueError naming the argument, its value and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    cost = _costs(cost_usd, len(a))
    if len(rule.caps) != len(a):
        raise ValueError(f"rule.caps has {len(rule.caps)} entries and alpha has {len(a)}: every arm needs one")
    if not 0.0 <= ceiling_usd < math.inf:
        raise ValueError(f"ceiling_usd is {ceiling_usd}: it must be a finite number >= 0")
    arms, allowed = _drawn(rule, eligible), ceiling_usd * (1.0 + ROUNDING)
    least = cheapest(rule, cost, eligible, a / (a + b))
    if least.cost_usd > allowed:
        shares = ", ".join(f"{share:.4g}" for share in least.allocation)
        raise CeilingError(
            f"ceiling_usd is {ceiling_usd:g}: within floor and caps a decision costs at least {least.cost_usd:g} USD, "
            f"at the shares {shares}; raise the ceiling, lower the floor, or take out a dear arm"
        )
    market = _Market(a[arms], b[arms], cost[arms])

    @cache
    def price(reward_per_usd: float) -> Priced:
        return _priced(reward_per_usd, finish(rule, market.shares(reward_per_usd), arms), cost)

    if price(0.0).cost_usd <= allowed:
        return price(0.0)
    if np.ptp(cost[arms]) == 0.0:
        return least
    ladder = market.ladder()

    def keeps(step: int) -> bool:
        return price(ladder[step]).cost_usd <= allowed

    rungs = range(len(ladder))
    if min(np.asarray(rule.caps)[arms]) < 1.0:
        kept = next((step for step in rungs if keeps(step)), len(ladder))
    else:
        kept = bisect_left(rungs, True, key=keeps)
    if kept == len(ladder):
        return least
    low, high = (ladder[kept - 1], ladder[kept]) if kept else _below(price, ladder[0], allowed)
    return _narrowed(price, low, high, allowed)


def _below(price: Callable[[float], Priced], first: float, allowed: float) -> tuple[float, float]:
    """Return a bracket below the first step, at which the ceiling is kept."""
    low, high = first, first
    while low > _NOTHING * first and price(low).cost_usd <= allowed:
        low, high = low / 8.0, low
    return low, high


def _narrowed(price: Callable[[float], Priced], low: float, high: float, allowed: float) -> Priced:
    """Return the end that keeps the ceiling of a bracket narrowed to `_PRECISION` of itself."""
    from scipy.optimize import brentq  # takes long to import, and few allocations have a ceiling

    if price(low).cost_usd <= allowed:
        return price(low)
    span = math.log(high / low)

    def at(position: float) -> float:
        return high if position == 1.0 else low * math.exp(span * position)

    found = brentq(lambda position: price(at(position)).cost_usd - allowed, 0.0, 1.0, xtol=0.2 * _PRECISION / span)
    # The root is right to 0.2 of the precision, so 0.5 of it further on is the other side of it, but for rounding.
    reward_per_usd = at(found)
    for beyond in (0.5, 1.0, 2.0, 4.0, 8.0):
        keeps = min(reward_per_usd * (1.0 + beyond * _PRECISION), high)
        if price(keeps).cost_usd <= allowed:
            return price(keeps)
    return price(high)


def cheapest(
    rule: AllocationRule, cost_usd: ArrayLike, eligible: Sequence[int] | None = None, reward: ArrayLike | None = None
) -> Priced:
    """Return the allocation that costs the least within floor and caps, whatever was learned.

    Each arm has its least share, and the cheapest ones what is left, up to their caps; of arms that cost the same, the one
    of the larger `reward` (K,), or else the first, is filled first. Caps that cannot hold are scaled up together.
    Raises NoEligibleArmError if no arm may be drawn; ValueError as `keep_ceiling`.
    """
    cost = _costs(cost_usd, len(rule.caps))
    earned = np.zeros(len(cost)) if reward is None else np.asarray(reward, dtype=np.float64)
    arms = _drawn(rule, eligible)
    caps, p = np.asarray(rule.caps)[arms], rule.least()[arms]
    if caps.sum() < 1.0:
        p = normalised(caps)
    for arm in np.lexsort((-earned[arms], cost[arms])):
        p[arm] += min(caps[arm] - p[arm], max(1.0 - p.sum(), 0.0)) if caps.sum() >= 1.0 else 0.0
    allocation = np.zeros(len(cost))
    allocation[arms] = p / p.sum()
    return _priced(math.inf, allocation, cost)


def _drawn(rule: AllocationRule, eligible: Sequence[int] | None) -> NDArray[np.intp]:
    """Return the arms that may be drawn."""
    arms = np.arange(len(rule.caps)) if eligible is None else np.asarray(sorted(eligible), dtype=np.intp)
    arms = arms[np.asarray(rule.caps)[arms] > 0.0]
    if arms.size == 0:
        raise NoEligibleArmError("every eligible arm has probability 0, or none is eligible")
    return arms


def _priced(reward_per_usd: float, allocation: Array, cost: Array) -> Priced:
    allocation.setflags(write=False)
    return Priced(reward_per_usd, allocation, float(allocation @ cost))


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
