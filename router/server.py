"""The composition root: builds one router process out of its parts, starts it and drains it."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from router.access.guard import Guard, GuardedServer
from router.budgets import Budgets
from router.clocks import Clocks
from router.credentials import Credentials
from router.decide import Decider
from router.denials import DenialLog
from router.deployment import Deployment, find_deployment, is_still
from router.feedback import Feedback
from router.feedback_spool import FeedbackSpool
from router.gate import Gate, stop_listening
from router.ingest import Ingest
from router.interceptors import InterceptingServer, abort
from router.journal import Journal
from router.listening import Bounds, listen, new_server
from router.registry import Registry
from router.reporting.worker import WorkerReport
from router.services.experiments import ExperimentService
from router.services.interleave import InterleaveService
from router.services.judge import JudgeService
from router.services.posteriors import PosteriorService
from router.services.routing import RouterService
from router.services.shadow import ShadowService
from router.services.watchers import Watchers
from router.settings import WorkerSettings
from router.sticky import StickyUnits
from router.storage.access import AccessReader
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import StorageUnavailableError
from router.storage.reader import Announcer, PolicyReader
from router.storage.sticky import StickyTable
from router.storage.writer import EventWriter
from router.tasks import cancelled
from router.telemetry.answered import Answered
from router.telemetry.calls import Calls
from router.telemetry.drawn import Drawn
from router.telemetry.tallies import Names, Sample
from router.tokens import TokenCodec
from router.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    interleave_pb2,
    interleave_pb2_grpc,
    judge_pb2,
    judge_pb2_grpc,
    posteriors_pb2,
    posteriors_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
    shadow_pb2,
    shadow_pb2_grpc,
)

log = logging.getLogger(__name__)

_DRAIN_S = 10.0
_GOODBYE_S = 1.0
#: A server stops once no call has come for this long, and holds calls up for this long at most.
_QUIET_S = 0.03
#: Keys are waited for so long at the start.
_KEYS_S = 15.0
_HELD_UP_S = 0.25
_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (routing_pb2, "RouterService"),
        (experiments_pb2, "ExperimentService"),
        (posteriors_pb2, "PosteriorService"),
        (interleave_pb2, "InterleaveService"),
        (judge_pb2, "JudgeService"),
        (shadow_pb2, "ShadowService"),
    )
)


class Server:
    """One router process. The schema must be at this version's revision."""

    def __init__(self, settings: WorkerSettings, clocks: Clocks | None = None, bounds: Bounds | None = None) -> None:
        self._settings = settings
        self._clocks = clocks or Clocks()
        self._bounds = bounds or Bounds()
        self._closers = contextlib.AsyncExitStack()
        #: Set once another deployment has taken the place of the one this process started for: it should start over.
        self.obsolete = asyncio.Event()
        self.port = 0
        #: What signs and opens decision ids, once it has started.
        self.codec: TokenCodec | None = None
        self._report: WorkerReport | None = None

    def samples(self) -> Iterable[Sample]:
        """Return what the metrics say of this process, as of now."""
        return () if self._report is None else self._report.samples()

    async def start(self) -> None:
        """Answer calls from here on; `port` holds the port. Raises StorageError or OSError if it cannot."""
        settings, clocks = self._settings, self._clocks
        async with contextlib.AsyncExitStack() as starting:
            database = Database(DatabaseUrl.parse(settings.database_url))
            starting.push_async_callback(database.dispose)
            deployment = await find_deployment(database, Path(settings.spool_dir))
            codec, spool = deployment.codec, deployment.directory
            self.codec = codec

            announcer = Announcer(database)
            announcing = asyncio.create_task(announcer.run(), name="announcer")
            starting.push_async_callback(cancelled, announcing)

            assignments = StickyTable(database)
            starting.push_async_callback(assignments.close)
            with contextlib.suppress(StorageUnavailableError):  # it connects again once there is a unit
                await assignments.open()
            sticky = StickyUnits(assignments, lambda: clocks.now_us() / 1e6)
            budgets = Budgets(clocks.now_us)
            registry = Registry(PolicyReader(database, lambda: announcer.pid), clocks.monotonic, sticky, budgets)
            if deployment.saved is not None:
                await self._start_from(deployment, database, registry, starting)
            await registry.start()
            starting.push_async_callback(registry.stop)

            def changed(incarnations: Iterable[int]) -> None:
                registry.wake(incarnations)
                announcer.announce(incarnations)

            journal = Journal(spool)
            starting.callback(journal.close)
            feedback_spool = FeedbackSpool(spool)
            starting.callback(feedback_spool.close)
            ingest = Ingest(EventWriter(database), feedback_spool, changed)
            ingest.start()
            starting.push_async_callback(ingest.stop)

            guard = await self._follow_keys(deployment, database, starting)
            server = new_server(settings, self._bounds)
            gate = Gate(server)
            gated = cast(grpc.aio.Server, gate)
            names_seen = Names()
            calls, drawn, answered = Calls(), Drawn(names_seen), Answered(names_seen)
            guarded = gated if guard is None else cast(grpc.aio.Server, GuardedServer(gated, guard, abort, calls.method))
            registrar = cast(grpc.aio.Server, InterceptingServer(guarded, calls, guard))
            decider = Decider(registry, sticky, codec, journal, clocks.now_us, clocks.rng, drawn)
            feedback = Feedback(registry, codec, clocks.now_us)
            routing = RouterService(decider, feedback, ingest, answered)
            self._report = WorkerReport(
                names_seen, calls, drawn, answered, registry, budgets, ingest, journal, feedback_spool, database
            )
            routing_pb2_grpc.add_RouterServiceServicer_to_server(
                cast(routing_pb2_grpc.RouterServiceServicer, routing), registrar
            )
            experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(
                ExperimentService(database, registry, announcer.announce, clocks.now_us), registrar
            )
            watchers = Watchers(database)
            posteriors_pb2_grpc.add_PosteriorServiceServicer_to_server(
                PosteriorService(database, watchers, clocks.now_us), registrar
            )
            interleave_pb2_grpc.add_InterleaveServiceServicer_to_server(
                InterleaveService(database, registry, codec, clocks.now_us, clocks.rng), registrar
            )
            shadow_pb2_grpc.add_ShadowServiceServicer_to_server(
                ShadowService(database, codec, budgets, announcer.announce, clocks.now_us), registrar
            )
            judge_pb2_grpc.add_JudgeServiceServicer_to_server(JudgeService(database, clocks.now_us), registrar)
            health = HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(health, gated)
            names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
            add_reflection(reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME)), guarded)
            self.port = listen(server, settings)
            for name in ("", *_SERVICES):
                await health.set(name, health_pb2.HealthCheckResponse.SERVING)
            await server.start()
            starting.push_async_callback(_drained, server, gate, self.port, health, ingest)
            # Before calls under way are waited for: streams have no end of their own.
            starting.push_async_callback(watchers.close)
            self._closers = starting.pop_all()

    async def stop(self) -> None:
        """Refuse new calls, finish those under way, commit or spool what they left, and let go."""
        await self._closers.aclose()

    async def _follow_keys(
        self, deployment: Deployment, database: Database, starting: contextlib.AsyncExitStack
    ) -> Guard | None:
        """Keep signing keys up to date and, where calls need one, API keys: those are known before the first call."""
        clocks, guard = self._clocks, None
        if self._settings.keys:
            denials = DenialLog(database, clocks.monotonic)
            starting.push_async_callback(cancelled, asyncio.create_task(denials.run(), name="denials"))
            guard = Guard(clocks.monotonic, clocks.now_us, denials)
            if deployment.saved is not None:
                guard.follow(deployment.saved.api_keys)
        credentials = Credentials(
            AccessReader(database), deployment.deployment_id, deployment.codec, guard, clocks.monotonic, clocks.now_us
        )
        starting.push_async_callback(cancelled, asyncio.create_task(credentials.run(), name="credentials"))
        if deployment.saved is None:
            try:
                await asyncio.wait_for(credentials.read.wait(), _KEYS_S)
            except TimeoutError:
                raise StorageUnavailableError("Postgres went away before its keys were read") from None
        return guard

    async def _start_from(
        self, deployment: Deployment, database: Database, registry: Registry, starting: contextlib.AsyncExitStack
    ) -> None:
        """Serve the policies of the saved copy until Postgres is back."""
        saved = deployment.saved
        assert saved is not None  # noqa: S101 - asked before
        age = datetime.fromtimestamp(self._clocks.now_us() / 1e6, UTC) - saved.as_of
        registry.seed(saved.experiments, max(0.0, age.total_seconds()))

        async def watch() -> None:
            if not await is_still(database, deployment):
                self.obsolete.set()

        starting.push_async_callback(cancelled, asyncio.create_task(watch(), name="deployment"))


async def _drained(server: grpc.aio.Server, gate: Gate, port: int, health: HealthServicer, ingest: Ingest) -> None:
    await health.enter_graceful_shutdown()
    stop_listening(port)
    await gate.close(_QUIET_S, _HELD_UP_S)
    stopping = asyncio.create_task(server.stop(_DRAIN_S + _GOODBYE_S))
    # Replies must come after the message that tells clients to connect again.
    await asyncio.sleep(_QUIET_S)
    gate.open()
    await asyncio.wait([stopping], timeout=_DRAIN_S)
    if not stopping.done():
        # Rewards that Postgres still holds up: their clients are told to go elsewhere, rather than cut off.
        await ingest.stop(timeout_s=0)
    await stopping
