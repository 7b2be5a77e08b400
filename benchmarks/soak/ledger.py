"""The ledger: exactly what clients were answered, and what they sent without learning what became of it."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from router.client import Decision, RewardEvent, RewardResult, RouterError, Signal, Status

#: What an acknowledged event was answered with.
ACKNOWLEDGED = frozenset({Status.APPLIED, Status.DUPLICATE, Status.NEUTRAL, Status.LATE, Status.SPOOLED})
#: Methods that decide, and methods that tell.
ROUTES = frozenset({"Route", "BatchRoute"})
REWARDS = frozenset({"Reward", "BatchReward"})


class Call(NamedTuple):
    """One call as its client saw it. Times are seconds of the monotonic clock."""

    method: str
    began: float
    ended: float
    #: Empty if it was answered; else the gRPC code.
    failure: str = ""
    #: Of a failure: how long to wait, as the router said; None if it did not.
    retry_after_s: float | None = None
    statuses: tuple[Status, ...] = ()
    stale_s: float = 0.0

    @property
    def took_s(self) -> float:
        """Retries included."""
        return self.ended - self.began


@dataclass(slots=True)
class Told:
    """An event that was sent at least once. Times are seconds since the epoch."""

    experiment_id: str
    #: Whether it maps to a reward, unless it is late.
    counts: bool
    first_sent_at: float
    last_answered_at: float = 0.0
    statuses: set[Status] = field(default_factory=set)

    @property
    def acknowledged(self) -> bool:
        """Whether the router said that it is durable."""
        return bool(self.statuses & ACKNOWLEDGED)


class Ledger:
    """Kept by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: list[Call] = []
        #: Experiment and arm by decision id.
        self.decisions: dict[str, tuple[str, str]] = {}
        #: By decision id and event id.
        self.events: dict[tuple[str, str], Told] = {}
        self.acknowledged = 0

    def routed(self, decisions: Iterable[Decision]) -> None:
        """Enter answered decisions."""
        with self._lock:
            for decision in decisions:
                self.decisions[decision.decision_id] = (decision.experiment_id, decision.arm.arm_id)

    def sending(self, events: Iterable[RewardEvent], experiment_of: Callable[[str], str]) -> None:
        """Enter events before they are sent: from here on they may be present."""
        now = time.time()
        with self._lock:
            for event in events:
                key = (event.decision_id, event.event_id or "")
                if key not in self.events:
                    counts = event.call is None and event.signal != Signal.FOLLOW_UP_QUESTION
                    self.events[key] = Told(experiment_of(event.decision_id), counts, now)

    def answered(self, events: Iterable[RewardEvent], results: Iterable[RewardResult | RouterError]) -> tuple[Status, ...]:
        """Enter what became of them; returns the statuses."""
        now = time.time()
        statuses = []
        with self._lock:
            for event, result in zip(events, results, strict=True):
                if isinstance(result, RouterError):
                    continue
                told = self.events[(event.decision_id, event.event_id or "")]
                self.acknowledged += not told.acknowledged
                told.last_answered_at = now
                told.statuses.add(result.status)
                statuses.append(result.status)
        return tuple(statuses)

    def called(self, call: Call) -> None:
        """Enter a call."""
        self.calls.append(call)

    def failures(self, methods: Iterable[str], since: float = 0.0, until: float = float("inf")) -> list[Call]:
        """Return the calls of these methods that failed and were under way at some time in between."""
        wanted = frozenset(methods)
        return [c for c in list(self.calls) if c.failure and c.method in wanted and c.ended > since and c.began < until]

    def last(self, methods: Iterable[str], count: int = 1) -> list[Call]:
        """Return the last answered calls of these methods."""
        wanted = frozenset(methods)
        return [c for c in self.calls[-2_000:] if not c.failure and c.method in wanted][-count:]
