"""Day partitions of decisions, events and outcomes, made when a day is first written to."""

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import psycopg
from psycopg import sql

from router.storage.errors import translated

PARTITIONED = ("decisions", "events", "outcomes")
#: One process at a time makes partitions.
_LOCK = 7_261_180_212


async def ensure_partitions(connection: psycopg.AsyncConnection[Any], days: Iterable[date]) -> None:
    """Create what is missing of the partitions of `days` (UTC), in one transaction.

    A table is made by itself and then attached: CREATE TABLE … PARTITION OF would lock the parent against everybody, and
    so wait for every reader and hold up every writer behind it.
    """
    with translated():
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            for day in sorted(set(days)):
                for parent in PARTITIONED:
                    await _ensure_partition(connection, parent, day)


async def _ensure_partition(connection: psycopg.AsyncConnection[Any], parent: str, day: date) -> None:
    name = f"{parent}_{day:%Y%m%d}"
    found = await (await connection.execute("SELECT to_regclass(%s)", (name,))).fetchone()
    if found is not None and found[0] is not None:
        return
    table, partitioned = sql.Identifier(name), sql.Identifier(parent)
    await connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(table, partitioned))
    await connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            partitioned, table, sql.Literal(day.isoformat()), sql.Literal((day + timedelta(days=1)).isoformat())
        )
    )
