"""The baseline of BatchReward: COPY of the same rows into the same tables, which is the most that Postgres itself can do.

It includes: the rows of `events` and of `outcomes`, column for column as the router stored them; into a second database of
the same server, with the same migrations, hence the same partitions, keys, checks and defaults; in transactions of 1,000
events with their outcomes, each committed with fsync, one after the other on one connection. It does not include: making
the rows (they are read beforehand, in the order in which they were stored, as bytes that Postgres itself wrote), looking
for duplicates, folding, evidence, locks and replies.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from router.storage.database import DatabaseUrl
from router.storage.migrate import migrate
from router.storage.partitions import ensure_partitions

_DATABASE = "bench_copy"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in the form that COPY reads, one entry for each transaction."""

    events: Sequence[bytes]
    outcomes: Sequence[bytes]
    count: int


class CopyTarget:
    """A second database on the server of the first."""

    def __init__(self, source_url: str) -> None:
        self._source_url = source_url
        self._url = urlsplit(source_url)._replace(path=f"/{_DATABASE}").geturl()

    def __enter__(self) -> Self:
        with psycopg.connect(self._source_url, autocommit=True) as source:
            source.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
        migrate(DatabaseUrl.parse(self._url))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with psycopg.connect(self._source_url, autocommit=True) as source:
            source.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_DATABASE)))

    def rows_after(self, known: int, batch: int) -> Rows:
        """Read the events, and their outcomes, that the router stored after the first `known`, in that order."""
        with psycopg.connect(self._source_url) as source:
            days = [day for (day,) in source.execute("SELECT DISTINCT decision_day FROM events").fetchall()]
            source.execute(
                sql.SQL(
                    "CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT row_number() OVER () AS place, e.*"
                    " FROM (SELECT * FROM events ORDER BY received_at, decision_key OFFSET {}) e"
                ).format(known)
            )
            source.execute("ALTER TABLE fresh ADD PRIMARY KEY (place)")
            source.execute("ANALYZE fresh")
            events, outcomes = [], []
            found = source.execute("SELECT count(*) FROM fresh").fetchone()
            count = found[0] if found else 0
            for first in range(1, count + 1, batch):
                of_events, of_outcomes = _selections(source, first, first + batch - 1)
                events.append(_copied(source, of_events))
                outcomes.append(_copied(source, of_outcomes))
        asyncio.run(self._make_partitions(days))
        return Rows(events, outcomes, count)

    def copy(self, rows: Rows) -> float:
        """Store the rows and return how many events a second that were."""
        with psycopg.connect(self._url) as connection, connection.cursor() as cursor:
            connection.execute("SET synchronous_commit = on")
            connection.commit()
            began = time.perf_counter()
            for events, outcomes in zip(rows.events, rows.outcomes, strict=True):
                for table, chunk in ((b"events", events), (b"outcomes", outcomes)):
                    with cursor.copy(b"COPY " + table + b" FROM STDIN (FORMAT binary)") as copy:
                        copy.write(chunk)
                connection.commit()
            return rows.count / (time.perf_counter() - began)

    async def _make_partitions(self, days: Sequence[date]) -> None:
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            await ensure_partitions(connection, days)


def _selections(connection: psycopg.Connection[Any], first: int, last: int) -> tuple[sql.Composed, sql.Composed]:
    """Return the queries for the events, and for their outcomes, at these places of `fresh`."""
    named = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum"
    ).fetchall()
    columns = sql.SQL(", ").join(sql.Identifier("fresh", name) for (name,) in named)
    places = sql.SQL("place BETWEEN {} AND {} ORDER BY place").format(first, last)
    return (
        sql.SQL("SELECT {} FROM fresh WHERE {}").format(columns, places),
        sql.SQL("SELECT o.* FROM fresh JOIN outcomes o USING (decision_day, decision_key) WHERE {}").format(places),
    )


def _copied(connection: psycopg.Connection[Any], query: sql.Composed) -> bytes:
    """Return the rows of a query in COPY's binary format, which Postgres reads faster than its text format."""
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        return b"".join(bytes(block) for block in copy)
