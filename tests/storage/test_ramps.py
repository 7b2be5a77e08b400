"""Ramps in Postgres: what a stage has shown, against the definition in Python; changes that happen once or not at all."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from growth import BASE_US, DAY_US, HOUR_US, day, event_connection, event_row
from running import query, scalar

from bandit.canary import Assessment, step
from bandit.guardrails import Measures, Tally
from bandit.ramp import Metric
from bandit.ramp_state import Phase
from bandit.reward import Rank
from router.controllers.ramp import RampController
from router.experiment import Definition, NewArm, NewDefinition
from router.messages import assessment_document
from router.storage import experiments, ramps
from router.storage import measures as measures_module
from router.storage.database import Database, driver_of
from router.storage.decisions import DecisionRow, merge_decisions
from router.storage.election import Session
from router.storage.errors import StorageUnavailableError
from router.storage.events import EventRow, apply_events
from router.storage.measures import measure
from router.storage.partitions import ensure_partitions
from router.storage.transitions import Change

#: The stage begins in the evening of the first day.
SINCE_US = BASE_US + 20 * HOUR_US
MATURE_S = 3_600
OVER_MS, CLIP_USD = 800.0, 0.05
CONTROL, CHALLENGER, THIRD = 0, 1, 2

RAILS = [
    {"metric": "METRIC_RETRY", "limit": 0.1},
    {"metric": "METRIC_REPHRASE", "ratio": 1.5},
    {"metric": "METRIC_ABANDONMENT", "limit": 0.2},
    {"metric": "METRIC_ERROR", "limit": 0.05},
    {"metric": "METRIC_SLOW", "limit": 0.1, "latencyOver": f"{OVER_MS / 1e3:.1f}s"},
    {"metric": "METRIC_COST", "limit": 0.01, "clipUsd": CLIP_USD},
]


def new_arm(arm_id: str, **fields: Any) -> NewArm:
    return NewArm(
        arm_id, **{"model": "m", "family": "", "is_control": False, "config": {}, "cap": None, "cost_usd": None, **fields}
    )


def new_definition(rails: Sequence[Mapping[str, Any]] = RAILS) -> NewDefinition:
    stages = [{"cap": cap, "duration": "3600s"} for cap in (0.1, 0.5, 1.0)]
    return NewDefinition(
        "x",
        "",
        (new_arm("old", is_control=True), new_arm("new"), new_arm("third")),
        {},
        {},
        {"matureAfter": f"{MATURE_S}s"},
        {"challengerArmId": "new", "stages": stages, "guardrails": list(rails)},
    )


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """As a leader has it."""
    async with await database.connect(autocommit=True) as connection:
        yield connection


async def begun(database: Database, new: NewDefinition | None = None) -> Definition:
    """An experiment whose ramp began at SINCE_US."""
    async with database.begin() as connection:
        await experiments.create(connection, new or new_definition())
        draft = await read(connection)
        await experiments.set_state(connection, draft, "running")
        running = await read(connection)
        driver = await driver_of(connection)
        assert await ramps.follow(driver, draft, running, Change(SINCE_US))
        return await read(connection)


async def read(connection: Any) -> Definition:
    found = await experiments.read(connection, "x")
    assert found is not None
    return found[0]


async def reread(database: Database) -> Definition:
    async with database.begin() as connection:
        return await read(connection)


# What a stage has shown.


def random_decision(rng: random.Random, number: int, incarnation: int) -> DecisionRow:
    at = SINCE_US + rng.choice([rng.randrange(-2 * HOUR_US, 30 * HOUR_US), 0, -1, 1])
    return DecisionRow(
        decision_key=rng.randbytes(16),
        incarnation=rng.choice([incarnation] * 9 + [incarnation + 1]),
        arm=rng.choice([CONTROL, CHALLENGER, THIRD]),
        decided_at_us=at,
        propensity=0.5,
        policy_version=1,
        allocation_id=bytes(16),
        reason=rng.choice(["sampled", "sampled", "sticky", "fallback", "forced", "holdout"]),
        unit_id=rng.choice(["", "", f"u{rng.randrange(60)}", f"v{number}"]),
        session_id="",
        turn_id="",
        request_id="",
        segment="",
        prompt_fingerprint="",
        prompt_similarity=None,
    )


def random_events(rng: random.Random, decision: DecisionRow) -> Iterator[EventRow]:
    for number in range(rng.choice([0, 0, 1, 1, 2, 5])):
        kind = rng.choice(["signal", "signal", "call", "call", "reward", "no_feedback"])
        signals = ["immediate_retry", "rephrased_query", "session_abandoned", "task_completed", "thumbs_down"]
        details: dict[str, Any] = {}
        if kind == "call":
            if rng.random() < 0.7:
                details["latency_ms"] = rng.choice([OVER_MS, OVER_MS + 0.001, rng.uniform(1, 2_000)])
            if rng.random() < 0.7:
                details["cost_usd"] = rng.choice([0.0, CLIP_USD, rng.uniform(0, 0.2), 3])
            if rng.random() < 0.3:
                details["error"] = "overloaded"
        yield event_row(
            0,
            decision_key=decision.decision_key,
            incarnation=decision.incarnation,
            arm=decision.arm,
            event=f"e{number}",
            kind=kind,
            signal=rng.choice(signals) if kind == "signal" else None,
            rank={"signal": rng.choice([Rank.DERIVED, Rank.SIGNAL]), "no_feedback": Rank.NO_FEEDBACK}.get(kind, Rank.SIGNAL),
            reward=None,
            decided_at_us=decision.decided_at_us,
            occurred_at_us=decision.decided_at_us + 1,
            # Several reports may be received at once: then the greater id is the later one.
            received_at_us=decision.decided_at_us + rng.randrange(3),
            details=json.dumps(details) if details else None,
        )


def shown(decisions: Sequence[DecisionRow], events: Sequence[EventRow], incarnation: int, now_us: int, arm: int) -> Tally:
    """The definition, in Python."""
    heard: dict[bytes, list[EventRow]] = {}
    for event in events:
        heard.setdefault(event.decision_key, []).append(event)
    of_units: dict[object, DecisionRow] = {}
    for decision in sorted(decisions, key=lambda d: (d.decided_at_us, d.decision_key)):
        counts = decision.incarnation == incarnation and decision.reason in ("sampled", "sticky", "fallback")
        if counts and SINCE_US <= decision.decided_at_us <= now_us - MATURE_S * 1_000_000:
            of_units.setdefault(decision.unit_id or decision.decision_key, decision)
    totals, reported = dict.fromkeys(Metric, 0.0), {metric: 0 for metric in Metric if metric.of_calls}
    firsts = [decision for decision in of_units.values() if decision.arm == arm]
    for decision in firsts:
        own = heard.get(decision.decision_key, [])
        for metric, signal in (
            (Metric.RETRY, "immediate_retry"),
            (Metric.REPHRASE, "rephrased_query"),
            (Metric.ABANDONMENT, "session_abandoned"),
        ):
            totals[metric] += any(event.signal == signal for event in own)
        calls = [event for event in own if event.kind == "call"]
        if not calls:
            continue
        report = json.loads(max(calls, key=lambda event: (event.received_at_us, event.event_id)).details or "{}")
        reported[Metric.ERROR] += 1
        totals[Metric.ERROR] += "error" in report
        if "latency_ms" in report:
            reported[Metric.SLOW] += 1
            totals[Metric.SLOW] += report["latency_ms"] > OVER_MS
        if "cost_usd" in report:
            reported[Metric.COST] += 1
            totals[Metric.COST] += min(report["cost_usd"], CLIP_USD) / CLIP_USD
    return Tally(len(firsts), sum(any(map(speaks, heard.get(d.decision_key, []))) for d in firsts), totals, reported)


def speaks(event: EventRow) -> bool:
    """Whether an event says that somebody was heard: silence worth something and derived abandonment do not."""
    return event.kind != "no_feedback" and not (event.rank == Rank.DERIVED and event.signal == "session_abandoned")


async def fill(url: str, decisions: Sequence[DecisionRow], events: Sequence[EventRow]) -> None:
    async with await event_connection(url) as connection:
        await ensure_partitions(connection, [day(number) for number in range(3)])
        await merge_decisions(connection, decisions)
        for start in range(0, len(events), 500):
            await apply_events(connection, events[start : start + 500])


def assert_same(found: Tally, expected: Tally) -> None:
    assert (found.decisions, found.with_feedback) == (expected.decisions, expected.with_feedback)
    assert found.reported == expected.reported
    assert found.totals == pytest.approx(expected.totals)


@pytest.mark.parametrize("seed", range(3))
async def test_measures_are_what_their_definition_says(database: Database, connection, database_url: str, seed: int):
    definition = await begun(database)
    rng = random.Random(seed)
    decisions = [random_decision(rng, number, definition.incarnation) for number in range(1_500)]
    events = [event for decision in decisions for event in random_events(rng, decision)]
    await query(
        database_url,
        "INSERT INTO experiments SELECT incarnation + 1, 'other', description, state, etag, allocation, assignment,"
        " reward_rule, 1, NULL, created_at, updated_at, '{}' FROM experiments",
    )
    await fill(database_url, decisions, events)
    for hours in (-1, 0, 1, 2, 11, 40):
        now_us = SINCE_US + hours * HOUR_US
        measures = await measure(connection, definition, now_us)
        expected = {arm: shown(decisions, events, definition.incarnation, now_us, arm) for arm in (CONTROL, CHALLENGER)}
        if hours < 1:
            assert measures == Measures(Tally(), Tally())
            continue
        assert_same(measures.challenger, expected[CHALLENGER])
        assert_same(measures.control, expected[CONTROL])
    assert expected[CHALLENGER].decisions > 150
    assert all(expected[CHALLENGER].totals[metric] > 5 for metric in Metric)


async def test_only_what_the_guardrails_look_at_is_counted(database: Database, connection, database_url: str):
    definition = await begun(database, new_definition([{"metric": "METRIC_RETRY", "limit": 0.1}]))
    rng = random.Random(1)
    decisions = [random_decision(rng, number, definition.incarnation) for number in range(300)]
    events = [event for decision in decisions for event in random_events(rng, decision)]
    decisions = [d for d in decisions if d.incarnation == definition.incarnation]
    await fill(database_url, decisions, [e for e in events if e.incarnation == definition.incarnation])
    now_us = SINCE_US + 10 * HOUR_US
    measures = await measure(connection, definition, now_us)
    expected = shown(decisions, events, definition.incarnation, now_us, CHALLENGER)
    assert measures.challenger.decisions == expected.decisions > 0
    assert measures.challenger.totals == {Metric.RETRY: expected.totals[Metric.RETRY]}
    assert measures.challenger.reported == {}
    assert measures.control == Tally(), "nothing is compared with it"


async def test_an_arm_of_another_version_counts_for_nothing(database: Database, connection, database_url: str):
    await begun(database)
    async with database.begin() as session:
        current = await read(session)
        arms = (new_arm("old", is_control=True), new_arm("new", model="newer"), new_arm("third"))
        await experiments.update(session, current, replace(new_definition(), arms=arms))
        driver = await driver_of(session)
        assert await ramps.follow(driver, current, await read(session), Change(SINCE_US))
    definition = await reread(database)
    rng = random.Random(2)
    decisions = [random_decision(rng, n, definition.incarnation)._replace(reason="sampled", unit_id="") for n in range(200)]
    decisions = [
        d._replace(incarnation=definition.incarnation, arm=3 if n % 4 else CHALLENGER) for n, d in enumerate(decisions)
    ]
    await fill(database_url, decisions, [])
    now_us = SINCE_US + 40 * HOUR_US
    found = (await measure(connection, definition, now_us)).challenger
    assert found.decisions == shown(decisions, [], definition.incarnation, now_us, 3).decisions > 50


PARTITION = re.compile(r"(decisions|events)_(\d{8})")


@pytest.mark.parametrize("known", ["no statistics", "statistics"])
async def test_the_measures_are_looked_up_by_index_in_the_days_of_the_stage(
    database: Database, database_url: str, known: str
):
    """One experiment of a hundred: its decisions of the stage, their events, and nothing else."""
    definition = await begun(database)
    async with await event_connection(database_url) as connection:
        await ensure_partitions(connection, [day(number) for number in range(-1, 4)])
    await query(
        database_url,
        "INSERT INTO decisions (decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version,"
        " allocation_id, reason, unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint)"
        " SELECT (at AT TIME ZONE 'UTC')::date, md5(n::text)::uuid, %s - 50 + n %% 100, n / 100 %% 3, at, 0.5, 1,"
        " gen_random_uuid(), 'sampled', CASE WHEN n %% 200 < 100 THEN 'u' || n ELSE '' END, '', '', '', '', ''"
        " FROM (SELECT n, %s::timestamptz + n * interval '8.64 s' AS at FROM generate_series(0, 39999) n) d",
        definition.incarnation,
        f"{day(-1)} 00:00Z",
    )
    await query(
        database_url,
        "INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank,"
        " decided_at, occurred_at, received_at, status, reward_rule_version, policy_version, content)"
        " SELECT decision_day, decision_key, 'e', incarnation, arm, '', decided_at, 'call', 2, decided_at, decided_at,"
        " decided_at, 'neutral', 1, 1, ''"
        " FROM decisions",
    )
    if known == "statistics":
        await query(database_url, "ANALYZE")
    options = "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 -c auto_explain.log_analyze=on"
    options += " -c auto_explain.log_format=json -c client_min_messages=log -c timezone=UTC"
    plans: list[Any] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if "plan:" in message and "FROM decisions" in message:
            plans.append(json.loads(message[message.index("{") :])["Plan"])

    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True, options=options) as connection:
        connection.add_notice_handler(note)
        measures = await measure(connection, definition, BASE_US + 2 * DAY_US)
    assert 10 < measures.challenger.decisions == measures.challenger.with_feedback < 100
    (plan,) = plans
    steps = list(_steps(plan))
    for node in steps:
        assert not (node.kind == "Seq Scan" and PARTITION.match(node.relation)), node
        if (partition := PARTITION.match(node.index)) is not None and node.loops:
            assert partition[2] in {f"{day(0):%Y%m%d}", f"{day(1):%Y%m%d}"}, node
            assert ("incarnation_decided_at" if partition[1] == "decisions" else "pkey") in node.index, node
        assert node.rows <= 2 * 500, node
    assert {PARTITION.match(node.index)[1] for node in steps if PARTITION.match(node.index)} == {"decisions", "events"}  # type: ignore[index]


@dataclass(frozen=True)
class Step:
    """A step of a plan, as it ran."""

    kind: str
    relation: str
    index: str
    loops: float
    rows: float


def _steps(plan: Mapping[str, Any]) -> Iterator[Step]:
    loops = plan["Actual Loops"]
    removed = sum(value for name, value in plan.items() if name.startswith("Rows Removed by"))
    rows = (plan["Actual Rows"] + removed) * loops
    yield Step(plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", ""), loops, rows)
    for child in plan.get("Plans", ()):
        yield from _steps(child)


# What happens once or not at all.

GOOD = dict.fromkeys(Metric, 0.0)
REPORTS = {metric: 500 for metric in Metric if metric.of_calls}
HEALTHY = Measures(Tally(500, 500, GOOD, REPORTS), Tally(500, 500, {**GOOD, Metric.REPHRASE: 200.0}, REPORTS))
FAILING = Measures(Tally(500, 500, {**GOOD, Metric.RETRY: 200.0}, REPORTS), HEALTHY.control)
SILENT = Measures(Tally(), Tally())


def look(definition: Definition, measures: Measures, hours: float) -> tuple[Assessment, Mapping[str, Any], int]:
    now_us = SINCE_US + int(hours * HOUR_US)
    assert definition.rules.ramp is not None
    assert definition.ramp_state is not None
    assessment = step(definition.rules.ramp, definition.ramp_state, measures, now_us)
    return assessment, assessment_document(assessment, measures.challenger.decisions, now_us, now_us + 1), now_us


async def rows_of(url: str, kind: str) -> list[tuple[Any, ...]]:
    return await query(
        url,
        "SELECT from_value, to_value, actor, assessment IS NOT NULL FROM transitions WHERE kind = %s ORDER BY transition_id",
        kind,
    )


async def test_a_look_without_consequence_is_kept_and_told_when_it_says_something_new(
    database: Database, connection, database_url: str
):
    definition = await begun(database)
    for measures, hours in ((SILENT, 0.1), (SILENT, 0.2), (HEALTHY, 0.3), (HEALTHY, 0.4), (SILENT, 0.5)):
        definition = await reread(database)
        assert await ramps.settle(connection, definition, *look(definition, measures, hours))
    after = await reread(database)
    assert after.ramp_state == definition.ramp_state
    assert (after.definition_version, after.etag) == (definition.definition_version, definition.etag)
    assert after.ramp_assessment is not None
    assert after.ramp_assessment["missing"][0] == "30.0 min of at least 1.0 h have passed"
    rows = await rows_of(database_url, "verdict")
    silent = "insufficient (retry insufficient, rephrase insufficient, abandonment insufficient, error insufficient, "
    silent += "slow insufficient, cost insufficient)"
    healthy = silent.replace(" insufficient", " pass")
    assert [row[:2] for row in rows] == [("", silent), (silent, healthy), (healthy, silent)]
    assert {row[2:] for row in rows} == {("ramp", True)}


async def test_a_pass_moves_state_versions_and_log_together_and_once(database: Database, connection, database_url: str):
    before = await begun(database)
    looked = look(before, HEALTHY, 1.5)
    assert looked[0].transition is not None
    assert await ramps.settle(connection, before, *looked)
    assert not await ramps.settle(connection, before, *looked), "it was for a version that is gone"
    after = await reread(database)
    assert after.ramp_state is not None
    assert (after.ramp_state.stage, after.ramp_state.version) == (1, 2)
    assert after.ramp_state.stage_since_us == SINCE_US + 3 * HOUR_US // 2
    assert after.ramp_assessment is None, "of another stage"
    assert after.definition_version == before.definition_version + 1
    assert after.etag != before.etag
    assert after.rules.allocation.caps == (1.0, 0.5, 1.0)
    assert await rows_of(database_url, "ramp") == [
        ("", "ramping, stage 1", "", False),
        ("ramping, stage 1", "ramping, stage 2", "ramp", True),
    ]


async def test_a_fail_keeps_the_verdicts_it_rests_on(database: Database, connection, database_url: str):
    before = await begun(database)
    assert await ramps.settle(connection, before, *look(before, FAILING, 0.1))
    after = await reread(database)
    assert after.ramp_assessment is not None
    assert after.ramp_assessment["outcome"] == "OUTCOME_FAIL"
    assert after.rules.allocation.caps == (1.0, 0.0, 1.0)
    assert (await rows_of(database_url, "ramp"))[-1][:3] == ("ramping, stage 1", "rolled back, stage 1", "ramp")
    assert await ramps.read_open(connection) == []


@pytest.mark.parametrize(
    "statement", ["UPDATE experiments SET state = 'paused'", "UPDATE policy_versions SET definition_version = 99"]
)
async def test_a_look_at_what_has_changed_since_changes_nothing(
    database: Database, connection, database_url: str, statement: str
):
    before = await begun(database)
    await query(database_url, statement)
    assert not await ramps.settle(connection, before, *look(before, HEALTHY, 1.5))
    after = await reread(database)
    assert after.ramp_state == before.ramp_state
    assert len(await rows_of(database_url, "ramp")) == 1


async def test_of_many_transitions_of_one_version_one_happens(database: Database, database_url: str):
    before = await begun(database)
    looked = look(before, HEALTHY, 1.5)

    async def attempt() -> bool:
        async with await database.connect(autocommit=True) as own:
            return await ramps.settle(own, before, *looked)

    assert sum(await asyncio.gather(*(attempt() for _ in range(12)))) == 1
    assert len(await rows_of(database_url, "ramp")) == 2
    assert await scalar(database_url, "SELECT version FROM ramps") == 2


async def test_a_connection_that_dies_within_a_transition_leaves_nothing_of_it(database: Database, database_url: str):
    before = await begun(database)
    looked = look(before, HEALTHY, 1.5)
    dying = await database.connect(autocommit=True)
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        # The log is written after the state: whoever holds it up stops the transition half way.
        await holder.execute("LOCK TABLE transitions IN SHARE MODE")
        attempt = asyncio.create_task(ramps.settle(dying, before, *looked))
        await asyncio.sleep(0.2)
        assert not attempt.done()
        await query(database_url, f"SELECT pg_terminate_backend({dying.info.backend_pid})")
        with pytest.raises(StorageUnavailableError):
            await attempt
    await dying.close()
    assert await reread(database) == before
    async with await database.connect(autocommit=True) as successor:
        assert await ramps.settle(successor, before, *looked)
    assert [row[1] for row in await rows_of(database_url, "ramp")] == ["ramping, stage 1", "ramping, stage 2"]


async def test_every_stage_up_to_promotion_leaves_one_row(database: Database, connection, database_url: str):
    await begun(database)
    for hours in (1.5, 3, 4.5):
        definition = await reread(database)
        assert await ramps.settle(connection, definition, *look(definition, HEALTHY, hours))
    rows = await rows_of(database_url, "ramp")
    assert [row[1] for row in rows] == ["ramping, stage 1", "ramping, stage 2", "ramping, stage 3", "promoted, stage 3"]
    assert all(earlier[1] == later[0] for earlier, later in pairwise(rows))
    assert await scalar(database_url, "SELECT version FROM ramps") == 4


async def test_what_waits_for_approval_is_still_judged(database: Database, connection, database_url: str):
    new = new_definition()
    await begun(database, replace(new, ramp={**new.ramp, "approval": True, "stages": [{"cap": 1.0, "duration": "60s"}]}))
    for measures, hours, phase in (
        (HEALTHY, 1.5, Phase.AWAITING_APPROVAL),
        (HEALTHY, 2, Phase.AWAITING_APPROVAL),
        (FAILING, 3, Phase.ROLLED_BACK),
    ):
        assert len(await ramps.read_open(connection)) == 1
        definition = await reread(database)
        assert await ramps.settle(connection, definition, *look(definition, measures, hours))
        after = await reread(database)
        assert after.ramp_state is not None
        assert after.ramp_state.phase is phase
        assert after.ramp_assessment is not None
    assert [row[1] for row in await rows_of(database_url, "ramp")] == [
        "ramping, stage 1",
        "awaiting approval, stage 1",
        "rolled back, stage 1",
    ]


# The controller.


@dataclass
class Controlled:
    """A controller, the connection that it leads on, and what it announced."""

    controller: RampController
    session: Session
    announced: list[int]

    async def look(self) -> None:
        await self.controller.look(self.session)


@pytest.fixture
async def controlled(database: Database, connection) -> AsyncIterator[Controlled]:
    announced: list[int] = []
    controller = RampController(database, lambda: SINCE_US + 2 * HOUR_US, announced.extend, every_s=2.0)
    yield Controlled(controller, Session(connection), announced)
    await controller.close()


async def test_evidence_that_takes_long_to_read_holds_up_nobody(
    database: Database, controlled: Controlled, monkeypatch: pytest.MonkeyPatch
):
    before = await begun(database)
    ready, reads = asyncio.Event(), 0

    async def slow(*_: Any) -> Measures:
        nonlocal reads
        reads += 1
        await ready.wait()
        return HEALTHY

    monkeypatch.setattr(measures_module, "measure", slow)
    for _ in range(2):
        await asyncio.wait_for(controlled.look(), 5)
    assert (await reread(database), reads, controlled.announced) == (before, 1, [])
    ready.set()
    await controlled.look()
    after = (await reread(database)).ramp_state
    assert after is not None
    assert (after.stage, controlled.announced) == (1, [before.incarnation])
    for _ in range(3):
        await controlled.look()
    assert reads == 1, "it took a second, so that for nine seconds nobody reads it again"


async def test_a_ramp_that_cannot_be_read_or_judged_holds_up_no_other(
    database: Database, controlled: Controlled, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog
):
    definition = await begun(database)
    broken = definition.incarnation + 1
    await query(
        database_url,
        "INSERT INTO experiments SELECT incarnation + 1, 'broken', description, state, etag, allocation, assignment,"
        " reward_rule, 1, NULL, created_at, updated_at, '{\"stages\": 1}' FROM experiments",
    )
    for table, columns in (
        ("policy_versions", "1, 1, now(), NULL"),
        ("ramps", "phase, stage, stage_since, version, approved"),
    ):
        await query(database_url, f"INSERT INTO {table} SELECT incarnation + 1, {columns} FROM {table}")
    await query(
        database_url,
        "INSERT INTO arms SELECT incarnation + 1, arm, position, arm_id, version, model, family, role, config, cap,"
        " cost_usd, active FROM arms",
    )

    async def healthy(*_: Any) -> Measures:
        return HEALTHY

    monkeypatch.setattr(measures_module, "measure", healthy)
    await controlled.look()
    assert controlled.announced == [definition.incarnation]
    assert "the evidence of the ramp of 'broken' cannot be read: it stays as it is" in caplog.text
    assert await scalar(database_url, f"SELECT version FROM ramps WHERE incarnation = {broken}") == 1


async def test_what_was_read_of_a_ramp_that_has_ended_since_is_dropped(
    database: Database, controlled: Controlled, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    await begun(database)
    ready = asyncio.Event()

    async def slow(*_: Any) -> Measures:
        await ready.wait()
        return HEALTHY

    monkeypatch.setattr(measures_module, "measure", slow)
    await controlled.look()
    await query(database_url, "UPDATE ramps SET phase = 'aborted', version = version + 1")
    ready.set()
    await controlled.look()
    assert controlled.announced == []
    assert len(await rows_of(database_url, "ramp")) == 1
