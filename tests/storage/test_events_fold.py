"""Events into evidence: in whatever order, batches and accidents events come, each decision counts once, exactly."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from growth import event_row
from running import assert_replay_agrees, locked, query, scalar, terminate_others, until, until_scalar, until_waiting

import router
from bandit.reward import Candidate, Evidence, fold
from router.storage import experiments
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import RefusedRowError, StorageUnavailableError
from router.storage.events import BatchResult, EventRow, EventStatus
from router.storage.partitions import ensure_partitions
from router.storage.writer import EventWriter

ROOT = Path(router.__file__).parents[1]
HOUR_US = 3_600_000_000
BASE_US = (1_790_000_000_000_000 // HOUR_US) * HOUR_US
ONE, TWO = 1, 2**62 - 1


def row(decision: int = 0, event: str = "e", reward: int | None = 1_000_000, **fields: object) -> EventRow:
    """An event of decision number `decision`; rewards in millionths."""
    return event_row(decision, event=event, reward=reward, **{"decided_at_us": BASE_US + decision, **fields})


def folded(rows: Iterable[EventRow]) -> dict[tuple[int, int, datetime], Evidence]:
    """The evidence by incarnation, arm and hour, from the first event of each key: the definition, in Python."""
    known: dict[tuple[bytes, int, str], EventRow] = {}
    for event in rows:
        known.setdefault(event.key, event)
    decisions = defaultdict(list)
    for event in known.values():
        if event.reward_micros is not None:
            candidate = Candidate(event.rank, event.occurred_at_us, event.event_id, event.reward_micros)
            decisions[event.key[:2]].append((candidate, event))
    evidence: defaultdict[tuple[int, int, datetime], Evidence] = defaultdict(Evidence)
    for candidates in decisions.values():
        winner = fold(candidate for candidate, _ in candidates)
        event = next(event for candidate, event in candidates if candidate is winner)
        hour = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=event.decided_at_us // HOUR_US)
        evidence[(event.incarnation, event.arm, hour)] += Evidence.of(event.reward_micros)
    return dict(evidence)


async def stored(url: str) -> dict[tuple[int, int, datetime], Evidence]:
    rows = await query(url, "SELECT incarnation, arm, bucket, success_micros, failure_micros, n FROM evidence WHERE n > 0")
    return {(i, arm, bucket): Evidence(s, f, n) for i, arm, bucket, s, f, n in rows}


async def assert_exact(url: str, rows: Sequence[EventRow]) -> None:
    assert await stored(url) == folded(rows)
    await assert_replay_agrees(url)


@pytest.fixture
def url(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        for incarnation in (ONE, TWO):
            connection.execute(
                "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment,"
                " reward_rule, reward_rule_version) VALUES (%s, %s, '', 'running', '', '{}', '{}', '{}', 1)",
                (incarnation, f"x-{incarnation}"),
            )
            connection.execute("INSERT INTO policy_versions (incarnation) VALUES (%s)", (incarnation,))
            connection.execute(
                "INSERT INTO reward_rules (incarnation, version, reward_rule) VALUES (%s, 1, '{}')", (incarnation,)
            )
            connection.execute(
                "INSERT INTO arms (incarnation, arm, position, arm_id, version, model, family, role, config, active)"
                " VALUES (%s, 0, 0, 'a', 1, '', '', 'challenger', '{}', true)",
                (incarnation,),
            )
    return database_url


@pytest.fixture
async def database(url: str):
    database = Database(DatabaseUrl.parse(url))
    yield database
    await database.dispose()


@pytest.fixture
async def writers(database: Database):
    writers = [EventWriter(database) for _ in range(4)]
    yield writers
    for writer in writers:
        await writer.close()


# One writer


async def test_one_event(url: str, writers):
    result = await writers[0].apply([row(0, reward=250_000)])
    assert result == BatchResult(known=frozenset(), contradictions=0, moved=(ONE,))
    assert await query(url, "SELECT success_micros, failure_micros, n FROM evidence") == [(250_000, 750_000, 1)]
    assert await scalar(url, "SELECT policy_version FROM policy_versions WHERE incarnation = %s", ONE) == 2
    assert await scalar(url, "SELECT policy_version FROM policy_versions WHERE incarnation = %s", TWO) == 1


async def test_a_repetition_changes_nothing_and_a_contradiction_is_counted(url: str, writers):
    await writers[0].apply([row(0, "a"), row(1, "a")])
    result = await writers[0].apply([row(0, "a"), row(1, "a", reward=0), row(2, "a")])
    assert result.known == {0, 1}
    assert result.contradictions == 1
    await assert_exact(url, [row(0, "a"), row(1, "a"), row(2, "a")])
    again = await writers[1].apply([row(0, "a"), row(1, "a"), row(2, "a")])
    assert again == BatchResult(known=frozenset({0, 1, 2}), contradictions=0, moved=())


@pytest.mark.parametrize("kept", [b"", bytes(8)], ids=["erased", "by another version"])
async def test_what_cannot_be_compared_is_no_contradiction(url: str, writers, kept: bytes):
    await writers[0].apply([row(0, "a")._replace(content=kept)])
    again = await writers[0].apply([row(0, "a")])
    assert again == BatchResult(known=frozenset({0}), contradictions=0, moved=())


@pytest.mark.parametrize("rewards", [(1_000_000, 0), (0, 1_000_000), (700_000, 300_000, 500_000), (1_000_000, 1_000_000)])
async def test_corrections_move_the_evidence_by_the_difference(url: str, writers, rewards):
    rows = []
    for number, reward in enumerate(rewards):
        rows.append(row(0, f"e{number}", reward, occurred_at_us=BASE_US + number))
        await writers[0].apply(rows[-1:])
        await assert_exact(url, rows)
    assert await scalar(url, "SELECT n FROM evidence") == 1


async def test_a_correction_that_changes_nothing_makes_no_new_policy(url: str, writers):
    await writers[0].apply([row(0, "a")])
    result = await writers[0].apply([row(0, "b", occurred_at_us=BASE_US + 5)])
    assert result.moved == ()
    assert await scalar(url, "SELECT policy_version FROM policy_versions WHERE incarnation = %s", ONE) == 2
    assert await scalar(url, "SELECT event_id FROM outcomes") == "b"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_tie_is_broken_by_the_event_id_in_code_points(url: str, writers, order):
    rows = [row(0, "Z", 100_000), row(0, "ä", 900_000)]  # in most locales "ä" comes before "Z"
    for index in order:
        await writers[0].apply([rows[index]])
    assert await scalar(url, "SELECT reward_micros FROM outcomes") == 900_000
    await assert_exact(url, rows)


@pytest.mark.parametrize("together", [True, False])
async def test_receipts_of_one_decision_that_name_different_arms(url: str, writers, together: bool):
    """Retries of a request id at two policies give two arms, hours and times; the outcome belongs to its own event's."""
    rows = [
        row(0, "a", 1_000_000, arm=0),
        row(0, "b", 0, arm=1, occurred_at_us=BASE_US + 9, decided_at_us=BASE_US + HOUR_US),
        row(0, "c", 400_000, arm=2, occurred_at_us=BASE_US + 5),
        row(0, "d", 400_000, arm=0, occurred_at_us=BASE_US + 99),
    ]
    for batch in [rows] if together else [[event] for event in rows]:
        await writers[0].apply(batch)
    await assert_exact(url, rows)
    assert sum(e.n for e in (await stored(url)).values()) == 1


