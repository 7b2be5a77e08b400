"""From release 0.1.0 (revision 0001) with data: nothing is lost, and both versions work on the new schema."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import release_0_1_0 as old
from growth import add_experiments, day, event_row
from migrating import migrate_to
from postgres import TestCluster
from running import assert_replay_agrees, query, scalar, until_scalar

from bandit.reward import Evidence
from router.storage.database import Database, DatabaseUrl
from router.storage.migrate import migrate
from router.storage.policies import read_evidence
from router.storage.retention import drop_expired
from router.storage.writer import EventWriter

DAYS = 3
#: Of what a schema is made: columns, constraints, indexes, views and comments, those of partitions left out.
SCHEMA = """
SELECT c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum), c.reloptions::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
UNION ALL
SELECT conrelid::regclass::text, contype, conname, pg_get_constraintdef(oid), convalidated, NULL, NULL, NULL
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    AND conrelid NOT IN (SELECT oid FROM pg_class WHERE relispartition)
UNION ALL
SELECT c.relname, 'i', pg_get_indexdef(i.indexrelid), NULL, NULL, NULL, NULL, NULL
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
UNION ALL
SELECT viewname, 'v', NULL, definition, NULL, NULL, obj_description(format('public.%I', viewname)::regclass), NULL
FROM pg_views WHERE schemaname = 'public'
"""


@pytest.fixture
def released(cluster: TestCluster) -> Iterator[str]:
    """A database as 0.1.0 leaves it, after some days of service."""
    with cluster.database_from_template("template1") as url:
        migrate_to(url, "0001")
        add_experiments(url, 2, 3)
        with psycopg.connect(url, options="-c timezone=UTC") as connection:
            for number in range(DAYS):
                old.ensure_partition(connection, day(number))
                for decision in range(60):
                    old.decide(connection, 100 * number + decision, number)
                old.apply(connection, [old.event(100 * number + n, "reward", day=number) for n in range(40)])
                old.apply(connection, [old.event(n, "done", day=number, signal="task_completed") for n in range(30)])
                old.apply(
                    connection,
                    [old.event(n, "down", day=number, signal="thumbs_down", metadata={"signal": "x"}) for n in range(9)],
                )
                old.apply(connection, [old.event(n, "q", day=number, signal="follow_up_question") for n in range(5)])
                old.apply(connection, [old.event(1, "bare", day=number, metadata={"signal": "kept"})])
        yield url


async def posterior(url: str) -> list[tuple[Any, ...]]:
    return await query(url, "SELECT * FROM posterior_latest ORDER BY experiment_id, arm_id")


async def logged(url: str) -> list[tuple[Any, ...]]:
    return await query(url, "SELECT * FROM decision_log ORDER BY decision_key")


async def test_nothing_is_lost(released: str):
    before = await posterior(released), await logged(released)
    events = "SELECT kind, {} AS signal, {} AS details, event_id, count(*) FROM events GROUP BY 1, 2, 3, 4 ORDER BY 4"
    known = await query(released, events.format("details ->> 'signal'", "nullif(details - 'signal', '{}')"))

    assert migrate(DatabaseUrl.parse(released)).current == "0001"

    assert (await posterior(released), await logged(released)) == before
    now = await query(released, events.format("signal", "details"))
    for kind, signal, details, event_id, count in now:
        if event_id == "bare":
            assert (kind, signal, details, count) == ("reward", None, {"metadata": {"signal": "kept"}}, DAYS)
    assert [row for row in now if row[3] != "bare"] == [row for row in known if row[3] != "bare"]
    assert {row[1] for row in now} == {"task_completed", "thumbs_down", "follow_up_question", None}
    report = await assert_replay_agrees(released)
    assert (report.events, report.base) == (DAYS * (40 + 30 + 9 + 1), 0)
    assert await query(released, "SELECT kept_from FROM retention") == [(None,)]


async def test_it_ends_at_the_schema_of_a_new_database(released: str, database_url: str):
    migrate(DatabaseUrl.parse(released))
    ours, new = set(), set()
    for found, url in ((ours, released), (new, database_url)):
        found.update(str(row) for row in await query(url, SCHEMA))
    assert ours == new


async def test_partitions_of_before_are_like_those_made_from_now_on(released: str):
    migrate(DatabaseUrl.parse(released))
    database = Database(DatabaseUrl.parse(released))
    writer = EventWriter(database)
    await writer.apply([event_row(1, DAYS)])
    await writer.close()
    await database.dispose()
    for parent in ("decisions", "events"):
        kinds = await query(
            released,
            "SELECT DISTINCT c.reloptions, (SELECT array_agg(indkey::text ORDER BY indkey::text) FROM pg_index"
            " WHERE indrelid = c.oid), (SELECT array_agg(attname ORDER BY attname) FROM pg_attribute"
            " WHERE attrelid = c.oid AND attnum > 0)"
            " FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s::text::regclass",
            parent,
        )
        assert len(kinds) == 1, kinds


async def test_it_runs_beside_the_old_version_without_deadlock(released: str):
    """As when one of several machines migrates while the others still serve."""
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await scalar(released, deadlocks)
    over = threading.Event()

    def serve(seed: int) -> int:
        rounds = 0
        with psycopg.connect(released, options="-c timezone=UTC", autocommit=True) as connection:
            while not over.is_set():
                rounds += 1
                with connection.transaction():
                    rows = [old.event(n, f"{seed} {rounds}", day=n % DAYS, signal="thumbs_down") for n in range(20)]
                    old.apply(connection, rows)
                with connection.transaction():
                    old.decide(connection, 10_000 * (seed + 1) + rounds, rounds % DAYS)
                connection.execute(old.READ_EVIDENCE, [[1, 2]]).fetchall()
        return rounds

    with ThreadPoolExecutor(4) as pool:
        loop = asyncio.get_running_loop()
        serving = [loop.run_in_executor(pool, serve, seed) for seed in range(3)]
        try:
            await until_scalar(released, "SELECT count(*) > 500 FROM events", True)
            await asyncio.to_thread(migrate, DatabaseUrl.parse(released))
            stored = await scalar(released, "SELECT count(*) FROM events")
            await until_scalar(released, f"SELECT count(*) > {stored + 200} FROM events", True)
        finally:
            over.set()
        assert all(rounds > 0 for rounds in await asyncio.gather(*serving))
    await assert_replay_agrees(released)
    await query(released, "SELECT pg_stat_force_next_flush()")
    assert await scalar(released, deadlocks) == before


async def test_both_versions_write_while_replicas_are_replaced(released: str):
    migrate(DatabaseUrl.parse(released))
    database = Database(DatabaseUrl.parse(released))
    writer = EventWriter(database)

    def of_the_old(number: int) -> None:
        with psycopg.connect(released, options="-c timezone=UTC") as connection:
            old.ensure_partition(connection, day(DAYS))
            old.apply(connection, [old.event(n, f"old {number}", day=DAYS, signal="task_completed") for n in range(50)])
            old.decide(connection, 9_000 + number, DAYS)
            connection.execute(old.CLAIM, [[1], [f"u{number}"], [0], [0.5], ["2026-09-21 00:00Z"], [None]])

    with ThreadPoolExecutor(2) as pool:
        loop = asyncio.get_running_loop()
        for number in range(5):
            olds = [loop.run_in_executor(pool, of_the_old, 2 * number + n) for n in range(2)]
            rows = [event_row(n, DAYS, f"new {number}", incarnation=1 + n % 2, arm=n % 3) for n in range(50)]
            await asyncio.gather(writer.apply(rows), *olds)
    await writer.close()
    async with database.snapshot() as connection:
        readings = await read_evidence(connection, [1, 2])
    await database.dispose()
    await assert_replay_agrees(released)
    seen_by_the_old = await query(released, old.READ_EVIDENCE, [1, 2])
    ours = {(r.incarnation, arm, e.success_micros, e.failure_micros, e.n) for r in readings for arm, e in r.evidence.items()}
    assert set(seen_by_the_old) == ours, "as long as no day was dropped"
    assert await scalar(released, "SELECT count(*) FROM events WHERE decision_day = %s AND signal IS NULL", day(DAYS)) > 0


async def test_days_of_before_can_be_dropped(released: str):
    migrate(DatabaseUrl.parse(released))
    before = await posterior(released)
    total = await query(
        released, "SELECT sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8 FROM evidence_all"
    )
    async with await psycopg.AsyncConnection.connect(released, autocommit=True) as connection:
        assert await drop_expired(connection, day(DAYS), 1) == [day(0), day(1)]
    assert await posterior(released) == before
    report = await assert_replay_agrees(released)
    assert report.base > 0
    kept = await query(released, "SELECT sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8 FROM evidence")
    base = await query(
        released, "SELECT sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8 FROM evidence_base"
    )
    assert Evidence(*kept[0]) + Evidence(*base[0]) == Evidence(*total[0])
