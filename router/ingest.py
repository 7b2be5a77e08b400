"""Ingest: events wait for one group commit, which folds them into outcomes and evidence.

Group commit
    While one batch commits, the next collects: a lone event commits at once, and under load the batch grows with the time
    that a commit takes. A commit for many calls is followed by a rest that grows with their number: committing and learning
    from thirty events costs little more than from three, and the processor time that is saved answers more calls than the
    rest holds up. The limit of a batch follows the time that commits take, so that replicas never wait long for one
    another's locks. An event that Postgres refuses for good is bisected out and fails alone.

Outages
    An event that is not committed when its call gives up waiting goes to the feedback spool on local disk: it is synced,
    answered SPOOLED, and applied by the keeper later. Its commit may still succeed meanwhile; the event's key sees to it
    that it counts once. After a commit has failed, or while one takes longer than any call waits, events go straight to
    the spool, but for one batch now and then that finds out whether Postgres is back.
"""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from google.protobuf.message import Message

from router.errors import InternalError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from router.storage.errors import RefusedRowError, StorageUnavailableError
from router.storage.events import BatchResult, EventRow
from router.submission import PATIENCE_S, Fate, Outcome, Submission, unsettled

log = logging.getLogger(__name__)

#: Bounds of the adaptive limit of a batch, in events.
SMALLEST_BATCH, LARGEST_BATCH = 128, 4_096
#: A commit that takes longer halves the limit, in seconds; one of half the time lets it grow.
_LONG_COMMIT_S = 0.1
#: A commit for many calls is followed by a rest of so many seconds for each of them but one, up to a longest.
_REST_A_CALL_S, _LONGEST_REST_S = 0.001, 0.025
#: Most events that may wait; more go to the spool.
LARGEST_QUEUE = 100_000
#: While Postgres is away, a batch is tried this often.
_PROBE_S = 0.5
#: Calls whose patience ends within this time are spooled together.
_TOGETHER_S = 0.01
#: Events are written to the spool and synced this many at once.
_SPOOLED_AT_ONCE = 1_000
#: What makes the same event a repetition when it comes again in the batch.
_DURABLE = (Fate.STORED, Fate.KNOWN, Fate.LIMITED)


class EventStore(Protocol):
    """Where batches go: `router.storage.writer.EventWriter`."""

    async def apply(self, rows: Sequence[EventRow]) -> BatchResult:
        """Store, fold and count a batch with distinct keys; raises StorageUnavailableError or RefusedRowError."""

    async def close(self) -> None:
        """Let go of the connection."""


class EventSpool(Protocol):
    """Where events go that cannot be committed in time: `router.feedback_spool.FeedbackSpool`."""

    def extend(self, events: Iterable[tuple[bytes, int]]) -> None:
        """Write serialized requests and their times of receipt, all or none.

        Raises ResourceExhaustedError if the spool is full or the disk refuses.
        """

    async def sync(self) -> None:
        """Return once what was written before is on disk; raises ResourceExhaustedError or OSError if the disk refuses."""


_Waiting: TypeAlias = tuple[Submission, int, EventRow]


