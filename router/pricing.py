"""Pricing: allocations that weigh what an arm costs, and the price that one was made at.

Protocol
    An experiment keeps its ceiling at the price that `bandit.cost` finds for all active arms. A subset of the arms is
    allocated at that same price: the ceiling is on what decisions cost together, not on each set of eligible arms.

    A definition whose floor and caps leave no allocation within its ceiling is refused (`router.cost_rules`). While a ramp
    holds a cheap arm back there may be none all the same. Then traffic goes where it costs the least, and the price says
    why: safety goes before thrift, and nothing fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bandit.allocation import AllocationRule, NoEligibleArmError, Vector, finish
from bandit.cost import CeilingError, cheapest, keep_ceiling, probability_best_value
from router.experiment import Arm, CostRule

#: Subsets of up to this many arms get their own allocation at once, which takes about 1 ms.
EXACT_SUBSET_ARMS: Final = 3


@dataclass(frozen=True, slots=True)
class Price:
    """At what price an allocation was made."""

    #: What a dollar is worth in reward; inf where cost alone decides.
    reward_per_usd: float
    #: Why the ceiling is not kept; empty where it is, or there is none.
    shortfall: str = ""


def priced(cost: CostRule, rule: AllocationRule, alpha: Vector, beta: Vector, arms: Sequence[Arm]) -> tuple[Vector, Price]:
    """Return the allocation over all arms, (K,), and its price.

    Raises NoEligibleArmError if every arm has probability 0; ValueError for an arm without a cost.
    """
    if cost.ceiling_usd is None:
        assert cost.reward_per_usd is not None  # noqa: S101 - exactly one
        price = Price(cost.reward_per_usd)
        return at_price(price, rule, alpha, beta, arms, range(len(arms))), price
    costs = costs_of(arms)
    try:
        found = keep_ceiling(rule, alpha, beta, costs, cost.ceiling_usd)
        return found.allocation, Price(found.reward_per_usd)
    except CeilingError as error:
        least = cheapest(rule, costs, reward=alpha / (alpha + beta))
        return least.allocation, Price(least.reward_per_usd, str(error))


def at_price(
    price: Price, rule: AllocationRule, alpha: Vector, beta: Vector, arms: Sequence[Arm], eligible: Sequence[int]
) -> Vector:
    """Return the allocation over all K arms that a price gives those of `eligible`; 0 outside.

    Raises as `priced`.
    """
    costs = costs_of(arms)
    if math.isinf(price.reward_per_usd):
        return cheapest(rule, costs, eligible, reward=alpha / (alpha + beta)).allocation
    drawn = np.array([i for i in sorted(eligible) if rule.caps[i] > 0.0], dtype=np.intp)
    if not drawn.size:
        raise NoEligibleArmError("every eligible arm has probability 0")
    p = probability_best_value(alpha[drawn], beta[drawn], costs[drawn], price.reward_per_usd)
    return finish(rule, p, drawn)


def costs_of(arms: Sequence[Arm]) -> Vector:
    """Return what a decision for each arm costs, in US dollars, (K,); ValueError for an arm that does not say."""
    for arm in arms:
        if arm.cost_usd is None:
            raise ValueError(f"arm {arm.arm_id!r} has no cost_usd, and the allocation weighs cost")
    return np.array([arm.cost_usd for arm in arms], dtype=np.float64)


def expected_cost(arms: Sequence[Arm], allocation: Vector) -> float | None:
    """Return what a decision costs in expectation, in US dollars; None unless every arm has a cost."""
    if not arms or any(arm.cost_usd is None for arm in arms):
        return None
    return float(allocation @ costs_of(arms))
