"""Retention: a day goes and what it taught stays, to the last digit, whatever happens in the middle of it."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from growth import (
    BASE_US,
    DAY_US,
    add_experiments,
    day,
    event_connection,
    event_row,
    folded,
    random_event,
    stored_evidence,
)
from hands import Hand
from running import Router, arm, assert_replay_agrees, experiment, query, scalar, until, until_scalar, until_waiting

from bandit.reward import Evidence
from router.storage import retention
from router.storage.database import Database, DatabaseUrl
from router.storage.decisions import AllocationRow, DecisionRow, copy_decisions, store_allocations
from router.storage.errors import MissingPartitionError, StorageError, StorageUnavailableError
from router.storage.events import EventRow, apply_events, days_of
from router.storage.partitions import PARTITIONED, ensure_partitions, partition_name
from router.storage.policies import read_evidence
from router.storage.retention import drop_expired
from router.storage.writer import EventWriter
from router.v1 import experiments_pb2 as pb
from router.v1 import routing_pb2

DAYS = 5


class Feedback:
    """A writer of events, and what it was told of them."""

    def __init__(self, database: Database) -> None:
        self.writer = EventWriter(database)
        self.stored: list[EventRow] = []
        self.late: list[EventRow] = []

    async def apply(self, rows: list[EventRow]) -> None:
        """Store events; those of dropped days are late."""
        while True:
            try:
                result = await self.writer.apply(rows)
            except MissingPartitionError:
                continue  # another day was dropped while it heard of the first one
            self.late += [row for number, row in enumerate(rows) if number in result.dropped]
            self.stored += [row for number, row in enumerate(rows) if number not in result.dropped]
            return


@pytest.fixture
def url(database_url: str) -> str:
    add_experiments(database_url, 3, 3)
    return database_url


@pytest.fixture
async def database(url: str):
    database = Database(DatabaseUrl.parse(url))
    yield database
    await database.dispose()


@pytest.fixture
async def feedback(database: Database):
    feedback = Feedback(database)
    yield feedback
    await feedback.writer.close()


@pytest.fixture
async def keeper(database: Database):
    """The connection that retention runs on."""
    async with await database.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture
def keeper_at_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepers look at ramps, and for changes of posteriors, twenty times a second."""
    monkeypatch.setattr("router.controllers.ramp.EVERY_S", 0.05)
    monkeypatch.setattr("router.controllers.snapshots.EVERY_S", 0.05)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PAUSE_S", 0.01)


def some_events(seed: int = 1, count: int = 600) -> list[EventRow]:
    """Events of DAYS days, with corrections and with receipts that name different arms."""
    rng = random.Random(seed)
    return list({row.key: row for row in (random_event(rng, DAYS) for _ in range(count))}.values())


async def posteriors(url: str) -> list[tuple[Any, ...]]:
    """The posterior of every arm, as analysts see it and as replicas read it."""
    seen = await query(url, "SELECT * FROM posterior_latest ORDER BY experiment_id, arm_id")
    database = Database(DatabaseUrl.parse(url))
    async with database.snapshot() as connection:
        readings = await read_evidence(connection, [1, 2, 3])
    await database.dispose()
    read = sorted((r.incarnation, r.policy_version, sorted(r.evidence.items())) for r in readings)
    return [*seen, *read]


async def days_left(url: str) -> set[str]:
    rows = await query(
        url,
        "SELECT DISTINCT right(c.relname, 8) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'p' AND c.relname ~ '_[0-9]{8}$'",
    )
    return {name for (name,) in rows}


def named(*numbers: int) -> set[str]:
    return {f"{day(number):%Y%m%d}" for number in numbers}


async def kept_from(url: str) -> Any:
    return await scalar(url, "SELECT kept_from FROM retention")


# What a drop does


