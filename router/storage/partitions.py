"""Day partitions of decisions, events, outcomes and shares: made ahead, and on demand when a day is first written to.

Days before `retention.kept_from` are dropped or about to be: nothing is made for them any more. Whoever makes a partition
and whoever moves that date holds the same advisory lock, so that a dropped day never comes back.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from router.storage.errors import translated

log = logging.getLogger(__name__)

#: In the order in which whoever locks several of them locks them. A batch of events comes to events, outcomes, shares.
PARTITIONED = ("events", "outcomes", "unit_shares", "decisions")
#: One process at a time makes partitions.
LOCK = 7_261_180_212
#: Work that can wait gives up a lock after this long, because everybody else queues behind it.
LOCK_TIMEOUT_MS = 200

# Rows are inserted once and never change. Vacuuming each further 100,000 of them, and freezing them then, costs in
# proportion to what came in; the defaults would leave it all to a scan of old partitions for wraparound.
_INSERTED_ONCE = {
    "autovacuum_vacuum_insert_scale_factor": 0,
    "autovacuum_vacuum_insert_threshold": 100_000,
    "autovacuum_freeze_min_age": 0,
}
_SETTINGS: Mapping[str, Mapping[str, int]] = {
    "decisions": _INSERTED_ONCE,
    "events": _INSERTED_ONCE,
    # Room for corrections, which then need no new entry in the index.
    "outcomes": {**_INSERTED_ONCE, "fillfactor": 90},
    # As much for counting on.
    "unit_shares": {**_INSERTED_ONCE, "fillfactor": 90},
}

_STATE = """
SELECT d.day, coalesce(d.day < r.kept_from, false),
       (SELECT array_agg(p.parent ORDER BY p.position)
        FROM unnest(%s::text[]) WITH ORDINALITY p (parent, position)
        WHERE to_regclass(p.parent || to_char(d.day, '_YYYYMMDD')) IS NULL)
FROM unnest(%s::date[]) d (day), retention r
ORDER BY d.day
"""


#: The first day whose events are kept, in the state of the database that the statement sees; null: every day is. A day
#: that is closed keeps them until it is dropped.
FIRST_KEPT = """
SELECT CASE WHEN r.kept_from IS NOT NULL THEN least(r.kept_from, (
    SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD')) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = to_regclass('events') AND c.relname ~ '^events_[0-9]{8}$'
)) END
FROM retention r
"""


def partition_name(parent: str, day: date) -> str:
    """Return the name of the partition that holds a day of a table."""
    return f"{parent}_{day:%Y%m%d}"


async def ensure_partitions(connection: psycopg.AsyncConnection[Any], days: Iterable[date]) -> frozenset[date]:
    """Create what is missing of the partitions of `days` (UTC), in one transaction.

    Returns those of the days that are not kept any more: nothing was made for them, and nothing may be stored in them.
    """
    wanted = sorted(set(days))
    with translated():
        async with connection.transaction():
            missing, dropped = await _state(connection, wanted)
        if missing:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                missing, dropped = await _state(connection, wanted)
                for day, parents in missing.items():
                    await _make(connection, day, parents)
    return dropped


async def ensure_ahead(connection: psycopg.AsyncConnection[Any], today: date, days: int = 7) -> list[date]:
    """Create what is missing of the partitions of today and the `days` after it; returns the days it made something for.

    Gives way: where a lock is not to be had at once, the rest is left to the next call, or to the first write.
    """
    made: list[date] = []
    with translated():
        async with connection.transaction():
            missing, _ = await _state(connection, [today + timedelta(days=ahead) for ahead in range(days + 1)])
        for day in missing:
            try:
                async with connection.transaction():
                    await set_lock_timeout(connection)
                    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                    still_missing, _ = await _state(connection, [day])
                    for parents in still_missing.values():
                        await _make(connection, day, parents)
            except pg.LockNotAvailable as error:
                log.info("partitions from %s on are made later: %s", day, error)
                break
            made += still_missing
    return made


async def set_lock_timeout(connection: psycopg.AsyncConnection[Any]) -> None:
    """Give up locks early until the end of the transaction."""
    await connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))


async def _state(
    connection: psycopg.AsyncConnection[Any], days: list[date]
) -> tuple[dict[date, list[str]], frozenset[date]]:
    """Return which partitions of kept days are missing, by day, and which of the days are not kept."""
    rows = await (await connection.execute(_STATE, (list(PARTITIONED), days))).fetchall()
    dropped = frozenset(day for day, is_dropped, _ in rows if is_dropped)
    return {day: parents for day, is_dropped, parents in rows if parents and not is_dropped}, dropped


async def _make(connection: psycopg.AsyncConnection[Any], day: date, parents: Iterable[str]) -> None:
    """Make partitions of a day.

    A table is made by itself and then attached: CREATE TABLE … PARTITION OF would lock the parent against everybody, and
    so wait for every reader and hold up every writer behind it. It is empty, so attaching it has nothing to scan.
    """
    for parent in parents:
        table, partitioned = sql.Identifier(partition_name(parent, day)), sql.Identifier(parent)
        settings = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in _SETTINGS[parent].items()
        )
        await connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL) WITH ({})").format(table, partitioned, settings)
        )
        await connection.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                partitioned, table, sql.Literal(day.isoformat()), sql.Literal((day + timedelta(days=1)).isoformat())
            )
        )
