"""The stored arms of sticky units."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from router.storage.database import Database
from router.storage.errors import StorageError, StorageUnavailableError, translated

STICKY_CHANNEL = "bandit_router_sticky"
_COLUMNS = "epoch, arm, propensity, expires_at"


@dataclass(frozen=True, slots=True)
class StickyAssignment:
    """A unit's stored draw."""

    #: 1 for the first draw, +1 whenever the unit had to be drawn again.
    epoch: int
    #: The arm's number.
    arm: int
    #: The probability with which it was drawn, when it was drawn.
    propensity: float
    #: From then on the unit is drawn again; None is never.
    expires_at: datetime | None


async def read_assignment(connection: AsyncConnection, incarnation: int, unit_id: str) -> StickyAssignment | None:
    """Return the unit's stored draw, if it has one."""
    row = (
        await connection.execute(
            text(f"SELECT {_COLUMNS} FROM sticky_assignments WHERE incarnation = :i AND unit_id = :u"),
            {"i": incarnation, "u": unit_id},
        )
    ).one_or_none()
    return None if row is None else StickyAssignment(row.epoch, row.arm, row.propensity, row.expires_at)


async def store_assignment(
    connection: AsyncConnection,
    incarnation: int,
    unit_id: str,
    *,
    previous_epoch: int,
    arm: int,
    propensity: float,
    now: datetime,
    ttl: timedelta | None,
) -> tuple[StickyAssignment, bool]:
    """Store a draw that follows `previous_epoch` (0 for the first); return the draw that holds and whether it is this one.

    Compare and set: if another replica stored that epoch first, its draw holds. A new draw of a known unit is told to the
    other replicas, which may remember the old one.
    """
    row = (
        await connection.execute(
            text(
                "INSERT INTO sticky_assignments AS s (incarnation, unit_id, epoch, arm, propensity, drawn_at, expires_at)"
                " VALUES (:i, :u, :next, :arm, :propensity, :now, :expires_at)"
                " ON CONFLICT (incarnation, unit_id) DO UPDATE SET epoch = excluded.epoch, arm = excluded.arm,"
                " propensity = excluded.propensity, drawn_at = excluded.drawn_at, expires_at = excluded.expires_at"
                f" WHERE s.epoch = :previous RETURNING {_COLUMNS}"
            ),
            {
                "i": incarnation,
                "u": unit_id,
                "next": previous_epoch + 1,
                "previous": previous_epoch,
                "arm": arm,
                "propensity": propensity,
                "now": now,
                "expires_at": None if ttl is None else now + ttl,
            },
        )
    ).one_or_none()
    if row is not None:
        if previous_epoch:
            payload = json.dumps([incarnation, unit_id])
            await connection.execute(text("SELECT pg_notify(:c, :p)"), {"c": STICKY_CHANNEL, "p": payload})
        return StickyAssignment(row.epoch, row.arm, row.propensity, row.expires_at), True
    held = await read_assignment(connection, incarnation, unit_id)
    if held is None:
        raise StorageUnavailableError(f"the draw of unit {unit_id!r} expired long ago, and was being deleted")
    return held, False


# LIMIT, so that units are looked up one by one: a join of many might become a hash of all of them.
_CLAIM = """
WITH wanted AS (
    SELECT * FROM unnest(%s::int8[], %s::text[], %s::int2[], %s::float8[], %s::timestamptz[], %s::timestamptz[])
         AS t (incarnation, unit_id, arm, propensity, drawn_at, expires_at)
),
claimed AS (
    INSERT INTO sticky_assignments (incarnation, unit_id, epoch, arm, propensity, drawn_at, expires_at)
    SELECT incarnation, unit_id, 1, arm, propensity, drawn_at, expires_at FROM wanted ORDER BY incarnation, unit_id
    ON CONFLICT DO NOTHING
    RETURNING incarnation, unit_id, epoch, arm, propensity, expires_at
)
SELECT incarnation, unit_id, epoch, arm, propensity, expires_at, true FROM claimed
UNION ALL
SELECT s.incarnation, s.unit_id, s.epoch, s.arm, s.propensity, s.expires_at, false
FROM wanted w CROSS JOIN LATERAL (
    SELECT * FROM sticky_assignments s WHERE s.incarnation = w.incarnation AND s.unit_id = w.unit_id LIMIT 1
) s
"""


