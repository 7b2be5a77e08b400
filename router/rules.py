"""What a stored experiment's rules mean: protobuf JSON in, values with every default filled in out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from google.protobuf.json_format import ParseDict

from bandit.allocation import AllocationKind, AllocationRule, allocate
from bandit.assignment import deal_buckets
from bandit.ramp import Guardrail, Metric, Ramp, Stage, default_stages
from bandit.reward import DEFAULT_SIGNAL_MICROS, Signal, to_micros
from router.experiment import Arm, DerivedRule, RewardRule, Rules
from router.experiment_rules import DEFAULT_ATTRIBUTION_WINDOW_S, DEFAULT_CAP, DEFAULT_FLOOR, DEFAULT_PRIOR
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


def challenger_of(ramp: experiments_pb2.RampRule, challengers: Sequence[str]) -> str:
    """Return the id of the arm that a ramp lets in; an empty string if it names none and there is not one alone."""
    return ramp.challenger_arm_id or (challengers[0] if len(challengers) == 1 else "")


def ramp_of(given: experiments_pb2.RampRule) -> Ramp:
    """Return what a RampRule means."""
    common = [_guardrail_of(guardrail) for guardrail in given.guardrails]

    def with_common(own: Sequence[Guardrail]) -> tuple[Guardrail, ...]:
        named = {guardrail.metric for guardrail in own}
        return (*own, *(guardrail for guardrail in common if guardrail.metric not in named))

    if given.stages:
        stages = tuple(
            Stage(
                stage.cap,
                stage.duration.ToMicroseconds(),
                with_common([_guardrail_of(guardrail) for guardrail in stage.guardrails]),
                stage.min_decisions if stage.HasField("min_decisions") else None,
            )
            for stage in given.stages
        )
    else:
        stages = tuple(replace(stage, guardrails=with_common(stage.guardrails)) for stage in default_stages())
    stated: dict[str, Any] = {name: getattr(given, name) for name in ("alpha", "min_coverage") if given.HasField(name)}
    if given.HasField("warn_after"):
        stated["warn_after_us"] = given.warn_after.ToMicroseconds()
    return Ramp(stages, strict=given.strict, approval=given.approval, **stated)


def _guardrail_of(given: experiments_pb2.Guardrail) -> Guardrail:
    return Guardrail(
        Metric(experiments_pb2.Guardrail.Metric.Name(given.metric).removeprefix("METRIC_").lower()),
        limit=given.limit if given.HasField("limit") else None,
        ratio=given.ratio if given.HasField("ratio") else None,
        latency_over_us=given.latency_over.ToMicroseconds() if given.HasField("latency_over") else None,
        clip_usd=given.clip_usd if given.HasField("clip_usd") else None,
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
