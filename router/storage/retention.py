"""Retention: days beyond a limit are dropped, and what they taught stays.

Protocol
    A day goes in two transactions, the oldest day first. After each of them everything adds up, so a crash anywhere
    leaves nothing to repair, and the next call goes on.

    *Close.* `retention.kept_from` moves past the day, and its partitions get a constraint that no row satisfies. That
    takes their locks for a moment. From then on an event for the day is refused. Outcomes that wait for their decision to
    be old enough are counted now; from then on the day's evidence stands still.

    *Drop.* The day's hours of evidence move into the base, and its partitions go, together. The slow part needs no lock
    that anybody else wants. The lock of the parent tables, which everybody wants, comes last and is held for
    milliseconds; where it is not to be had soon, all is rolled back, tried again, and then left to the next call.

    Afterwards, in small transactions: allocations that no kept decision was drawn from, assignments of sticky units that
    have expired, and shadow comparisons of days that are not kept, are deleted. What judges said of them stays.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql

from router.storage.discounting import days_dropped
from router.storage.errors import CLOSED_DAY, translated
from router.storage.maturing import count_day
from router.storage.partitions import LOCK, PARTITIONED, partition_name, set_lock_timeout
from router.storage.shadow import delete_dropped

log = logging.getLogger(__name__)

T = TypeVar("T")
MayGoOn: TypeAlias = Callable[[], Awaitable[None]]
_ATTEMPTS = 3
_PAUSE_S = 0.5
#: Allocations in one transaction.
_ALLOCATIONS = 1_000
#: Pages of sticky assignments in one transaction: 16 MB.
_PAGES = 2_048

# Read from the catalogue's tables: to_regclass may still find what another session dropped a moment ago.
_PARTITIONS = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), c.relname,
       EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND conname = %s)
FROM unnest(%s::text[]) WITH ORDINALITY t (parent, position)
JOIN pg_inherits i ON i.inhparent = to_regclass(t.parent) JOIN pg_class c ON c.oid = i.inhrelid
WHERE c.relname ~ ('^' || t.parent || '_[0-9]{8}$')
ORDER BY 1, t.position
"""

_CLOSE = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (false) NOT VALID")

_REMEMBER_ALLOCATIONS = sql.SQL(
    "INSERT INTO dropped_allocations SELECT DISTINCT allocation_id FROM {} ON CONFLICT DO NOTHING"
)

_FOLD = """
WITH moved AS (
    DELETE FROM evidence WHERE bucket >= %s AND bucket < %s
    RETURNING incarnation, arm, segment, success_micros, failure_micros, n
)
INSERT INTO evidence_base AS b (incarnation, arm, segment, success_micros, failure_micros, n)
SELECT incarnation, arm, segment, sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8
FROM moved GROUP BY incarnation, arm, segment
ON CONFLICT (incarnation, arm, segment) DO UPDATE
SET success_micros = b.success_micros + excluded.success_micros,
    failure_micros = b.failure_micros + excluded.failure_micros, n = b.n + excluded.n
"""

# The scalar subquery looks each one up; NOT EXISTS might become a hash of every decision.
_DELETE_ALLOCATIONS = """
WITH batch AS (
    DELETE FROM dropped_allocations
    WHERE allocation_id = ANY(ARRAY(SELECT allocation_id FROM dropped_allocations LIMIT %s))
    RETURNING allocation_id
),
deleted AS (
    DELETE FROM allocations a USING batch b
    WHERE a.allocation_id = b.allocation_id
      AND (SELECT d.allocation_id FROM decisions d WHERE d.allocation_id = b.allocation_id LIMIT 1) IS NULL
    RETURNING a.allocation_id
)
SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM deleted)
"""

_DELETE_UNITS = """
DELETE FROM sticky_assignments
WHERE ctid >= format('(%%s,0)', %s::int8)::tid AND ctid < format('(%%s,0)', %s::int8)::tid AND expires_at < %s
"""


async def _unasked() -> None:
    """Go on."""


async def drop_expired(
    connection: psycopg.AsyncConnection[Any], today: date, keep_days: int, may_go_on: MayGoOn = _unasked
) -> list[date]:
    """Drop every day (UTC, of the decision) that is more than `keep_days` before today; returns the days it dropped.

    The posterior is the same before and after, to the last digit, unless it discounts. Later events for these
    days are refused. Gives way to queries that hold the tables: what it could not drop is left to the next call. Several may
    run at once. A large day takes seconds and a backlog of days minutes, so `may_go_on` is awaited before every step:
    where it raises, nothing more is dropped or deleted.
    """
    limit = today - timedelta(days=keep_days)
    dropped: list[date] = []
    advanced = False
    with translated():
        try:
            while True:
                await may_go_on()
                day, moved = await _insisting(partial(_close, connection, limit))
                advanced = advanced or moved
                if day is None:
                    break
                await count_day(connection, day)
                if await _insisting(partial(_drop, connection, day, may_go_on)):
                    log.info("dropped %s: what it taught is in the base of the evidence", day)
                    dropped.append(day)
                    await days_dropped(connection)
        except pg.LockNotAvailable as error:
            log.warning("retention gives way, and goes on next time: %s", error)
        await _delete_allocations(connection, may_go_on)
        await may_go_on()
        if deleted := await delete_dropped(connection):
            log.info("deleted %d shadow comparisons of days that are not kept any more", deleted)
        if advanced:
            # A day's grace: nobody is in the middle of drawing such a unit anew.
            await _delete_units(connection, datetime.combine(today - timedelta(days=1), time(), UTC), may_go_on)
    return dropped


