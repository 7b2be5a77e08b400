"""Databases as they are after a year: many experiments, or many events, put there by SQL.

What is put there is what the router would have written: rows are copies of rows that it did write, with other ids and
times, and the evidence is the sum of the outcomes, so that `bandit-router replay` agrees.
"""

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from router.storage.partitions import ensure_partitions

#: Days over which events are spread, today excluded.
DAYS = 6
_LOADERS = 2


@contextmanager
def database(server_url: str, name: str) -> Iterator[str]:
    """Make a database on the server of another one, and drop it at the end; gives its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def add_experiments(url: str, experiment_id: str, count: int) -> list[str]:
    """Copy a running experiment that has no evidence; returns the ids of the copies."""
    with psycopg.connect(url) as connection:
        of_original = "t.incarnation = (SELECT incarnation FROM experiments WHERE experiment_id = {})"
        where = sql.SQL(of_original).format(experiment_id)
        copies = sql.SQL("generate_series(1, {}) g").format(count)
        for table in ("experiments", "arms", "reward_rules", "policy_versions"):
            changed = {"incarnation": "t.incarnation + g"}
            if table == "experiments":
                changed["experiment_id"] = "t.experiment_id || '-' || g"
            _copy_rows(connection, table, table, changed, copies, where)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return [f"{experiment_id}-{i}" for i in range(1, count + 1)]


def add_events(url: str, count: int) -> None:
    """Copy the only event there is, with its outcome: to decisions of the last days, of all experiments and arms alike."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=n) for n in range(1, DAYS + 1)]
    asyncio.run(_make_partitions(url, days))
    with ThreadPoolExecutor(_LOADERS) as loaders:
        shares = [count // DAYS + (n < count % DAYS) for n in range(DAYS)]
        list(loaders.map(lambda day, share: _fill_day(url, day, share), days, shares))
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM evidence")
        connection.execute(
            "INSERT INTO evidence (incarnation, arm, segment, bucket, success_micros, failure_micros, n)"
            " SELECT incarnation, arm, segment, bucket, sum(reward_micros), sum(1000000 - reward_micros), count(*)"
            " FROM outcomes GROUP BY incarnation, arm, segment, bucket"
        )
        connection.execute("UPDATE policy_versions SET policy_version = policy_version + 1")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE, PARALLEL 2)")
        connection.execute("CHECKPOINT")


def _fill_day(url: str, day: date, count: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SET LOCAL synchronous_commit = off")
        arms = "(SELECT array_agg(DISTINCT arm) FROM arms)"
        experiments = "(SELECT array_agg(incarnation) FROM experiments)"
        # A UUIDv7 of the day's first millisecond, numbered: uuidv7() would take half of the time that all this takes.
        midnight_ms = f"{int(datetime.combine(day, time(), UTC).timestamp() * 1e3):012x}"
        at = f"timestamptz '{day} 00:00+00' + g * interval '1 day' / {count + 1}"
        changed = {
            "decision_day": f"date '{day}'",
            "decision_key": f"('{midnight_ms[:8]}-{midnight_ms[8:]}-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid",
            "incarnation": f"({experiments})[1 + g % cardinality({experiments})]",
            "arm": f"({arms})[1 + g / cardinality({experiments}) % cardinality({arms})]",
            "bucket": f"timestamptz '{day} 00:00+00' + (24 * g::bigint / {count + 1}) * interval '1 hour'",
            "decided_at": at,
            "occurred_at": f"{at} + interval '1 minute'",
            "received_at": f"{at} + interval '1 minute'",
            "reward_micros": "1000000 * (g % 997 < 600)::int",
        }
        copies = sql.SQL("generate_series(1, {}) g").format(count)
        original = sql.SQL("t.decision_day = {}").format(sql.Literal(datetime.now(UTC).date().isoformat()))
        _copy_rows(connection, "events", f"events_{day:%Y%m%d}", changed, copies, original)
        columns = sql.SQL(", ").join(sql.Identifier(column) for column in _columns(connection, "outcomes"))
        into, source = sql.Identifier(f"outcomes_{day:%Y%m%d}"), sql.Identifier(f"events_{day:%Y%m%d}")
        connection.execute(sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(into, columns, columns, source))


def _copy_rows(
    connection: psycopg.Connection[Any],
    table: str,
    into: str,
    changed: Mapping[str, str],
    copies: sql.Composable,
    where: sql.Composable,
) -> None:
    """Insert copies of rows `t` of a table, numbered `g`, with some columns changed; what is added later comes along."""
    columns = _columns(connection, table)
    values = [sql.SQL(changed[column]) if column in changed else sql.Identifier("t", column) for column in columns]
    connection.execute(
        sql.SQL("WITH t AS MATERIALIZED (SELECT * FROM {} t WHERE {}) INSERT INTO {} ({}) SELECT {} FROM t, {}").format(
            sql.Identifier(table),
            where,
            sql.Identifier(into),
            sql.SQL(", ").join(sql.Identifier(column) for column in columns),
            sql.SQL(", ").join(values),
            copies,
        )
    )


def _columns(connection: psycopg.Connection[Any], table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        (table,),
    )
    return [name for (name,) in found.fetchall()]


async def _make_partitions(url: str, days: list[date]) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await ensure_partitions(connection, days)