async def test_the_posterior_is_the_same_before_and_after(url: str, feedback: Feedback, keeper):
    rows = some_events()
    await feedback.apply(rows)
    before = await posteriors(url)
    total = await stored_evidence(url)
    assert total == folded(rows)

    assert await drop_expired(keeper, day(DAYS), 3) == [day(0), day(1)]

    assert await posteriors(url) == before
    assert await stored_evidence(url) == total
    assert await stored_evidence(url, "evidence") == folded(
        [row for row in rows if days_of([row]) >= {day(2)} or row.decided_at_us >= BASE_US + 2 * DAY_US]
    )
    assert await stored_evidence(url, "evidence_base") == folded(
        [row for row in rows if row.decided_at_us < BASE_US + 2 * DAY_US]
    )
    assert await days_left(url) == named(2, 3, 4)
    assert await kept_from(url) == day(2)
    report = await assert_replay_agrees(url)
    assert report.base == await scalar(url, "SELECT sum(n) FROM evidence_base")


async def test_day_after_day_ends_at_the_same_base_as_all_at_once(url: str, feedback: Feedback, keeper):
    rows = some_events(2)
    await feedback.apply(rows)
    before = await posteriors(url)
    for number in range(DAYS):
        assert await drop_expired(keeper, day(DAYS + number), DAYS - 1) == [day(number)]
        assert await posteriors(url) == before
        await assert_replay_agrees(url)
    assert await stored_evidence(url, "evidence_base") == folded(rows)
    assert await scalar(url, "SELECT count(*) FROM evidence") == 0
    assert await drop_expired(keeper, day(2 * DAYS), DAYS - 1) == []


async def test_a_day_belongs_to_itself_to_the_microsecond(url: str, feedback: Feedback, keeper):
    rows = [
        event_row(0, decided_at_us=BASE_US + DAY_US - 1),
        event_row(1, decided_at_us=BASE_US + DAY_US, reward=250_000),
    ]
    await feedback.apply(rows)
    assert await drop_expired(keeper, day(1), 1) == []
    assert await drop_expired(keeper, day(2), 1) == [day(0)]
    assert await stored_evidence(url, "evidence_base") == {(1, 0): Evidence(1_000_000, 0, 1)}
    assert await stored_evidence(url, "evidence") == {(1, 0): Evidence(250_000, 750_000, 1)}


async def test_a_later_event_of_a_dropped_day_is_late_and_leaves_no_trace(url: str, feedback: Feedback, keeper):
    await feedback.apply([event_row(0, 0), event_row(1, 1)])
    await drop_expired(keeper, day(2), 1)
    before = await posteriors(url)
    late = [event_row(0, 0, "another", 0), event_row(2, 0), event_row(0, 0)]
    await feedback.apply([*late, event_row(3, 1)])
    assert feedback.late == late
    assert await days_left(url) == named(1)
    assert await scalar(url, "SELECT count(*) FROM events") == 2
    assert (await posteriors(url))[3:-3] == before[3:-3], "only the experiment of the kept event learned"
    assert await stored_evidence(url) == {(1, 0): Evidence(3_000_000, 0, 3)}
    await assert_replay_agrees(url)


async def test_a_day_that_never_had_a_partition_is_dropped_too(url: str, feedback: Feedback, keeper):
    """Otherwise an event for it would make one, to be dropped again the next day."""
    await feedback.apply([event_row(0, 4)])
    assert await drop_expired(keeper, day(5), 3) == []
    assert await kept_from(url) == day(2)
    await feedback.apply([event_row(1, 1), event_row(2, 2)])
    assert feedback.late == [event_row(1, 1)]
    assert await days_left(url) == named(2, 4)


async def test_days_that_were_dropped_do_not_come_back_when_more_are_to_be_kept(url: str, feedback: Feedback, keeper):
    await feedback.apply([event_row(0, 0), event_row(1, 3)])
    assert await drop_expired(keeper, day(4), 2) == [day(0)]
    assert await drop_expired(keeper, day(4), 100) == []
    assert await kept_from(url) == day(2)


