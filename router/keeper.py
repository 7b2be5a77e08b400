"""The keeper: one process of a host that does in the background what must not take time from answering calls.

It drains the spool into Postgres, saves what routing needs for a start while Postgres is away, and makes partitions ahead.
One keeper of a deployment leads: it also moves ramps, and drops the days that are not kept any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from router.clocks import Clocks
from router.controllers import derive, discounting, ramp, snapshots
from router.controllers.derive import Deriver
from router.controllers.discounting import HourHand
from router.controllers.leader import Duty, Leader
from router.controllers.ramp import RampController
from router.controllers.snapshots import Historian
from router.controllers.vitals import EVERY_S, Vitals
from router.deployment import Deployment, find_deployment, is_still
from router.drain import Drainer
from router.reporting.keeper import KeeperReport
from router.settings import WorkerSettings
from router.sinks import DecisionSink, EventSink
from router.storage.database import Database, DatabaseUrl
from router.storage.election import Session
from router.storage.partitions import ensure_ahead
from router.storage.reader import Announcer, PolicyReader
from router.storage.retention import drop_expired
from router.storage.saver import Saver
from router.storage.times import day_of
from router.storage.token_keys import load_codec
from router.storage.writer import DecisionWriter, EventWriter
from router.tasks import cancelled
from router.telemetry.tallies import Sample

log = logging.getLogger(__name__)

#: How often partitions ahead are looked at, and how often the leader looks for days to drop, in seconds.
_AHEAD_S = 600.0
_RETENTION_S = 3600.0


class Keeper:
    """The background of one host. The schema must be at this version's revision once Postgres answers."""

    def __init__(self, settings: WorkerSettings, clocks: Clocks | None = None) -> None:
        self._settings = settings
        self._clocks = clocks or Clocks()
        self._closers = contextlib.AsyncExitStack()
        #: Set once another deployment has taken the place of the one this process started for: it should start over.
        self.obsolete = asyncio.Event()
        self.drainer: Drainer | None = None
        self._report: KeeperReport | None = None

    def samples(self) -> Iterable[Sample]:
        """Return what the metrics say of this process, as of now."""
        return () if self._report is None else self._report.samples()

    async def start(self) -> None:
        """Begin. Raises StorageError or OSError if it cannot."""
        settings, clocks = self._settings, self._clocks
        async with contextlib.AsyncExitStack() as starting:
            database = Database(DatabaseUrl.parse(settings.database_url))
            starting.push_async_callback(database.dispose)
            deployment = await find_deployment(database, Path(settings.spool_dir))
            deployment.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            announcer = Announcer(database)
            starting.push_async_callback(cancelled, asyncio.create_task(announcer.run(), name="announcer"))
            events = EventSink(
                EventWriter(database),
                deployment.codec,
                reload_codec=lambda: load_codec(database),
                definitions=PolicyReader(database).definitions,
                announce=announcer.announce,
            )
            self.drainer = Drainer(
                deployment.directory,
                [DecisionSink(DecisionWriter(database)), events],
                rng=clocks.rng,
                clock=clocks.monotonic,
            )
            self._report = KeeperReport(deployment.directory, self.drainer, events, database)
            starting.push_async_callback(self.drainer.stop)
            work = asyncio.create_task(self._work(database, deployment, self.drainer, announcer), name="keeper")
            starting.push_async_callback(cancelled, work)
            self._closers = starting.pop_all()

    async def stop(self) -> None:
        """Store what is left in the spool, within ten seconds, and let go."""
        await self._closers.aclose()

    async def _work(self, database: Database, deployment: Deployment, drainer: Drainer, announcer: Announcer) -> None:
        if deployment.saved is not None and not await is_still(database, deployment):
            self.obsolete.set()
            return
        # Not before: what waits belongs to this deployment and no other.
        drainer.start()
        saver = Saver(database, deployment.deployment_id, deployment.directory, clock_us=self._clocks.now_us)
        deriver = Deriver(
            database, clock_us=self._clocks.now_us, announce=announcer.announce, hash_id=deployment.codec.hash_id
        )
        ramps = RampController(database, self._clocks.now_us, announcer.announce, every_s=ramp.EVERY_S)
        historian = Historian(database, self._clocks.now_us)
        hand = HourHand(self._clocks.now_us, announcer.announce)
        vitals = Vitals(database, self._clocks.now_us)
        leader = Leader(database, self._duties(deriver, ramps, historian, hand, vitals))
        assert self._report is not None  # noqa: S101 - made in `start`
        self._report.leader, self._report.vitals = leader, vitals
        async with contextlib.AsyncExitStack() as closing, asyncio.TaskGroup() as tasks:
            closing.push_async_callback(deriver.close)
            closing.push_async_callback(ramps.close)
            tasks.create_task(saver.run(), name="saver")
            tasks.create_task(self._make_partitions(database), name="partitions")
            tasks.create_task(leader.run(), name="leader")

    def _duties(
        self, deriver: Deriver, ramps: RampController, historian: Historian, hand: HourHand, vitals: Vitals
    ) -> list[Duty]:
        """What this keeper does while it leads."""
        duties = [
            Duty("derived signals", derive.EVERY_S, deriver.work),
            Duty("ramps", ramp.EVERY_S, ramps.look),
            Duty("discounting", discounting.EVERY_S, hand.work),
            Duty("snapshots", snapshots.EVERY_S, historian.work),
            Duty("vitals", EVERY_S, vitals.work),
        ]
        if self._settings.retention_days:
            duties.append(Duty("retention", _RETENTION_S, self._drop_expired, aside=True))
        return duties

    async def _make_partitions(self, database: Database) -> None:
        """Have the partitions of the coming days ready before their first row."""
        while True:
            try:
                connection = await database.connect(autocommit=True)
                async with connection:
                    await ensure_ahead(connection, self._today())
            except Exception as error:  # whoever writes the first row makes it then
                log.warning("partitions could not be made ahead: %s", error)
            await asyncio.sleep(_AHEAD_S)

    async def _drop_expired(self, session: Session) -> None:
        assert self._settings.retention_days is not None  # noqa: S101 - asked before
        await drop_expired(session.connection, self._today(), self._settings.retention_days, session.check)

    def _today(self) -> date:
        return day_of(self._clocks.now_us())
