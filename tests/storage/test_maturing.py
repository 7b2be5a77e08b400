"""Maturing: an outcome is in the evidence exactly if its decision is old enough, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import psycopg
import pytest
from growth import BASE_US, DAY_US, HOUR_US, add_experiments, day, event_row, folded, random_event, stored_evidence
from running import assert_replay_agrees, locked, query, scalar, until_waiting

from bandit.reward import Evidence
from router.storage import maturing
from router.storage.database import Database, DatabaseUrl
from router.storage.events import EventRow
from router.storage.maturing import Matured
from router.storage.retention import drop_expired
from router.storage.writer import EventWriter

ONE = 1


@pytest.fixture
def url(database_url: str) -> str:
    add_experiments(database_url, 2, 3)
    return database_url


@pytest.fixture
async def database(url: str):
    database = Database(DatabaseUrl.parse(url))
    yield database
    await database.dispose()


@pytest.fixture
async def writers(database: Database):
    writers = [EventWriter(database) for _ in range(3)]
    yield writers
    for writer in writers:
        await writer.close()


@pytest.fixture
async def leader(database: Database):
    """The connection of whoever moves the time on."""
    async with await database.connect(autocommit=True) as connection:
        yield connection


def at(seconds: float, decision: int = 0, event: str = "e", reward: int | None = 1_000_000, **fields) -> EventRow:
    """An event of a decision made so many seconds into the first day."""
    decided_at_us = BASE_US + round(seconds * 1e6)
    fields.setdefault("occurred_at_us", decided_at_us)
    return event_row(decision, 0, event, reward, decided_at_us=decided_at_us, **fields)


def us(seconds: float) -> int:
    return BASE_US + round(seconds * 1e6)


async def version(url: str) -> int:
    return await scalar(url, "SELECT policy_version FROM policy_versions WHERE incarnation = %s", ONE)


async def pending(url: str) -> int:
    return await scalar(url, "SELECT count(*) FROM pending_outcomes")


async def assert_books(url: str) -> None:
    """The evidence is the fold of the outcomes that have matured, by the outcomes themselves and by the events."""
    rows = await query(
        url,
        "SELECT o.incarnation, o.arm, sum(o.reward_micros)::int8, sum(1000000 - o.reward_micros)::int8, count(*)"
        " FROM outcomes o JOIN policy_versions v USING (incarnation)"
        " WHERE o.decided_at IS NULL OR v.matured_to IS NULL OR o.decided_at <= v.matured_to GROUP BY 1, 2",
    )
    assert await stored_evidence(url, "evidence") == {(i, arm): Evidence(s, f, n) for i, arm, s, f, n in rows}
    report = await assert_replay_agrees(url)
    assert report.pending == await pending(url)
    early = (
        "SELECT count(*) FROM pending_outcomes p JOIN policy_versions v USING (incarnation) WHERE decided_at <= matured_to"
    )
    assert await scalar(url, early) == 0


async def test_without_maturing_nothing_waits(url: str, writers):
    await writers[0].apply([at(1), at(2, 1)])
    assert await pending(url) == 0
    assert await scalar(url, "SELECT count(*) FROM outcomes WHERE decided_at IS NOT NULL") == 0
    await assert_books(url)


async def test_the_outcome_of_a_young_decision_waits_until_it_is_old_enough(url: str, writers, leader):
    assert await maturing.begin(leader, ONE, us(10)) == us(10)
    before = await version(url)
    result = await writers[0].apply([at(11)])
    assert (result.moved, await version(url), await pending(url)) == ((), before, 1)
    assert await stored_evidence(url) == {}
    await assert_books(url)

    assert await maturing.advance(leader, ONE, us(10.5)) == Matured(us(10.5), 0, True)
    assert await version(url) == before, "nothing changed"
    assert await maturing.advance(leader, ONE, us(11)) == Matured(us(11), 1, True)
    assert await version(url) == before + 1
    assert await stored_evidence(url) == {(ONE, 0): Evidence(1_000_000, 0, 1)}
    assert await pending(url) == 0
    await assert_books(url)


async def test_what_is_older_when_it_begins_counts_at_once(url: str, writers, leader):
    await writers[0].apply([at(1)])
    await maturing.begin(leader, ONE, us(10))
    result = await writers[0].apply([at(10, 1, reward=0), at(10.000001, 2)])
    assert result.moved == (ONE,)
    assert await stored_evidence(url) == {(ONE, 0): Evidence(1_000_000, 1_000_000, 2)}
    await assert_books(url)


async def test_another_experiment_does_not_wait(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    result = await writers[0].apply([at(1), at(1, 1, incarnation=2)])
    assert result.moved == (2,)
    await assert_books(url)


async def test_corrections_before_and_after(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    await writers[0].apply([at(1, reward=0, arm=1)])
    await writers[0].apply([at(1, 0, "later", 300_000, arm=2, occurred_at_us=us(2))])
    assert await pending(url) == 1, "a decision waits once"
    await maturing.advance(leader, ONE, us(1))
    assert await stored_evidence(url) == {(ONE, 2): Evidence(300_000, 700_000, 1)}
    result = await writers[0].apply([at(1, 0, "latest", 1_000_000, arm=1, occurred_at_us=us(3))])
    assert result.moved == (ONE,)
    assert await stored_evidence(url) == {(ONE, 1): Evidence(1_000_000, 0, 1)}
    await assert_books(url)


@pytest.mark.parametrize("first", [1, 5])
async def test_receipts_that_date_one_decision_differently(url: str, writers, leader, first: int):
    """The first one that counts says when it matures, so that the decision is in the evidence or waits as a whole."""
    await maturing.begin(leader, ONE, us(0))
    second = 6 - first
    await writers[0].apply([at(first, 0, "a", 0)])
    await maturing.advance(leader, ONE, us(3))
    await writers[0].apply([at(second, 0, "b", 1_000_000, occurred_at_us=us(9))])
    counted = {(ONE, 0): Evidence(1_000_000, 0, 1)}
    assert await stored_evidence(url) == (counted if first == 1 else {})
    await assert_books(url)
    await maturing.advance(leader, ONE, us(5))
    assert await stored_evidence(url) == counted
    await assert_books(url)


async def test_it_never_moves_back(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(10))
    assert await maturing.advance(leader, ONE, us(5)) == Matured(us(10), 0, True)
    assert await maturing.begin(leader, ONE, us(99)) == us(10), "it had begun"


async def test_many_mature_in_portions(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    rows = [at(1 + n // 3, n) for n in range(30)]  # three at a time
    await writers[0].apply(rows)
    steps = []
    while not steps or not steps[-1].done:
        steps.append(await maturing.advance(leader, ONE, us(100), at_once=10))
        await assert_books(url)
    assert steps == [Matured(us(4), 12, False), Matured(us(8), 12, False), Matured(us(100), 6, True)]
    assert await stored_evidence(url) == folded(rows)


async def test_once_no_rule_asks_for_it_everything_counts(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    rows = [at(n + 1, n) for n in range(5)]
    await writers[0].apply(rows)
    assert await maturing.finish(leader, ONE, at_once=3) == Matured(us(3), 3, False)
    await assert_books(url)
    assert await maturing.finish(leader, ONE, at_once=3) == Matured(None, 2, True)
    assert await stored_evidence(url) == folded(rows)
    assert (await writers[0].apply([at(50, 50)])).moved == (ONE,)
    assert await maturing.finish(leader, ONE) == Matured(None, 0, True)
    assert await maturing.advance(leader, ONE, us(99)) == Matured(None, 0, True)
    await assert_books(url)


async def test_begun_again_what_counted_early_stays_counted(url: str, writers, leader):
    """A decision dated after now, by a clock that is ahead, was counted when maturing was given up."""
    await maturing.begin(leader, ONE, us(0))
    await writers[0].apply([at(60)])
    await maturing.finish(leader, ONE)
    assert await maturing.begin(leader, ONE, us(30)) == us(60)
    await writers[0].apply([at(60, 0, "later", 0, occurred_at_us=us(61))])
    assert await stored_evidence(url) == {(ONE, 0): Evidence(0, 1_000_000, 1)}
    await assert_books(url)


async def test_who_moves_the_time_waits_for_a_batch_under_way(url: str, writers, leader):
    """The time is read and moved under the lock: else a batch could let an outcome wait that nobody would count."""
    await maturing.begin(leader, ONE, us(0))
    with locked(url, "policy_versions", f"incarnation = {ONE}"):
        writing = asyncio.ensure_future(writers[0].apply([at(5)]))
        await until_waiting(url, backends=1)
        moving = asyncio.ensure_future(maturing.advance(leader, ONE, us(9)))
        await until_waiting(url, backends=2)
    await asyncio.gather(writing, moving)
    assert (await pending(url), await stored_evidence(url)) == (0, {(ONE, 0): Evidence(1_000_000, 0, 1)})
    await assert_books(url)


async def test_a_broken_connection_leaves_all_or_nothing(url: str, writers, leader, database):
    await maturing.begin(leader, ONE, us(0))
    await writers[0].apply([at(n + 1, n) for n in range(5)])
    with locked(url, "policy_versions", f"incarnation = {ONE}"):
        moving = asyncio.ensure_future(maturing.advance(leader, ONE, us(9)))
        await until_waiting(url, backends=1)
        await query(url, "SELECT pg_terminate_backend(%s)", leader.info.backend_pid)
        with pytest.raises(Exception, match=r"terminat|closed|broke"):
            await moving
    assert await pending(url) == 5
    await assert_books(url)
    async with await database.connect(autocommit=True) as another:
        assert (await maturing.advance(another, ONE, us(9))).outcomes == 5
    await assert_books(url)


async def test_writers_and_the_time_at_once(url: str, writers, database):
    """Corrections, repetitions and receipts that disagree, while two leaders move the time, give up and begin anew."""
    rng = random.Random(5)
    sent: list[EventRow] = []
    end_us = BASE_US + DAY_US

    async def write(writer: EventWriter, own: random.Random) -> None:
        for _ in range(25):
            batch = {event.key: event for event in (random_event(own, 1) for _ in range(20))}
            sent.extend(batch.values())
            await writer.apply(list(batch.values()))

    async def lead(own: random.Random) -> None:
        async with await database.connect(autocommit=True) as connection:
            for step in range(60):
                incarnation = 1 + own.randrange(2)
                match own.randrange(8):
                    case 0:
                        await maturing.finish(connection, incarnation, at_once=5)
                    case 1 | 2:
                        await maturing.begin(connection, incarnation, BASE_US - 1)
                    case _:
                        to_us = BASE_US + step * (HOUR_US // 2)
                        await maturing.advance(connection, incarnation, to_us, at_once=7)

    async def look() -> None:
        for _ in range(6):
            await assert_replay_agrees(url)
            await asyncio.sleep(0.02)

    async with await database.connect(autocommit=True) as connection:
        for incarnation in (1, 2):
            await maturing.begin(connection, incarnation, BASE_US - 1)
        await asyncio.gather(
            *(write(writer, random.Random(n)) for n, writer in enumerate(writers)),
            lead(random.Random(rng.random())),
            lead(random.Random(rng.random())),
            look(),
        )
        await assert_books(url)
        for incarnation in (1, 2):
            await maturing.begin(connection, incarnation, BASE_US - 1)
            await maturing.advance(connection, incarnation, end_us)
    assert await pending(url) == 0
    assert await stored_evidence(url) == folded(sent)
    await assert_books(url)


async def test_a_day_that_is_dropped_is_counted_first(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    old = [at(n + 1, n, reward=n * 100_000) for n in range(5)]
    new = [event_row(100 + n, 1) for n in range(3)]
    await writers[0].apply(old + new)
    assert await pending(url) == 8
    await drop_expired(leader, day(2), 1)
    assert await pending(url) == 3
    assert await stored_evidence(url, "evidence_base") == folded(old)
    assert await stored_evidence(url, "evidence") == {}
    report = await assert_replay_agrees(url)
    assert (report.base, report.pending) == (5, 3)
    await maturing.advance(leader, ONE, BASE_US + 2 * DAY_US)
    assert await stored_evidence(url) == folded(old + new)
    await assert_replay_agrees(url)


async def test_a_crash_after_a_day_was_closed_loses_no_outcome(url: str, writers, leader):
    await maturing.begin(leader, ONE, us(0))
    old = [at(n + 1, n) for n in range(4)]
    await writers[0].apply(old)
    with psycopg.connect(url) as connection:
        for table in ("decisions", "events", "outcomes"):
            connection.execute(f"ALTER TABLE {table}_{day(0):%Y%m%d} ADD CONSTRAINT day_is_closed CHECK (false) NOT VALID")
    await assert_replay_agrees(url)
    assert (await maturing.finish(leader, ONE)).outcomes == 4, "whatever comes first counts them"
    await drop_expired(leader, day(2), 1)
    assert await stored_evidence(url, "evidence_base") == folded(old)
    await assert_replay_agrees(url)


def test_the_folds_of_these_tests_differ_by_what_waits():
    """The random events give every experiment outcomes over the whole day, or the tests above would show nothing."""
    rng = random.Random(1)
    hours = defaultdict(set)
    for _ in range(500):
        event = random_event(rng, 1)
        hours[event.incarnation].add(event.decided_at_us)
    assert all(len(times) == 3 for times in hours.values())