async def test_tables_that_others_attached_are_left_alone(url: str, feedback: Feedback, keeper):
    await feedback.apply([event_row(0, 0)])
    await query(url, "CREATE TABLE events_archive PARTITION OF events FOR VALUES FROM ('2001-01-01') TO ('2002-01-01')")
    assert await drop_expired(keeper, day(4), 2) == [day(0)]
    assert await scalar(url, "SELECT to_regclass('events_archive') IS NOT NULL")


async def test_a_late_reward_over_the_wire(router: Router):
    await router.run()
    decision_id = (await router.route()).decision_id
    assert (await router.reward(decision_id, 1.0, event_id="first")).status == routing_pb2.STATUS_APPLIED
    before = await router.posterior()
    async with await psycopg.AsyncConnection.connect(router.url, autocommit=True) as connection:
        assert await drop_expired(connection, datetime.now(UTC).date() + timedelta(days=3), 1)
    for event_id in ("first", "second", "third"):
        reply = await router.reward(decision_id, 0.0, event_id=event_id)
        assert reply.status == routing_pb2.STATUS_LATE
    assert await scalar(router.url, "SELECT count(*) FROM events") == 0
    assert list((await router.posterior()).arms) == list(before.arms)
    await assert_replay_agrees(router.url)


# Giving way


async def test_a_long_query_is_not_disturbed_and_the_day_waits(url: str, feedback: Feedback, keeper, impatient, caplog):
    rows = some_events(3)
    await feedback.apply(rows)
    before = await posteriors(url)
    async with await psycopg.AsyncConnection.connect(url) as analyst:
        await analyst.execute("SELECT count(*) FROM decisions")
        dropping = asyncio.ensure_future(drop_expired(keeper, day(DAYS), 3))
        while not dropping.done():
            async with asyncio.timeout(10):
                await feedback.apply([event_row(7_000, 4)])
        assert await dropping == []
        assert "retention gives way" in caplog.text
        assert await days_left(url) == named(*range(DAYS))
        await assert_replay_agrees(url)
        await analyst.rollback()
    after = await posteriors(url)
    assert await drop_expired(keeper, day(DAYS), 3) == [day(0), day(1)]
    assert await posteriors(url) == after
    assert before != after


async def test_a_query_that_ends_soon_is_waited_for(url: str, feedback: Feedback, keeper):
    await feedback.apply([event_row(0, 0), event_row(1, 1)])
    async with await psycopg.AsyncConnection.connect(url) as analyst:
        await analyst.execute("SELECT count(*) FROM outcomes")
        dropping = asyncio.ensure_future(drop_expired(keeper, day(2), 1))
        await until_waiting(url, "outcomes")
        await analyst.rollback()
        assert await dropping == [day(0)]


async def test_of_two_at_once_each_day_is_dropped_by_one(url: str, feedback: Feedback, keeper, impatient):
    rows = some_events(4)
    await feedback.apply(rows)
    before = await posteriors(url)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
        done = await asyncio.gather(drop_expired(keeper, day(DAYS), 1), drop_expired(other, day(DAYS), 1))
    assert sorted(done[0] + done[1]) == [day(number) for number in range(DAYS - 1)]
    assert await posteriors(url) == before
    await assert_replay_agrees(url)


async def test_on_a_connection_that_is_not_in_autocommit_mode(url: str, feedback: Feedback):
    await feedback.apply(some_events(5))
    before = await posteriors(url)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await drop_expired(connection, day(DAYS), 3) == [day(0), day(1)]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert await posteriors(url) == before


# Accidents