class Ingest:
    """The feedback path of one process."""

    def __init__(self, store: EventStore, spool: EventSpool, announce: Callable[[Iterable[int]], None]) -> None:
        self._store = store
        self._spool = spool
        self._announce = announce
        self._queue: deque[_Waiting] = deque()
        #: What is not settled, oldest first.
        self._open: dict[Submission, None] = {}
        self._work = asyncio.Event()
        self._limit = LARGEST_BATCH
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        #: When it fires. uvloop's handle of a moment that has passed cannot tell.
        self._timer_at = math.inf
        self._committing_since: float | None = None
        self._away_since: float | None = None
        self._probe_at = 0.0
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._committer: asyncio.Task[None] | None = None
        #: Events whose id was known with another content.
        self.contradictions = 0
        #: Events that went to the spool.
        self.spooled = 0

    @property
    def waiting(self) -> int:
        """How many events wait for a commit to begin."""
        return len(self._queue)

    @property
    def unsettled(self) -> int:
        """How many calls wait for the outcome of their events."""
        return len(self._open)

    def submit(
        self, requests: Sequence[Message], rows: Sequence[EventRow | None], received_at_us: int, patience: float
    ) -> Submission:
        """Queue the events of one call; await `done` of what is returned, then read its `outcomes`.

        A row is None where the event cannot be understood while Postgres is away: it goes to the spool. `patience` is in
        seconds.
        """
        now = self._loop.time()
        submission = Submission(requests, received_at_us, now + patience, self._loop.create_future())
        self._open[submission] = None
        submission.done.add_done_callback(lambda _: self._open.pop(submission, None))
        if self._straight_to_spool(now) or len(self._queue) + len(rows) > LARGEST_QUEUE:
            self._start_spooling([(submission, position) for position in range(len(rows))])
            return submission
        unknown = []
        for position, row in enumerate(rows):
            if row is None:
                unknown.append((submission, position))
            else:
                self._queue.append((submission, position, row))
        if unknown:
            self._start_spooling(unknown)
        self._work.set()
        if submission.give_up_at < self._timer_at:
            self._watch(submission.give_up_at)
        return submission

    def start(self) -> None:
        """Begin to commit."""
        self._committer = asyncio.create_task(self._run(), name="ingest")

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Commit what waits, as long as Postgres takes it, then end; what is left goes to the spool."""
        if self._committer is not None:
            waiting = [submission.done for submission in self._open]
            if waiting and not self._committer.done():
                await asyncio.wait(waiting, timeout=timeout_s)
            self._committer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._committer
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self._stopping = True
        self._start_spooling(unsettled(self._open))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            batch: list[_Waiting] = []
            while self._queue and len(batch) < self._limit:
                waiting = self._queue.popleft()
                if waiting[0].outcomes[waiting[1]] is None:
                    batch.append(waiting)
            if not self._queue:
                self._work.clear()
            if not batch:
                continue
            self._committing_since = self._loop.time()
            try:
                await self._commit(batch)
            except Exception:
                log.exception("committing %d events failed", len(batch))
                for submission, position, _ in batch:
                    submission.settle(position, InternalError("storing the event failed; it was not counted"))
            took = self._loop.time() - self._committing_since
            self._committing_since = None
            if took > _LONG_COMMIT_S:
                self._limit = max(SMALLEST_BATCH, min(self._limit, len(batch)) // 2)
            elif took < _LONG_COMMIT_S / 2 and len(batch) == self._limit:
                self._limit = min(LARGEST_BATCH, 2 * self._limit)
            if len(self._queue) < SMALLEST_BATCH:
                calls = len({submission for submission, _, _ in batch})
                await asyncio.sleep(min((calls - 1) * _REST_A_CALL_S, _LONGEST_REST_S))

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Commit a batch and settle its events, repetitions within it included."""
        first: dict[tuple[bytes, int, str], _Waiting] = {}
        repeated: list[_Waiting] = []
        for waiting in batch:
            if first.setdefault(waiting[2].key, waiting) is not waiting:
                repeated.append(waiting)
        await self._apply(list(first.values()))
        for submission, position, row in repeated:
            original = first[row.key]
            outcome = original[0].outcomes[original[1]]
            if outcome in _DURABLE:
                self.contradictions += row.content != original[2].content
                outcome = Fate.KNOWN
            if outcome is not None:
                submission.settle(position, outcome)

    async def _apply(self, batch: Sequence[_Waiting]) -> None:
        """Commit events with distinct keys and settle them."""
        try:
            result = await self._store.apply([row for _, _, row in batch])
        except StorageUnavailableError as error:
            self._postgres_is_away(error)
            await self._to_spool([(submission, position) for submission, position, _ in batch])
            return
        except RefusedRowError as error:
            if len(batch) == 1:
                batch[0][0].settle(batch[0][1], InvalidArgumentError(f"Postgres refuses this event: {error}"))
                return
            middle = len(batch) // 2
            await self._apply(batch[:middle])
            await self._apply(batch[middle:])
            return
        if self._away_since is not None:
            log.info("events are committed again after %.1f s", self._loop.time() - self._away_since)
            self._away_since = None
        self.contradictions += result.contradictions
        self._announce(result.moved)
        for number, (submission, position, _) in enumerate(batch):
            submission.settle(position, _fate(number, result))

    def _straight_to_spool(self, now: float) -> bool:
        """Whether to ask nothing of Postgres just now."""
        stuck = self._committing_since is not None and now - self._committing_since > PATIENCE_S
        if self._away_since is None and not stuck:
            return False
        if not stuck and self._committing_since is None and now >= self._probe_at:
            self._probe_at = now + _PROBE_S
            return False
        return True

    def _postgres_is_away(self, error: StorageUnavailableError) -> None:
        now = self._loop.time()
        if self._away_since is None:
            log.warning("Postgres takes no events; they are spooled until it does: %s", error)
            self._away_since = now
        self._probe_at = now + _PROBE_S

    def _watch(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(when, self._give_up), when

    def _give_up(self) -> None:
        """Spool what has waited as long as its call can."""
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time()
        due = [submission for submission in self._open if submission.give_up_at <= now]
        self._start_spooling(unsettled(due))
        later = [submission.give_up_at for submission in self._open if submission.give_up_at > now]
        if later:
            # Not for each call by itself: those that follow shortly are spooled together.
            self._watch(max(min(later), now + _TOGETHER_S))

    def _start_spooling(self, events: Sequence[tuple[Submission, int]]) -> None:
        if events:
            task = asyncio.create_task(self._to_spool(events), name="spool events")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_spool(self, events: Sequence[tuple[Submission, int]]) -> None:
        """Put events on disk and settle them: SPOOLED, or why not."""
        for start in range(0, len(events), _SPOOLED_AT_ONCE):
            chunk = [event for event in events[start : start + _SPOOLED_AT_ONCE] if event[0].outcomes[event[1]] is None]
            outcome: Outcome = Fate.SPOOLED
            try:
                self._spool.extend((s.requests[position].SerializeToString(), s.received_at_us) for s, position in chunk)
                await self._spool.sync()
                self.spooled += len(chunk)
            except (ResourceExhaustedError, OSError) as error:
                log.error("%d events are neither in Postgres nor on disk: %s", len(chunk), error)
                outcome = _stopping() if self._stopping else _overloaded(error)
            for submission, position in chunk:
                submission.settle(position, outcome)


def _overloaded(error: ResourceExhaustedError | OSError) -> ResourceExhaustedError:
    if isinstance(error, ResourceExhaustedError):
        return error
    return ResourceExhaustedError("the disk of the spool refuses the event: send it again", retry_after_ms=1_000)


def _stopping() -> UnavailableError:
    message = "neither Postgres nor the spool takes the event, and this replica stops: send it to another"
    return UnavailableError(message, reason="SHUTTING_DOWN", retry_after_ms=0)


def _fate(number: int, result: BatchResult) -> Fate:
    if number in result.known:
        return Fate.KNOWN
    if number in result.limited:
        return Fate.LIMITED
    return Fate.DROPPED if number in result.dropped else Fate.STORED
