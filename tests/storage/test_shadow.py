"""Comparisons in Postgres: kept once, counted once, and deleted with their days; what older versions make of the schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from growth import add_experiments
from running import query, scalar

from router.storage import shadow
from router.storage.retention import drop_expired
from router.storage.shadow import AnswerRow, ComparisonRow

TODAY = date(2026, 5, 10)
DAY_US = 86_400_000_000
NOON_US = int(datetime(2026, 5, 10, 12, tzinfo=UTC).timestamp() * 1e6)
ANSWER = AnswerRow("text", "model", "end_turn", "req-1", 1_500_000, 10, 20, 0.25, "")
NOTHING = AnswerRow(None, "", "", "", None, None, None, None, "timeout")


def row(number: int, *, days_ago: int = 0, shadow_arm: int = 2, **fields: Any) -> ComparisonRow:
    decided_at_us = NOON_US - days_ago * DAY_US + number
    given = {"serving": ANSWER, "shadow": NOTHING, "text_mode": "full", "prompt": "prompt", "unit_hash": b"u" * 8, **fields}
    return ComparisonRow(
        UUID(int=number).bytes,
        shadow_arm=shadow_arm,
        serving_arm=0,
        decided_at_us=decided_at_us,
        recorded_at_us=decided_at_us + 1,
        request_id=f"r-{number}",
        **given,
    )


@pytest.fixture
def url(database_url: str) -> str:
    add_experiments(database_url, 2, 3)
    return database_url


@pytest.fixture
async def connection(url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def pages(connection: psycopg.AsyncConnection[Any], limit: int, arms: list[int] | None = None) -> list[list[str]]:
    """The request ids of every page."""
    found, before = [], None
    while True:
        rows, more = await shadow.read_page(connection, 1, arms, before, limit)
        found.append([one.request_id for one in rows])
        if not more:
            return found
        before = (rows[-1].decided_at_us, rows[-1].decision_key, rows[-1].shadow_arm)


async def test_a_row_comes_back_as_it_was_stored(connection: Any):
    stored = [
        row(1),
        row(2, text_mode="off", prompt=None, unit_hash=None, serving=NOTHING),
        row(2, shadow_arm=1, serving=ANSWER._replace(text="", cost_usd=0.0, input_tokens=2**63 - 1)),
    ]
    for each in stored:
        assert (await shadow.record(connection, 1, each, TODAY, 0.5)).new
    found, more = await shadow.read_page(connection, 1, None, None, 10)
    assert (found, more) == ([stored[1], stored[2], stored[0]], False)
    assert (await shadow.read_page(connection, 2, None, None, 10)) == ([], False)


async def test_text_that_is_off_cannot_be_stored(connection: Any):
    with pytest.raises(psycopg.errors.CheckViolation):
        await shadow.record(connection, 1, row(1, text_mode="off"), TODAY, 0.0)
    assert await shadow.read_spend(connection, [1], TODAY) == {}


async def test_what_is_recorded_at_once_by_many_counts_once_each(url: str, connection: Any):
    async def record(number: int) -> tuple[bool, float | None]:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as own:
            return await shadow.record(own, 1, row(number % 4), TODAY, 0.5)

    results = await asyncio.gather(*(record(number) for number in range(16)))
    assert sum(new for new, _ in results) == 4
    # Whoever adds learns the sum with its own part: each of them once.
    assert sorted(spent for _, spent in results if spent is not None) == [0.5, 1.0, 1.5, 2.0]
    assert await query(url, "SELECT incarnation, day, cost_usd, calls FROM shadow_spend") == [(1, TODAY, 2.0, 4)]
    other = TODAY + timedelta(days=1)
    await shadow.record(connection, 1, row(9), other, 3.0)
    assert await shadow.read_spend(connection, [1, 2], TODAY) == {1: 2.0}
    assert await shadow.read_spend(connection, [1, 2], other) == {1: 3.0}


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_hold_every_comparison_once_newest_first(connection: Any, limit: int):
    for number in range(6):
        # Three decisions of one microsecond: their keys tell them apart.
        at = {"days_ago": 0} if number < 3 else {"days_ago": 1}
        one = row(number, **at)._replace(decided_at_us=NOON_US - at["days_ago"] * DAY_US)
        await shadow.record(connection, 1, one, TODAY, 0.0)
        await shadow.record(connection, 1, one._replace(shadow_arm=1), TODAY, 0.0)
    found = await pages(connection, limit)
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    order = [name for page in found for name in page]
    assert order == [name for number in (2, 1, 0, 5, 4, 3) for name in [f"r-{number}"] * 2]
    assert [name for page in await pages(connection, limit, [1]) for name in page] == [f"r-{n}" for n in (2, 1, 0, 5, 4, 3)]


async def test_one_comparison_fills_a_page_whatever_its_size(connection: Any):
    for number in range(3):
        await shadow.record(connection, 1, row(number, prompt="x" * 9_000_000), TODAY, 0.0)
    assert await pages(connection, 10) == [["r-2"], ["r-1"], ["r-0"]]


async def test_comparisons_go_with_their_days_and_judgments_stay(url: str, connection: Any, monkeypatch: Any):
    monkeypatch.setattr(shadow, "_DELETED_AT_ONCE", 2)
    for number in range(10):
        await shadow.record(connection, 1, row(number, days_ago=number), TODAY, 1.0)
    await connection.execute(
        "INSERT INTO judge_runs VALUES ('run', 1, now(), 2, 0, '{}')",
    )
    await connection.execute(
        "INSERT INTO judgments (run_id, judgment, decision_key, shadow_arm, decision_day, shadow_first, repeat,"
        " verdict) VALUES ('run', 0, %s, 2, '2026-05-01', false, false, 'a')",
        (UUID(int=9),),
    )
    await drop_expired(connection, TODAY, 3)
    kept = await query(url, "SELECT request_id FROM shadow_comparisons ORDER BY 1")
    # Three days before today are kept, and today.
    assert [name for (name,) in kept] == ["r-0", "r-1", "r-2", "r-3"]
    assert await scalar(url, "SELECT count(*) FROM judgments") == 1
    assert await scalar(url, "SELECT sum(calls) FROM shadow_spend") == 10
    # What arrives late for such a day goes with the next call.
    await shadow.record(connection, 1, row(20, days_ago=8), TODAY, 1.0)
    await drop_expired(connection, TODAY, 3)
    assert await scalar(url, "SELECT count(*) FROM shadow_comparisons") == 4


async def test_nothing_is_deleted_where_every_day_is_kept(url: str, connection: Any):
    await shadow.record(connection, 1, row(1, days_ago=4_000), TODAY, 1.0)
    assert await shadow.delete_dropped(connection) == 0


async def test_the_version_in_force_at_the_decision_is_found(connection: Any):
    await connection.execute("DELETE FROM arms WHERE incarnation = 1 AND arm > 0")
    day = datetime(2026, 5, 1, tzinfo=UTC)
    for number, (version, made, retired) in enumerate([(1, 0, 3), (2, 3, 6), (3, 6, None)], 1):
        await connection.execute(
            "INSERT INTO arms (incarnation, arm, position, arm_id, version, model, family, role, config, cost_usd, active,"
            " created_at, retired_at) VALUES (1, %s, 1, 's', %s, 'm', '', 'shadow', '{}', %s, %s, %s, %s)",
            (
                number,
                version,
                version,
                retired is None,
                day + timedelta(days=made),
                None if retired is None else day + timedelta(days=retired),
            ),
        )
    for days, arm in ((1, 1), (4, 2), (7, 3), (-5, 3)):  # a clock that is wrong: the one that is active
        at_us = int((day + timedelta(days=days)).timestamp() * 1e6)
        target = await shadow.read_target(connection, 1, 0, "s", at_us)
        assert target is not None
        assert (target.shadow_arm, target.cost_usd) == (arm, arm)
    target = await shadow.read_target(connection, 1, 77, "nobody", NOON_US)
    assert target is not None
    assert (target.serving_arm_id, target.shadow_arm) == (None, None)
    assert await shadow.read_target(connection, 12345, 0, "s", NOON_US) is None


async def test_pages_are_read_by_their_index(url: str, connection: Any):
    await connection.execute(
        "INSERT INTO shadow_comparisons (decision_key, shadow_arm, incarnation, serving_arm, decision_day, decided_at,"
        " recorded_at, request_id, text_mode, serving_model, serving_stop_reason, serving_provider_request_id,"
        " serving_error, shadow_model, shadow_stop_reason, shadow_provider_request_id, shadow_error)"
        " SELECT gen_random_uuid(), 1, 1 + n % 2, 0, '2026-05-01', timestamptz '2026-05-01' + n * interval '1 s', now(), '',"
        " 'off', '', '', '', '', '', '', '', '' FROM generate_series(1, 20000) n"
    )
    await connection.execute("ANALYZE shadow_comparisons")
    values = {"incarnation": 1, "arms": None, "limit": 101, "at": "infinity", "key": UUID(int=0), "arm": 0}
    plan = await (await connection.execute(b"EXPLAIN " + shadow._PAGE.as_bytes(connection), values)).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan Backward using shadow_comparisons_incarnation" in text, text