async def test_neutral_late_and_limited_events_are_kept_and_never_count(url: str, writers):
    rows = [
        row(0, "n", None),
        row(0, "l", None, status=EventStatus.LATE, rank=9),
        row(1, "m", None, status=EventStatus.LIMITED),
        row(0, "a", 500_000, rank=1),
    ]
    result = await writers[0].apply(rows)
    assert not result.known
    await assert_exact(url, rows)
    assert await query(url, "SELECT status FROM events ORDER BY 1") == [
        ("applied",),
        ("late",),
        ("limited",),
        ("neutral",),
    ]


async def test_one_batch_of_everything(url: str, writers):
    rng = random.Random(1)
    rows = {event.key: event for event in (random_event(rng) for _ in range(3_000))}
    await writers[0].apply(list(rows.values()))
    await assert_exact(url, list(rows.values()))


async def test_the_database_refuses_evidence_that_cannot_be(url: str):
    for values in ((-1, 1_000_001, 1), (1_000_001, -1, 1), (0, 0, -1), (1, 1, 1)):
        with pytest.raises(psycopg.errors.CheckViolation):
            await query(url, "INSERT INTO evidence VALUES (%s, 0, '', now(), %s, %s, %s)", ONE, *values)


def random_event(rng: random.Random) -> EventRow:
    """An event of one of few decisions, with any rank, time, arm and worth; contents are those of its key."""
    decision, number = rng.randrange(40), rng.randrange(12)
    own = random.Random(f"{decision}/{number}")
    return row(
        decision,
        f"e{number}",
        own.choice([None, 0, 1_000_000, own.randrange(1_000_001)]),
        incarnation=ONE if decision % 2 else TWO,
        arm=own.randrange(3),
        rank=own.choice([2, 3, 4]),
        decided_at_us=BASE_US + own.choice([0, 0, 0, HOUR_US]),
        occurred_at_us=BASE_US + HOUR_US + own.randrange(4),
    )


# Several writers


