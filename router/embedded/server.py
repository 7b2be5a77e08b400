"""The server's life: one owner starts it, watches it, restarts it, and stops it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

from router.embedded import predecessor
from router.embedded.binaries import Binaries, locate
from router.embedded.errors import DataDirectoryInUse, NotStarted, os_errors_explained
from router.embedded.launch import HARSHER_STEP_S, Launch, shut_down
from router.embedded.locks import OWNER_LOCK, SERVER_LOCK, FileLock
from router.embedded.process import GuardedProcess
from router.embedded.record import ServerRecord

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class EmbeddedPostgres:
    """A Postgres of our own in one data directory, for one owning process at a time. Safe to share among threads."""

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] = _NO_SETTINGS,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Name the directory; nothing is touched before `start`.

        `settings` override server settings on its command line; with `fsync=off`, made for tests, a new
        cluster is not written through to disk either. `start_timeout_s` bounds the wait for an answer, crash
        recovery included.
        """
        self.data_dir = Path(os.path.realpath(data_dir))
        self._settings = dict(settings)
        self._start_timeout_s = start_timeout_s
        self._mutex = threading.RLock()
        self._owner_lock: FileLock | None = None
        self._owner_pid: int | None = None
        self._process: GuardedProcess | None = None
        self._record: ServerRecord | None = None

    @property
    def url(self) -> str:
        """The application's database, as its owner; still the last server's after its end. NotStarted before."""
        return self.record.url

    @property
    def analyst_url(self) -> str:
        """The application's database, as the read-only `bandit_analyst`. NotStarted before the first start."""
        return self.record.analyst_url

    @property
    def record(self) -> ServerRecord:
        """Port, pid and addresses of the running or last server. NotStarted before the first start."""
        if self._record is None:
            raise NotStarted
        return self._record

    def start(self) -> None:
        """Own the data directory and have a server answer in it; does nothing if one does already.

        Raises an EmbeddedPostgresError, after which nothing runs and nothing is owned.
        """
        with self._mutex:
            if self.is_running():
                return
            self.stop()
            binaries = locate()
            with os_errors_explained(self.data_dir):
                self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._own()
            try:
                self._launch(binaries)
            except BaseException:
                self._disown()
                raise

    def restart(self, stop_timeout_s: float = 10.0) -> None:
        """Stop the server, if it still runs, and start it again, on the same port if that is free.

        The data directory stays owned in between; if the start fails, an EmbeddedPostgresError is raised,
        nothing runs, and `restart` may be called again.
        """
        with self._mutex:
            if self._owner_lock is None:
                self.start()
                return
            self._end_process(stop_timeout_s)
            self._launch(locate())

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server and let go of the data directory; does nothing if nothing is owned.

        A fast shutdown, which loses nothing, is given `timeout_s`; then an immediate one, which the next
        start recovers from, and at last SIGKILL.
        """
        with self._mutex:
            if self._owner_lock is None:
                return
            try:
                self._end_process(timeout_s)
            finally:
                self._disown()

    def is_running(self) -> bool:
        """Whether the server has been started and not been seen to end."""
        process = self._process
        return process is not None and self._owner_pid == os.getpid() and process.is_running()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the server to end, without polling; whether it has (True as well if there is none)."""
        process = self._process
        return process is None or not self.is_running() or process.ended.wait(timeout_s)

    def __enter__(self) -> EmbeddedPostgres:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _own(self) -> None:
        lock = FileLock(self.data_dir / OWNER_LOCK)
        try:
            if not lock.acquire():
                raise DataDirectoryInUse(self.data_dir, lock.read_pid())
            lock.write_pid()
        except BaseException:
            lock.close()
            raise
        self._owner_lock = lock
        self._owner_pid = os.getpid()

    def _disown(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
        if self._owner_lock is not None:
            self._owner_lock.close()
            self._owner_lock = None

    def _launch(self, binaries: Binaries) -> None:
        preferred = None if self._record is None else self._record.port
        launch = Launch(self.data_dir, binaries, self._settings, self._start_timeout_s)
        self._process, self._record = launch.run(preferred)

    def _end_process(self, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None or self._owner_pid != os.getpid():
            return
        shut_down(process, timeout_s)
        if process.status != 0:
            # Killed, or left by its guardian: its children notice, and hold the lock until they are gone.
            predecessor.await_end(self.data_dir / SERVER_LOCK, HARSHER_STEP_S)