@dataclass(frozen=True, slots=True)
class _Claim:
    incarnation: int
    unit_id: str
    arm: int
    propensity: float
    now: datetime
    expires_at: datetime | None


class StickyTable:
    """Implements `router.sticky.StickyStore` on Postgres. First draws share statements, and so commits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._waiting: dict[tuple[int, str], tuple[_Claim, asyncio.Future[tuple[StickyAssignment, bool]]]] = {}
        self._flush: asyncio.Task[None] | None = None

    async def claim(
        self, incarnation: int, unit_id: str, *, arm: int, propensity: float, now: datetime, ttl: timedelta | None
    ) -> tuple[StickyAssignment, bool]:
        """Store a first draw unless the unit has one; return the draw that is stored and whether it is this one."""
        key = (incarnation, unit_id)
        joined = key in self._waiting
        if not joined:
            claim = _Claim(incarnation, unit_id, arm, propensity, now, None if ttl is None else now + ttl)
            self._waiting[key] = (claim, asyncio.get_running_loop().create_future())
        future = self._waiting[key][1]
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._flush_waiting(), name="sticky")
        draw, new = await asyncio.shield(future)
        return draw, new and not joined

    async def store(
        self,
        incarnation: int,
        unit_id: str,
        *,
        previous_epoch: int,
        arm: int,
        propensity: float,
        now: datetime,
        ttl: timedelta | None,
    ) -> tuple[StickyAssignment, bool]:
        """See `store_assignment`."""
        async with self._database.begin() as connection:
            return await store_assignment(
                connection,
                incarnation,
                unit_id,
                previous_epoch=previous_epoch,
                arm=arm,
                propensity=propensity,
                now=now,
                ttl=ttl,
            )

    async def open(self) -> None:
        """Connect ahead of the first unit, which waits only milliseconds."""
        with translated():
            self._connection = await self._database.connect(autocommit=True)

    async def close(self) -> None:
        """Let go of the connection; units that wait are routed by their hash."""
        if self._flush is not None:
            self._flush.cancel()
            await asyncio.gather(self._flush, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def _flush_waiting(self) -> None:
        """While one statement commits, the next collects."""
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                with translated():
                    found = await self._claimed([claim for claim, _ in waiting.values()])
                for key, (_, future) in waiting.items():
                    # A unit that another replica was inserting at this moment is in neither part of the statement.
                    draw = found.get(key) or await self._read(*key)
                    if not future.done():
                        future.set_result(draw)
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                shown = StorageUnavailableError("this replica stops") if cancelled else error
                for _, future in waiting.values():
                    if not future.done():
                        future.set_exception(shown)
                        future.exception()
                if not isinstance(error, StorageError):
                    raise
                if self._connection is not None:
                    await self._connection.close()

    async def _claimed(self, claims: list[_Claim]) -> dict[tuple[int, str], tuple[StickyAssignment, bool]]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.connect(autocommit=True)
        columns = zip(*((c.incarnation, c.unit_id, c.arm, c.propensity, c.now, c.expires_at) for c in claims), strict=True)
        cursor = await self._connection.execute(_CLAIM, [list(column) for column in columns], prepare=True)
        return {
            (incarnation, unit_id): (StickyAssignment(epoch, arm, propensity, expires_at), new)
            for incarnation, unit_id, epoch, arm, propensity, expires_at, new in await cursor.fetchall()
        }

    async def _read(self, incarnation: int, unit_id: str) -> tuple[StickyAssignment, bool]:
        async with self._database.begin() as connection:
            held = await read_assignment(connection, incarnation, unit_id)
        if held is None:
            raise StorageUnavailableError(f"the draw of unit {unit_id!r} was being stored and then was not")
        return held, False