def cut(url: str, connection: psycopg.AsyncConnection[Any], before: int) -> None:
    """Have a connection cut before the statement of that number."""
    execute, statements = connection.execute, itertools.count(1)

    async def execute_or_cut(*args: Any, **kwargs: Any) -> Any:
        if next(statements) == before:
            await query(url, "SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        return await execute(*args, **kwargs)

    connection.execute = execute_or_cut  # type: ignore[method-assign]


async def test_cut_before_any_statement_a_day_is_there_or_gone(url: str, feedback: Feedback, database: Database):
    """The connection is cut before the first statement, then before the second, and so on, until it all went through."""
    rows = some_events(6)
    await feedback.apply(rows)
    before = await posteriors(url)
    states = []
    for cut_before in itertools.count(1):
        async with await database.connect(autocommit=True) as connection:
            cut(url, connection, cut_before)
            (result,) = await asyncio.gather(drop_expired(connection, day(DAYS), 1), return_exceptions=True)
        left = await days_left(url)
        states.append((len(left), await kept_from(url)))
        assert await posteriors(url) == before
        report = await assert_replay_agrees(url)
        assert report.base == (await scalar(url, "SELECT sum(n)::int8 FROM evidence_base") or 0)
        for parent in PARTITIONED:
            of_parent = (
                "SELECT right(inhrelid::regclass::text, 8) FROM pg_inherits WHERE inhparent = %s::text::regclass"
                " AND inhrelid::regclass::text ~ '_[0-9]{8}$'"
            )
            assert {name for (name,) in await query(url, of_parent, parent)} == left, "a day goes from all tables or none"
        if not isinstance(result, BaseException):
            break
        assert isinstance(result, StorageError), result
    assert left == named(DAYS - 1)
    assert (DAYS, None) in states, "before the first day was closed"
    assert (DAYS, day(1)) in states, "it was closed"
    assert states == sorted(states, key=lambda state: -state[0]), "no day came back"


async def test_stopped_before_any_step_nothing_more_is_dropped(url: str, feedback: Feedback, keeper, monkeypatch):
    """It is stopped at the first question whether it may go on, then at the second, and so on, until it all went through."""
    monkeypatch.setattr(retention, "_ALLOCATIONS", 1)
    await feedback.apply(some_events(8))
    await query(url, "INSERT INTO dropped_allocations SELECT gen_random_uuid() FROM generate_series(1, 2)")
    before = await posteriors(url)
    stops: list[tuple[Any, ...]] = []

    async def what_is_left() -> tuple[Any, ...]:
        allocations = await scalar(url, "SELECT count(*) FROM dropped_allocations")
        return len(await days_left(url)), await kept_from(url), allocations

    async def drop(questions: int) -> list[Any]:
        """Drop until the last of so many questions, which is answered with an error."""
        asked = itertools.count(1)

        async def may_go_on() -> None:
            if next(asked) == questions:
                stops.append(await what_is_left())
                raise StorageUnavailableError("it leads no longer")

        return await asyncio.gather(drop_expired(keeper, day(DAYS), 3, may_go_on), return_exceptions=True)

    for questions in itertools.count(1):
        (result,) = await drop(questions)
        if len(stops) < questions:
            break
        assert isinstance(result, StorageUnavailableError), result
        assert await what_is_left() == stops[-1]
        assert await posteriors(url) == before
        await assert_replay_agrees(url)
    assert result == []
    expected = [
        (5, None, 2),
        (5, day(1), 2),  # the first day is closed, and the drop undone
        (4, day(1), 2),
        (3, day(2), 2),  # of allocations one at a time is deleted from here on
        (3, day(2), 0),
    ]
    assert [state for state, _ in itertools.groupby(stops)] == expected


async def test_a_day_that_was_closed_before_a_crash_is_dropped_by_the_next_call(url: str, feedback: Feedback, keeper):
    rows = some_events(7)
    await feedback.apply(rows)
    before = await posteriors(url)
    assert await retention._close(keeper, day(1)) == (day(0), True)
    assert await posteriors(url) == before
    await assert_replay_agrees(url)
    await feedback.apply([event_row(9_999, 0)])
    assert feedback.late == [event_row(9_999, 0)]
    assert await posteriors(url) == before
    assert await drop_expired(keeper, day(DAYS), DAYS - 1) == [day(0)]
    assert await posteriors(url) == before


# Beside a live service


async def test_nothing_is_lost_or_counted_twice_while_many_write(url: str, database: Database, keeper, impatient):
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await scalar(url, deadlocks)
    over = asyncio.Event()

    async def write(seed: int) -> Feedback:
        rng = random.Random(seed)
        feedback = Feedback(database)
        rounds = 0
        while not over.is_set() or rounds < 30:
            rounds += 1
            batch = {row.key: row for row in (random_event(rng, DAYS, 2_000) for _ in range(rng.choice([1, 10, 200])))}
            await feedback.apply(list(batch.values()))
        await feedback.writer.close()
        return feedback

    async def expire() -> list[Any]:
        dropped = []
        for number in range(1, DAYS):
            await until_scalar(url, f"SELECT count(*) > {number * 200} FROM events", True)
            while day(number - 1) not in dropped:
                dropped += await drop_expired(keeper, day(number), 0)
                await assert_replay_agrees(url)
        over.set()
        return dropped

    *writers, dropped = await asyncio.gather(*(write(seed) for seed in range(4)), expire())
    assert dropped == [day(number) for number in range(DAYS - 1)]
    assert all(writer.late for writer in writers), "events arrived for days that were dropped"
    stored = [row for writer in writers for row in writer.stored]
    assert await stored_evidence(url) == folded(stored)
    report = await assert_replay_agrees(url)
    assert report.base > 0
    assert await days_left(url) == named(DAYS - 1)
    await query(url, "SELECT pg_stat_force_next_flush()")
    assert await scalar(url, deadlocks) == before


async def test_a_batch_under_way_is_waited_for_and_counted(url: str, feedback: Feedback, keeper):
    """It has written and not committed: closing the day waits for it."""
    await feedback.apply([event_row(0, 0)])
    async with await event_connection(url) as connection, connection.transaction():
        await apply_events(connection, [event_row(1, 0)])
        dropping = asyncio.ensure_future(drop_expired(keeper, day(2), 1))
        await until_waiting(url, "day_is_closed")
    assert await dropping == [day(0)]
    assert await stored_evidence(url) == {(1, 0): Evidence(2_000_000, 0, 2)}


async def test_snapshots_and_looks_at_ramps_go_on_between_the_days_of_a_backlog(
    database_url: str, start_router: Any, keeper_at_speed: None, monkeypatch: pytest.MonkeyPatch
):
    hand = Hand()
    router = await start_router(database_url, hand.clocks, keeper=False)
    rule = pb.RampRule(guardrails=[pb.Guardrail(metric="METRIC_RETRY", limit=0.5)])
    rule.stages.add(cap=1.0).duration.FromSeconds(86_400)
    arms = [arm("a", role="ROLE_CONTROL"), arm("b", role="ROLE_CHALLENGER")]
    await router.run(experiment(arms=arms, ramp=rule, unit_share=1_000))
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    backlog = [event_row(number, -2 - number, incarnation=incarnation) for number in range(6)]
    async with await event_connection(database_url) as connection:
        await ensure_partitions(connection, days_of(backlog))
        await apply_events(connection, backlog)
    drop, seen_after = retention._drop, []

    async def drop_and_see(connection: psycopg.AsyncConnection[Any], day: date, *args: Any) -> bool:
        """Drop a day; then the leader must take a snapshot of what is learned now, and look at the ramp, before the next."""
        dropped = await drop(connection, day, *args)
        hand.now_us += 1_000_000
        await router.learn("a", 5)
        version = (await router.posterior()).policy_version

        async def kept() -> bool:
            return await scalar(router.url, "SELECT max(policy_version) >= %s FROM snapshots", version)

        async def looked() -> bool:
            return (await router.get()).ramp_status.assessment.assess_time.ToMicroseconds() >= hand.now_us

        await until(kept, "a snapshot", 10)
        await until(looked, "a look at the ramp", 10)
        seen_after.append(day)
        return dropped

    monkeypatch.setattr(retention, "_drop", drop_and_see)
    await start_router(database_url, hand.clocks, retention_days=1)
    await until(lambda: len(seen_after) == len(backlog), "the backlog is dropped", 60)
    assert seen_after == sorted(days_of(backlog))
    assert await stored_evidence(router.url, "evidence_base") == folded(backlog)
    await assert_replay_agrees(router.url)


# What goes with a day


def allocation(number: int) -> AllocationRow:
    return AllocationRow(number.to_bytes(16, "big"), 1, number, (0, 1), (0.5, 0.5))


def decision(number: int, day_number: int, allocation_number: int) -> DecisionRow:
    return DecisionRow(
        number.to_bytes(16, "big"),
        1,
        0,
        BASE_US + day_number * DAY_US + number,
        0.5,
        allocation_number,
        allocation(allocation_number).allocation_id,
        "sampled",
        *("",) * 6,
        None,
    )


async def test_allocations_go_with_the_last_decision_that_was_drawn_from_them(url: str, keeper, monkeypatch):
    monkeypatch.setattr(retention, "_ALLOCATIONS", 2)
    await ensure_partitions(keeper, [day(number) for number in range(3)])
    await store_allocations(keeper, [allocation(number) for number in range(10)])
    # 0 to 5 on the first day, 3 to 6 on the second, 5 to 8 on the third; 9 was stored before its decisions.
    drawn = {0: range(6), 1: range(3, 7), 2: range(5, 9)}
    await copy_decisions(
        keeper, [decision(100 * d + a, d, a) for d, numbers in drawn.items() for a in numbers for _ in range(1)]
    )

    async def left() -> set[int]:
        rows = await query(url, "SELECT allocation_id FROM allocations")
        return {UUID(str(value)).int for (value,) in rows}

    assert await drop_expired(keeper, day(3), 2) == [day(0)]
    assert await left() == {3, 4, 5, 6, 7, 8, 9}
    assert await drop_expired(keeper, day(3), 1) == [day(1)]
    assert await left() == {5, 6, 7, 8, 9}
    assert await scalar(url, "SELECT count(*) FROM dropped_allocations") == 0
    assert await scalar(url, "SELECT count(*) FROM decisions") == 4


async def test_allocations_that_a_crash_left_are_deleted_by_the_next_call(url: str, keeper, monkeypatch):
    await ensure_partitions(keeper, [day(0)])
    await store_allocations(keeper, [allocation(1)])
    await copy_decisions(keeper, [decision(1, 0, 1)])

    async def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_delete_allocations", crash)
        with pytest.raises(RuntimeError):
            await drop_expired(keeper, day(2), 1)
    assert await scalar(url, "SELECT count(*) FROM allocations") == 1
    assert await drop_expired(keeper, day(2), 1) == []
    assert await scalar(url, "SELECT count(*) FROM allocations") == 0


async def test_units_go_a_day_after_their_draw_expired(url: str, keeper, monkeypatch):
    monkeypatch.setattr(retention, "_PAGES", 2)
    today = datetime.combine(day(9), datetime.min.time(), UTC)
    ends = [None, today + timedelta(days=9), today, today - timedelta(days=1), today - timedelta(days=1, microseconds=1)]
    with psycopg.connect(url) as connection:
        connection.cursor().executemany(
            "INSERT INTO sticky_assignments VALUES (1, %s, 1, 0, 1, now(), %s)",
            [(f"{n}-{i}", end) for n, end in enumerate(ends) for i in range(200)],
        )
    await drop_expired(keeper, day(9), 30)
    left = await query(url, "SELECT left(unit_id, 1), count(*) FROM sticky_assignments GROUP BY 1 ORDER BY 1")
    assert left == [("0", 200), ("1", 200), ("2", 200), ("3", 200)]


async def test_a_decision_for_a_dropped_day_is_told_apart(url: str, keeper):
    await ensure_partitions(keeper, [day(0)])
    await drop_expired(keeper, day(2), 1)
    with pytest.raises(MissingPartitionError):
        await copy_decisions(keeper, [decision(1, 0, 1)])
    assert await ensure_partitions(keeper, [day(0)]) == {day(0)}
    assert await scalar(url, "SELECT to_regclass(%s) IS NULL", partition_name("decisions", day(0)))
