"""Allocations: how probability is divided among the arms of an experiment.

Model
    A strategy maps evidence to a probability vector; a floor keeps every arm explored, caps bound the blast radius of
    the arms that have one. One uniform number then draws the arm, so that the propensity of a decision is exactly the
    entry that it was drawn from.

    Thompson Sampling chooses arm i with probability P(arm i is best), which is computed once per policy instead of
    sampled once per decision: the law is the same and the propensities are exact.

Assumes
    Arms are independent given the evidence; rewards are Bernoulli, or fractions entered as r successes and 1 - r
    failures.

Source
    Thompson (1933), "On the likelihood that one unknown probability exceeds another"; Scott (2010), "A modern Bayesian
    look at the multi-armed bandit", section 3, for randomised probability matching.

Shapes
    K     number of arms
    p     (K,) probabilities, sum 1
    f     (K,) floors, f_i = min(floor_i, cap_i)
    cap   (K,) greatest propensities, 1 where there is none, 0 for an arm that may not be drawn
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit.posterior import probability_best
from bandit.top_two import DEFAULT_LEADER_SHARE, top_two

Vector = NDArray[np.float64]

#: Floors, and the weights of `fixed`, must leave at least this much of the probability to the strategy itself.
LARGEST_FLOOR_SUM = 0.5
DEFAULT_FLOOR = 0.01
#: A floor that `limited` raises brings their sum up to this at most.
_LIMITED_FLOOR_SUM = 0.49


class AllocationKind(Enum):
    """The strategies."""

    THOMPSON = "thompson"
    FIXED = "fixed"
    UNIFORM = "uniform"
    TOP_TWO = "top_two"


#: The strategies that look at posteriors: they have priors, and a floor that a ramp may raise.
LEARNING = (AllocationKind.THOMPSON, AllocationKind.TOP_TWO)


class NoEligibleArmError(ValueError):
    """Every eligible arm has probability 0."""


@dataclass(frozen=True, slots=True)
class AllocationRule:
    """How an experiment divides probability; all sequences are aligned with its arms."""

    #: The strategy.
    kind: AllocationKind
    #: The least propensity of an arm.
    floor: float
    #: The greatest propensity of each arm, in [0, 1].
    caps: tuple[float, ...]
    #: Index of the control, which takes what the caps leave over.
    control: int | None = None
    #: For `fixed`: the weight of each arm.
    weights: tuple[float, ...] = ()
    #: The least propensity of each arm, where they differ; empty where it is `floor` for all.
    floors: tuple[float, ...] = ()
    #: For `top_two`: the chance that the leader is chosen.
    leader_share: float = DEFAULT_LEADER_SHARE

    def least(self) -> Vector:
        """Return the least propensity of each arm, (K,): no more than its cap."""
        return np.minimum(self.floors or self.floor, self.caps)


def limited(rule: AllocationRule, arm: int, floor: float, cap: float) -> AllocationRule:
    """Return the rule with the propensity of one arm kept between `floor` and `cap`, as far as the rule permits.

    A cap only lowers the arm's own; where the caps then add up to less than 1, the control's own gives way. A floor takes
    the place of the arm's own, as far as the other arms' floors leave room for it; `fixed` and `uniform` state their
    propensities, and so get none.
    """
    caps = [min(own, cap) if i == arm else own for i, own in enumerate(rule.caps)]
    if sum(caps) < 1.0 and rule.control is not None and rule.control != arm:
        caps[rule.control] = 1.0
    within = replace(rule, caps=tuple(caps))
    if rule.kind not in LEARNING:
        return within
    floors = [rule.floor] * len(caps)
    room = _LIMITED_FLOOR_SUM - (len(caps) - 1) * rule.floor
    floors[arm] = min(floor, max(room, rule.floor))
    return replace(within, floors=tuple(floors))


def apply_floor(p: ArrayLike, floor: ArrayLike) -> Vector:
    """Mix `p` with a floor: f + (1 - sum f) p.

    `floor` is one number for every arm or one for each. The result sums to 1 if `p` does.

    Raises ValueError if the floors are negative or add up to 0.5 or more.
    """
    vector = np.asarray(p, dtype=np.float64)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), vector.shape)
    total = float(floors.sum())
    if not (np.all(floors >= 0) and total < LARGEST_FLOOR_SUM):
        raise ValueError(f"floor {floor!r} over {vector.size} arms: floors must be >= 0 and add up to less than 0.5")
    return floors + (1.0 - total) * vector


def apply_caps(p: ArrayLike, caps: Sequence[float], control: int | None) -> Vector:
    """Move what exceeds the caps to the control, or in proportion to the arms that have room.

    Caps that cannot hold (they add up to less than 1, as when every eligible arm is capped) are scaled up together: an arm
    with a cap of 0 gets exactly 0 all the same.

    Raises NoEligibleArmError if every cap is 0.
    """
    vector = np.array(p, dtype=np.float64)
    cap = np.asarray(caps, dtype=np.float64)
    if float(cap.sum()) < 1.0:
        return normalised(cap)
    # Each pass fills at least one arm to its cap, so K passes suffice.
    for _ in range(vector.size):
        excess = float(np.maximum(vector - cap, 0.0).sum())
        if excess <= 0.0:
            break
        np.minimum(vector, cap, out=vector)
        if control is not None and vector[control] < cap[control]:
            taken = min(excess, float(cap[control] - vector[control]))
            vector[control] += taken
            excess -= taken
        if excess > 0.0:
            room = np.where(vector < cap, vector, 0.0)
            if room.sum() <= 0.0:
                room = cap - vector
            if room.sum() <= 0.0:  # what is left is a rounding error: every arm is at its cap
                break
            vector += excess * room / room.sum()
    return vector


def allocate(rule: AllocationRule, alpha: Vector, beta: Vector, eligible: Sequence[int] | None = None) -> Vector:
    """Return the allocation over all K arms: strategy, then floor, then caps; 0 outside `eligible`.

    `alpha` and `beta` are the posteriors, (K,); only `thompson` and `top_two` look at them. Under these a subset of the
    arms gets its own probabilities, not renormalised ones, and arms with a cap of 0 do not compete. The weight of such an
    arm goes where caps send what exceeds them.

    Raises NoEligibleArmError if every eligible arm would have probability 0.
    """
    arms = np.arange(len(rule.caps)) if eligible is None else np.asarray(sorted(eligible), dtype=np.intp)
    if arms.size == 0:
        raise NoEligibleArmError("no arm is eligible")
    if rule.kind is not AllocationKind.FIXED:
        arms = arms[np.asarray(rule.caps)[arms] > 0.0]
        if arms.size == 0:
            raise NoEligibleArmError("every eligible arm has probability 0")
    return finish(rule, strategy(rule, alpha, beta, arms), arms)


def strategy(rule: AllocationRule, alpha: Vector, beta: Vector, arms: NDArray[np.intp]) -> Vector:
    """Return the strategy's probabilities of `arms` (indices), before floor and caps."""
    match rule.kind:
        case AllocationKind.THOMPSON:
            return probability_best(alpha[arms], beta[arms])
        case AllocationKind.FIXED:
            return normalised(np.asarray(rule.weights, dtype=np.float64)[arms])
        case AllocationKind.UNIFORM:
            return np.full(arms.size, 1.0 / arms.size)
        case AllocationKind.TOP_TWO:
            return top_two(alpha[arms], beta[arms], rule.leader_share)


