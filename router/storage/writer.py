"""The connections that events and decisions are written on, and the partitions they need.

Each is one connection for one writing task. It is made again when it breaks, and what was under way is tried once more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, TypeAlias, TypeVar

import psycopg

from router.storage.database import Database
from router.storage.decisions import AllocationRow, DecisionRow, copy_decisions, merge_decisions, store_allocations
from router.storage.errors import AlreadyExistsError, MissingPartitionError, StorageUnavailableError, translated
from router.storage.events import SESSION, BatchResult, EventRow, apply_events, days_of
from router.storage.partitions import ensure_partitions
from router.storage.times import day_of

log = logging.getLogger(__name__)

T = TypeVar("T")
Connection: TypeAlias = "psycopg.AsyncConnection[Any]"
Write: TypeAlias = Callable[[Connection, frozenset[date]], Awaitable[T]]
_RECONNECT_S = 0.2
#: After a decision that was stored already, others are expected for this long.
_MERGE_S = 10.0


class _Writer:
    """What both have in common."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._days: set[date] = set()

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def _write(self, days: set[date], write: Write[T]) -> T:
        """Write rows of these days; `write` is told which of them are not kept any more."""
        try:
            return await self._attempt(days, write)
        except StorageUnavailableError:
            # A server that restarted, or a deadlock with an administrator: the next attempt most often succeeds.
            await self.close()
            await asyncio.sleep(_RECONNECT_S)
        except MissingPartitionError:
            # Dropped since it was looked for.
            self._days -= days
        try:
            return await self._attempt(days, write)
        except StorageUnavailableError:
            await self.close()
            raise

    async def _attempt(self, days: set[date], write: Write[T]) -> T:
        dropped: frozenset[date] = frozenset()
        with translated():
            if self._connection is None or self._connection.closed:
                self._connection = await self._database.connect(autocommit=True)
                await self._prepare(self._connection)
            if not days <= self._days:
                dropped = await ensure_partitions(self._connection, days - self._days)
                self._days |= days - dropped
            return await write(self._connection, dropped)

    async def _prepare(self, connection: Connection) -> None:
        """Set up a connection that was just made."""


class EventWriter(_Writer):
    """Where batches of events go."""

    async def apply(self, rows: Sequence[EventRow]) -> BatchResult:
        """Store, fold and count a batch of events, but for those of days that are not kept; see `apply_events`."""

        async def write(connection: Connection, dropped: frozenset[date]) -> BatchResult:
            if not dropped:
                return await apply_events(connection, rows)
            kept = [number for number, row in enumerate(rows) if day_of(row.decided_at_us) not in dropped]
            result = BatchResult(frozenset(), 0, ())
            if kept:
                result = await apply_events(connection, [rows[number] for number in kept])
            return replace(
                result,
                known=frozenset(kept[number] for number in result.known),
                limited=frozenset(kept[number] for number in result.limited),
                dropped=frozenset(range(len(rows))) - frozenset(kept),
            )

        return await self._write(days_of(rows), write)

    async def _prepare(self, connection: Connection) -> None:
        await connection.execute(SESSION)


class DecisionWriter(_Writer):
    """Where decisions go."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._merge_until = float("-inf")

    async def store(self, allocations: Sequence[AllocationRow], decisions: Sequence[DecisionRow]) -> None:
        """Store those decisions and allocations that are not stored yet, but for decisions of days that are not kept.

        Raises StorageUnavailableError and RefusedRowError (a value that Postgres does not take). A part may be stored even
        then: storing all of it again is safe.
        """
        if allocations:
            await self._write(set(), lambda connection, _: store_allocations(connection, allocations))
        if not decisions:
            return
        times_us = [row.decided_at_us for row in decisions]
        days = {day_of(min(times_us)), day_of(max(times_us))}
        if len(days) > 1:
            days = {day_of(time_us) for time_us in times_us}

        async def write(connection: Connection, dropped: frozenset[date]) -> None:
            kept = [row for row in decisions if day_of(row.decided_at_us) not in dropped] if dropped else decisions
            if len(kept) < len(decisions):
                log.warning("%d decisions are of days that are not kept any more", len(decisions) - len(kept))
            if kept:
                await self._store(connection, kept)

        await self._write(days, write)

    async def _store(self, connection: Connection, decisions: Sequence[DecisionRow]) -> None:
        clock = asyncio.get_running_loop().time
        if clock() >= self._merge_until:
            try:
                return await copy_decisions(connection, decisions)
            except AlreadyExistsError:
                self._merge_until = clock() + _MERGE_S
        return await merge_decisions(connection, decisions)
