"""Values to messages and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from router.client._requests import RewardEvent, RouteRequest, ShadowRecord
from router.client._values import (
    Arm,
    CallReport,
    Decision,
    ModelAnswer,
    Reason,
    RewardResult,
    Signal,
    Status,
    TextMode,
)
from router.v1 import routing_pb2, shadow_pb2, types_pb2

#: Beyond this a double no longer tells neighbouring whole numbers apart, so the int would claim digits nobody sent.
_EXACT: Final = 2.0**53


def route_request(request: RouteRequest) -> routing_pb2.RouteRequest:
    """Return the message of a request."""
    return routing_pb2.RouteRequest(
        experiment_id=request.experiment_id,
        unit_id=request.unit_id,
        session_id=request.session_id,
        turn_id=request.turn_id,
        request_id=request.request_id,
        eligible_arm_ids=request.eligible_arm_ids,
        segment=request.segment,
        force_arm_id=request.force_arm_id,
        force_control=request.force_control,
        prompt_fingerprint=request.prompt_fingerprint,
        prompt_similarity=request.prompt_similarity,
    )


def reward_request(event: RewardEvent) -> routing_pb2.RewardRequest:
    """Return the message of an event."""
    message = routing_pb2.RewardRequest(
        decision_id=event.decision_id,
        event_id=event.event_id,
        metadata=event.metadata or {},
        signal=f"SIGNAL_{Signal.parse(event.signal).name}" if event.signal is not None else None,
        reward=event.reward,
        call=call_report(event.call) if event.call is not None else None,
    )
    if event.occurred_at is not None:
        occurred_at = timestamp_pb2.Timestamp()
        occurred_at.FromDatetime(event.occurred_at)
        message.occurred_at.CopyFrom(occurred_at)
    return message


def call_report(call: CallReport) -> routing_pb2.CallReport:
    """Return the message of a call report."""
    message = routing_pb2.CallReport(
        input_tokens=call.input_tokens, output_tokens=call.output_tokens, cost_usd=call.cost_usd, error=call.error
    )
    if call.latency is not None:
        latency = duration_pb2.Duration()
        latency.FromTimedelta(call.latency)
        message.latency.CopyFrom(latency)
    return message


def decision(
    reply: routing_pb2.RouteResponse, request: RouteRequest, allocation: Mapping[str, float] | None = None
) -> Decision:
    """Return the decision of a reply; `allocation` is the one a batch sent beside it."""
    return Decision(
        decision_id=reply.decision_id,
        experiment_id=reply.experiment_id,
        arm=arm(reply.arm),
        propensity=reply.propensity,
        allocation=probabilities(reply.allocation) if allocation is None else dict(allocation),
        policy_version=reply.policy_version,
        reason=Reason(reply.reason),
        stale_for=reply.stale_for.ToTimedelta(),
        shadow_arms=tuple(map(arm, reply.shadow_arms)),
        session_id=request.session_id,
        turn_id=request.turn_id,
        shadow_text=TextMode(reply.shadow_text),
        shadow_text_limit=reply.shadow_text_limit,
    )


def shadow_request(record: ShadowRecord) -> shadow_pb2.RecordShadowRequest:
    """Return the message of a record, with no more text than its decision wants."""
    return shadow_pb2.RecordShadowRequest(
        decision_id=record.decision_id,
        arm_id=record.arm if isinstance(record.arm, str) else record.arm.arm_id,
        request_id=record.request_id,
        prompt=record.kept(record.prompt),
        serving=_answer(record, record.serving),
        shadow=_answer(record, record.shadow),
    )


def _answer(record: ShadowRecord, answer: ModelAnswer) -> shadow_pb2.ModelAnswer:
    return shadow_pb2.ModelAnswer(
        text=record.kept(answer.text),
        call=call_report(answer.call),
        model=answer.model,
        stop_reason=answer.stop_reason,
        provider_request_id=answer.provider_request_id,
    )


def reward_result(reply: routing_pb2.RewardResponse, event: RewardEvent) -> RewardResult:
    """Return what became of the event."""
    return RewardResult(Status(reply.status), reply.arm_id, event.event_id or "")


def arm(message: routing_pb2.RoutedArm) -> Arm:
    """Return the arm with its config as plain Python values."""
    return Arm(message.arm_id, message.model, _fields(message.config))


def probabilities(entries: Iterable[types_pb2.ArmProbability]) -> dict[str, float]:
    """Return the vector by arm id."""
    return {entry.arm_id: entry.probability for entry in entries}


def _fields(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _fields(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case _:
            return None
