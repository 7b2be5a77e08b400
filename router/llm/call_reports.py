"""Tells the router how calls went, in the background: nobody waits for it, and it never grows without bound."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from router.client import RewardEvent, RewardResult, RouterError, Unavailable
from router.llm.background import Background

Send = Callable[[Sequence[RewardEvent]], Awaitable[Sequence[RewardResult | RouterError]]]

#: The one report of a decision: the same call told twice is one event.
EVENT_ID: Final = "model-call"
_BATCH: Final = 500
#: How long a report waits for others to go with it: a call each would cost production more than it tells.
_LINGER_S: Final = 0.1
_FIRST_REST_S: Final = 0.25
_LONGEST_REST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ReportStats:
    """What became of the reports."""

    sent: int = 0
    #: Not sent, because the queue was full, the router refused them, or `close` ran out of time.
    dropped: int = 0


class Reports:
    """A bounded queue of events and the task that empties it. An event is kept while the router cannot be reached."""

    def __init__(self, background: Background, send: Send, capacity: int) -> None:
        self._background = background
        self._send = send
        self._capacity = capacity
        self._lock = threading.RLock()
        self._waiting: deque[RewardEvent] = deque()
        self._running = False
        self._sent = 0
        self._dropped = 0

    def add(self, event: RewardEvent) -> None:
        """Take an event about a decision of the router. Returns at once."""
        with self._lock:
            if len(self._waiting) >= self._capacity:
                self._dropped += 1
                return
            self._waiting.append(event)
            if self._running:
                return
            self._running = True
        if not self._background.post(self._empty):
            self.abandon()

    def stats(self) -> ReportStats:
        """Return the counts."""
        with self._lock:
            return ReportStats(self._sent, self._dropped)

    def abandon(self) -> None:
        """Count what still waits as dropped."""
        with self._lock:
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._running = False

    async def _empty(self) -> None:
        rest_s = _FIRST_REST_S
        while True:
            await asyncio.sleep(_LINGER_S)
            with self._lock:
                batch = [self._waiting[at] for at in range(min(_BATCH, len(self._waiting)))]
                if not batch:
                    self._running = False
                    return
            again = await self._tell(batch)
            with self._lock:
                for _ in batch:
                    self._waiting.popleft()
                self._waiting.extendleft(reversed(again))
            if again:
                await asyncio.sleep(rest_s)
                rest_s = min(2 * rest_s, _LONGEST_REST_S)
            else:
                rest_s = _FIRST_REST_S

    async def _tell(self, batch: Sequence[RewardEvent]) -> Sequence[RewardEvent]:
        """Send a batch; return what should be sent again."""
        try:
            results: Sequence[RewardResult | RouterError] = await self._send(batch)
        except RouterError as error:
            results = [error] * len(batch)
        except Exception:
            # Not the router's answer: a closed channel or loop. Sending it again would fail again.
            with self._lock:
                self._dropped += len(batch)
            return ()
        again = [event for event, result in zip(batch, results, strict=True) if isinstance(result, Unavailable)]
        refused = sum(isinstance(result, RouterError) for result in results) - len(again)
        with self._lock:
            self._dropped += refused
            self._sent += len(batch) - refused - len(again)
        return again
