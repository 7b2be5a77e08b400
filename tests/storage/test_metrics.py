"""The statements behind metrics, turns and preferences on tables that have grown, and the view that analysts read."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from growth import BASE_US, DAY_US, add_experiments, day
from running import Router, arm, event, experiment, query, until_scalar
from sqlalchemy import text

from bandit.reward import DEFAULT_SIGNAL_MICROS, Candidate, Rank, fold
from router.storage import metrics, turns
from router.storage.database import Database, DatabaseUrl
from router.storage.metrics import RuleRewards, Span, read_counts, read_held_out, read_recorded
from router.storage.partitions import ensure_partitions
from router.storage.turns import read_turns
from router.v1 import posteriors_pb2, routing_pb2, types_pb2

DAYS, EXPERIMENTS, DECISIONS = 5, 50, 20_000
HOUR_US = 3_600_000_000
PARTITION = re.compile(r"(?:decisions|events|outcomes)_(\d{8})")

# A decision's experiment follows from its number, and all else from its number within the experiment, m.
FILL = f"""
CREATE TEMPORARY TABLE d AS
SELECT m, date '{day(0)}' + (m % {DAYS})::int AS decision_day, lpad(to_hex(n), 32, '0')::uuid AS decision_key,
       1 + n % {EXPERIMENTS} AS incarnation, (m / {DAYS} % 2)::int2 AS arm,
       timestamptz '{day(0)} 00:00Z' + (m % {DAYS}) * interval '1 day' + (m / 10 % 24) * interval '1 hour' AS at,
       CASE m / 3 % 10 WHEN 0 THEN 'forced' WHEN 1 THEN 'holdout' ELSE 'sampled' END AS reason
FROM (SELECT n, n / {EXPERIMENTS} AS m FROM generate_series(0::int8, {DECISIONS} - 1) n) x;
INSERT INTO decisions (decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version, allocation_id,
                       reason, unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint)
SELECT decision_day, decision_key, incarnation, arm, at, 0.5, 1, md5('allocation')::uuid, reason, 'u' || m,
       's' || m / 6, (m % 6)::text, '', '', '' FROM d;
INSERT INTO allocations VALUES (md5('allocation')::uuid, 1, 1, '{{0,1}}', '{{0.5,0.5}}');
INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, signal, rank, decided_at,
                    occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content)
SELECT decision_day, decision_key, s, incarnation, arm, '', at, 'signal', s, 2, at, at, at, NULL, 'neutral', 1, 1, '\\x31'
FROM d, unnest(array['immediate_retry', 'task_completed']) s WHERE m % 3 = 0;
"""


@pytest.fixture(scope="module")
def grown(cluster) -> Iterator[str]:
    with cluster.database_from_template("template_migrated") as url:
        add_experiments(url, EXPERIMENTS, 2)
        with psycopg.connect(url, options="-c timezone=UTC") as connection:
            for number in range(DAYS):
                for parent in ("decisions", "events", "outcomes"):
                    name = f"{parent}_{day(number):%Y%m%d}"
                    connection.execute(
                        f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES FROM ('{day(number)}')"
                        f" TO ('{day(number + 1)}')"
                    )
            connection.execute(FILL)
        yield url


@pytest.fixture
async def database(grown: str) -> AsyncIterator[Database]:
    database = Database(DatabaseUrl.parse(grown))
    yield database
    await database.dispose()


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explained(database: Database, statement: str, parameters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a statement that ran, with the settings that its reader gives it."""
    async with database.snapshot() as connection:
        await metrics.plan_for_keys(connection)
        found = await connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), parameters)
        return [node for node in nodes(found.scalar_one()[0]["Plan"]) if node["Actual Loops"]]


def check(plan: list[Mapping[str, Any]], days: set[date]) -> None:
    seen = [(node, found) for node in plan if (found := PARTITION.fullmatch(node.get("Relation Name", "")))]
    assert seen
    for node, found in seen:
        assert node["Node Type"] != "Seq Scan", f"{node['Relation Name']} is read from end to end"
        assert found[1] in {f"{day:%Y%m%d}" for day in days}, f"{node['Relation Name']} is of no day that was asked for"


SPAN = Span(BASE_US + DAY_US, BASE_US + 3 * DAY_US, DAY_US)


async def test_metrics_read_by_index_and_the_days_asked_for_alone(database: Database):
    parameters = metrics._of(7, SPAN)
    plan = await explained(database, metrics._COUNTS, parameters)
    check(plan, {day(1), day(2)})
    assert any(node.get("Index Name", "").endswith("incarnation_decided_at_idx") for node in plan)
    rule = {"signal_versions": [1], "signals": ["task_completed"], "rewards": [1_000_000]}
    silence = {"silent_versions": [1], "silent_rewards": [0], "matured_until": [datetime(2026, 1, 1, tzinfo=UTC)]}
    check(await explained(database, metrics._HELD_OUT, {**parameters, **rule, **silence}), {day(1), day(2)})


