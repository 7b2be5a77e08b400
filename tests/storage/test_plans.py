"""The plans of the statements that run all the time, on tables that have grown.

Each statement runs through the code that sends it, and Postgres itself reports how it ran: without statistics (a partition
that is minutes old has none), with statistics of older days only, and with all; with plans for the values at hand and with
plans for any values. What a plan may do is bounded by what it was given, never by what is stored.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import md5
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from growth import BASE_US, DAY_US, add_experiments, day, event_connection, event_row
from postgres import TestCluster

from bandit.derive import DeriveRule
from router.experiment import RewardRule
from router.storage import experiments, maturing, retention
from router.storage.database import Database, DatabaseUrl
from router.storage.decisions import DecisionRow, copy_decisions, merge_decisions
from router.storage.derived import DerivationLog, DerivingExperiment, RuleVersion
from router.storage.diagnostics import read_feedback, read_histories
from router.storage.events import EventRow, apply_events
from router.storage.migrate import migrate
from router.storage.partitions import ensure_partitions
from router.storage.policies import read_digest, read_evidence, read_versions
from router.storage.reader import PolicyReader
from router.storage.sticky import StickyTable, read_assignment

DAYS = 6
TODAY = DAYS - 1
EXPERIMENTS, ARMS = 1_200, 3
DECISIONS = 30_000 * DAYS
UNITS = 50_000
#: Of evidence: every fourth hour.
HOURS = 6 * DAYS

#: An experiment with many more decisions than others, all of today, in sessions of four.
BUSY, BUSY_DECISIONS = 12, 20_000

#: Tables that grow with traffic, and their partitions.
GROWING = re.compile(r"(decisions|events|outcomes|evidence|sticky_assignments|allocations)(_\d{8})?")
PARTITION = re.compile(r"(?:decisions|events|outcomes)_(\d{8})(_\w+)?")

EXPLAINED = (
    "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 -c auto_explain.log_analyze=on"
    " -c auto_explain.log_timing=off -c auto_explain.log_format=json -c client_min_messages=log"
)

# A decision's day, experiment, arm and hour follow from its number.
FILL = f"""
CREATE TEMPORARY TABLE d AS
SELECT n, date '{day(0)}' + (n % {DAYS})::int AS decision_day, lpad(to_hex(n), 32, '0')::uuid AS decision_key,
       1 + n % {EXPERIMENTS} AS incarnation, (n % {ARMS})::int2 AS arm,
       timestamptz '{day(0)} 00:00Z' + (n % {DAYS}) * interval '1 day' + (n / {DAYS} % 24) * interval '1 hour' AS bucket
FROM generate_series(0::int8, {DECISIONS} - 1) n;
INSERT INTO decisions (decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version, allocation_id,
                       reason, unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint)
SELECT decision_day, decision_key, incarnation, arm, bucket, 0.5, 1, md5('allocation ' || n / 20)::uuid, 'sampled', 'u' || n,
       's' || n / {EXPERIMENTS} / 3, '', '', '', '' FROM d;
INSERT INTO decisions (decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version, allocation_id,
                       reason, unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint)
SELECT '{day(TODAY)}', md5('busy ' || n)::uuid, {BUSY}, 0, timestamptz '{day(TODAY)} 00:00Z' + n * interval '1 second', 0.5,
       1, md5('allocation 0')::uuid, 'sampled', '', 'busy ' || n / 4, '', '', '', ''
FROM generate_series(1, {BUSY_DECISIONS}) n;
INSERT INTO allocations SELECT md5('allocation ' || n)::uuid, 1, 1, '{{0,1}}', '{{0.5,0.5}}'
FROM generate_series(0, {DECISIONS} / 20 - 1) n;
INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank, decided_at,
                    occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content)
SELECT decision_day, decision_key, 'e', incarnation, arm, '', bucket, 'reward', 4, bucket, bucket, bucket, 1000000,
       'applied', 1, 1, '\\x31' FROM d;
