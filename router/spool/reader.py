"""Reading segments that other processes write, have written, or left torn and damaged."""

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from router.spool.frames import HEAD, LARGEST_PAYLOAD, Record, frames, next_frame

log = logging.getLogger(__name__)

_LARGEST_FRAME = HEAD.size + LARGEST_PAYLOAD
#: How far ahead a sound frame is looked for at once.
_WINDOW = 8 * _LARGEST_FRAME


class SegmentReader:
    """One segment and how far it is drained. The file must exist; raises OSError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._complete = False
        self._suspect = -1
        #: Bytes that are stored elsewhere, or set aside.
        self.drained = 0

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file).st_size

    def is_complete(self) -> bool:
        """Whether its writer let go of it, or died: then no more will come."""
        if not self._complete:
            try:
                # Shared, so that readers do not take one another for the writer.
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._complete = True
        return True

    def read(self, limit: int) -> tuple[list[Record], int]:
        """Return the records that follow what is drained, about `limit` bytes of them, and where they end.

        What is damaged is set aside on the way. Nothing is returned for a record that is still being written.
        """
        size = self.size()
        while size > self.drained:
            data = os.pread(self._file, min(limit, size - self.drained), self.drained)
            records, end = frames(data)
            if not records and len(data) < min(size - self.drained, _LARGEST_FRAME):
                # The next record alone is larger than the limit.
                records, end = frames(os.pread(self._file, _LARGEST_FRAME, self.drained), at_most=1)
            if records:
                return records, self.drained + end
            if not self._pass_over_damage():
                break
            size = self.size()
        return [], self.drained

    def is_finished(self) -> bool:
        """Whether all that will ever be in it is drained."""
        # In this order: what was written before the lock went is seen afterwards.
        return self.is_complete() and self.drained >= self.size()

    def remove(self) -> None:
        """Delete the segment."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _pass_over_damage(self) -> bool:
        """Set aside what is no frame, up to the next one that is; False if it may become one."""
        complete = self.is_complete()
        data = os.pread(self._file, _WINDOW, self.drained)
        if not data or frames(data)[0]:
            return True  # it was being cut off, or written
        found = next_frame(data)
        if not complete and (found is None or self._suspect != self.drained):
            # Only damage has a sound frame behind it. It is looked at twice, since a write may be seen half done.
            self._suspect = self.drained
            return False
        # A frame that the window's end cuts may begin in its last part.
        cut = len(data) == _WINDOW
        gap = found if found is not None else len(data) - (_LARGEST_FRAME if cut else 0)
        self._set_aside(data[:gap])
        self.drained += gap
        return True

    def _set_aside(self, gap: bytes) -> None:
        """Keep for people what is not a record: a tail that a crash cut short, or damage to the disk."""
        path = self.path.with_suffix(f".{self.drained}.damaged")
        with contextlib.suppress(OSError):  # a full disk must not keep the records after it from Postgres
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, gap)
            finally:
                os.close(file)
        log.error("%s: %d bytes from byte %d on are no record; kept as %s", self.path.name, len(gap), self.drained, path)
