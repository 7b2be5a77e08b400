"""Feedback: from a reward request to an event row, by the rule in force when the decision was made."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from bandit.reward import Rank, Signal, clamp_occurred_at, to_micros
from router.errors import InvalidArgumentError, NotFoundError
from router.experiment import Definition
from router.messages import is_duration
from router.registry import Registry
from router.storage.events import EventRow, EventStatus
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2


class Feedback:
    """The reading side of Reward in one process."""

    def __init__(self, registry: Registry, codec: TokenCodec, clock_us: Callable[[], int]) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._registry = registry
        self._codec = codec
        self._clock_us = clock_us

    async def event(self, request: routing_pb2.RewardRequest) -> tuple[EventRow, str]:
        """Return the event of a valid request, and the id of the arm it is about.

        Raises ServiceErrors as the Reward RPC documents them.
        """
        token = self._codec.open(request.decision_id)
        entry = self._registry.current_incarnation(token.incarnation)
        if entry is None or not _knows(entry.definition, token):
            entry = await self._registry.lookup_incarnation(token.incarnation)
        if entry is None or not _knows(entry.definition, token):
            raise NotFoundError("decision_id: its experiment is no longer in the database")
        definition = entry.definition
        arm_id = next(arm.arm_id for arm in definition.arms if arm.number == token.arm)
        return event_row(request, token, definition, self._clock_us()), arm_id


def event_row(
    request: routing_pb2.RewardRequest, token: DecisionToken, definition: Definition, received_at_us: int
) -> EventRow:
    """Return the row of an event: its place in time, its rank, its reward and whether it counts."""
    rule = definition.reward_rules[token.reward_rule_version]
    occurred_at_us = clamp_occurred_at(_occurred_at_us(request), token.decided_at_us, received_at_us)
    kind = request.WhichOneof("feedback")
    assert kind is not None  # noqa: S101 - a rule of the proto
    reward_micros: int | None
    match kind:
        case "signal":
            signal = Signal(request.signal)
            rank, reward_micros = signal.rank, rule.signal_micros[signal]
        case "reward":
            rank, reward_micros = Rank.NUMERIC, to_micros(request.reward)
        case "call":
            rank, reward_micros = Rank.SIGNAL, None
    window_us = int(rule.attribution_window.total_seconds() * 1e6)
    late = occurred_at_us - token.decided_at_us > window_us
    if not token.learned or late:
        reward_micros = None
    status = EventStatus.LATE if late else EventStatus.NEUTRAL if reward_micros is None else EventStatus.APPLIED
    return EventRow(
        decision_key=token.decision_key,
        event_id=request.event_id,
        incarnation=token.incarnation,
        arm=token.arm,
        segment="",  # one posterior over all segments: the decision log keeps each decision's own
        kind=kind,
        rank=rank,
        decided_at_us=token.decided_at_us,
        occurred_at_us=occurred_at_us,
        received_at_us=received_at_us,
        reward_micros=reward_micros,
        status=status,
        reward_rule_version=token.reward_rule_version,
        policy_version=token.policy_version,
        content=blake2b(_content(request), digest_size=8).digest(),
        details=_details(request, kind),
    )


def _knows(definition: Definition, token: DecisionToken) -> bool:
    return token.reward_rule_version in definition.reward_rules and any(arm.number == token.arm for arm in definition.arms)


def _occurred_at_us(request: routing_pb2.RewardRequest) -> int | None:
    if not request.HasField("occurred_at"):
        return None
    at = request.occurred_at
    if not (-62_135_596_800 <= at.seconds < 253_402_300_800 and 0 <= at.nanos < 1_000_000_000):
        raise InvalidArgumentError.of_field("occurred_at", "must be a time between the years 1 and 9999")
    return at.seconds * 1_000_000 + at.nanos // 1_000


def _content(request: routing_pb2.RewardRequest) -> bytes:
    """What two events of one id must share to be repetitions: all but the decision id and the map's order."""
    content = routing_pb2.RewardRequest()
    content.CopyFrom(request)
    content.ClearField("decision_id")
    return content.SerializeToString(deterministic=True)


def _details(request: routing_pb2.RewardRequest, kind: str) -> dict[str, Any] | None:
    details: dict[str, Any] = {}
    if kind == "signal":
        details["signal"] = Signal(request.signal).name.lower()
    elif kind == "call":
        call = request.call
        if call.HasField("latency"):
            if not is_duration(call.latency):
                raise InvalidArgumentError.of_field("call.latency", "must have nanos below 1,000,000,000, and not below 0")
            details["latency_ms"] = call.latency.ToMicroseconds() / 1e3
        for name in ("input_tokens", "output_tokens", "cost_usd"):
            if call.HasField(name):
                details[name] = getattr(call, name)
        if call.error:
            details["error"] = call.error
    if request.metadata:
        details["metadata"] = dict(request.metadata)
    return details or None
