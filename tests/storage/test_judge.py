"""The statements of judge runs on tables that have grown: what they read, and that large samples stay cheap."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import psycopg
import pytest
from growth import add_experiments, day
from sqlalchemy import text

from bandit.verdicts import report
from router.storage import judge
from router.storage.database import Database, DatabaseUrl
from router.storage.judge import NewRun, Said
from router.storage.partitions import partition_name

PAIRS, EXPERIMENTS = 20_000, 20

# Of each experiment a pair in `EXPERIMENTS`; every third decision has an outcome.
FILL = f"""
CREATE TEMPORARY TABLE d AS
SELECT n, lpad(to_hex(n), 32, '0')::uuid AS decision_key, 1 + n % {EXPERIMENTS} AS incarnation
FROM generate_series(0::int8, {PAIRS} - 1) n;
INSERT INTO shadow_comparisons (decision_key, shadow_arm, incarnation, serving_arm, decision_day, decided_at, recorded_at,
    unit_hash, request_id, text_mode, prompt, serving_text, serving_model, serving_stop_reason, serving_provider_request_id,
    serving_error, shadow_text, shadow_model, shadow_stop_reason, shadow_provider_request_id, shadow_error)
SELECT decision_key, 1, incarnation, 0, '{day(0)}', timestamptz '{day(0)} 00:00Z' + n * interval '1 s', now(),
       int8send(n % 500), '', 'full', 'Question ' || n, repeat('served ', 50), '', '', '', '', repeat('shadow ', 50), '', '',
       '', '' FROM d;
INSERT INTO outcomes (decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id,
    reward_micros)
SELECT '{day(0)}', decision_key, incarnation, 0, '', timestamptz '{day(0)} 00:00Z', 4, now(), 'e', (n % 2) * 1000000
FROM d WHERE n % 3 = 0;
"""


@pytest.fixture(scope="module")
def grown(cluster) -> Iterator[str]:
    with cluster.database_from_template("template_migrated") as url:
        add_experiments(url, EXPERIMENTS, 2)
        with psycopg.connect(url, options="-c timezone=UTC") as connection:
            connection.execute(
                f"CREATE TABLE {partition_name('outcomes', day(0))} PARTITION OF outcomes FOR VALUES FROM ('{day(0)}')"
                f" TO ('{day(1)}')"
            )
            connection.execute(FILL)
            connection.execute("ANALYZE shadow_comparisons")
        yield url


@pytest.fixture
async def database(grown: str) -> AsyncIterator[Database]:
    database = Database(DatabaseUrl.parse(grown))
    yield database
    await database.dispose()


def new_run(run_id: str, incarnation: int = 1, sample: int = 100_000) -> NewRun:
    return NewRun(run_id, incarnation, 1_790_000_000_000_000, 1, 0, {}, 1, sample, True, 0.1)


async def test_a_run_of_many_pairs(database: Database, grown: str) -> None:
    """All pairs in one experiment: drawn, judged and counted in seconds, and each row in its place."""
    with psycopg.connect(grown) as connection:
        connection.execute("UPDATE shadow_comparisons SET incarnation = 2")
        connection.execute("UPDATE outcomes SET incarnation = 2")
    started = time.perf_counter()
    async with database.begin() as connection:
        drawn = await judge.create(connection, new_run("many", 2))
    assert drawn is not None
    assert 2 * PAIRS + 0.08 * PAIRS < drawn < 2 * PAIRS + 0.12 * PAIRS
    # Pairs of even number are for the arm, the others a tie by disagreement; every tenth is not judged.
    with psycopg.connect(grown) as connection:
        connection.execute(
            "UPDATE judgments SET verdict = CASE WHEN n % 2 = 0 AND NOT shadow_first THEN 'b' ELSE 'a' END"
            " FROM (SELECT decision_key AS key, ('x' || right(decision_key::text, 8))::bit(32)::int AS n"
            "       FROM shadow_comparisons) p WHERE decision_key = key AND n % 10 <> 9 AND run_id = 'many'"
        )
        connection.commit()
    async with database.snapshot() as connection:
        verdicts = await judge.read_verdicts(connection, "many")
        run = await judge.read_run(connection, "many")
    found = report(verdicts)
    assert run is not None
    assert (run.asked, run.judgments) == (2 * PAIRS, drawn)
    assert (found.judged_pairs, found.pending_pairs) == (0.9 * PAIRS, 0.1 * PAIRS)
    assert found.arm_wins.value == pytest.approx(5 / 9)
    assert found.ties.value == pytest.approx(4 / 9)
    assert len(set(verdicts.unit.tolist())) == 500
    # Rewards: a third of all, of even numbers 0 and of odd ones 1. The even ones were rejected.
    rewarded = ~(verdicts.reward != verdicts.reward)
    assert rewarded.sum() == -(-PAIRS // 3)
    assert found.user_agreement is None, "no served answer was preferred"
    assert time.perf_counter() - started < 30


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_pages_and_verdicts_read_no_more_than_they_need(database: Database) -> None:
    async with database.begin() as connection:
        await judge.create(connection, new_run("paged", 2, sample=5_000))
        await connection.execute(text("ANALYZE judgments"))
    async with database.begin() as connection:
        await judge.plan_for_order(connection)
        values = {"run_id": "paged", "after": 7_000, "limit": 101}
        plan = (await connection.execute(text("EXPLAIN (ANALYZE, FORMAT JSON) " + judge._PENDING), values)).scalar_one()
    document = json.loads(plan) if isinstance(plan, str) else plan
    scans = [node for node in nodes(document[0]["Plan"]) if "Relation Name" in node]
    assert {node["Relation Name"] for node in scans} == {"judgments", "shadow_comparisons"}
    for node in scans:
        assert "Seq Scan" not in node["Node Type"], node
        assert node["Actual Rows"] * node["Actual Loops"] <= 101, node


async def test_a_run_that_another_transaction_makes_is_waited_for(database: Database) -> None:
    async with database.begin() as connection:
        assert await judge.create(connection, new_run("twice", 2, sample=3)) is not None
    async with database.begin() as connection:
        assert await judge.create(connection, new_run("twice", 2, sample=9)) is None
        assert await judge.count_judgments(connection, "twice") in range(6, 10)


async def test_a_comparison_that_is_gone_keeps_its_verdict_and_its_unit(database: Database, grown: str) -> None:
    async with database.begin() as connection:
        drawn = await judge.create(connection, new_run("gone", 2, sample=50))
        assert drawn is not None
        for number in range(drawn):
            said = Said("gone", number, "a", "because", 1_790_000_000_000_000, None, None, None, 0.1)
            assert await judge.record(connection, said)
        before = await judge.read_verdicts(connection, "gone")
    with psycopg.connect(grown) as other:
        other.execute("DELETE FROM shadow_comparisons WHERE decision_key IN (SELECT decision_key FROM judgments"
                      " WHERE run_id = 'gone')")  # fmt: skip
    async with database.snapshot() as connection:
        after = await judge.read_verdicts(connection, "gone")
        run = await judge.read_run(connection, "gone")
    for name in ("pair", "arm_first", "repeat", "verdict", "unit"):
        assert getattr(before, name).tolist() == getattr(after, name).tolist()
    assert run is not None
    assert run.cost_usd == pytest.approx(0.1 * drawn)
