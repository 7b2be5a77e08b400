"""One start of the server, from the files to the first answer.

The steps, each of which may end in an error of the tree: take the server's lock, ending what an owner that died may
have left; create the cluster, if there is none; start Postgres under its guardian on a free port; wait until its own
pid file says `ready`, watching that it has not ended; connect; make sure of database and roles; record the addresses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from router.embedded import cluster, predecessor, roles
from router.embedded.accounts import Account, account_for
from router.embedded.binaries import Binaries
from router.embedded.errors import (
    CannotDropPrivileges,
    DataDirectoryUnusable,
    DiskFull,
    StartFailed,
    os_errors_explained,
)
from router.embedded.locks import SERVER_LOCK, FileLock
from router.embedded.log import Log, tells_of_full_disk
from router.embedded.ports import HOST, candidates
from router.embedded.process import GuardedProcess, Shutdown
from router.embedded.record import ServerRecord, read_record, server_record, write_record

#: How often the server's pid file is looked at while it starts; its end is noticed at once all the same.
READINESS_INTERVAL_S = 0.005
#: How long each step after the fast shutdown may take.
HARSHER_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What one start needs to know; the data directory must be owned by this process throughout."""

    data_dir: Path
    binaries: Binaries
    #: Server settings for the command line, which win over every file.
    settings: Mapping[str, str]
    #: Seconds until the server must answer, crash recovery included.
    timeout_s: float

    @property
    def pgdata(self) -> Path:
        """The cluster's directory."""
        return self.data_dir / cluster.PGDATA

    def run(self, preferred_port: int | None) -> tuple[GuardedProcess, ServerRecord]:
        """Start the server and return it once it answers; EmbeddedPostgresError, after which nothing runs, if not."""
        with os_errors_explained(self.data_dir):
            account = account_for(self.data_dir, self.pgdata)
            log = Log(self.data_dir)
            try:
                server_lock = FileLock(self.data_dir / SERVER_LOCK)
                try:
                    predecessor.finish(server_lock, self.data_dir, self.pgdata)
                    self._prepare(account, log, server_lock)
                    started = self._serve(account, log, server_lock, preferred_port)
                finally:
                    # The server holds it now; closing it here lets it go when the server's last process ends.
                    server_lock.close()
                return started
            finally:
                log.close()

    def _prepare(self, account: Account | None, log: Log, server_lock: FileLock) -> None:
        cluster.remove_leftovers(self.data_dir)
        if not cluster.exists(self.data_dir):
            sync = self.settings.get("fsync", "on") != "off"
            cluster.create(self.data_dir, self.binaries, account, log, server_lock.fileno(), sync=sync)
        cluster.check(self.data_dir, self.binaries, account)
        cluster.configure(self.data_dir)

    def _serve(
        self, account: Account | None, log: Log, server_lock: FileLock, preferred_port: int | None
    ) -> tuple[GuardedProcess, ServerRecord]:
        credentials = cluster.credentials_of(self.data_dir)
        deadline = time.monotonic() + self.timeout_s
        if preferred_port is None:
            preferred_port = last_port(self.data_dir)
        for port in candidates(preferred_port):
            log.begin()
            process = self._spawn(port, account, log, server_lock)
            try:
                pid = self._await_ready(process, deadline, log)
                if pid is None:
                    continue  # somebody took the port after it was found free
                with roles.connect(port, credentials, deadline - time.monotonic()) as connection:
                    roles.ensure(connection, credentials)
                record = server_record(port, pid, credentials)
                write_record(self.data_dir, record)
            except psycopg.Error as error:
                shut_down(process, HARSHER_STEP_S)
                cause = f"it was ready, but did not do as asked ({str(error).strip()})"
                raise StartFailed(self.data_dir, cause, log.tail()) from error
            except BaseException:
                shut_down(process, HARSHER_STEP_S)
                raise
            return process, record
        raise StartFailed(self.data_dir, f"every port tried on {HOST} was taken by others", log.tail())

    def _spawn(self, port: int, account: Account | None, log: Log, server_lock: FileLock) -> GuardedProcess:
        settings = {
            **self.settings,
            "listen_addresses": HOST,
            "port": str(port),
            # Their paths are limited to 107 bytes, and a data directory may be anywhere.
            "unix_socket_directories": "",
            "log_destination": "stderr",
            "logging_collector": "off",
        }
        argv = [str(self.binaries.postgres), "-D", str(self.pgdata)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return GuardedProcess(
            argv,
            account=account,
            needs=[*self.binaries.needs(), (self.pgdata, os.R_OK | os.W_OK | os.X_OK)],
            cwd=self.pgdata,
            log_fd=log.fileno(),
            kept_fd=server_lock.fileno(),
        )

    def _await_ready(self, process: GuardedProcess, deadline: float, log: Log) -> int | None:
        """Wait until the server takes connections, and return its pid; None if it ended because its port was taken."""
        while not process.ended.wait(READINESS_INTERVAL_S):
            pid = process.pid
            if pid is not None and predecessor.status_of(self.pgdata, pid) == "ready":
                return pid
            if time.monotonic() >= deadline:
                cause = f"it took no connections within {self.timeout_s:g} s"
                raise StartFailed(self.data_dir, cause, log.tail())
        if process.failure is not None:
            step, cause = process.failure
            raise CannotDropPrivileges(cause) if step == "account" else StartFailed(self.data_dir, cause, log.tail())
        tail = log.tail()
        if "could not create any TCP/IP sockets" in tail:
            return None
        if tells_of_full_disk(tail):
            raise DiskFull(self.data_dir, "Postgres ended because the disk is full")
        how = "its guardian was killed" if process.status is None else f"it ended with status {process.status}"
        raise StartFailed(self.data_dir, how, tail)


def last_port(data_dir: Path) -> int | None:
    """The port of the last server, if one is recorded."""
    try:
        last = read_record(data_dir)
    except DataDirectoryUnusable:
        return None  # a broken record is about to be written anew
    return None if last is None else last.port


def shut_down(process: GuardedProcess, timeout_s: float) -> None:
    """End a server: a fast shutdown for `timeout_s`, then an immediate one, then SIGKILL."""
    try:
        for how, patience_s in (
            (Shutdown.FAST, timeout_s),
            (Shutdown.IMMEDIATE, HARSHER_STEP_S),
            (Shutdown.KILL, HARSHER_STEP_S),
        ):
            process.shut_down(how)
            if process.ended.wait(patience_s):
                return
    finally:
        process.close()  # if the wait was interrupted, the guardian goes on alone
