"""Writing segments: whole writes, a bound on what waits, and syncs that many callers share."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from router.errors import ResourceExhaustedError

log = logging.getLogger(__name__)

_RETRY_AFTER_MS = 1_000
#: How often the directory is measured at most; in between only this writer's own bytes are counted.
_MEASURE_S = 0.25
#: After the disk refused, it is left alone for this long.
_LEFT_ALONE_S = 0.1
_LOG_S = 10.0
#: A file that has no name yet is that of a process that died, once it is this old and nobody holds its lock.
_LEFTOVER_S = 10.0
_UNNAMED = ".new"


class SegmentWriter:
    """The writer of one process for one kind of segment. Not for use from several threads."""

    def __init__(
        self,
        directory: Path,
        suffix: str,
        *,
        segment_bytes: int,
        limit_bytes: int,
        durable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`durable`: `sync` will be called, and holds for the names of segments too. `clock` gives seconds.

        Raises OSError if nothing can be written there.
        """
        self._directory = directory
        self._suffix = suffix
        self._segment_bytes = segment_bytes
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._file = -1
        self._path = directory
        self._size = 0
        #: Whether the segment was cut after a failed write, and so must be left.
        self._cut = False
        #: Segments that are full, and locked until they are synced.
        self._full: list[int] = []
        self._new_names = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync") if durable else None
        self._syncing: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._used = 0
        self._measured_at = float("-inf")
        self._left_alone_until = float("-inf")
        self._logged_at = float("-inf")
        #: Writes that were refused.
        self.refused = 0
        #: How many segments were begun.
        self.segments = 0
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._drop_leftovers()
        self._begin()

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments of this suffix, those of other processes as of a moment ago."""
        return self._used

    def append(self, frames: bytes | Sequence[bytes]) -> None:
        """Write frames, all or none of them, with one system call.

        Raises ResourceExhaustedError if the spool is full or the disk refuses: then none of them is written.
        """
        data = frames if isinstance(frames, bytes) else b"".join(frames)
        self._check_room(len(data))
        try:
            if self._cut:
                self._rotate()
            written = os.write(self._file, data)
            if written != len(data):
                # A reader may be beyond the cut already, and would miss what is written there next.
                self._cut = True
                os.ftruncate(self._file, self._size)
                raise OSError("the disk is full")
        except OSError as error:
            self._left_alone_until = self._clock() + _LEFT_ALONE_S
            raise self._refusal(f"the spool cannot be written: {error.strerror or error}") from error
        self._size += written
        self._used += written
        if self._size >= self._segment_bytes:
            # What was written is written: an oversized segment does less harm than a refusal.
            with contextlib.suppress(OSError):
                self._rotate()

    async def sync(self) -> None:
        """Return once what was appended before is on disk. Callers who wait at the same time share a sync.

        Raises OSError if the disk refuses: then it may be there or not.
        """
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(self._sync_all(), name=f"sync{self._suffix}")
        await asyncio.shield(self._waiting)

    def close(self) -> None:
        """Let go of the segments: what is in them is complete. An empty one is removed."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        if not self._size and self._file >= 0:
            self._path.unlink(missing_ok=True)
        for file in (*self._full, self._file):
            if file >= 0:
                os.close(file)
        self._full.clear()
        self._file = -1

    def _check_room(self, size: int) -> None:
        now = self._clock()
        if now < self._left_alone_until:
            raise self._refusal("the spool cannot be written: the disk refused a moment ago")
        if now - self._measured_at > _MEASURE_S:
            self._measured_at = now
            self._used = self._measured()
        if self._used + size > self._limit_bytes:
            # What is stored of this segment can only go once the segment is complete.
            if self._size:
                with contextlib.suppress(OSError):
                    self._rotate()
            raise self._refusal(
                f"the spool is full: its {self._suffix} segments hold {self._used} bytes that Postgres has not taken;"
                f" {self._limit_bytes} are permitted"
            )

    def _measured(self) -> int:
        used = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(self._suffix):
                    with contextlib.suppress(FileNotFoundError):
                        used += entry.stat().st_size
        return used

    def _refusal(self, reason: str) -> ResourceExhaustedError:
        """Count a refusal, and say so loudly but not each time."""
        self.refused += 1
        now = self._clock()
        if now - self._logged_at >= _LOG_S:
            self._logged_at = now
            log.error("%s (%d writes refused so far)", reason, self.refused)
        return ResourceExhaustedError(reason, retry_after_ms=_RETRY_AFTER_MS)

    def _rotate(self) -> None:
        """Go on in a new segment; on OSError the old one stays."""
        old, old_path, old_size = self._file, self._path, self._size
        self._begin()
        if not old_size:
            old_path.unlink(missing_ok=True)
        if self._thread is not None and old_size:
            self._full.append(old)
        else:
            os.close(old)

    def _begin(self) -> None:
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        unnamed, path = self._directory / f"{name}{_UNNAMED}", self._directory / f"{name}{self._suffix}"
        file = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it has the name by which readers look for segments.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(path)
        except OSError:
            os.close(file)
            raise
        self._file, self._path, self._size, self._cut = file, path, 0, False
        self._new_names = True
        self.segments += 1

    def _drop_leftovers(self) -> None:
        for path in self._directory.glob(f"*{_UNNAMED}"):
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if time.time() - os.fstat(file).st_mtime > _LEFTOVER_S:
                        path.unlink()
                finally:
                    os.close(file)

    async def _sync_all(self) -> None:
        """Sync for those who wait, then for those who came meanwhile."""
        while (waiting := self._waiting) is not None:
            self._waiting = None
            full, file, new_names = self._full, self._file, self._new_names
            self._full, self._new_names = [], False
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._sync_files, [*full, file], new_names)
            except (OSError, RuntimeError) as error:
                # A second sync of the same file may claim a success that never was: the segment is left.
                if self._file >= 0:
                    with contextlib.suppress(OSError):
                        self._rotate()
                self._refusal(f"the spool cannot be synced: {error}")
                if not waiting.done():
                    waiting.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
                    waiting.exception()
            else:
                if not waiting.done():
                    waiting.set_result(None)
            finally:
                for done in full:
                    os.close(done)

    def _sync_files(self, files: list[int], new_names: bool) -> None:
        for file in files:
            os.fdatasync(file)
        if new_names:
            directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