@pytest.mark.parametrize("count", [2, 4])
async def test_writers_of_the_same_decisions_at_once(url: str, writers, count: int):
    rng = random.Random(count)
    sent: list[EventRow] = []
    for _ in range(25):
        batches = []
        for writer in writers[:count]:
            batch = {event.key: event for event in (random_event(rng) for _ in range(30))}
            batches.append((writer, list(batch.values())))
            sent += batch.values()
        results = await asyncio.gather(*(writer.apply(batch) for writer, batch in batches))
        keys = [
            event.key
            for (_, batch), result in zip(batches, results, strict=True)
            for n, event in enumerate(batch)
            if n not in result.known
        ]
        assert len(keys) == len(set(keys)), "one event was acknowledged as new twice"
        assert not any(result.contradictions for result in results)
    await assert_exact(url, sent)


WRITER_PROCESS = """
import asyncio, json, random, sys
sys.path[:0] = [{tests!r}, {support!r}]
from test_events_fold import random_event
from router.storage.database import Database, DatabaseUrl
from router.storage.writer import EventWriter

async def main(url, seed):
    rng = random.Random(seed)
    database = Database(DatabaseUrl.parse(url))
    writer = EventWriter(database)
    print("ready", flush=True)
    sys.stdin.readline()
    new = 0
    for _ in range(15):
        batch = {{event.key: event for event in (random_event(rng) for _ in range(30))}}
        new += len(batch) - len((await writer.apply(list(batch.values()))).known)
    await writer.close()
    await database.dispose()
    print(new, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_processes_of_the_same_decisions_at_once(url: str):
    script = WRITER_PROCESS.format(tests=str(Path(__file__).parent), support=str(ROOT / "tests" / "support"))
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it is only started here
            [sys.executable, "-c", script, url, str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for seed in range(3)
    ]
    try:
        for process in processes:
            assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ready"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in processes))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    sent = []
    for seed in range(3):
        rng = random.Random(seed)
        sent += [random_event(rng) for _ in range(450)]
    await assert_exact(url, sent)
    assert sum(int(output) for output, _ in outputs) == len({event.key for event in sent})


async def test_a_batch_waits_for_the_one_that_holds_its_experiment(url: str, writers):
    """The lock comes before the reading: were it not so, both would count the decision."""
    await writers[0].apply([row(9)])
    with locked(url, "policy_versions", f"incarnation = {ONE}"):
        first = asyncio.ensure_future(writers[0].apply([row(0, "a", 1_000_000)]))
        second = asyncio.ensure_future(writers[1].apply([row(0, "b", 0, occurred_at_us=BASE_US + 1)]))
        await until_waiting(url, backends=2)
        other = await writers[2].apply([row(1, incarnation=TWO)])
        assert other.moved == (TWO,), "another experiment does not wait"
    await asyncio.gather(first, second)
    await assert_exact(url, [row(9), row(0, "a"), row(0, "b", 0, occurred_at_us=BASE_US + 1), row(1, incarnation=TWO)])


async def test_experiments_change_while_events_arrive_without_deadlock(url: str, writers):
    """Events of new hours make rows that refer to the experiment, which an update holds."""
    database = Database(DatabaseUrl.parse(url))

    async def update() -> None:
        for number in range(40):
            async with database.begin() as connection:
                current = await experiments.read(connection, f"x-{ONE}", for_update=True)
                await experiments.set_state(connection, current[0], "running" if number % 2 else "paused")

    async def write(writer: EventWriter, offset: int) -> None:
        for number in range(40):
            await writer.apply([row(number, f"e{offset}", decided_at_us=BASE_US + number * HOUR_US // 4, arm=number)])

    deadlocks = await scalar(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await asyncio.gather(update(), write(writers[0], 0), write(writers[1], 1))
    await database.dispose()
    await query(url, "SELECT pg_stat_force_next_flush()")
    after = await scalar(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert after == deadlocks


async def test_an_update_never_waits_for_an_event_that_waits_for_it(url: str, writers):
    """As above, step by step: whoever updates an experiment lets through the rows that refer to it."""
    database = Database(DatabaseUrl.parse(url))
    try:
        async with database.begin() as connection:
            assert await experiments.read(connection, f"x-{ONE}", for_update=True)
            async with asyncio.timeout(5):
                await writers[0].apply([row(0)])
    finally:
        await database.dispose()


# Accidents


async def test_a_connection_cut_in_the_middle_counts_nothing_and_again_counts_once(url: str, writers):
    rows = [row(number) for number in range(50)]
    await writers[0].apply([row(99)])
    with locked(url, "policy_versions"):
        applying = asyncio.ensure_future(writers[0].apply(rows))
        await until_waiting(url)
        # The first attempt is cut; the writer's second waits for the lock again, and is cut too.
        for _ in range(2):
            await query(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock'",
            )
            if not applying.done():
                await until(lambda: applying.done() or _waiting(url), "the second attempt waits too")
        with pytest.raises(StorageUnavailableError):
            await applying
    await assert_exact(url, [row(99)])
    assert not (await writers[0].apply(rows)).known
    assert len((await writers[1].apply(rows)).known) == 50
    await assert_exact(url, [*rows, row(99)])


async def _waiting(url: str) -> bool:
    return await scalar(
        url, "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )


async def test_connections_cut_at_any_time_lose_and_double_nothing(url: str, writers):
    """Batches are sent again until they are acknowledged, while somebody keeps cutting connections."""
    rng = random.Random(5)
    sent: list[EventRow] = []
    over = asyncio.Event()

    async def cut() -> int:
        cuts = 0
        while cuts < 15 and not over.is_set():
            cuts += await terminate_others(url)
        return cuts

    async def send(writer: EventWriter) -> None:
        for _ in range(8):
            batch = list({event.key: event for event in (random_event(rng) for _ in range(40))}.values())
            sent.extend(batch)
            for _ in range(100):
                try:
                    await writer.apply(batch)
                except StorageUnavailableError:
                    continue
                break
            else:
                raise AssertionError("never acknowledged")

    cutting = asyncio.ensure_future(cut())
    await asyncio.gather(*(send(writer) for writer in writers[:2]))
    over.set()
    assert await cutting > 0
    await assert_exact(url, sent)


async def test_a_cancelled_batch_leaves_a_writer_that_works(url: str, writers):
    await writers[0].apply([row(9)])
    with locked(url, "policy_versions"):
        applying = asyncio.ensure_future(writers[0].apply([row(0)]))
        await until_waiting(url)
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
    await until_scalar(
        url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'", 1
    )
    assert not (await writers[0].apply([row(1)])).known
    await writers[0].apply([row(0)])
    await assert_exact(url, [row(0), row(1), row(9)])


async def test_a_refused_row_is_named_as_such_and_changes_nothing(url: str, writers):
    with pytest.raises(RefusedRowError):
        await writers[0].apply([row(0), row(1, incarnation=77)])
    assert await scalar(url, "SELECT count(*) FROM events") == 0
    assert not (await writers[0].apply([row(0)])).known


# Partitions


async def test_partitions_are_made_on_demand(url: str, writers):
    day = 86_400_000_000
    rows = [row(n, decided_at_us=BASE_US + n * day) for n in range(-2, 3)]
    await writers[0].apply(rows)
    await assert_exact(url, rows)
    partitions = await query(
        url,
        "SELECT inhparent::regclass::text, count(*) FROM pg_inherits JOIN pg_class p ON p.oid = inhparent"
        " WHERE p.relkind = 'p' AND inhrelid::regclass::text ~ '_[0-9]{8}$' GROUP BY 1 ORDER BY 1",
    )
    assert partitions == [("decisions", 5), ("events", 5), ("outcomes", 5), ("unit_shares", 5)]
    missing = await query(
        url,
        "SELECT p.oid::regclass::text FROM pg_class p JOIN pg_inherits i ON i.inhrelid = p.oid"
        " WHERE p.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = p.oid AND indisprimary)",
    )
    assert missing == []


async def test_partitions_made_by_several_at_once(url: str, writers):
    day = 86_400_000_000
    rows = [row(n, f"e{w}", decided_at_us=BASE_US + n * day) for w in range(4) for n in range(4)]
    batches = [rows[w * 4 : w * 4 + 4] for w in range(4)]
    batches[1].reverse()
    await asyncio.gather(*(writer.apply(batch) for writer, batch in zip(writers, batches, strict=True)))
    await assert_exact(url, rows)


async def test_making_partitions_waits_for_no_reader(url: str, database: Database):
    today = datetime.fromtimestamp(BASE_US / 1e6, UTC).date()
    async with await database.connect() as reader, await database.connect() as maker:
        await ensure_partitions(maker, [today])
        await reader.execute("SELECT count(*) FROM events, outcomes, decisions")
        async with asyncio.timeout(5):
            await ensure_partitions(maker, [today, today + timedelta(days=1)])
        await reader.rollback()


def test_rows_are_what_the_fold_defines():
    """The Python definition used above agrees with itself on a case small enough to check by hand."""
    rows = [row(0, "a", 1_000_000), row(0, "b", 0, rank=2), row(1, "a", 250_000), row(1, "a")._replace(reward_micros=0)]
    assert list(folded(rows).values()) == [Evidence(1_250_000, 750_000, 2)]
    assert json.dumps(sorted(e.event_id for e in rows)) == '["a", "a", "a", "b"]'
