"""The drain: what workers left in the spool goes to Postgres, while they write and after they died.

Protocol
    The segments of each kind have a task of their own, so that events do not wait for decisions, nor decisions for events.
    It reads a chunk, oldest segments first, stores it, and only then goes on; so memory is bounded, and after a crash a
    part of a segment is stored again, which changes nothing. A segment is removed once its writer let go of it and all of
    it is stored.

    What Postgres refuses for good is set aside beside its segment in a `.refused` file, which is itself a sequence of
    frames. While Postgres is away, attempts come at most every two seconds.
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from router.sinks import Refused, Sink
from router.spool import Record, SegmentReader, aside
from router.storage.errors import StorageError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 512 * 1024
#: Segments that are open at once; more wait for those to be drained.
_OPEN = 256
_POLL_S = 0.05
_IDLE_POLL_S = 0.1
#: After this many polls without anything new they are less frequent.
_IDLE_AFTER = 20
_SCAN_S = 1.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0
_PROGRESS_S = 5.0


class Drainer:
    """Drains every segment of a directory, of whichever process."""

    def __init__(
        self,
        directory: Path,
        sinks: Sequence[Sink],
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rng` spreads attempts while Postgres is away; `clock` gives seconds."""
        self._drains = [Drain(directory, sink, rng=rng, clock=clock) for sink in sinks]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def drains(self) -> "Sequence[Drain]":
        """One for each kind of segment."""
        return self._drains

    @property
    def undrained_bytes(self) -> int:
        """Bytes on disk that Postgres does not have yet."""
        return sum(drain.undrained_bytes for drain in self._drains)

    @property
    def refused(self) -> int:
        """Records that were set aside since the start, as they will never be stored."""
        return sum(drain.refused for drain in self._drains)

    @property
    def oldest_s(self) -> float:
        """Age of what waits longest, in seconds: an upper bound, 0 if nothing waits."""
        return max((drain.oldest_s for drain in self._drains), default=0.0)

    def start(self) -> None:
        """Begin to drain."""
        self._tasks = [asyncio.create_task(drain.run(), name=f"drain{drain.suffix}") for drain in self._drains]

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Store what can be stored within the time, then let go. What is left stays for the next start."""
        for drain in self._drains:
            drain.finish()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for drain in self._drains:
            await drain.close()


class Drain:
    """Drains the segments of one kind."""

    def __init__(self, directory: Path, sink: Sink, *, rng: random.Random, clock: Callable[[], float]) -> None:
        self.suffix = sink.suffix
        #: What the records are.
        self.what = sink.what
        self._directory = directory
        self._sink = sink
        self._rng = rng
        self._clock = clock
        self._segments: dict[str, _Progress] = {}
        #: As of the last scan: all segments with their sizes.
        self._found: dict[str, int] = {}
        self._scanned_at = float("-inf")
        self._directory_version = 0
        self._finishing = asyncio.Event()
        self.refused = 0
        #: Records that were stored since the start, again ones included.
        self.stored = 0

    @property
    def undrained_bytes(self) -> int:
        """See `Drainer`."""
        unopened = sum(size for name, size in self._found.items() if name not in self._segments)
        return unopened + sum(segment.undrained() for segment in self._segments.values())

    @property
    def oldest_s(self) -> float:
        """See `Drainer`."""
        now = self._clock()
        return max((now - s.since for s in self._segments.values() if s.undrained()), default=0.0)

    def finish(self) -> None:
        """Have `run` end as soon as nothing more can be stored."""
        self._finishing.set()

    async def close(self) -> None:
        """Let go of files and connections."""
        for segment in self._segments.values():
            segment.reader.close()
        self._segments.clear()
        await self._sink.close()

    async def run(self) -> None:
        """Drain until told to finish."""
        idle, pause_s = 0, _FIRST_PAUSE_S
        failing = False
        busy_since = reported_at = self._clock()
        while True:
            finishing = self._finishing.is_set()
            try:
                drained = await self._pass()
            except (StorageError, OSError) as error:
                if finishing:
                    log.warning("the spool keeps %d bytes of %s: %s", self.undrained_bytes, self._sink.what, error)
                    return
                if not failing:
                    log.warning("%s wait in the spool: %s", self._sink.what, error)
                failing = True
                pause_s = await self._paused(pause_s)
                continue
            except Exception:
                log.exception("draining %s failed; it goes on", self._sink.what)
                if finishing:
                    return
                pause_s = await self._paused(pause_s)
                continue
            if failing:
                log.info("%s flow from the spool again", self._sink.what)
            failing, pause_s = False, _FIRST_PAUSE_S
            idle = 0 if drained else idle + 1
            if drained > (0 if finishing else _CHUNK_BYTES // 2):
                if self._clock() - max(busy_since, reported_at) > _PROGRESS_S:
                    reported_at = self._clock()
                    log.info("%d bytes of %s are left in the spool", self.undrained_bytes, self._sink.what)
                continue
            if finishing:
                return
            busy_since = self._clock()
            await self._wait(_POLL_S if idle < _IDLE_AFTER else _IDLE_POLL_S)

    async def _paused(self, pause_s: float) -> float:
        """Leave Postgres alone for about `pause_s`; returns for how long next time."""
        await self._wait(pause_s * self._rng.uniform(0.5, 1.0))
        return min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finishing.wait()

    async def _pass(self) -> int:
        """Store a chunk and remove what is finished; returns how many bytes that took."""
        self._look()
        before = sum(segment.reader.drained for segment in self._segments.values())
        records: list[Record] = []
        read: list[tuple[_Progress, int]] = []
        left = _CHUNK_BYTES
        for segment in self._segments.values():
            if left <= 0:
                break
            found, end = segment.read(left, self._clock())
            if found:
                records += found
                left -= end - segment.reader.drained
                read.append((segment, end))
        if records:
            refused = await self._sink.store(records)
            self.stored += len(records) - len(refused)
            if refused:
                self._set_aside(read[0][0].reader.path, refused)
            for segment, end in read:
                segment.reader.drained = end
        drained = sum(segment.reader.drained for segment in self._segments.values()) - before
        for name in [name for name, segment in self._segments.items() if segment.reader.is_finished()]:
            self._segments.pop(name).reader.remove()
            self._found.pop(name, None)
        return drained

    def _look(self) -> None:
        """Find new segments, oldest first."""
        try:
            version = os.stat(self._directory).st_mtime_ns
            now = self._clock()
            if version != self._directory_version or now - self._scanned_at > _SCAN_S:
                # Taken before the scan, and by a clock that is coarse: hence the scan each second.
                self._directory_version, self._scanned_at = version, now
                with os.scandir(self._directory) as entries:
                    self._found = {e.name: e.stat().st_size for e in entries if e.name.endswith(self.suffix)}
        except FileNotFoundError:
            return
        unopened = self._found.keys() - self._segments.keys()
        for name in sorted(unopened)[: _OPEN - len(self._segments)]:
            with contextlib.suppress(FileNotFoundError):
                self._segments[name] = _Progress(SegmentReader(self._directory / name), self._clock())
                log.debug("draining %s", name)

    def _set_aside(self, segment: Path, refused: Sequence[Refused]) -> None:
        """Keep what will never be stored, durably, before the segment it came from may go."""
        path = segment.with_name(f"{segment.name}{aside.SUFFIX}")
        aside.append(path, [record for record, _ in refused])
        self.refused += len(refused)
        reasons = {reason: sum(r == reason for _, r in refused) for reason in dict.fromkeys(reason for _, reason in refused)}
        for reason, count in list(reasons.items())[:10]:
            log.error("%d %s of the spool will never be stored and are kept in %s: %s", count, self._sink.what, path, reason)


class _Progress:
    """A segment, and since when something of it has been waiting."""

    def __init__(self, reader: SegmentReader, now: float) -> None:
        self.reader = reader
        created_s = int(reader.path.name.split("-")[0]) / 1e9 if reader.path.name[:20].isdigit() else time.time()
        #: Whatever is not drained was written after this moment, by the monotonic clock.
        self.since = now - max(0.0, time.time() - created_s)
        self._marked_size, self._marked_at = 0, self.since

    def undrained(self) -> int:
        """Bytes that are not drained."""
        return max(0, self.reader.size() - self.reader.drained)

    def read(self, limit: int, now: float) -> tuple[list[Record], int]:
        """As `SegmentReader.read`."""
        if self.reader.drained >= self._marked_size:
            self.since = self._marked_at
            self._marked_size, self._marked_at = self.reader.size(), now
        return self.reader.read(limit)