def finish(rule: AllocationRule, p: Vector, arms: NDArray[np.intp]) -> Vector:
    """Apply floor and caps to the probabilities `p` of `arms` and spread them over all K arms."""
    caps = tuple(rule.caps[i] for i in arms)
    control = None
    if rule.control is not None:
        found = np.flatnonzero(arms == rule.control)
        control = int(found[0]) if found.size else None
    bounded = apply_caps(apply_floor(p, rule.least()[arms]), caps, control)
    allocation = np.zeros(len(rule.caps))
    allocation[arms] = bounded / bounded.sum()
    return allocation


def restrict(allocation: Vector, eligible: Sequence[int]) -> Vector:
    """Renormalise an allocation over `eligible`: cheap, and exact in its propensities, but not a subset's own P(best).

    Raises NoEligibleArmError if every eligible arm has probability 0.
    """
    restricted = np.zeros_like(allocation)
    arms = np.asarray(eligible, dtype=np.intp)
    restricted[arms] = allocation[arms]
    return normalised(restricted)


def normalised(p: Vector) -> Vector:
    """Scale non-negative numbers to sum to 1; NoEligibleArmError if all are 0."""
    total = float(p.sum())
    if total <= 0.0:
        raise NoEligibleArmError("every eligible arm has probability 0")
    return p / total


def cumulative(allocation: Vector) -> tuple[float, ...]:
    """Return the running sums that `draw` searches; from the last positive entry on they are exactly 1."""
    sums = np.cumsum(allocation)
    last = int(np.flatnonzero(allocation > 0)[-1])
    sums[last:] = 1.0
    return tuple(sums.tolist())


def draw(sums: Sequence[float], u: float) -> int:
    """Return the index drawn by `u` in [0, 1) from `cumulative` sums: the one draw behind every decision.

    An arm of probability 0 is never drawn: its running sum equals the one before it, and the search passes both.
    """
    return bisect_right(sums, u)
