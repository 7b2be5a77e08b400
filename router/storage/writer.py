"""The connections that events and decisions are written on, and the partitions they need."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import Any, TypeVar

import psycopg

from router.storage.database import Database
from router.storage.decisions import AllocationRow, DecisionRow, store_decisions
from router.storage.errors import StorageUnavailableError, translated
from router.storage.events import BatchResult, EventRow, apply_events, day_of
from router.storage.partitions import ensure_partitions

T = TypeVar("T")
_RECONNECT_S = 0.2


class Writer:
    """One connection for one writing task. Made again when it breaks; a statement is tried once more on the new one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._days: set[date] = set()

    async def apply(self, rows: Sequence[EventRow]) -> BatchResult:
        """Store, fold and count a batch of events; see `apply_events`."""
        return await self._write({row.decision_day for row in rows}, lambda c: apply_events(c, rows))

    async def store(self, allocations: Sequence[AllocationRow], decisions: Sequence[DecisionRow]) -> None:
        """Store decisions and their allocations; see `store_decisions`."""
        days = {day_of(row.decided_at_us) for row in decisions}
        await self._write(days, lambda c: store_decisions(c, allocations, decisions))

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def _write(self, days: set[date], write: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        try:
            return await self._attempt(days, write)
        except StorageUnavailableError:
            # A server that restarted, or a deadlock with an administrator: the next attempt most often succeeds.
            await self.close()
            await asyncio.sleep(_RECONNECT_S)
        try:
            return await self._attempt(days, write)
        except StorageUnavailableError:
            await self.close()
            raise

    async def _attempt(self, days: set[date], write: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        with translated():
            if self._connection is None or self._connection.closed:
                self._connection = await self._database.connect()
            if not days <= self._days:
                await ensure_partitions(self._connection, days - self._days)
                self._days |= days
            return await write(self._connection)
