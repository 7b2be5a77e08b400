"""What replicas read and hear from Postgres to keep their policies current."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from sqlalchemy import text

from router.experiment import Definition
from router.storage import experiments
from router.storage.database import Database
from router.storage.errors import StorageError, StorageUnavailableError, translated
from router.storage.policies import (
    CHANNEL,
    Digest,
    EvidenceReading,
    notifications,
    notified,
    read_digest_alone,
    read_evidence,
    read_evidence_alone,
    read_versions,
)
from router.storage.shadow import read_spend
from router.storage.sticky import STICKY_CHANNEL

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Experiments in one message: Postgres takes payloads of up to 8,000 bytes, and an incarnation takes up to 20.
_ANNOUNCED_AT_ONCE = 300


@dataclass(frozen=True, slots=True)
class Heard:
    """What to do about each message."""

    #: Messages arrive from now on; some may have been missed before.
    connected: Callable[[], None]
    #: Experiments changed.
    changed: Callable[[Iterable[int]], None]
    #: (incarnation, unit id): a sticky unit was drawn anew.
    redrawn: Callable[[int, str], None]


class PolicyReader:
    """Implements `router.refreshing.PolicySource` on Postgres."""

    def __init__(self, database: Database, own: Callable[[], int | None] = lambda: None) -> None:
        """`own` gives the Postgres process id of this process's Announcer, whose messages say nothing new here."""
        self._database = database
        self._own = own
        #: What learning reads on, so that it never waits for a connection of the pool.
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def read(
        self, incarnations: Sequence[int], known: dict[int, int]
    ) -> tuple[list[Definition], list[EvidenceReading]]:
        """Return evidence, and definitions whose version differs from `known`, in one snapshot.

        Where only evidence changed, that is one statement.
        """
        readings = await self._evidence(incarnations)
        if all(known.get(reading.incarnation) == reading.definition_version for reading in readings):
            return [], readings
        async with self._database.snapshot() as connection:
            readings = await read_evidence(connection, incarnations)
            changed = [r.incarnation for r in readings if known.get(r.incarnation) != r.definition_version]
            definitions = await experiments.read_incarnations(connection, changed) if changed else []
            return [definition for definition, _ in definitions], readings

    async def _evidence(self, incarnations: Sequence[int]) -> list[EvidenceReading]:
        return await self._learn(lambda connection: read_evidence_alone(connection, incarnations))

    async def _learn(self, read: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        async with self._lock:
            with translated():
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = await self._database.connect(autocommit=True)
                    return await read(self._connection)
                except BaseException:
                    await self.close()
                    raise

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def definitions(self, incarnations: Sequence[int]) -> list[Definition]:
        """Return the definitions of those of these experiments that exist."""
        async with self._database.begin() as connection:
            return [definition for definition, _ in await experiments.read_incarnations(connection, incarnations)]

    async def find(self, experiment_id: str) -> int | None:
        """Return the incarnation of an experiment id."""
        async with self._database.begin() as connection:
            found = await connection.execute(
                text("SELECT incarnation FROM experiments WHERE experiment_id = :id"), {"id": experiment_id}
            )
            incarnation = found.scalar_one_or_none()
            return None if incarnation is None else int(incarnation)

    async def digest(self) -> Digest:
        """Return sums that differ whenever the version of an experiment does."""
        return await self._learn(read_digest_alone)

    async def shadow_spend(self, incarnations: Collection[int], day: date) -> Mapping[int, float]:
        """Return the US dollars that shadow calls of these experiments cost that day; nothing of those without any."""
        return await self._learn(lambda connection: read_spend(connection, incarnations, day))

    async def versions(self) -> dict[int, tuple[int, int]]:
        """Return (policy version, definition version) of every experiment."""
        async with self._database.begin() as connection:
            return await read_versions(connection)

    async def listen(self, heard: Heard) -> None:
        """Pass on what other processes say; raises StorageUnavailableError when cut off."""
        with translated():
            connection = await self._database.connect(autocommit=True)
            async with connection:
                for channel in (CHANNEL, STICKY_CHANNEL):
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                heard.connected()
                async for message in connection.notifies():
                    if message.channel == CHANNEL:
                        if message.pid != self._own():
                            heard.changed(notified(message.payload))
                    else:
                        heard.redrawn(*json.loads(message.payload))
        raise StorageUnavailableError("Postgres closed the connection that notifications come on")


class Announcer:
    """Tells other replicas what changed: outside the transactions, and joined while a message is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: set[int] = set()
        self._work = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, in Postgres, that messages come from; None where there is no connection."""
        connection = self._connection
        return None if connection is None or connection.closed else connection.info.backend_pid

    def announce(self, incarnations: Iterable[int]) -> None:
        """Say, soon, that these experiments changed."""
        self._pending.update(incarnations)
        if self._pending:
            self._work.set()

    async def run(self) -> None:
        """Send until cancelled. A message that fails is dropped: polls find what it would have said."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                payloads = notifications(self._pending)
                self._pending.clear()
                try:
                    with translated():
                        for payload in payloads:
                            await self._send(payload)
                except StorageError as error:
                    log.warning("could not tell other replicas of changes: %s", error)
                    await self._close()
        finally:
            await self._close()

    async def _send(self, payload: str) -> None:
        if self._connection is None:
            self._connection = await self._database.connect(autocommit=True)
        await self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload), prepare=True)

    async def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None
