"""Partitions: made on demand and ahead, without holding anybody up, and never for a day that is dropped."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest
from growth import add_experiments, day, event_connection, event_row
from running import query, scalar, until_waiting

from router.storage.errors import CLOSED_DAY, MissingPartitionError, RefusedRowError
from router.storage.events import apply_events
from router.storage.partitions import PARTITIONED, ensure_ahead, ensure_partitions, partition_name


@pytest.fixture
def url(database_url: str) -> str:
    add_experiments(database_url, 2, 3)
    return database_url


@pytest.fixture
async def connection(url: str):
    async with await event_connection(url) as connection:
        yield connection


async def partitions(url: str) -> dict[str, set[str]]:
    """Days that each table has a partition for."""
    rows = await query(
        url,
        "SELECT p.relname, array_agg(right(c.relname, 8)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'p' AND c.relname ~ '_[0-9]{8}$' GROUP BY p.relname",
    )
    return {parent: set(days) for parent, days in rows}


def of_days(*numbers: int) -> dict[str, set[str]]:
    return {parent: {f"{day(number):%Y%m%d}" for number in numbers} for parent in PARTITIONED} if numbers else {}


async def test_on_demand(url: str, connection):
    assert await ensure_partitions(connection, [day(3), day(1), day(3)]) == frozenset()
    assert await partitions(url) == of_days(1, 3)
    assert await ensure_partitions(connection, [day(1), day(2)]) == frozenset()
    assert await partitions(url) == of_days(1, 2, 3)
    assert await ensure_partitions(connection, []) == frozenset()


async def test_partitions_are_what_a_table_of_their_kind_should_be(url: str, connection):
    await ensure_partitions(connection, [day(0)])
    for parent in PARTITIONED:
        name = partition_name(parent, day(0))
        options = dict(
            option.split("=")
            for option in await scalar(url, "SELECT reloptions FROM pg_class WHERE oid = %s::text::regclass", name)
        )
        assert options["autovacuum_freeze_min_age"] == "0"
        assert ("fillfactor" in options) == (parent in ("outcomes", "unit_shares"))
        ours = "SELECT array_agg(indkey::text ORDER BY indkey::text) FROM pg_index WHERE indrelid = %s::text::regclass"
        assert await scalar(url, ours, name) == await scalar(url, ours, parent)


async def test_a_part_that_is_missing_is_added(url: str, connection):
    await ensure_partitions(connection, [day(0)])
    await query(url, f"DROP TABLE {partition_name('outcomes', day(0))}")
    await ensure_partitions(connection, [day(0)])
    assert await partitions(url) == of_days(0)


async def test_made_by_several_at_once(url: str):
    connections = [await event_connection(url) for _ in range(4)]
    days = [day(number) for number in range(4)]
    await asyncio.gather(
        *(ensure_partitions(c, reversed(days) if n % 2 else days) for n, c in enumerate(connections[:3])),
        ensure_ahead(connections[3], day(0), 3),
    )
    assert await partitions(url) == of_days(0, 1, 2, 3)
    for connection in connections:
        await connection.close()


async def test_on_a_connection_that_is_not_in_autocommit_mode_nothing_stays_open(url: str):
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await ensure_partitions(connection, [day(0)])
        await ensure_partitions(connection, [day(0)])
        assert await ensure_ahead(connection, day(0), 1) == [day(1)]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


# Dropped days


async def test_no_partition_is_made_for_a_dropped_day(url: str, connection):
    await query(url, "UPDATE retention SET kept_from = %s", day(2))
    assert await ensure_partitions(connection, [day(n) for n in range(4)]) == {day(0), day(1)}
    assert await partitions(url) == of_days(2, 3)
    assert await ensure_ahead(connection, day(0), 4) == [day(4)]
    assert await partitions(url) == of_days(2, 3, 4)


async def test_a_day_that_is_closed_and_still_there_counts_as_dropped(url: str, connection):
    await ensure_partitions(connection, [day(0)])
    await query(url, "UPDATE retention SET kept_from = %s", day(1))
    assert await ensure_partitions(connection, [day(0), day(1)]) == {day(0)}


async def test_whoever_waits_to_make_a_partition_hears_that_the_day_was_dropped_meanwhile(url: str, connection):
    """Both look while there is no partition; what is dropped before the lock is had must not come back."""
    async with await psycopg.AsyncConnection.connect(url) as retention:
        await retention.execute("SELECT pg_advisory_xact_lock(7261180212)")
        making = asyncio.ensure_future(ensure_partitions(connection, [day(0), day(1)]))
        await until_waiting(url, "pg_advisory_xact_lock")
        await retention.execute("UPDATE retention SET kept_from = %s", (day(1),))
        await retention.commit()
    assert await making == {day(0)}
    assert await partitions(url) == of_days(1)


async def test_a_missing_partition_is_told_apart_from_a_refused_row(url: str, connection):
    with pytest.raises(MissingPartitionError, match="no partition of relation"):
        await apply_events(connection, [event_row(0)])
    await ensure_partitions(connection, [day(0)])
    await apply_events(connection, [event_row(0)])
    with pytest.raises(RefusedRowError):
        await apply_events(connection, [event_row(1, reward=1_000_001)])
    await query(url, f"ALTER TABLE {partition_name('events', day(0))} ADD CONSTRAINT {CLOSED_DAY} CHECK (false) NOT VALID")
    with pytest.raises(MissingPartitionError, match=CLOSED_DAY):
        await apply_events(connection, [event_row(1)])
    known = await apply_events(connection, [event_row(0)])
    assert known.known == {0}, "a repetition of what is stored is still recognised"


# Ahead


async def test_ahead(url: str, connection):
    await ensure_partitions(connection, [day(2)])
    assert await ensure_ahead(connection, day(0), 3) == [day(0), day(1), day(3)]
    assert await partitions(url) == of_days(0, 1, 2, 3)
    assert await ensure_ahead(connection, day(0), 3) == []
    assert await ensure_ahead(connection, day(1), 3) == [day(4)]
    assert (await ensure_ahead(connection, day(10)))[-1] == day(10) + timedelta(days=7)


async def test_making_partitions_waits_for_no_reader_and_no_writer(url: str, connection):
    await ensure_partitions(connection, [day(0)])
    async with await psycopg.AsyncConnection.connect(url) as analyst, await event_connection(url) as writer:
        await analyst.execute("SELECT count(*) FROM events, outcomes, decisions")
        async with asyncio.timeout(10), writer.transaction():
            await apply_events(writer, [event_row(0)])
            assert await ensure_ahead(connection, day(0), 1) == [day(1)]
            assert await ensure_partitions(connection, [day(2)]) == frozenset()
        await analyst.rollback()


async def test_ahead_gives_way_and_holds_nobody_up(url: str, connection):
    """An administrator's CREATE INDEX CONCURRENTLY holds what attaching needs, for as long as it takes."""
    await ensure_partitions(connection, [day(0)])
    async with await psycopg.AsyncConnection.connect(url) as administrator, await event_connection(url) as writer:
        await administrator.execute("LOCK TABLE ONLY outcomes IN SHARE UPDATE EXCLUSIVE MODE")
        ahead = asyncio.ensure_future(ensure_ahead(connection, day(0), 2))
        async with asyncio.timeout(10):
            await apply_events(writer, [event_row(0)])
            assert await ahead == []
        assert await partitions(url) == of_days(0)
        await administrator.rollback()
    assert await ensure_ahead(connection, day(0), 2) == [day(1), day(2)]


async def test_ahead_gives_way_to_another_one(url: str, connection):
    async with await psycopg.AsyncConnection.connect(url) as other:
        await other.execute("SELECT pg_advisory_xact_lock(7261180212)")
        async with asyncio.timeout(10):
            assert await ensure_ahead(connection, day(0), 2) == []
