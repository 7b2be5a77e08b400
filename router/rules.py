"""What a stored experiment's rules mean: protobuf JSON in, values with every default filled in out."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from google.protobuf.json_format import ParseDict

from bandit.allocation import AllocationKind, AllocationRule, allocate
from bandit.assignment import deal_buckets
from bandit.reward import DEFAULT_SIGNAL_MICROS, Signal, to_micros
from router.discounting import Discount
from router.experiment import Arm, CostRule, DerivedRule, RewardRule, Rules, SegmentRule, ShadowRule
from router.experiment_rules import (
    DEFAULT_ATTRIBUTION_WINDOW_S,
    DEFAULT_CAP,
    DEFAULT_FLOOR,
    DEFAULT_LEADER_SHARE,
    DEFAULT_PRIOR,
    DEFAULT_SEGMENT_LARGEST,
    DEFAULT_SEGMENT_WEIGHT,
    DEFAULT_UNIT_SHARE,
)
from router.ramp_rules import challenger_of, ramp_of
from router.shadow_rules import DEFAULT_RATE, DEFAULT_TEXT_LIMIT
from router.v1 import experiments_pb2, types_pb2

_KINDS = {
    experiments_pb2.AllocationRule.KIND_THOMPSON: AllocationKind.THOMPSON,
    experiments_pb2.AllocationRule.KIND_FIXED: AllocationKind.FIXED,
    experiments_pb2.AllocationRule.KIND_UNIFORM: AllocationKind.UNIFORM,
    experiments_pb2.AllocationRule.KIND_TOP_TWO: AllocationKind.TOP_TWO,
}
_ASSIGNMENTS = {
    experiments_pb2.AssignmentRule.KIND_UNSPECIFIED: "per_request",
    experiments_pb2.AssignmentRule.KIND_PER_REQUEST: "per_request",
    experiments_pb2.AssignmentRule.KIND_STICKY_HASH: "sticky_hash",
    experiments_pb2.AssignmentRule.KIND_STICKY_STORED: "sticky_stored",
    experiments_pb2.AssignmentRule.KIND_INTERLEAVED: "interleaved",
}
#: How the text modes are called where they are stored.
TEXT_MODES: Final[Mapping[types_pb2.TextMode, str]] = MappingProxyType(
    {
        types_pb2.TEXT_MODE_UNSPECIFIED: "off",
        types_pb2.TEXT_MODE_FULL: "full",
        types_pb2.TEXT_MODE_TRUNCATED: "truncated",
        types_pb2.TEXT_MODE_OFF: "off",
    }
)


def rules_of(
    allocation: Mapping[str, Any],
    assignment: Mapping[str, Any],
    ramp: Mapping[str, Any],
    active_arms: Sequence[Arm],
    shadow: Mapping[str, Any] = MappingProxyType({}),
) -> Rules:
    """Return what an AllocationRule, an AssignmentRule, a RampRule and a ShadowRule mean for these arms.

    `active_arms` are those that compete: none of role shadow.
    """
    given = ParseDict(dict(allocation), experiments_pb2.AllocationRule())
    kind = given.kind or experiments_pb2.AllocationRule.KIND_THOMPSON
    sticky = ParseDict(dict(assignment), experiments_pb2.AssignmentRule())
    given_ramp = ParseDict(dict(ramp), experiments_pb2.RampRule())
    return Rules(
        allocation=AllocationRule(
            kind=_KINDS[kind],
            floor=given.floor if given.HasField("floor") else DEFAULT_FLOOR[kind],
            caps=tuple(DEFAULT_CAP if arm.cap is None else arm.cap for arm in active_arms),
            control=next((i for i, arm in enumerate(active_arms) if arm.is_control), None),
            weights=tuple(given.weights.get(arm.arm_id, 0.0) for arm in active_arms),
            leader_share=given.leader_share if given.HasField("leader_share") else DEFAULT_LEADER_SHARE,
        ),
        prior=(given.prior.alpha, given.prior.beta) if given.HasField("prior") else DEFAULT_PRIOR,
        assignment=_ASSIGNMENTS[sticky.kind],
        sticky_ttl=sticky.ttl.ToTimedelta() if sticky.HasField("ttl") else None,
        holdout=sticky.holdout,
        ramp=ramp_of(given_ramp) if ramp else None,
        ramp_challenger=challenger_of(given_ramp, [arm.arm_id for arm in active_arms if not arm.is_control]) if ramp else "",
        shadow=shadow_rule_of(shadow),
        priors={arm_id: (prior.alpha, prior.beta) for arm_id, prior in given.priors.items()},
        discount=discount_of(given.discount) if given.HasField("discount") else None,
        segments=segment_rule_of(given.segments) if given.HasField("segments") else None,
        cost=cost_rule_of(given.cost) if given.HasField("cost") else None,
    )


def discount_of(given: experiments_pb2.DiscountRule) -> Discount:
    """Return what a DiscountRule means."""
    if given.HasField("half_life"):
        return Discount(half_life_us=given.half_life.ToMicroseconds())
    return Discount(window_us=given.window.ToMicroseconds())


def segment_rule_of(given: experiments_pb2.SegmentRule) -> SegmentRule:
    """Return what a SegmentRule means."""
    return SegmentRule(
        tuple(given.names),
        given.weight if given.HasField("weight") else DEFAULT_SEGMENT_WEIGHT,
        given.largest if given.HasField("largest") else DEFAULT_SEGMENT_LARGEST,
    )


def cost_rule_of(given: experiments_pb2.CostRule) -> CostRule:
    """Return what a CostRule means."""
    if given.HasField("ceiling_usd"):
        return CostRule(ceiling_usd=given.ceiling_usd)
    return CostRule(reward_per_usd=given.reward_per_usd)


def assignment_of(assignment: Mapping[str, Any]) -> str:
    """Return the kind that an AssignmentRule states, whatever is in force just now."""
    return _ASSIGNMENTS[ParseDict(dict(assignment), experiments_pb2.AssignmentRule()).kind]


def shadow_rule_of(shadow: Mapping[str, Any]) -> ShadowRule | None:
    """Return what a ShadowRule means; None of an empty one, which stands for none."""
    if not shadow:
        return None
    given = ParseDict(dict(shadow), experiments_pb2.ShadowRule())
    return ShadowRule(
        rate=given.rate if given.HasField("rate") else DEFAULT_RATE,
        daily_budget_usd=given.daily_budget_usd if given.HasField("daily_budget_usd") else None,
        text=TEXT_MODES[given.text],
        text_limit=given.text_limit if given.HasField("text_limit") else DEFAULT_TEXT_LIMIT,
    )


def reward_rule_of(reward_rule: Mapping[str, Any]) -> RewardRule:
    """Return what a RewardRule means."""
    given = ParseDict(dict(reward_rule), experiments_pb2.RewardRule())
    micros = dict(DEFAULT_SIGNAL_MICROS)
    for entry in given.signals:
        micros[Signal(entry.signal)] = to_micros(entry.reward) if entry.HasField("reward") else None
    window = timedelta(seconds=DEFAULT_ATTRIBUTION_WINDOW_S)
    if given.HasField("attribution_window"):
        window = given.attribution_window.ToTimedelta()
    derived = DerivedRule(
        retry_within=_time(given.derived, "retry_within"),
        abandon_after=_time(given.derived, "abandon_after"),
        rephrased_similarity=given.derived.rephrased_similarity if given.derived.HasField("rephrased_similarity") else None,
        rephrased_within=_time(given.derived, "rephrased_within") or DerivedRule().rephrased_within,
    )
    mature_after = _time(given, "mature_after")
    return RewardRule(
        micros,
        window,
        mature_after=mature_after if mature_after is not None else derived.abandon_after or timedelta(0),
        no_feedback_micros=to_micros(given.no_feedback) if given.HasField("no_feedback") else None,
        derived=derived,
        unit_share=(given.unit_share if given.HasField("unit_share") else DEFAULT_UNIT_SHARE) or None,
        unit_once=given.evidence_unit == experiments_pb2.RewardRule.EVIDENCE_UNIT_UNIT,
    )


def _time(message: experiments_pb2.RewardRule | experiments_pb2.DerivedSignals, name: str) -> timedelta | None:
    if not message.HasField(name):
        return None
    found: timedelta = getattr(message, name).ToTimedelta()
    return found


def by_buckets(rules: Rules) -> bool:
    """Whether units are assigned by a table of buckets."""
    return rules.allocation.kind is AllocationKind.FIXED and rules.assignment == "sticky_hash"


def bucket_table_of(rules: Rules, active_arms: Sequence[Arm], previous: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the buckets of a stable A/B experiment, moving as few as possible; None for every other kind."""
    if not by_buckets(rules):
        return None
    nothing = np.zeros(0)  # fixed weights look at no evidence
    shares = allocate(rules.allocation, nothing, nothing)
    weights = {arm.number: float(share) for arm, share in zip(active_arms, shares, strict=True)}
    return deal_buckets(weights, previous or ())
