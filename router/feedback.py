"""Feedback: from a reward request to an event row, by the rule in force when the decision was made."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from bandit.reward import Rank, Signal, clamp_occurred_at, to_micros
from router.errors import InvalidArgumentError, NotFoundError
from router.experiment import Definition, RewardRule
from router.messages import is_duration
from router.registry import Registry
from router.storage.events import EventRow, EventStatus
from router.storage.shares import ONCE, number_of
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2

#: What the ids of the events begin with that the router derives.
DERIVED = "derived:"
#: By the number of the signal: the signal, its rank and its name in the log.
_SIGNALS = {signal.value: (signal, signal.rank, signal.name.lower()) for signal in Signal}


class Event(NamedTuple):
    """A reward request that was understood."""

    row: EventRow
    arm_id: str
    experiment_id: str


class Feedback:
    """The reading side of Reward in one process."""

    def __init__(self, registry: Registry, codec: TokenCodec, clock_us: Callable[[], int]) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._registry = registry
        self._codec = codec
        self.now_us = clock_us

    def open(self, request: routing_pb2.RewardRequest) -> DecisionToken:
        """Return what the decision id of a valid request says; InvalidArgumentError if it is not one of ours."""
        if request.event_id.startswith(DERIVED):
            raise InvalidArgumentError.of_field(
                "event_id", f"must not begin with {DERIVED!r}: such events are the router's own"
            )
        _check_times(request)
        return self._codec.open(request.decision_id)

    def event(self, request: routing_pb2.RewardRequest, token: DecisionToken) -> Event | None:
        """Return the event, or None if this process does not know the token's experiment yet: then `lookup`."""
        entry = self._registry.current_incarnation(token.incarnation)
        if entry is None or not knows(entry.definition, token):
            return None
        definition = entry.definition
        row = event_row(request, token, definition, self.now_us(), self._codec.hash_content)
        return Event(row, definition.arm_ids[token.arm], definition.experiment_id)

    async def lookup(self, request: routing_pb2.RewardRequest, token: DecisionToken) -> Event:
        """Return the event after asking Postgres for its experiment.

        Raises NotFoundError if there is none, UnavailableError if Postgres cannot be asked.
        """
        await self._registry.lookup_incarnation(token.incarnation)
        event = self.event(request, token)
        if event is None:
            raise NotFoundError("decision_id: its experiment is no longer in the database")
        return event


def knows(definition: Definition, token: DecisionToken) -> bool:
    """Whether a definition is recent enough to understand a token of its experiment."""
    return token.reward_rule_version in definition.reward_rules and token.arm in definition.arm_ids


def event_row(
    request: routing_pb2.RewardRequest,
    token: DecisionToken,
    definition: Definition,
    received_at_us: int,
    hash_content: Callable[[bytes], bytes],
) -> EventRow:
    """Return the row of an event: its place in time, its rank, its reward and whether it counts.

    `hash_content` is `TokenCodec.hash_content`.
    """
    rule = definition.reward_rules[token.reward_rule_version]
    occurred_at_us = clamp_occurred_at(_occurred_at_us(request), token.decided_at_us, received_at_us)
    kind = request.WhichOneof("feedback")
    assert kind is not None  # noqa: S101 - a rule of the proto
    reward_micros: int | None
    signal_name: str | None = None
    rank: Rank = Rank.SIGNAL
    match kind:
        case "signal":
            signal, rank, signal_name = _SIGNALS[request.signal]
            reward_micros = rule.signal_micros[signal]
        case "reward":
            rank, reward_micros = Rank.NUMERIC, to_micros(request.reward)
        case "call":
            reward_micros = None
    late = occurred_at_us - token.decided_at_us > rule.window_us
    if not token.learned or late:
        reward_micros = None
    return EventRow(
        token.decision_key,
        request.event_id,
        token.incarnation,
        token.arm,
        definition.rules.named_segment(token.segment),
        kind,
        signal_name,
        rank,
        token.decided_at_us,
        occurred_at_us,
        received_at_us,
        reward_micros,
        EventStatus.LATE if late else EventStatus.NEUTRAL if reward_micros is None else EventStatus.APPLIED,
        token.reward_rule_version,
        token.policy_version,
        hash_content(_content(request)),
        # Of what is never learned from, the number is kept here: it tells how those decisions fared.
        _details(request, to_micros(request.reward) if kind == "reward" and not token.learned else None, token.unit_hash),
        *unit_share(rule, token.unit_hash),
    )


def unit_share(rule: RewardRule, unit_hash: bytes) -> tuple[int, int]:
    """Return the unit, as a number, and its share as `EventRow` has them; decisions without a unit have no limit."""
    share = ONCE if rule.unit_once else rule.unit_share or 0
    unit = number_of(unit_hash)
    return (unit, share) if unit and share else (0, 0)


def _check_times(request: routing_pb2.RewardRequest) -> None:
    """Refuse times that are well-formed messages and yet no times, before anything is kept of the request."""
    if request.HasField("occurred_at"):
        at = request.occurred_at
        if not (-62_135_596_800 <= at.seconds < 253_402_300_800 and 0 <= at.nanos < 1_000_000_000):
            raise InvalidArgumentError.of_field("occurred_at", "must be a time between the years 1 and 9999")
    if request.HasField("call") and request.call.HasField("latency") and not is_duration(request.call.latency):
        raise InvalidArgumentError.of_field("call.latency", "must have nanos below 1,000,000,000, and not below 0")


def _occurred_at_us(request: routing_pb2.RewardRequest) -> int | None:
    if not request.HasField("occurred_at"):
        return None
    at = request.occurred_at
    return at.seconds * 1_000_000 + at.nanos // 1_000


def _content(request: routing_pb2.RewardRequest) -> bytes:
    """What two events of one id must share to be repetitions: all but the decision id, with which the bytes begin."""
    id_bytes = len(request.decision_id)
    return request.SerializeToString(deterministic=True)[id_bytes + (2 if id_bytes < 128 else 3) :]


def _details(request: routing_pb2.RewardRequest, reward_micros: int | None, unit_hash: bytes) -> str | None:
    if not request.HasField("call") and not request.metadata and reward_micros is None:
        return None
    details: dict[str, Any] = {} if reward_micros is None else {"reward_micros": reward_micros}
    if request.HasField("call"):
        call = request.call
        if call.HasField("latency"):
            details["latency_ms"] = call.latency.ToMicroseconds() / 1e3
        for name in ("input_tokens", "output_tokens", "cost_usd"):
            if call.HasField(name):
                details[name] = getattr(call, name)
        if call.error:
            details["error"] = call.error
    if request.metadata:
        details["metadata"] = dict(request.metadata)
        if any(unit_hash):
            # By it the metadata is found when the unit is forgotten: its decision may never reach the log.
            details["unit_hash"] = unit_hash.hex()
    return json.dumps(details) if details else None