INSERT INTO outcomes (decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id,
                      reward_micros)
SELECT decision_day, decision_key, incarnation, arm, '', bucket, 4, bucket, 'e', 1000000 FROM d;
INSERT INTO evidence (incarnation, arm, segment, bucket, success_micros, failure_micros, n)
SELECT i, a, '', timestamptz '{day(0)} 00:00Z' + h * interval '4 hours', 100000000, 0, 100
FROM generate_series(0, {HOURS} - 1) h, generate_series(1, {EXPERIMENTS}) i, generate_series(0, {ARMS} - 1) a;
INSERT INTO reward_rules (incarnation, version, reward_rule) SELECT incarnation, 1, '{{}}' FROM experiments;
INSERT INTO sticky_assignments SELECT 1 + n % {EXPERIMENTS}, 'unit ' || n, 1, 0, 0.5, now(), now() + interval '1 day'
FROM generate_series(0, {UNITS} - 1) n;
"""


@dataclass(frozen=True)
class Node:
    """A step of a plan, as it ran."""

    kind: str
    relation: str
    index: str
    loops: float
    #: Rows that it looked at, over all loops: those that it passed on and those that it threw away.
    rows: float


@dataclass(frozen=True)
class Ran:
    """A statement that ran."""

    statement: str
    plan: Mapping[str, Any]

    def nodes(self) -> Iterator[Node]:
        """The steps that ran at all."""

        def walk(step: Mapping[str, Any]) -> Iterator[Node]:
            loops = step["Actual Loops"]
            if loops:
                removed = sum(value for name, value in step.items() if name.startswith("Rows Removed by"))
                rows = (step["Actual Rows"] + removed) * loops
                yield Node(step["Node Type"], step.get("Relation Name", ""), step.get("Index Name", ""), loops, rows)
            for child in step.get("Plans", ()):
                yield from walk(child)

        yield from walk(self.plan)

    def check(self, most_rows: int, days: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """The plan reads growing tables by index, partitions of these days alone, and no more rows than it may."""
        shown = f"{self.statement}\n{json.dumps(self.plan, indent=1)}"
        for node in self.nodes():
            if node.kind == "Seq Scan":
                assert not GROWING.fullmatch(node.relation), f"{node.relation} is read from end to end: {shown}"
            if (partition := PARTITION.fullmatch(node.relation)) is not None:
                assert partition[1] in days, f"{node.relation} is read for another day: {shown}"
            assert node.rows <= most_rows, f"{node.kind} looks at {node.rows:.0f} rows: {shown}"


class Explained:
    """What ran on some connections."""

    def __init__(self) -> None:
        self.ran: list[Ran] = []

    def watch(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Have what runs on a connection noted."""
        connection.add_notice_handler(self._note)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if "plan:" in message:
            plan = json.loads(message[message.index("{") :])
            self.ran.append(Ran(plan["Query Text"], plan["Plan"]))

    async def during(self, work: Callable[[], Awaitable[Any]], containing: str = "") -> list[Ran]:
        """Return the statements that `work` runs, those whose text contains something."""
        self.ran.clear()
        await work()
        found = [ran for ran in self.ran if containing in ran.statement]
        assert found, f"of {[ran.statement for ran in self.ran]} none contains {containing!r}"
        return found


class WatchedDatabase(Database):
    """A database whose connections report what they run."""

    def __init__(self, url: str, explained: Explained) -> None:
        super().__init__(DatabaseUrl.parse(url))
        self._explained = explained

    async def connect(self, *, autocommit: bool = False) -> psycopg.AsyncConnection[Any]:
        connection = await super().connect(autocommit=autocommit)
        self._explained.watch(connection)
        return connection


