"""The supervisor: holds the port and the embedded Postgres, and keeps the workers and the keeper running.

Protocol
    It binds the port exclusively, so that a second router is refused, and only then permits sharing: workers bind the
    same port with SO_REUSEPORT and the kernel spreads connections over them. It never listens itself.

    A child that dies is started again, after a pause that doubles while it keeps dying. A child notices the
    supervisor's death by the end of its standard input, drains and ends. Postgres, where it is ours, is restarted too.

    While a database that is not ours is away, the service starts from the saved copy of it, if there is one of the schema
    that this version needs, and the schema is seen to once the database is back.

    SIGTERM and SIGINT: the workers drain, then the keeper stores what they left, then Postgres stops, then the exit status
    is 0. SIGHUP: every child in turn is replaced by a new one, which answers before the old one drains.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from router.child import Child, Slot
from router.embedded import EmbeddedPostgres, EmbeddedPostgresError
from router.settings import Address, ServeSettings, SettingsError, StartError, WorkerSettings
from router.storage.connecting import CONNECTIONS_PER_WORKER, DatabaseUrl
from router.storage.errors import StorageError, StorageUnavailableError
from router.storage.migrate import migrate, needed_revision, schema_state
from router.telemetry.reports import Reports
from router.tls import TlsFiles

if TYPE_CHECKING:
    from router.endpoint import Endpoint

log = logging.getLogger(__name__)

_POSTGRES_CHECK_S = 0.25
_POSTGRES_PAUSE_S = 0.2
_MIGRATE_AGAIN_S = 2.0
#: For analysts, commands and administrators.
_OTHER_CONNECTIONS = 50


def prepared(
    settings: ServeSettings,
    announce: Callable[[str], None],
    stack: contextlib.ExitStack,
    waiting: list[Child],
    reports: Reports,
) -> "Supervision":
    """Hold the ports, and have a database, or what will do until there is one. Blocks: nothing else runs yet."""
    listener = stack.enter_context(hold_port(settings.address))
    endpoint = _endpoint(settings, reports, stack) if settings.metrics_address is not None else None
    postgres: EmbeddedPostgres | None = None
    spool_dir = settings.data_dir / "spool"
    if settings.database_url is None:
        # The keeper, and the one that takes another's place, connect as a worker does.
        processes = settings.workers + 2
        connections = _OTHER_CONNECTIONS + processes * CONNECTIONS_PER_WORKER
        postgres = stack.enter_context(EmbeddedPostgres(settings.data_dir, settings={"max_connections": str(connections)}))
        url = DatabaseUrl.parse(postgres.url)
        migrate_logged(url)
        migrated = True
    else:
        _make_directory(settings.data_dir)
        url = DatabaseUrl.parse(settings.database_url)
        migrated = _migrated_or_saved(url, spool_dir)
    tls = settings.exposure.tls or TlsFiles("", "")
    worker = WorkerSettings(
        host=settings.address.host,
        port=listener.getsockname()[1],
        database_url=url.url,
        spool_dir=str(spool_dir),
        log_level=settings.log_level,
        retention_days=settings.retention_days,
        keys=settings.exposure.keys,
        tls_cert=tls.cert,
        tls_key=tls.key,
        tls_client_ca=tls.client_ca,
    )
    return Supervision(worker, waiting, postgres, announce, endpoint, migrated=migrated)


def _endpoint(settings: ServeSettings, reports: Reports, stack: contextlib.ExitStack) -> "Endpoint":
    """Return what serves metrics and health, on a socket that is bound."""
    from router.endpoint import Endpoint  # most services have none

    address = settings.metrics_address
    assert address is not None  # noqa: S101 - asked before
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        bound = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise SettingsError(
            f"--metrics-listen {address}: cannot bind: {error.strerror}. If another program uses the port, choose another;"
            " port 0 chooses a free one"
        ) from error
    tls = settings.exposure.tls
    return Endpoint(reports, settings.workers, stack.enter_context(bound), tls.cert if tls is not None else "")


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


def migrate_logged(url: DatabaseUrl) -> None:
    """As `migrate`, and say what was done."""
    before = migrate(url)
    if before.pending:
        log.info("database migrated from %s to %s", before.current or "empty", before.needed)


def _migrated_or_saved(url: DatabaseUrl, spool_dir: Path) -> bool:
    """Migrate; False if that has to wait, and the service can do without it until then."""
    try:
        migrate_logged(url)
        return True
    except StorageUnavailableError as error:
        with contextlib.suppress(StorageError):
            if not schema_state(url).pending:
                log.warning("Postgres cannot write just now (%s), and nothing has to be migrated", error)
                return False
        from router.storage.saved import SavedCopyError, find_copy  # what a start otherwise has no use for

        try:
            copy = find_copy(spool_dir, url.shown, needed_revision())
        except SavedCopyError as missing:
            raise StartError(f"{error}; cannot start without it: {missing}") from error
        log.error("%s: starting from the saved copy in %s", error, copy.parent)
        return False


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"--data-dir {path}: cannot be made: {error.strerror}") from error


class Supervision:
    """The running service, of the workers and, last, the keeper that wait for their settings."""

    def __init__(
        self,
        settings: WorkerSettings,
        waiting: list[Child],
        postgres: EmbeddedPostgres | None,
        announce: Callable[[str], None],
        endpoint: "Endpoint | None",
        *,
        migrated: bool,
    ) -> None:
        self._settings = settings
        self._postgres = postgres
        self._announce = announce
        self._endpoint = endpoint
        self._migrated = migrated
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        *workers, keeper = (Slot(child.role, lambda: self._settings, child) for child in waiting)
        self._workers, self._keeper = workers, keeper

    async def run(self) -> int:
        """Run until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        async with self._endpoint or contextlib.nullcontext():
            await self._run()
        return 0

    async def _run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            tasks.append(asyncio.create_task(self._serve()))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([tasks[0], stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if tasks[0].done():
                tasks[0].result()
            log.info("stopping: the workers drain, then the keeper")
        finally:
            if self._endpoint is not None:
                self._endpoint.stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(slot.stop() for slot in self._workers))
            await self._keeper.stop()

    async def _serve(self) -> None:
        """Start every child, then see to them until cancelled."""
        slots = [*self._workers, self._keeper]
        *workers, keeper = list(zip(slots, [await slot.spawn() for slot in slots], strict=True))
        for slot, child in workers:
            await self._kept(slot, child)
        address, count = Address(self._settings.host, self._settings.port), len(self._workers)
        metrics = "" if self._endpoint is None else f", metrics on {self._endpoint.address}"
        self._announce(f"bandit-router serving on {address} with {count} worker{'s' * (count > 1)}{metrics}")
        # Workers journal and spool to disk: nothing is lost until it has begun.
        await self._kept(*keeper)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_children())
            if self._postgres is not None:
                tasks.create_task(self._keep_postgres(self._postgres))
            if not self._migrated:
                tasks.create_task(self._migrate_later())

    async def _kept(self, slot: Slot, child: Child) -> None:
        """Wait until a first child has started; StartError if it cannot."""
        if not await child.ready():
            raise StartError(f"a {child.role} cannot start: {child.failure}")
        slot.keep(child)

    async def _renew_children(self) -> None:
        """Replace every child in turn, whenever asked to."""
        while True:
            await self._renew.wait()
            self._renew.clear()
            log.info("every worker is replaced in turn, then the keeper")
            for slot in (*self._workers, self._keeper):
                if not await slot.replace():
                    log.error("the others stay as they are")
                    break
            else:
                log.info("every worker and the keeper are new")

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
                await asyncio.sleep(_POSTGRES_PAUSE_S)
                continue
            url = DatabaseUrl.parse(postgres.url).url
            if url != self._settings.database_url:
                # Its port was taken meanwhile: the children must hear the new address.
                self._settings = replace(self._settings, database_url=url)
                self._renew.set()

    async def _migrate_later(self) -> None:
        """See to the schema as soon as Postgres is back."""
        said = ""
        while True:
            await asyncio.sleep(_MIGRATE_AGAIN_S)
            try:
                await asyncio.to_thread(migrate_logged, DatabaseUrl.parse(self._settings.database_url))
            except StorageUnavailableError:
                continue
            except StorageError as error:
                if str(error) != said:
                    log.error("Postgres is back, and cannot be used: %s", error)
                said = str(error)
                continue
            log.info("Postgres is back, and its schema is the one that is needed")
            return
