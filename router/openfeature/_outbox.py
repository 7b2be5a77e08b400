"""Sends feedback in the background: nobody waits for it, it never grows without bound, and it outlives an outage."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from router.client import RewardEvent, RewardResult, RouterError, Unavailable

Send = Callable[[Sequence[RewardEvent]], Sequence[RewardResult | RouterError]]

_BATCH: Final = 500
#: How long an event waits for others to go with it.
_LINGER_S: Final = 0.05
_FIRST_REST_S: Final = 0.25
_LONGEST_REST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """What became of the events."""

    sent: int = 0
    #: The router will never take them.
    refused: int = 0
    #: The queue was full, or `close` ran out of time.
    dropped: int = 0


class Outbox:
    """A bounded queue, and a daemon thread that runs while there is something in it. Safe to use from many threads."""

    def __init__(self, send: Send, capacity: int, refused: Callable[[RewardEvent, Exception], None]) -> None:
        self._send = send
        self._capacity = capacity
        self._refused = refused
        self._changed = threading.Condition()
        self._waiting: deque[RewardEvent] = deque()
        self._running = False
        self._closing = False
        self._stats = OutboxStats()

    def add(self, event: RewardEvent) -> bool:
        """Take an event, and return at once; False if it was dropped."""
        with self._changed:
            if self._closing or len(self._waiting) >= self._capacity:
                self._count(dropped=1)
                return False
            self._waiting.append(event)
            if not self._running:
                threading.Thread(target=self._run, name="router-openfeature", daemon=True).start()
                self._running = True
        return True

    def open(self) -> None:
        """Take events again after `close`."""
        with self._changed:
            self._closing = False

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most so long; what is left then is dropped. Blocks."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._waiting and (left := give_up - time.monotonic()) > 0:
                self._changed.wait(left)
            self._count(dropped=len(self._waiting))
            self._waiting.clear()
            self._changed.notify_all()

    def stats(self) -> OutboxStats:
        """Return the counts."""
        with self._changed:
            return self._stats

    def _run(self) -> None:
        rest_s = _FIRST_REST_S
        with self._changed:
            self._changed.wait_for(lambda: self._closing, _LINGER_S)
        while batch := self._next():
            results = self._tell(batch)
            if self._settle(batch, results):
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, rest_s)
                if self._closing:
                    time.sleep(_LINGER_S)
                rest_s = min(2 * rest_s, _LONGEST_REST_S)
            else:
                rest_s = _FIRST_REST_S

    def _next(self) -> list[RewardEvent]:
        """Return the next batch, which stays in the queue; none ends the thread."""
        with self._changed:
            batch = [self._waiting[at] for at in range(min(_BATCH, len(self._waiting)))]
            self._running = bool(batch)
            return batch

    def _tell(self, batch: Sequence[RewardEvent]) -> Sequence[RewardResult | Exception]:
        try:
            return self._send(batch)
        except Exception as error:
            # Not only the router's: a closed channel raises something else, and would for ever.
            return [error] * len(batch)

    def _settle(self, batch: Sequence[RewardEvent], results: Sequence[RewardResult | Exception]) -> bool:
        """Take what was answered out of the queue; return whether some of the batch has to be sent again."""
        again: list[RewardEvent] = []
        refused = 0
        for event, result in zip(batch, results, strict=True):
            if isinstance(result, Unavailable):
                again.append(event)
            elif isinstance(result, Exception):
                refused += 1
                self._refused(event, result)
        with self._changed:
            # `close` may have run out of time meanwhile, and counted them as dropped.
            if not self._waiting or self._waiting[0] is not batch[0]:
                return False
            for _ in batch:
                self._waiting.popleft()
            self._waiting.extendleft(reversed(again))
            self._count(sent=len(batch) - len(again) - refused, refused=refused)
            self._changed.notify_all()
        return bool(again)

    def _count(self, sent: int = 0, refused: int = 0, dropped: int = 0) -> None:
        with self._changed:
            was = self._stats
            self._stats = OutboxStats(was.sent + sent, was.refused + refused, was.dropped + dropped)