@pytest.fixture(scope="module")
def grown(cluster: TestCluster) -> Iterator[str]:
    """The name of a database with many rows and no statistics."""
    name = "grown"
    url = cluster.create_database(name)
    migrate(DatabaseUrl.parse(url))
    add_experiments(url, EXPERIMENTS, ARMS)
    asyncio.run(_make_partitions(url))
    with psycopg.connect(url, autocommit=True) as connection:
        # Nobody but the test gathers statistics.
        tables = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")
        for (table,) in tables.fetchall():
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        connection.execute(FILL)
    yield name
    cluster.drop_database(name)


async def _make_partitions(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await ensure_partitions(connection, [day(number) for number in range(DAYS)])


@pytest.fixture(
    scope="module", params=["no statistics", pytest.param("statistics of older days", marks=pytest.mark.slow), "statistics"]
)
def known(request: pytest.FixtureRequest) -> str:
    """What the planner knows."""
    return request.param


@pytest.fixture(scope="module")
def url(cluster: TestCluster, grown: str, known: str) -> Iterator[str]:
    """A copy of it."""
    with cluster.database_from_template(grown) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            if known == "statistics":
                connection.execute("VACUUM ANALYZE")
            elif known == "statistics of older days":
                for number in range(TODAY):
                    for parent in ("decisions", "events", "outcomes"):
                        connection.execute(f"VACUUM ANALYZE {parent}_{day(number):%Y%m%d}")
        yield url


@pytest.fixture
def explained() -> Explained:
    return Explained()


@pytest.fixture(params=["force_generic_plan", "force_custom_plan"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def connection(url: str, explained: Explained, mode: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """As a writer of events has it, but for the kind of plan."""
    async with await event_connection(url, EXPLAINED) as connection:
        await connection.execute(f"SET plan_cache_mode = {mode}")
        explained.watch(connection)
        yield connection


@pytest.fixture
async def database(url: str, explained: Explained, mode: str) -> AsyncIterator[Database]:
    options = f"{EXPLAINED} -c plan_cache_mode={mode}"
    database = WatchedDatabase(with_options(url, options), explained)
    yield database
    await database.dispose()


def with_options(url: str, options: str) -> str:
    """A URL with server settings."""
    return f"{url}{'&' if '?' in url else '?'}options={quote(options)}"


def stored(n: int, event: str, reward: int) -> EventRow:
    """An event of a decision that is there."""
    decided_at_us = BASE_US + n % DAYS * DAY_US + n // DAYS % 24 * 3_600_000_000
    return event_row(
        0,
        event=event,
        reward=reward,
        decision_key=n.to_bytes(16, "big"),
        incarnation=1 + n % EXPERIMENTS,
        arm=n % ARMS,
        decided_at_us=decided_at_us,
        occurred_at_us=decided_at_us + 1,
        content=b"1",
    )


def batch(size: int, seed: int) -> list[EventRow]:
    """New events of today and yesterday, events that are known, and corrections."""
    rows = []
    for n in range(size):
        # Decisions that are stored, of today or of yesterday.
        number = (seed * 5_000 + n) * DAYS + TODAY - n % 2
        match n % 5:
            case 3:
                rows.append(stored(number, "e", 1_000_000))
            case 4:
                rows.append(stored(number, f"correction {seed}", 0))
            case _:
                fields = {"incarnation": 1 + n % EXPERIMENTS, "arm": n % ARMS}
                # Of no unit, of units by the day and for good, known ones and new ones.
                fields |= ({}, {"unit_hash": n % 7 + 1, "share": 3}, {"unit_hash": seed * 10_000 + n, "share": -1})[n % 3]
                rows.append(event_row(seed * 10_000 + n, TODAY - n % 2, **fields))
    return rows


TWO_DAYS = {f"{day(TODAY - 1):%Y%m%d}", f"{day(TODAY):%Y%m%d}"}


@pytest.mark.parametrize("size", [1, 100, 2_000])
async def test_a_batch_of_events(connection, explained: Explained, size: int, mode: str):
    for seed in range(3):
        rows = batch(size, 10 * size + seed + 5 * (mode == "force_generic_plan"))
        ran = await explained.during(partial(apply_events, connection, rows))
        assert any("policy_versions" in r.statement for r in ran)
        for statement in ran:
            # Some steps see a row twice; policy_versions may be read whole, being narrow.
            statement.check(max(4 * size + 10, EXPERIMENTS), TWO_DAYS)


async def test_a_batch_locks_no_day_but_its_own(connection, mode: str):
    """Locks of every day would fill the table of locks: at 400 days, 17 batches at a time were too many."""
    async with connection.transaction():
        await apply_events(connection, batch(100, 900 + (mode == "force_generic_plan")))
        rows = await connection.execute(
            "SELECT DISTINCT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'"
        )
        locked = {name for (name,) in await rows.fetchall()}
    assert {found[1] for name in locked if (found := PARTITION.fullmatch(name))} == TWO_DAYS


async def test_a_batch_of_events_for_every_day(connection, explained: Explained, mode: str):
    rows = [event_row(700_000 + n + 1_000 * (mode == "force_generic_plan"), n % DAYS) for n in range(600)]
    every = {f"{day(number):%Y%m%d}" for number in range(DAYS)}
    for statement in await explained.during(partial(apply_events, connection, rows)):
        statement.check(max(4 * len(rows), EXPERIMENTS), every)


def decisions(count: int, first: int) -> list[DecisionRow]:
    return [
        DecisionRow(
            n.to_bytes(16, "big"),
            1 + n % EXPERIMENTS,
            n % ARMS,
            BASE_US + TODAY * DAY_US + n,
            0.5,
            1,
            md5(f"allocation {n // 20}".encode()).digest(),
            "sampled",
            *("u", "", "", "", "", ""),
            None,
        )
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize("count", [1, 2_000])
async def test_decisions_that_may_be_stored_already(connection, explained: Explained, count: int):
    for first in (1_000_000, 1_000_000, 2_000_000):
        rows = decisions(count, first)
        for ran in await explained.during(partial(merge_decisions, connection, rows), "INSERT"):
            ran.check(2 * count, {f"{day(TODAY):%Y%m%d}"})


async def test_new_decisions_are_copied_without_a_plan(connection, explained: Explained, mode: str):
    new = [row._replace(decision_key=md5(f"{mode} {n}".encode()).digest()) for n, row in enumerate(decisions(100, 0))]
    explained.ran.clear()
    await copy_decisions(connection, new)
    assert explained.ran == []


async def in_snapshot(database: Database, read: Callable[[Any], Awaitable[Any]]) -> None:
    """Read in a transaction: Postgres reports its last statement at the end of it."""
    async with database.snapshot() as connection:
        await read(connection)


async def test_evidence(database: Database, explained: Explained, known: str):
    for count in (1, 1, 100, 100):
        wanted = list(range(1, count + 1))
        read = partial(in_snapshot, database, partial(read_evidence, incarnations=wanted))
        for statement in await explained.during(read, "evidence"):
            # Entries of the index that point to older versions of a row are looked at, too.
            statement.check(max(EXPERIMENTS, 2 * count * ARMS * HOURS))
            if known == "statistics":
                assert "Index Only Scan" in {node.kind for node in statement.nodes() if node.relation == "evidence"}


@pytest.mark.parametrize("read", [read_versions, read_digest])
async def test_versions(database: Database, explained: Explained, read):
    for statement in await explained.during(partial(in_snapshot, database, read), "policy_versions"):
        statement.check(EXPERIMENTS)


async def test_an_experiment_by_its_id(database: Database, explained: Explained, mode: str):
    reader = PolicyReader(database)
    for _ in range(6):
        assert await reader.find("x-77") == 77
    for statement in await explained.during(partial(reader.find, "x-78"), "experiments"):
        statement.check(1)


async def test_definitions_of_what_changed(database: Database, explained: Explained):
    for count in (1, 100):
        wanted = list(range(1, count + 1))
        read = partial(in_snapshot, database, partial(experiments.read_rows, incarnations=wanted))
        for statement in await explained.during(read, "experiments"):
            statement.check(EXPERIMENTS * ARMS)


@pytest.fixture
async def sticky(database: Database) -> AsyncIterator[StickyTable]:
    table = StickyTable(database)
    await table.open()
    yield table
    await table.close()


async def test_sticky_units(database: Database, sticky: StickyTable, explained: Explained, mode: str):
    draw = {"arm": 0, "propensity": 0.5, "now": datetime.now(UTC), "ttl": timedelta(days=1)}

    async def claim(numbers: range) -> None:
        await asyncio.gather(*(sticky.claim(1 + n % EXPERIMENTS, f"unit {n}", **draw) for n in numbers))

    new = UNITS * (2 + (mode == "force_generic_plan"))
    for numbers in (range(1), range(200, 600), range(new, new + 400)):
        for statement in await explained.during(partial(claim, numbers), "sticky_assignments"):
            statement.check(4 * len(numbers) + 10)
    unit = f"unit {EXPERIMENTS * (1 + (mode == 'force_generic_plan'))}"
    read = partial(read_assignment, incarnation=1, unit_id=unit)
    for statement in await explained.during(partial(in_snapshot, database, read), "sticky_assignments"):
        statement.check(1)
    redraw = partial(sticky.store, 1, unit, previous_epoch=1, **draw)
    for statement in await explained.during(redraw, "sticky_assignments"):
        statement.check(4)


async def test_allocations_of_dropped_days_are_looked_up_one_by_one(connection, explained: Explained):
    """The one question that goes to every day: whether any decision still refers to them."""
    await connection.execute("RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin")
    await connection.execute(
        "INSERT INTO dropped_allocations SELECT allocation_id FROM allocations LIMIT 2500 ON CONFLICT DO NOTHING"
    )
    every = {f"{day(number):%Y%m%d}" for number in range(DAYS)}
    for statement in await explained.during(
        partial(retention._delete_allocations, connection, retention._unasked), "dropped_allocations"
    ):
        statement.check(8_000, every)


#: An experiment whose decisions are all of today, and the range of their times: three hours of the day.
TODAYS = 1 + TODAY
OF_ONE = DECISIONS // EXPERIMENTS
WHOLE_DAY = (BASE_US + TODAY * DAY_US, BASE_US + (TODAY + 1) * DAY_US)


@pytest.fixture
async def derivation(database: Database) -> AsyncIterator[DerivationLog]:
    log = DerivationLog(database, lambda unit_id: bytes(8))
    yield log
    await log.close()


async def test_decisions_that_something_may_follow_from(derivation: DerivationLog, explained: Explained):
    rule = RuleVersion(1, RewardRule({}, timedelta(days=7)), 1, 100, None)
    experiment = DerivingExperiment(TODAYS, (rule, replace(rule, derive=DeriveRule(1, 1, None, 1, 1))), None)
    reads = {
        "decisions": partial(derivation.decisions, experiment, *WHOLE_DAY, 20),
        "latest": partial(derivation.decisions, experiment, *WHOLE_DAY, 20, latest=True),
        "counts": partial(derivation.counts, experiment, *WHOLE_DAY, 15_000_000),
        "quiet": partial(derivation.quiet, TODAYS, rule, *WHOLE_DAY, 20),
        "silent": partial(derivation.silent, TODAYS, rule, *WHOLE_DAY, 20),
    }
    for read in reads.values():
        for statement in await explained.during(read, "decisions"):
            statement.check(OF_ONE + 10, {f"{day(TODAY):%Y%m%d}"})


@pytest.mark.parametrize("is_open", [True, False])
async def test_diagnostics(url: str, database: Database, explained: Explained, is_open: bool):
    """Each decision takes one look at its outcome, or at its events."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        # Other tests add some to those that were there.
        row = await (await connection.execute("SELECT count(*) FROM decisions WHERE incarnation = %s", (TODAYS,))).fetchone()
    assert row is not None
    (count,) = row
    assert count >= OF_ONE

    async def read(connection: Any) -> None:
        counted = await read_feedback(connection, TODAYS, {1: WHOLE_DAY[0] - 1 if is_open else WHOLE_DAY[1]})
        assert sum(of.decisions for of in counted.values()) == count
        assert sum(of.closed for of in counted.values()) == (0 if is_open else count)
        await read_histories(connection, TODAYS)

    for ran in await explained.during(partial(in_snapshot, database, read), "d.is_open"):
        ran.check(2 * count + 10, {f"{day(TODAY):%Y%m%d}"})
    for ran in await explained.during(partial(in_snapshot, database, read), "evidence_all"):
        ran.check(max(EXPERIMENTS, 2 * ARMS * HOURS))


async def test_sessions(derivation: DerivationLog, explained: Explained):
    """By session, of two days; the sessions of other experiments have the same names."""
    firsts = {f"s{number}": WHOLE_DAY[0] - DAY_US for number in range(10)}
    read = partial(derivation.sessions, TODAYS, firsts, WHOLE_DAY[1])
    for statement in await explained.during(read, "decisions"):
        statement.check(4 * len(firsts), TWO_DAYS)
    assert {len(rows) for rows in (await read()).values()} == {3}


async def test_sessions_of_a_busy_experiment(derivation: DerivationLog, explained: Explained):
    """Without statistics its sessions look no rarer than the times of its decisions do."""
    firsts = {f"busy {number}": WHOLE_DAY[0] for number in range(100, 110)}
    read = partial(derivation.sessions, BUSY, firsts, WHOLE_DAY[1])
    for statement in await explained.during(read, "decisions"):
        statement.check(4 * len(firsts), TWO_DAYS)
    assert {len(rows) for rows in (await read()).values()} == {4}


async def test_a_page_of_a_busy_experiment(derivation: DerivationLog, explained: Explained):
    rule = RuleVersion(1, RewardRule({}, timedelta(days=7)), 1, 100, None)
    start_us = WHOLE_DAY[0] + 5_000_000_000
    reads = {
        "quiet": partial(derivation.quiet, BUSY, rule, start_us, start_us + 10_000_000, 20),
        "silent": partial(derivation.silent, BUSY, rule, start_us, start_us + 10_000_000, 20),
    }
    for read in reads.values():
        for statement in await explained.during(read, "decisions"):
            statement.check(20, {f"{day(TODAY):%Y%m%d}"})
        assert len(await read()) == 10


async def test_outcomes_that_mature(connection, explained: Explained):
    """Those that are due are found among many that are not, of this experiment and of others."""
    noon_us = WHOLE_DAY[0] + 12 * 3_600_000_000
    async with connection.transaction(force_rollback=True):
        await connection.execute(
            "INSERT INTO pending_outcomes SELECT incarnation, bucket, decision_day, decision_key FROM outcomes"
            " WHERE decision_day = %s",
            (day(TODAY),),
        )
        await connection.execute(
            "INSERT INTO pending_outcomes SELECT %s, now() + n * interval '1 second', now(), md5('pending' || n)::uuid"
            " FROM generate_series(1, 20000) n",
            (TODAYS,),
        )
        await connection.execute("UPDATE policy_versions SET matured_to = %s WHERE incarnation = %s", (day(0), TODAYS))
        ran = await explained.during(partial(maturing.advance, connection, TODAYS, noon_us))
        for statement in ran:
            statement.check(OF_ONE + 10, {f"{day(number):%Y%m%d}" for number in range(DAYS)})
            for node in statement.nodes():
                assert (node.kind, node.relation) != ("Seq Scan", "pending_outcomes"), statement
        assert any("DELETE FROM pending_outcomes" in statement.statement for statement in ran)
