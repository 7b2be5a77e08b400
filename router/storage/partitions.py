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
    """Create what is missing of the partitions of `days` (UTC), in one transaction."""
    with translated():
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            for day in sorted(set(days)):
                for table in PARTITIONED:
                    await connection.execute(
                        sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                            sql.Identifier(f"{table}_{day:%Y%m%d}"),
                            sql.Identifier(table),
                            sql.Literal(day.isoformat()),
                            sql.Literal((day + timedelta(days=1)).isoformat()),
                        )
                    )
