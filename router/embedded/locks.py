"""The two locks of a data directory, both `flock`s, which the kernel releases however their holder ends.

`lock` belongs to the one process that may start and stop the server, and holds its pid for the error message
of the next one. `postgres.lock` is taken by that process and *inherited* by every program it runs on the
data: a lock taken on an inherited descriptor is released only when the last process holding it is gone. So
whoever gets `postgres.lock` knows that no postmaster, backend or initdb of a previous owner is left, without
trusting any pid. The files are never removed: two processes could otherwise lock two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

from router.embedded.accounts import open_private

OWNER_LOCK = "lock"
SERVER_LOCK = "postgres.lock"

#: How often a lock held by somebody else is tried again; `flock` has no timeout of its own.
RETRY_S = 0.01


class FileLock:
    """An exclusive lock on a file, held until `close` and until every process that inherited it has ended."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it for its owner only; OSError if that is impossible."""
        self.path = path
        self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        _open_locks.add(self)

    def fileno(self) -> int:
        """The descriptor that holds the lock."""
        return self._descriptor

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Take the lock, waiting at most `timeout_s` for another holder; whether it was taken."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(RETRY_S)

    def write_pid(self) -> None:
        """Note this process as the holder."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def read_pid(self) -> int | None:
        """The process noted as the holder; None if there is none."""
        try:
            return int(os.pread(self._descriptor, 32, 0))
        except ValueError:
            return None

    def close(self) -> None:
        """Let go of the lock in this process; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_forked_child() -> None:
    # A lock is the process's that took it: a worker forked from it must not hold on to it after its death.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_forked_child)