async def _insisting(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again a few times where a lock is not to be had; pg.LockNotAvailable if somebody holds it for long."""
    for _ in range(1, _ATTEMPTS):
        with contextlib.suppress(pg.LockNotAvailable):
            return await attempt()
        # Those who queued behind this one go first.
        await asyncio.sleep(_PAUSE_S)
    return await attempt()


async def _begin(connection: psycopg.AsyncConnection[Any]) -> None:
    """Have another one that drops days at the same time wait, and give up all other locks early."""
    await set_lock_timeout(connection)
    await connection.execute("SELECT 1 FROM retention FOR UPDATE")


async def _close(connection: psycopg.AsyncConnection[Any], limit: date) -> tuple[date | None, bool]:
    """Close the oldest day before the limit; returns it, None if there is none, and whether fewer days are kept now."""
    async with connection.transaction():
        await _begin(connection)
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        partitions = await _partitions(connection)
        day = min((day for day in partitions if day < limit), default=None)
        kept_from = limit if day is None else day + timedelta(days=1)
        moved = await connection.execute(
            "UPDATE retention SET kept_from = %s WHERE kept_from IS NULL OR kept_from < %s", (kept_from, kept_from)
        )
        if day is not None:
            for name in [name for name, closed in partitions[day].items() if not closed]:
                await connection.execute(_CLOSE.format(sql.Identifier(name), sql.Identifier(CLOSED_DAY)))
    return day, moved.rowcount > 0


async def _drop(connection: psycopg.AsyncConnection[Any], day: date, may_go_on: MayGoOn) -> bool:
    """Drop a closed day; whether it was still there."""
    async with connection.transaction():
        await _begin(connection)
        partitions = list((await _partitions(connection)).get(day, ()))
        if not partitions:
            return False
        # Keeps vacuum away, which would hold up the last step, and nobody else.
        await connection.execute(_locking(partitions, "SHARE UPDATE EXCLUSIVE"))
        decisions = partition_name("decisions", day)
        if decisions in partitions:
            await connection.execute(_REMEMBER_ALLOCATIONS.format(sql.Identifier(decisions)))
        midnight = datetime.combine(day, time(), UTC)
        await connection.execute(_FOLD, (midnight, midnight + timedelta(days=1)))
        await may_go_on()
        await connection.execute(_locking([*PARTITIONED, *partitions], "ACCESS EXCLUSIVE"))
        for name in partitions:
            await connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    return True


async def _partitions(connection: psycopg.AsyncConnection[Any]) -> dict[date, dict[str, bool]]:
    """Return by day the names of its partitions, in the order in which they are locked, and whether they are closed."""
    rows = await connection.execute(_PARTITIONS, (CLOSED_DAY, list(PARTITIONED)))
    found: dict[date, dict[str, bool]] = {}
    for day, name, closed in await rows.fetchall():
        found.setdefault(day, {})[name] = closed
    return found


def _locking(tables: Sequence[str], mode: LiteralString) -> sql.Composed:
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(table)) for table in tables)
    return sql.SQL("LOCK TABLE {} IN " + mode + " MODE").format(names)


async def _delete_allocations(connection: psycopg.AsyncConnection[Any], may_go_on: MayGoOn) -> None:
    """Delete allocations that decisions of dropped days were drawn from, and no others."""
    total = 0
    looked_at = _ALLOCATIONS
    while looked_at == _ALLOCATIONS:
        await may_go_on()
        async with connection.transaction():
            found = await (await connection.execute(_DELETE_ALLOCATIONS, (_ALLOCATIONS,))).fetchone()
        looked_at, deleted = found or (0, 0)
        total += deleted
    if total:
        log.info("deleted %d allocations that no kept decision was drawn from", total)


async def _delete_units(connection: psycopg.AsyncConnection[Any], before: datetime, may_go_on: MayGoOn) -> None:
    """Delete assignments of sticky units that expired before this time, a stretch of the table at a time."""
    async with connection.transaction():
        row = await (
            await connection.execute(
                "SELECT pg_relation_size('sticky_assignments') / current_setting('block_size')::int8 + 1"
            )
        ).fetchone()
    pages = row[0] if row else 0
    total = 0
    for start in range(0, pages, _PAGES):
        await may_go_on()
        async with connection.transaction():
            deleted = await connection.execute(_DELETE_UNITS, (start, start + _PAGES, before))
        total += deleted.rowcount
    if total:
        log.info("deleted %d assignments of sticky units that had expired", total)
