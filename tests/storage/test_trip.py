"""Transactions of one round trip: all or nothing, and nothing builds on a conversation that broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest
from running import query, until

from router.storage import columns
from router.storage.trip import MOST_PREPARED, Statement, one_trip

INSERT = "INSERT INTO numbers SELECT * FROM unnest($1::int4[])"
COUNT = "SELECT count(*), $1::int4[] FROM numbers"


def numbers(*values: int) -> list[columns.Column]:
    return [columns.integers(np.array(values))]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    async with connection:
        await connection.execute("CREATE TABLE numbers (n int4 CHECK (n < 100))")
        yield connection


async def test_results_come_in_order_and_later_statements_see_earlier_ones(connection, database_url: str):
    for round_number in range(1, 4):  # prepared in the first round, known in the others
        statements = [Statement(COUNT, numbers(7)), Statement(INSERT, numbers(1, 2)), Statement(COUNT, numbers(8, 9))]
        before, _, after = await one_trip(connection, statements)
        assert (before.get_value(0, 0), before.get_value(0, 1)) == (b"%d" % (2 * round_number - 2), b"{7}")
        assert (after.get_value(0, 0), after.get_value(0, 1)) == (b"%d" % (2 * round_number), b"{8,9}")
    assert await query(database_url, "SELECT count(*) FROM numbers") == [(6,)]


async def test_statements_are_not_kept_for_ever(connection):
    often = Statement("SELECT 'often', $1::int4[]", numbers())
    for number in range(2 * MOST_PREPARED):
        found, _ = await one_trip(connection, [Statement(f"SELECT {number}, $1::int4[]", numbers()), often])
        assert found.get_value(0, 0) == b"%d" % number
    kept = await (await connection.execute("SELECT statement FROM pg_prepared_statements")).fetchall()
    assert MOST_PREPARED <= len(kept) <= MOST_PREPARED + 2
    assert [text for (text,) in kept if "often" in text] == ["SELECT 'often', $1::int4[]"], "it was used all the time"
    (found,) = await one_trip(connection, [Statement("SELECT 0, $1::int4[]", numbers())])
    assert found.get_value(0, 0) == b"0", "one that is forgotten is prepared again"


async def test_a_refused_statement_undoes_those_before_it(connection, database_url: str):
    with pytest.raises(psycopg.errors.CheckViolation, match="numbers_n_check"):
        await one_trip(connection, [Statement(INSERT, numbers(1)), Statement(INSERT, numbers(100))])
    with pytest.raises(psycopg.errors.UndefinedTable):
        await one_trip(connection, [Statement(INSERT, numbers(1)), Statement("SELECT $1::int4[] FROM nowhere", numbers(1))])
    assert await query(database_url, "SELECT count(*) FROM numbers") == [(0,)]
    _, result = await one_trip(connection, [Statement(INSERT, numbers(5)), Statement(COUNT, numbers())])
    assert result.get_value(0, 0) == b"1"
    await connection.execute("SELECT 1")


async def test_what_fails_at_the_commit_fails(connection, database_url: str):
    await connection.execute("ALTER TABLE numbers ADD CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await one_trip(connection, [Statement(INSERT, numbers(3, 3)), Statement(COUNT, numbers())])
    assert await query(database_url, "SELECT count(*) FROM numbers") == [(0,)]
    await one_trip(connection, [Statement(INSERT, numbers(3))])


async def test_more_than_a_socket_holds(connection, database_url: str):
    many = [columns.integers(np.arange(3_000_000) % 100)]
    (result,) = await one_trip(connection, [Statement("SELECT count(*) FROM unnest($1::int4[])", many)])
    assert result.get_value(0, 0) == b"3000000"


@pytest.mark.parametrize("sleeping", ["cancelled", "terminated"])
async def test_a_conversation_that_breaks_off_closes_the_connection(connection, database_url: str, sleeping: str):
    pid = connection.info.backend_pid
    statements = [Statement(INSERT, numbers(1)), Statement("SELECT pg_sleep(60), $1::int4[]", numbers())]
    trip = asyncio.ensure_future(one_trip(connection, statements))

    async def is_asleep() -> bool:
        found = await query(database_url, f"SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}")
        return found == [("PgSleep",)]

    await until(is_asleep, "the statement sleeps")
    if sleeping == "cancelled":
        trip.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trip
        await query(database_url, f"SELECT pg_terminate_backend({pid})")
    else:
        await query(database_url, f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(psycopg.OperationalError):
            await trip
    assert connection.closed
    assert await query(database_url, "SELECT count(*) FROM numbers") == [(0,)]
