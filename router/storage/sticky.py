"""The stored arms of sticky units."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from router.storage.database import Database

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
    assert held is not None  # noqa: S101 - the conflict was with a row, and rows are never deleted
    return held, False


class StickyTable:
    """Implements `router.sticky.StickyStore` on Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, incarnation: int, unit_id: str) -> StickyAssignment | None:
        """See `read_assignment`."""
        async with self._database.begin() as connection:
            return await read_assignment(connection, incarnation, unit_id)

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
