"""What a stored experiment's rules mean: protobuf JSON in, values with every default filled in out."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict

from bandit.allocation import AllocationKind, AllocationRule, allocate
from bandit.assignment import deal_buckets
from bandit.reward import DEFAULT_SIGNAL_MICROS, Signal, to_micros
from router.experiment import Arm, DerivedRule, RewardRule, Rules
from router.experiment_rules import DEFAULT_ATTRIBUTION_WINDOW_S, DEFAULT_CAP, DEFAULT_FLOOR, DEFAULT_PRIOR
from router.ramp_rules import challenger_of, ramp_of
from router.v1 import experiments_pb2

_KINDS = {
    experiments_pb2.AllocationRule.KIND_THOMPSON: AllocationKind.THOMPSON,
    experiments_pb2.AllocationRule.KIND_FIXED: AllocationKind.FIXED,
    experiments_pb2.AllocationRule.KIND_UNIFORM: AllocationKind.UNIFORM,
}
_ASSIGNMENTS = {
    experiments_pb2.AssignmentRule.KIND_UNSPECIFIED: "per_request",
    experiments_pb2.AssignmentRule.KIND_PER_REQUEST: "per_request",
    experiments_pb2.AssignmentRule.KIND_STICKY_HASH: "sticky_hash",
    experiments_pb2.AssignmentRule.KIND_STICKY_STORED: "sticky_stored",
    experiments_pb2.AssignmentRule.KIND_INTERLEAVED: "interleaved",
}


def rules_of(
    allocation: Mapping[str, Any], assignment: Mapping[str, Any], ramp: Mapping[str, Any], active_arms: Sequence[Arm]
) -> Rules:
    """Return what an AllocationRule, an AssignmentRule and a RampRule mean for these arms."""
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
        ),
        prior=(given.prior.alpha, given.prior.beta) if given.HasField("prior") else DEFAULT_PRIOR,
        assignment=_ASSIGNMENTS[sticky.kind],
        sticky_ttl=sticky.ttl.ToTimedelta() if sticky.HasField("ttl") else None,
        holdout=sticky.holdout,
        ramp=ramp_of(given_ramp) if ramp else None,
        ramp_challenger=challenger_of(given_ramp, [arm.arm_id for arm in active_arms if not arm.is_control]) if ramp else "",
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
    )


def _time(message: experiments_pb2.RewardRule | experiments_pb2.DerivedSignals, name: str) -> timedelta | None:
    if not message.HasField(name):
        return None
    found: timedelta = getattr(message, name).ToTimedelta()
    return found


def bucket_table_of(rules: Rules, active_arms: Sequence[Arm], previous: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the buckets of a stable A/B experiment, moving as few as possible; None for every other kind."""
    if rules.allocation.kind is not AllocationKind.FIXED or rules.assignment != "sticky_hash":
        return None
    nothing = np.zeros(0)  # fixed weights look at no evidence
    shares = allocate(rules.allocation, nothing, nothing)
    weights = {arm.number: float(share) for arm, share in zip(active_arms, shares, strict=True)}
    return deal_buckets(weights, previous or ())
