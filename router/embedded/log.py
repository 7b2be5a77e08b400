"""The server's log file: appended to by Postgres, bounded at each start, quoted in errors."""

from __future__ import annotations

import os
from pathlib import Path

from router.embedded.accounts import open_private

LOG = "postgres.log"
#: A log that has grown beyond this is put aside at the next start, replacing the one put aside before.
MOST_BYTES = 8 * 1024 * 1024
TAIL_LINES = 15


class Log:
    """The log of one data directory, opened for appending."""

    def __init__(self, data_dir: Path) -> None:
        """Open the log, putting it aside first if it is too big; OSError if that is impossible."""
        self.path = data_dir / LOG
        if self.path.exists() and self.path.stat().st_size > MOST_BYTES:
            self.path.replace(self.path.with_suffix(".log.1"))
        self._descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._beginning = 0
        self.begin()

    def fileno(self) -> int:
        """The descriptor to write to."""
        return self._descriptor

    def begin(self) -> None:
        """Let `tail` quote nothing older than now."""
        self._beginning = os.fstat(self._descriptor).st_size

    def tail(self) -> str:
        """The last lines written since `begin`."""
        size = os.fstat(self._descriptor).st_size
        start = max(self._beginning, size - 16_384)
        text = os.pread(self._descriptor, size - start, start).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def close(self) -> None:
        """Close this process's descriptor; the server keeps its own."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def tells_of_full_disk(tail: str) -> bool:
    """Whether Postgres or initdb gave a full disk, or a used-up quota, as its reason."""
    return any(words in tail for words in ("No space left on device", "Check free disk space", "Disk quota exceeded"))
