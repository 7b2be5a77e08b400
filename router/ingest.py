"""Ingest: events wait for one group commit, which folds them into outcomes and evidence.

While one batch commits, the next collects: a lone event commits at once, and under load the batch grows with the time
that a commit takes. An event that Postgres refuses for good is bisected out and fails alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router.errors import InternalError, InvalidArgumentError, ResourceExhaustedError, ServiceError, UnavailableError
from router.storage.errors import RefusedRowError, StorageUnavailableError
from router.storage.events import BatchResult, EventRow

log = logging.getLogger(__name__)

#: Most events in one transaction: keeps it short enough that replicas do not wait long for one another's locks.
LARGEST_BATCH = 2_000
#: Most events that may wait; more are refused with a retry delay.
LARGEST_QUEUE = 100_000
_RETRY_AFTER_MS = 1_000


class EventStore(Protocol):
    """Where batches go: `router.storage.writer.EventWriter`."""

    async def apply(self, rows: Sequence[EventRow]) -> BatchResult:
        """Store, fold and count a batch with distinct keys; raises StorageUnavailableError or RefusedRowError."""

    async def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: EventRow
    #: Resolved with True if the event was stored now, False if it was known.
    stored: asyncio.Future[bool]


class Ingest:
    """The feedback path of one process."""

    def __init__(self, store: EventStore, announce: Callable[[Iterable[int]], None]) -> None:
        self._store = store
        self._announce = announce
        self._queue: list[_Waiting] = []
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: Events whose id was known with another content.
        self.contradictions = 0

    def submit(self, row: EventRow) -> "asyncio.Future[bool]":
        """Queue one event; the future tells whether it was stored now (True) or known (False), once that is durable.

        Raises ResourceExhaustedError when the queue is full; the future raises ServiceErrors.
        """
        if len(self._queue) >= LARGEST_QUEUE:
            raise ResourceExhaustedError(
                f"{LARGEST_QUEUE} events wait for Postgres already: retry later", retry_after_ms=_RETRY_AFTER_MS
            )
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(row, future))
        self._work.set()
        return future

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="ingest")

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Commit what waits, as long as Postgres takes it, then end; what is left fails with SHUTTING_DOWN."""
        if self._task is not None:
            waiting = [waiting.stored for waiting in self._queue]
            if waiting and not self._task.done():
                await asyncio.wait(waiting, timeout=timeout_s)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        _fail(self._queue, _stopping())
        self._queue.clear()
        await self._store.close()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            batch, self._queue = self._queue[:LARGEST_BATCH], self._queue[LARGEST_BATCH:]
            if not self._queue:
                self._work.clear()
            try:
                await self._commit(batch)
            except asyncio.CancelledError:
                _fail(batch, _stopping())
                raise
            except Exception:
                log.exception("committing %d events failed", len(batch))
                _fail(batch, InternalError("storing the event failed; it was not counted"))

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        first: dict[Any, _Waiting] = {}
        repeated = []
        for waiting in batch:
            if first.setdefault(waiting.row.key, waiting) is not waiting:
                repeated.append(waiting)
        failures = await self._apply(list(first.values()))
        for waiting in repeated:
            error = failures.get(waiting.row.key)
            if error is None:
                self.contradictions += waiting.row.content != first[waiting.row.key].row.content
                _resolve(waiting, False)
            else:
                _fail([waiting], error)

    async def _apply(self, batch: Sequence[_Waiting]) -> dict[Any, ServiceError]:
        """Commit events with distinct keys, settle their futures and return what failed, by key."""
        try:
            result = await self._store.apply([waiting.row for waiting in batch])
        except StorageUnavailableError as error:
            log.warning("%d events were not acknowledged: %s", len(batch), error)
            unavailable = UnavailableError(
                "the event was not acknowledged by Postgres: send it again with the same event_id",
                retry_after_ms=_RETRY_AFTER_MS,
            )
            return _fail(batch, unavailable)
        except RefusedRowError as error:
            if len(batch) == 1:
                return _fail(batch, InvalidArgumentError(f"Postgres refuses this event: {error}"))
            middle = len(batch) // 2
            return await self._apply(batch[:middle]) | await self._apply(batch[middle:])
        self.contradictions += result.contradictions
        for waiting in batch:
            _resolve(waiting, waiting.row.key in result.stored)
        self._announce(result.moved)
        return {}


def _stopping() -> UnavailableError:
    return UnavailableError("this replica stops: send the event to another", reason="SHUTTING_DOWN", retry_after_ms=0)


def _resolve(waiting: _Waiting, stored: bool) -> None:
    if not waiting.stored.done():
        waiting.stored.set_result(stored)


def _fail(batch: Iterable[_Waiting], error: ServiceError) -> dict[Any, ServiceError]:
    failures: dict[Any, ServiceError] = {}
    for waiting in batch:
        if not waiting.stored.done():
            waiting.stored.set_exception(error)
            # A caller whose call ended meanwhile no longer asks; asyncio would log that as a fault.
            waiting.stored.exception()
        failures[waiting.row.key] = error
    return failures
