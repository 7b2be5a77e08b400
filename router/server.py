"""The composition root: builds one router process out of its parts, starts it and drains it."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from router.decide import Decider
from router.feedback import Feedback
from router.ingest import Ingest
from router.interceptors import CallInterceptor
from router.journal import Journal
from router.registry import Registry
from router.services.experiments import ExperimentService
from router.services.posteriors import PosteriorService
from router.services.routing import RouterService
from router.settings import WorkerSettings
from router.sticky import StickyUnits
from router.storage.database import Database, DatabaseUrl
from router.storage.reader import Announcer, PolicyReader
from router.storage.sticky import StickyTable
from router.storage.token_keys import deployment_id, load_codec
from router.storage.writer import Writer
from router.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    posteriors_pb2,
    posteriors_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
)

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.so_reuseport", 1),  # workers share the port that the supervisor holds
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
)
_DRAIN_S = 10.0
_GOODBYE_S = 1.0
_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (routing_pb2, "RouterService"),
        (experiments_pb2, "ExperimentService"),
        (posteriors_pb2, "PosteriorService"),
    )
)


def _seeded_by_system() -> random.Random:
    # Draws arms and makes keys unique; secrets come from elsewhere.
    return random.Random(random.SystemRandom().getrandbits(256))  # noqa: S311


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks and the randomness of a process."""

    #: Microseconds since the epoch.
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    #: Seconds, never stepping back.
    monotonic: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=_seeded_by_system)


class Server:
    """One router process. The schema must be at this version's revision."""

    def __init__(self, settings: WorkerSettings, clocks: Clocks | None = None) -> None:
        self._settings = settings
        self._clocks = clocks or Clocks()
        self._closers = contextlib.AsyncExitStack()
        self.port = 0

    async def start(self) -> None:
        """Answer calls from here on; `port` holds the port. Raises StorageError or OSError if it cannot."""
        settings, clocks = self._settings, self._clocks
        async with contextlib.AsyncExitStack() as starting:
            database = Database(DatabaseUrl.parse(settings.database_url))
            starting.push_async_callback(database.dispose)
            codec = await load_codec(database)
            spool = Path(settings.spool_dir) / str(await deployment_id(database))

            announcer = Announcer(database)
            announcing = asyncio.create_task(announcer.run(), name="announcer")
            starting.push_async_callback(_cancelled, announcing)

            assignments = StickyTable(database)
            starting.push_async_callback(assignments.close)
            await assignments.open()
            sticky = StickyUnits(assignments, lambda: clocks.now_us() / 1e6)
            registry = Registry(PolicyReader(database), clocks.monotonic, sticky)
            await registry.start()
            starting.push_async_callback(registry.stop)

            def changed(incarnations: Iterable[int]) -> None:
                registry.wake(incarnations)
                announcer.announce(incarnations)

            ingest = Ingest(Writer(database), changed)
            ingest.start()
            starting.push_async_callback(ingest.stop)
            journal = Journal(spool, Writer(database), codec)
            journal.start()
            starting.push_async_callback(journal.stop)

            server = grpc.aio.server(interceptors=[CallInterceptor()], options=_OPTIONS)
            decider = Decider(registry, sticky, codec, journal, clocks.now_us, clocks.rng)
            feedback = Feedback(registry, codec, clocks.now_us)
            routing_pb2_grpc.add_RouterServiceServicer_to_server(RouterService(decider, feedback, ingest), server)
            experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(
                ExperimentService(database, registry, announcer.announce), server
            )
            posteriors_pb2_grpc.add_PosteriorServiceServicer_to_server(PosteriorService(database), server)
            health = HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(health, server)
            names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
            self.port = _listen(server, settings)
            for name in ("", *_SERVICES):
                await health.set(name, health_pb2.HealthCheckResponse.SERVING)
            await server.start()
            starting.push_async_callback(_drained, server, health, ingest)
            self._closers = starting.pop_all()

    async def stop(self) -> None:
        """Refuse new calls, finish those under way, commit and journal what they left, and let go."""
        await self._closers.aclose()


def _listen(server: grpc.aio.Server, settings: WorkerSettings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        return server.add_insecure_port(f"{host}:{settings.port}")
    except RuntimeError as error:
        raise OSError(f"cannot listen on {host}:{settings.port}: is another program using it?") from error


async def _drained(server: grpc.aio.Server, health: HealthServicer, ingest: Ingest) -> None:
    await health.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(_DRAIN_S + _GOODBYE_S))
    await asyncio.wait([stopping], timeout=_DRAIN_S)
    if not stopping.done():
        # Rewards that Postgres still holds up: their clients are told to go elsewhere, rather than cut off.
        await ingest.stop(timeout_s=0)
    await stopping


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