async def test_the_ends_of_the_log_are_found_without_reading_it(database: Database):
    plan = await explained(database, metrics._RECORDED, {"incarnation": 7})
    check(plan, {day(number) for number in range(DAYS)})
    scans = [node for node in plan if PARTITION.fullmatch(node.get("Relation Name", ""))]
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in scans)
    assert read <= 2 * DAYS, "one row of each partition from either end"


async def test_turns_are_read_by_index(database: Database):
    parameters = {"incarnation": 7, "arms": [0, 1], "bad": ["immediate_retry"], "most": 1_000_000}
    check(await explained(database, turns._TURNS, parameters), {day(number) for number in range(DAYS)})


async def test_counts_are_what_the_rows_say(database: Database, grown: str):
    async with database.snapshot() as connection:
        recorded = await read_recorded(connection, 7)
        found = await read_counts(connection, 7, SPAN)
        held_out = await read_held_out(connection, 7, SPAN, [RuleRewards(1, {"task_completed": 250_000}, None, 0)], 0)
    numbers = range(DECISIONS // EXPERIMENTS)
    assert recorded.first_us == min(BASE_US + m % DAYS * DAY_US + m // 10 % 24 * HOUR_US for m in numbers)
    assert recorded.last_us == max(BASE_US + m % DAYS * DAY_US + m // 10 % 24 * HOUR_US for m in numbers)
    expected: dict[tuple[int, int, bool], list[int]] = {}
    for m in numbers:
        kind = m // 3 % 10
        if m % DAYS in (1, 2) and kind != 0:
            row = expected.setdefault((m % DAYS - 1, m // DAYS % 2, kind == 1), [0, 0])
            row[0] += 1
            row[1] += m % 3 == 0
    assert {(c.period, c.arm, c.holdout): [c.interactions, c.covered] for c in found} == expected
    assert all((c.retries, c.completions, c.rephrases, c.outcomes) == (c.covered, c.covered, 0, 0) for c in found)
    assert {(o.period, o.arm): (o.outcomes, o.reward_micros) for o in held_out} == {
        (period, arm): (covered, covered * 250_000) for (period, arm, held), (_, covered) in expected.items() if held
    }
    assert sum(n for n, _ in expected.values()) > 100


async def test_held_out_outcomes_are_folded_as_all_others_are(database_url: str):
    """Against `bandit.reward.fold`: ranks, times and ids that tie, late events, neutral signals, and numbers."""
    add_experiments(database_url, 1, 1)
    rng = random.Random(7)
    rule = {signal.name.lower(): micros for signal, micros in DEFAULT_SIGNAL_MICROS.items() if micros is not None}
    rewards: list[int] = []
    decisions, events = [], []
    for number in range(150):
        key = UUID(int=number)
        decisions.append((key, day(0)))
        candidates = []
        for event_id in rng.sample(["a", "B", "b", "A", "é", "aa", "10", "9"], rng.randrange(4)):
            signal = rng.choice([None, *DEFAULT_SIGNAL_MICROS])
            rank = Rank.NUMERIC if signal is None else rng.choice([Rank.DERIVED, signal.rank])
            micros = rng.randrange(1_000_001) if signal is None else rule.get(signal.name.lower())
            occurred_us, late = BASE_US + rng.randrange(2), rng.random() < 0.2
            details = json.dumps({"reward_micros": micros}) if signal is None else None
            kind, name = ("reward", None) if signal is None else ("signal", signal.name.lower())
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=occurred_us)
            events.append((day(0), key, event_id, kind, name, rank, at, "late" if late else "neutral", details))
            if micros is not None and not late:
                candidates.append(Candidate(rank, occurred_us, event_id, micros))
        if (winner := fold(candidates)) is not None:
            rewards.append(winner.reward_micros)
    connection = await psycopg.AsyncConnection.connect(database_url, options="-c timezone=UTC", autocommit=True)
    async with connection, connection.cursor() as cursor:
        await ensure_partitions(connection, [day(0)])
        await cursor.executemany(
            "INSERT INTO decisions SELECT %s, %s, 1, 0, %s, 1, 1, gen_random_uuid(), 'holdout', '', '', '', '', '', ''",
            [(decided, key, decided) for key, decided in decisions],
        )
        await cursor.executemany(
            "INSERT INTO events (decision_day, decision_key, event_id, kind, signal, rank, occurred_at, status, details,"
            " incarnation, arm, segment, bucket, decided_at, received_at, reward_rule_version, policy_version, content)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, 1, 0, '', now(), now(), now(), 1, 1, '')",
            events,
        )
    database = Database(DatabaseUrl.parse(database_url))
    async with database.snapshot() as snapshot:
        span = Span(BASE_US, BASE_US + DAY_US, DAY_US)
        found = await read_held_out(snapshot, 1, span, [RuleRewards(1, rule, None, 0)], 0)
    await database.dispose()
    assert found == [(0, 0, len(rewards), sum(rewards), 0)]
    assert 50 < len(rewards) < 150


async def test_the_latest_turns_are_read(database: Database):
    async with database.snapshot() as connection:
        table = await read_turns(connection, 7, [0, 1], ["immediate_retry"])
        fewer = await read_turns(connection, 7, [0, 1], ["immediate_retry"], most=50)
        other = await read_turns(connection, 7, [0, 1, 2], ["immediate_retry"])
    assert len(fewer.turn) <= 50 < len(table.turn)
    assert table.drafted.any()
    assert not table.drafted.all(), "some were forced, and some held out"
    assert not other.drafted.any(), "dealt to two arms, not three"
    assert (table.bad == table.completed).all()
    assert 0 < table.bad.sum() < len(table.bad)


async def test_a_table_without_turns_is_empty(database: Database):
    async with database.snapshot() as connection:
        table = await read_turns(connection, 999, [0, 1], ["immediate_retry"])
    assert [column.size for column in table] == [0] * 6


# The view


async def test_the_view_agrees_with_get_metrics(router: Router):
    await router.run(experiment(arms=[arm("a", role=types_pb2.ROLE_CONTROL), "b"], holdout=0.3))
    requests = [routing_pb2.RouteRequest(experiment_id="support", unit_id=f"u{n}") for n in range(200)]
    routed = [result.response for result in (await router.batch_route(requests)).results]
    signals = [None, *types_pb2.Signal.values()[1:]]
    sent = [(reply, signals[n % len(signals)]) for n, reply in enumerate(routed)]
    await router.batch_reward(event(reply.decision_id, signal=signal) for reply, signal in sent if signal is not None)
    await router.route(unit_id="u0", force_arm_id="b")
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 201)
    reply = await router.posteriors.GetMetrics(posteriors_pb2.GetMetricsRequest(experiment_id="support"))
    rows = await query(
        router.url,
        "SELECT arm_id, arm_version, holdout, sum(interactions), sum(covered), sum(retries), sum(rephrases),"
        " sum(abandonments), sum(follow_ups), sum(completions) FROM arm_metrics WHERE experiment_id = 'support'"
        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )
    assert rows == [
        (
            *(entry.arm_id, entry.version, entry.holdout, entry.interactions),
            *(entry.coverage.count, entry.retry.count, entry.rephrase.count),
            *(entry.abandonment.count, entry.follow_up.count, entry.completion.count),
        )
        for entry in reply.metrics
    ]
    learned = await query(
        router.url, "SELECT arm_id, sum(outcomes), avg(mean_reward) FROM arm_metrics WHERE NOT holdout GROUP BY 1 ORDER BY 1"
    )
    assert [(arm_id, int(n)) for arm_id, n, _ in learned] == [(e.arm_id, e.outcomes) for e in reply.metrics if not e.holdout]
    assert await query(router.url, "SELECT sum(outcomes), avg(mean_reward) FROM arm_metrics WHERE holdout") == [(0, None)]


async def test_the_view_has_a_row_for_each_day_and_its_rates(grown: str):
    rows = await query(
        grown,
        "SELECT day, arm_id, holdout, interactions, covered, coverage, retry_rate, completion_rate, rephrase_rate"
        " FROM arm_metrics WHERE experiment_id = 'x-7' ORDER BY 1, 2, 3",
    )
    assert {row[0] for row in rows} <= {day(number) for number in range(DAYS)}
    assert len({row[:3] for row in rows}) == len(rows) > DAYS
    for *_, interactions, covered, coverage, retry_rate, completion_rate, rephrase_rate in rows:
        assert coverage == retry_rate == completion_rate == covered / interactions
        assert rephrase_rate == 0.0


async def test_analysts_read_the_days_they_ask_for(grown: str):
    """A day that is stated prunes partitions: it reaches the tables through the grouping."""
    explain = "EXPLAIN (ANALYZE, FORMAT JSON)"
    (plan,) = await query(grown, f"{explain} SELECT * FROM arm_metrics WHERE experiment_id = 'x-7' AND day = '{day(2)}'")
    ran = [node.get("Relation Name", "") for node in nodes(plan[0][0]["Plan"]) if node["Actual Loops"]]
    assert {found[1] for name in ran if (found := PARTITION.fullmatch(name))} == {f"{day(2):%Y%m%d}"}
