"""From tracking events to feedback about decisions."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails

from router.client import RewardEvent, Signal
from router.openfeature._context import session_of
from router.openfeature._memory import AmbiguousDecisionError, Memory, Subject, UnknownDecisionError
from router.openfeature._outbox import Outbox

_log: Final = logging.getLogger("router.openfeature")

#: The name of the event whose value is the reward.
REWARD: Final = "reward"
Meaning: TypeAlias = Signal | Literal["reward"]
_Fate: TypeAlias = Literal["unmapped", "invalid", "unknown", "ambiguous", "failed"]


@dataclass(frozen=True, slots=True)
class TrackingStats:
    """What became of tracked events since the provider was made."""

    #: Taken by the router.
    sent: int = 0
    #: Of names that mean nothing to the router: other tools' business.
    unmapped: int = 0
    #: Not sent: a value or an attribute that cannot be sent.
    invalid: int = 0
    #: Not sent: no decision is remembered that they could be about.
    unknown: int = 0
    #: Not sent: they could be about decisions of several flags.
    ambiguous: int = 0
    #: The router will never take them: the log says why.
    refused: int = 0
    #: Not sent: the queue was full, or `shutdown` ran out of time.
    dropped: int = 0
    #: Not sent, by a fault of the provider: the log has its trace.
    failed: int = 0


class InvalidEventError(ValueError):
    """The event cannot be sent; the message names what is wrong with it."""


class Tracking:
    """Turns events into feedback and gives it to the outbox. Safe to use from many threads."""

    def __init__(
        self, memory: Memory, outbox: Outbox, events: Mapping[str, Signal | str], now: Callable[[], datetime]
    ) -> None:
        """Take `events`, the names of the application's own events with what they mean.

        Raises ValueError if one means something that is neither a signal nor "reward".
        """
        self._memory = memory
        self._outbox = outbox
        self._now = now
        self._meanings: dict[str, Meaning] = {signal.name.lower(): signal for signal in Signal}
        self._meanings[REWARD] = REWARD
        self._meanings.update({name: _meaning(name, given) for name, given in events.items()})
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def track(self, name: str, context: EvaluationContext | None, details: TrackingEventDetails | None) -> None:
        """Take one event. Neither blocks nor raises."""
        try:
            self._take(name, context, details or TrackingEventDetails())
        except InvalidEventError as error:
            self._give_up("invalid", name, str(error))
        except UnknownDecisionError as error:
            self._give_up("unknown", name, f"{error}: give its decision_id")
        except AmbiguousDecisionError as error:
            self._give_up("ambiguous", name, f"{error}: give a decision_id or a flag_key")
        except Exception:
            _log.exception("tracked event %r: fault of the provider", name)
            self._give_up("failed", name, "see the log")

    def refused(self, event: RewardEvent, error: Exception) -> None:
        """Say that the router does not take an event."""
        _log.warning("tracked event %s was refused: %s", event.event_id, error)

    def stats(self) -> TrackingStats:
        """Return the counts."""
        outbox = self._outbox.stats()
        with self._lock:
            return TrackingStats(sent=outbox.sent, refused=outbox.refused, dropped=outbox.dropped, **self._counts)

    def _take(self, name: str, context: EvaluationContext | None, details: TrackingEventDetails) -> None:
        meaning = self._meanings.get(name)
        if meaning is None:
            self._give_up("unmapped", name, "means nothing to the router")
            return
        about = details.attributes
        event = RewardEvent(
            self._decision_id(context, about),
            event_id=_text(about, "event_id") or None,
            signal=meaning if isinstance(meaning, Signal) else None,
            reward=_reward(details.value) if meaning == REWARD else None,
            # It is sent later than it happens.
            occurred_at=self._now(),
            metadata=_metadata(about.get("metadata")),
        )
        if not self._outbox.add(event):
            self._say(logging.WARNING, "tracked event %r: dropped, because the queue is full or closed", name)

    def _decision_id(self, context: EvaluationContext | None, about: Mapping[str, Any]) -> str:
        decision_id = _text(about, "decision_id")
        if decision_id:
            return decision_id
        if context is None or not context.targeting_key:
            raise UnknownDecisionError("the context has no targeting key")
        return self._memory.last(Subject(context.targeting_key, session_of(context)), _text(about, "flag_key"))

    def _give_up(self, fate: _Fate, name: str, why: str) -> None:
        with self._lock:
            self._counts[fate] += 1
            count = self._counts[fate]
        # Each kind the first time, and then ever more rarely: an application may track thousands of events a second.
        loud = fate != "unmapped" and count & (count - 1) == 0
        self._say(
            logging.WARNING if loud else logging.DEBUG, "tracked event %r is not sent: %s (%d so far)", name, why, count
        )

    def _say(self, level: int, message: str, *values: object) -> None:
        _log.log(level, message, *values)


def _meaning(name: str, given: Signal | str) -> Meaning:
    if given == REWARD:
        return REWARD
    try:
        return Signal.parse(given)
    except ValueError as error:
        raise ValueError(f'events[{name!r}]: {error}, or "{REWARD}" for a value from 0 to 1') from error


def _reward(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    raise InvalidEventError(f"value {value!r}: must be a number from 0 to 1")


def _text(about: Mapping[str, Any], name: str) -> str:
    value = about.get(name, "")
    if isinstance(value, str):
        return value
    raise InvalidEventError(f"{name} {value!r}: must be text")


def _metadata(given: Any) -> Mapping[str, str] | None:
    if given is None:
        return None
    if isinstance(given, Mapping) and all(isinstance(key, str) and isinstance(text, str) for key, text in given.items()):
        return dict(given)
    raise InvalidEventError(f"metadata {given!r}: must be texts by name")
