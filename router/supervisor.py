"""The supervisor: holds the port and the embedded Postgres, and keeps the workers running.

Protocol
    It binds the port exclusively, so that a second router is refused, and only then permits sharing: workers bind the
    same port with SO_REUSEPORT and the kernel spreads connections over them. It never listens itself.

    A worker that dies is started again, after a pause that doubles while it keeps dying. A worker notices the
    supervisor's death by the end of its standard input, drains and ends. Postgres, where it is ours, is restarted too.

    SIGTERM and SIGINT: the workers drain, then Postgres stops, then the exit status is 0.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from router.embedded import EmbeddedPostgres, EmbeddedPostgresError
from router.settings import Address, SettingsError, WorkerSettings
from router.storage.database import CONNECTIONS_PER_WORKER, DatabaseUrl
from router.storage.errors import StorageError
from router.storage.migrate import migrate

log = logging.getLogger(__name__)

_START_S = 60.0
_DRAIN_S = 25.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
#: A worker that served this long is healthy: its next death starts with the first pause again.
_HEALTHY_S = 30.0
_POSTGRES_CHECK_S = 0.25
#: For analysts, commands and administrators.
_OTHER_CONNECTIONS = 50


class StartError(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What `bandit-router serve` is told."""

    address: Address
    #: None runs the embedded Postgres in the data directory.
    database_url: str | None
    data_dir: Path
    workers: int
    log_level: str


def serve(settings: ServeSettings, announce: Callable[[str], None]) -> int:
    """Run until told to stop; `announce` is told the address once every worker answers. Returns the exit status.

    Raises StartError, SettingsError, StorageError or EmbeddedPostgresError if it cannot start.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(hold_port(settings.address))
        postgres: EmbeddedPostgres | None = None
        if settings.database_url is None:
            postgres = stack.enter_context(
                EmbeddedPostgres(
                    settings.data_dir,
                    settings={"max_connections": str(_OTHER_CONNECTIONS + settings.workers * CONNECTIONS_PER_WORKER)},
                )
            )
        else:
            _make_directory(settings.data_dir)
        url = DatabaseUrl.parse(postgres.url if postgres is not None else settings.database_url or "")
        before = migrate(url)
        if before.pending:
            log.info("database migrated from %s to %s", before.current or "empty", before.needed)
        worker = WorkerSettings(
            host=settings.address.host,
            port=listener.getsockname()[1],
            database_url=url.url,
            spool_dir=str(settings.data_dir / "spool"),
            log_level=settings.log_level,
        )
        return asyncio.run(_Supervision(worker, settings.workers, postgres, announce).run())


def hold_port(address: Address) -> socket.socket:
    """Return a socket that holds the port without listening, so that only its workers may share it."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    # For the bind alone: connections that clients of an earlier run left half closed do not keep the port.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((address.host, address.port))
    except OSError as error:
        holder.close()
        raise SettingsError(
            f"--listen {address}: cannot bind: {error.strerror}. If another program uses the port, stop it or choose"
            " another; port 0 chooses a free one"
        ) from error
    # After the bind: whoever binds next without being one of us is refused.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return holder


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"--data-dir {path}: cannot be made: {error.strerror}") from error


class _Worker:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.failure = ""

    @classmethod
    async def spawn(cls, settings: WorkerSettings) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "router.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C goes to the supervisor alone, which then drains the workers in order.
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - asked for above
        process.stdin.write(settings.to_json().encode() + b"\n")
        return cls(process)

    async def ready(self) -> bool:
        """Wait until it answers calls; False if it cannot."""
        assert self.process.stdout is not None  # noqa: S101 - asked for above
        try:
            async with asyncio.timeout(_START_S):
                line = (await self.process.stdout.readline()).decode().strip()
        except TimeoutError:
            self.failure = f"it did not answer within {_START_S:.0f} s"
            self.process.kill()
            return False
        if line.startswith("ready "):
            return True
        self.failure = line.removeprefix("failed ") or f"it ended with status {await self.process.wait()}"
        return False

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    async def ended(self) -> None:
        """Wait for its end, by force if it does not drain in time."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self.process.wait()
        except TimeoutError:
            log.error("worker %d did not drain within %.0f s and is killed", self.process.pid, _DRAIN_S)
            self.process.kill()
            await self.process.wait()


class _Supervision:
    """The running service."""

    def __init__(
        self, settings: WorkerSettings, count: int, postgres: EmbeddedPostgres | None, announce: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._count = count
        self._postgres = postgres
        self._announce = announce
        self._stop = asyncio.Event()
        self._workers: set[_Worker] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks: list[asyncio.Task[None]] = []
        try:
            first = await asyncio.gather(*(_Worker.spawn(self._settings) for _ in range(self._count)))
            self._workers.update(first)
            for worker in first:
                if not await worker.ready():
                    raise StartError(f"a worker cannot start: {worker.failure}")
            address = Address(self._settings.host, self._settings.port)
            self._announce(f"bandit-router serving on {address} with {self._count} worker{'s' * (self._count > 1)}")
            tasks = [asyncio.create_task(self._keep(worker)) for worker in first]
            if self._postgres is not None:
                tasks.append(asyncio.create_task(self._keep_postgres(self._postgres)))
            await self._stop.wait()
            log.info("stopping: %d workers drain", len(self._workers))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for worker in self._workers:
                worker.terminate()
            await asyncio.gather(*(worker.ended() for worker in self._workers))
        return 0

    async def _keep(self, worker: _Worker) -> None:
        """Start the worker again whenever it dies."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            status = await worker.process.wait()
            self._workers.discard(worker)
            if loop.time() - began > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            log.error("worker %d ended with status %d; another starts in %.1f s", worker.process.pid, status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            worker = await _Worker.spawn(self._settings)
            self._workers.add(worker)
            if await worker.ready():
                log.info("worker %d serves", worker.process.pid)
            else:
                log.error("worker %d cannot start: %s", worker.process.pid, worker.failure)

    async def _keep_postgres(self, postgres: EmbeddedPostgres) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_POSTGRES_CHECK_S)
            if postgres.is_running():
                continue
            log.error("the embedded Postgres ended; it is started again")
            try:
                await loop.run_in_executor(None, postgres.restart)
            except (EmbeddedPostgresError, StorageError) as error:
                log.error("the embedded Postgres cannot start: %s", error)
                await asyncio.sleep(_FIRST_PAUSE_S)
                continue
            if postgres.url != self._settings.database_url:
                # Its port was taken meanwhile: workers must hear the new address, so they are replaced one by one.
                self._settings = replace(self._settings, database_url=DatabaseUrl.parse(postgres.url).url)
                for worker in list(self._workers):
                    worker.terminate()
