"""Policies that weigh cost: what is drawn from, by values computed another way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decisions import policy as some_policy

from bandit.allocation import AllocationKind, AllocationRule, NoEligibleArmError, apply_floor
from bandit.cost import keep_ceiling, probability_best_value
from bandit.reward import Evidence
from router.experiment import CostRule
from router.policy import Policy, compile_policy
from router.pricing import expected_cost
from router.segments import BySegment
from router.standing import standing_of

COSTS = (0.015, 0.00003, 0.0006)


def counted(successes: int, failures: int) -> Evidence:
    return Evidence(successes * 1_000_000, failures * 1_000_000, successes + failures)


EVIDENCE: Mapping[int, Evidence] = {0: counted(919, 79), 1: counted(599, 399), 2: counted(879, 119)}
ALPHA, BETA = [920.0, 600.0, 880.0], [80.0, 400.0, 120.0]


def compiled(
    cost: CostRule, costs: tuple[float, ...] = COSTS, evidence: Mapping[int, Evidence] = EVIDENCE, **limits: Any
) -> Policy:
    known = some_policy().definition
    arms = tuple(replace(known.arms[0], number=n, arm_id=f"arm-{n}", cost_usd=usd) for n, usd in enumerate(costs))
    rule = AllocationRule(AllocationKind.THOMPSON, **{"floor": 0.01, "caps": (1.0,) * len(costs), **limits})
    rules = replace(known.rules, allocation=rule, cost=cost)
    return compile_policy(replace(known, arms=arms, rules=rules), 5, evidence)


def drawn(policy: Policy, *eligible: int) -> np.ndarray:
    """The probabilities of a choice, from the sums that are drawn from."""
    return np.diff(policy.pooled.choice(eligible or None).sums, prepend=0.0)


def test_a_price_shifts_the_posteriors() -> None:
    policy = compiled(CostRule(reward_per_usd=2.0))
    expected = apply_floor(probability_best_value(ALPHA, BETA, COSTS, 2.0), 0.01)
    np.testing.assert_allclose(drawn(policy), expected, atol=1e-12)
    assert policy.pooled.price is not None
    assert (policy.pooled.price.reward_per_usd, policy.pooled.price.shortfall) == (2.0, "")


def test_a_ceiling_is_kept_by_what_is_drawn_from() -> None:
    policy = compiled(CostRule(ceiling_usd=0.003))
    found = keep_ceiling(policy.definition.rules.allocation, ALPHA, BETA, COSTS, 0.003)
    np.testing.assert_array_equal(drawn(policy), np.diff(np.cumsum(found.allocation), prepend=0.0))
    assert drawn(policy) @ COSTS == pytest.approx(0.003, rel=1e-4)
    assert drawn(policy) @ COSTS <= 0.003 * (1 + 1e-9)
    assert policy.pooled.price is not None
    assert policy.pooled.price.reward_per_usd == found.reward_per_usd > 0


def test_a_ceiling_that_does_not_bind_changes_no_digit() -> None:
    free = compiled(CostRule(reward_per_usd=0.0))
    assert compiled(CostRule(ceiling_usd=1.0)).pooled.choice(None).sums == free.pooled.choice(None).sums


def test_a_subset_is_allocated_at_the_price_of_all_arms() -> None:
    policy = compiled(CostRule(ceiling_usd=0.003))
    assert policy.pooled.price is not None
    p = probability_best_value(ALPHA[:2], BETA[:2], COSTS[:2], policy.pooled.price.reward_per_usd)
    choice = policy.pooled.choice((0, 1))
    np.testing.assert_allclose(drawn(policy, 0, 1), [*apply_floor(p, 0.01), 0.0], atol=1e-12)
    assert choice.exact
    # The price is of all arms, so this one decision may cost more than the ceiling.
    assert drawn(policy, 0, 2) @ COSTS > 0.003


def test_large_subsets_are_renormalised_and_say_so() -> None:
    evidence = {n: counted(5 + n, 5) for n in range(6)}
    policy = compiled(CostRule(reward_per_usd=1.0), (0.1, 0.2, 0.3, 0.1, 0.2, 0.3), evidence)
    choice = policy.pooled.choice((0, 1, 2, 3))
    assert not choice.exact
    assert policy.pooled.choice((0, 1, 2)).exact
    everyone = drawn(policy)
    expected = apply_floor(everyone[:4] / everyone[:4].sum(), 0.01)
    np.testing.assert_allclose(drawn(policy, 0, 1, 2, 3)[:4], expected, atol=1e-12)


def test_arms_that_cost_too_much_beside_others_are_served_where_no_other_may() -> None:
    costs = (0.0, 5.0, 5.0, 6.0, 6.0)
    policy = compiled(CostRule(reward_per_usd=1.0), costs, {n: counted(5, 5) for n in range(5)}, floor=0.0)
    assert drawn(policy).tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(drawn(policy, 1, 2, 3, 4), [0, 0.5, 0.5, 0, 0], atol=1e-9)


def test_what_a_ramp_leaves_no_allocation_for_goes_where_it_costs_the_least() -> None:
    # The cheap arm is held at 5 %, and the control costs more than the ceiling.
    policy = compiled(CostRule(ceiling_usd=0.0003), caps=(1.0, 0.05, 1.0), control=0, floor=0.01)
    assert drawn(policy).tolist() == pytest.approx([0.01, 0.05, 0.94])
    price = policy.pooled.price
    assert price is not None
    assert math.isinf(price.reward_per_usd)
    assert "ceiling_usd is 0.0003: within floor and caps a decision costs at least 0.0007155 USD" in price.shortfall
    # Subsets follow the same rule, and are served whatever they cost.
    assert drawn(policy, 0, 1).tolist() == pytest.approx([0.95, 0.05, 0])
    assert policy.pooled.choice((0, 1)).exact
    assert drawn(policy, 0).tolist() == [1, 0, 0]


def test_nothing_eligible_is_still_an_error() -> None:
    policy = compiled(CostRule(reward_per_usd=1.0), caps=(1.0, 0.0, 1.0))
    with pytest.raises(NoEligibleArmError):
        policy.pooled.choice((1,))
    assert drawn(policy)[1] == 0.0


def test_the_price_depends_on_nothing_but_definition_and_evidence() -> None:
    """Whatever was compiled before: the same digits."""
    cost = CostRule(ceiling_usd=0.003)
    first = compiled(cost)
    after = compile_policy(first.definition, 6, {0: counted(5, 5)}, first)
    again = compile_policy(first.definition, 7, EVIDENCE, after)
    assert again.pooled.choice(None).sums == first.pooled.choice(None).sums
    by_segment: BySegment = {"": EVIDENCE}
    standing = standing_of(first.definition, 5, by_segment)
    assert standing.price == first.pooled.price == again.pooled.price
    assert first.everyone is not None
    assert standing.allocation.tolist() == first.everyone.probabilities.tolist()
    best = standing.probability_best
    assert best.argmax() == 0, "P(best) is by reward alone"
    assert standing.allocation[0] < 0.5


def test_the_expected_cost() -> None:
    policy = compiled(CostRule(reward_per_usd=1.0))
    assert expected_cost(policy.arms, np.array([0.5, 0.25, 0.25])) == pytest.approx(0.0076575)
    assert expected_cost((replace(policy.arms[0], cost_usd=None), policy.arms[1]), np.array([0.5, 0.5])) is None
    assert expected_cost((), np.array([])) is None


def test_an_arm_without_a_cost_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="arm 'arm-2' has no cost_usd"):
        compiled(CostRule(ceiling_usd=0.003), (0.1, 0.2, None))  # type: ignore[arg-type]
