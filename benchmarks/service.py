"""The processes under measurement: `bandit-router serve` with its own Postgres on disk, and the echo beside it."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks import processes
from benchmarks.h2 import Connection, ConnectionLostError
from benchmarks.load import MeasurementError
from router.embedded import read_record

_START_S = 60.0
_STOP_S = 60.0
_SERVING = re.compile(r"serving on \S+?:(\d+)\b")
_LOG_LINES = 15
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that answers on a port of the loopback address."""

    name: str
    port: int
    process: subprocess.Popen[str]
    #: Where its Postgres is; empty for the echo.
    database_url: str = ""

    def connect(self, methods: Sequence[str], connections: int = 1) -> list[Connection]:
        """Open connections; if it has several workers, at least one to each."""
        workers = self.workers()
        for _ in range(_ATTEMPTS):
            opened = [Connection("127.0.0.1", self.port, methods) for _ in range(connections)]
            if connections < len(workers) or len(workers) == 1:
                return opened
            # The kernel picks a worker for each connection, and may leave one out.
            if {processes.owner_of_connection(workers, self.port, c.local_port) for c in opened} == set(workers):
                return opened
            for connection in opened:
                connection.close()
        raise MeasurementError(f"{connections} connections do not reach each of {len(workers)} workers")

    def workers(self) -> list[int]:
        """Process ids of what answers calls."""
        roles = processes.tree(self.process.pid)
        found = sorted(pid for pid, role in roles.items() if role in ("worker", "echo"))
        # The process that starts several echoes answers none itself.
        return [pid for pid in found if pid != self.process.pid] or found


class Pool:
    """Connections to a server, which may be left alone between measurements."""

    def __init__(self, server: Server, methods: Sequence[str], count: int) -> None:
        self._server = server
        self._methods = methods
        self._count = count
        self._open: list[Connection] = []

    def connections(self) -> list[Connection]:
        """Return connections that work: a server ends those whose pings nobody answered."""
        try:
            for connection in self._open:
                connection.receive()
                connection.flush()
        except ConnectionLostError:
            self.close()
        if not self._open:
            self._open = self._server.connect(self._methods, self._count)
        return self._open

    def close(self) -> None:
        """Close them."""
        for connection in self._open:
            connection.close()
        self._open = []


def cpu_meter(servers: Sequence[Server]) -> processes.CpuMeter:
    """A meter of what these servers use."""
    return processes.CpuMeter(server.process.pid for server in servers)


@contextlib.contextmanager
def router(directory: Path, *, workers: int = 1, database_url: str | None = None) -> Iterator[Server]:
    """Run `bandit-router serve` on a free port until the end of the block.

    Its data is in `directory`; without `database_url` it runs its own Postgres there, as users get it: fsync on. Raises
    MeasurementError if it does not start or does not end well.
    """
    directory.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BANDIT_ROUTER_")}
    if database_url is not None:
        environment["BANDIT_ROUTER_DATABASE_URL"] = database_url
    log = directory / "service.log"
    command = [sys.executable, "-m", "router.cli", "serve", "--listen", "127.0.0.1:0", "--workers", str(workers)]
    command += ["--data-dir", str(directory / "data"), "--log-level", "warning"]
    with log.open("a") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, start_new_session=True
        )
    try:
        found = _SERVING.search(_first_line(process))
        if found is None:
            raise MeasurementError("the router did not start; the end of its log:\n" + _end_of(log))
        if database_url is None:
            record = read_record(directory / "data")
            assert record is not None, "a router that serves has recorded its Postgres"
            database_url = record.url
        yield Server("router", int(found[1]), process, database_url)
        if process.poll() is not None:
            raise MeasurementError(f"the router ended with status {process.returncode}; its log:\n" + _end_of(log))
    finally:
        _stop(process, signal.SIGTERM)


@contextlib.contextmanager
def echo(mode: str = "aio", workers: int = 1) -> Iterator[Server]:
    """Run the echo on a free port until the end of the block."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "benchmarks.echo", "--mode", mode, "--workers", str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = _first_line(process).strip()
        if not line.isdigit():
            raise MeasurementError("the echo did not start")
        yield Server("echo", int(line), process)
    finally:
        _stop(process, signal.SIGTERM)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "asked for when it was started"
    readable, _, _ = select.select([process.stdout], [], [], _START_S)
    return process.stdout.readline() if readable else ""


def _stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    streams: list[IO[str] | None] = [process.stdin, process.stdout]
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            for pid in processes.tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    for stream in streams:
        if stream is not None:
            stream.close()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
