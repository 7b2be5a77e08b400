"""Ingest: what is acknowledged is in Postgres or on local disk, counts once, and nobody waits longer than he can."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

import psycopg
import pytest
from running import StoppableCluster, assert_replay_agrees, locked, query, scalar, terminate_others, until, until_waiting

from router import ingest as ingest_module
from router.errors import InvalidArgumentError, ResourceExhaustedError
from router.feedback_spool import FeedbackSpool, decode
from router.ingest import Ingest
from router.spool import frames
from router.storage.database import Database, DatabaseUrl
from router.storage.events import EventRow, EventStatus
from router.storage.writer import EventWriter
from router.submission import PATIENCE_S, Fate, Outcome, Submission, patience_s
from router.v1 import routing_pb2

NOW_US = 1_790_000_000_000_000


def row(decision: int, reward: int | None = 1_000_000, event_id: str = "e", incarnation: int = 1) -> EventRow:
    at = NOW_US + decision
    status = EventStatus.NEUTRAL if reward is None else EventStatus.APPLIED
    key = decision.to_bytes(16, "big")
    return EventRow(
        key, event_id, incarnation, 0, "", "reward", None, 4, at, at, at, reward, status, 1, 1, b"%12d" % (reward or 0), None
    )


class Bench:
    """An ingest with what it needs."""

    def __init__(self, url: str, spool: Path, **limits: int) -> None:
        self.url = url
        self.directory = spool
        self.database = Database(DatabaseUrl.parse(url))
        self.spool = FeedbackSpool(spool, **limits)
        self.announced: list[int] = []
        self.ingest = Ingest(EventWriter(self.database), self.spool, self.announced.extend)

    def submit(self, rows: Sequence[EventRow | None], patience: float = PATIENCE_S) -> Submission:
        requests = [
            routing_pb2.RewardRequest(event_id=f"{event.decision_key.hex()}/{event.event_id}" if event else "unknown")
            for event in rows
        ]
        return self.ingest.submit(requests, rows, NOW_US, patience)

    async def outcomes(self, rows: Sequence[EventRow | None], patience: float = PATIENCE_S) -> list[Outcome | None]:
        submission = self.submit(rows, patience)
        await submission.done
        return submission.outcomes

    def spooled(self) -> list[str]:
        """The event ids on disk, in order."""
        found = []
        for path in sorted(self.directory.glob("*.events")):
            found += [decode(record)[0].event_id for record in frames(path.read_bytes())[0]]
        return found

    async def close(self) -> None:
        await self.ingest.stop(timeout_s=0)
        self.spool.close()
        await self.database.dispose()


def prepare(url: str) -> str:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment,"
            " reward_rule, reward_rule_version) VALUES (1, 'x', '', 'running', '', '{}', '{}', '{}', 1)"
        )
        connection.execute("INSERT INTO policy_versions (incarnation) VALUES (1)")
    return url


@pytest.fixture
async def start(tmp_path: Path):
    """Makes started benches, which end with the test."""
    made: list[Bench] = []

    def make(url: str, **limits: int) -> Bench:
        bench = Bench(prepare(url), tmp_path / "spool", **limits)
        made.append(bench)
        bench.ingest.start()
        return bench

    yield make
    for bench in made:
        await bench.close()


@pytest.fixture
async def bench(start, database_url: str) -> Bench:
    return start(database_url)


async def counted(url: str) -> int:
    """Outcomes that evidence holds."""
    return int(await scalar(url, "SELECT coalesce(sum(n), 0) FROM evidence"))


# Committing


async def test_rows_that_postgres_refuses_fail_alone(bench: Bench):
    """Here, events of experiments that do not exist."""
    bad = {3, 17, 18, 40}
    outcomes = await bench.outcomes([row(n, incarnation=77 if n in bad else 1) for n in range(60)])
    assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, InvalidArgumentError)} == bad
    assert all(outcome is Fate.STORED for n, outcome in enumerate(outcomes) if n not in bad)
    assert set(bench.announced) == {1}
    assert await counted(bench.url) == 56
    await assert_replay_agrees(bench.url)


async def test_repetitions_within_a_batch_and_after_it(bench: Bench):
    assert await bench.outcomes([row(0), row(0), row(0, reward=0), row(1)]) == [
        Fate.STORED,
        Fate.KNOWN,
        Fate.KNOWN,
        Fate.STORED,
    ]
    assert bench.ingest.contradictions == 1
    assert await bench.outcomes([row(1, reward=5)]) == [Fate.KNOWN]
    assert bench.ingest.contradictions == 2
    assert await counted(bench.url) == 2


async def test_what_waits_is_stored_when_it_stops(bench: Bench):
    submissions = [bench.submit([row(n) for n in range(start, start + 1_000)]) for start in range(0, 10_000, 1_000)]
    await bench.ingest.stop()
    assert {outcome for s in submissions for outcome in s.outcomes} == {Fate.STORED}
    assert await counted(bench.url) == 10_000


async def test_calls_that_are_cancelled_leave_nothing_behind(bench: Bench):
    """Their events may count, since nobody told them otherwise; what waits and what is open goes back to nothing."""
    with locked(bench.url, "policy_versions"):
        calls = [asyncio.ensure_future(bench.outcomes([row(n)])) for n in range(200)]
        await until_waiting(bench.url)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert await bench.outcomes([row(1_000)]) == [Fate.STORED]
    await until(lambda: not bench.ingest.waiting and not bench.ingest.unsettled, "nothing is left")
    assert bench.spooled() == []


def test_patience():
    assert patience_s(None) == patience_s(60.0) == PATIENCE_S == 1.0
    assert patience_s(0.5) == pytest.approx(0.45)
    assert patience_s(0.05) == pytest.approx(0.025)
    assert patience_s(0.0) == 0.0


# Outages


async def test_events_are_spooled_when_their_calls_can_wait_no_longer(bench: Bench):
    await bench.outcomes([row(99)])
    loop = asyncio.get_running_loop()
    with locked(bench.url, "policy_versions"):
        began = loop.time()
        short, long = bench.submit([row(0)], patience=0.05), bench.submit([row(1), row(2)], patience=0.3)
        await short.done
        assert short.outcomes == [Fate.SPOOLED]
        assert 0.05 <= loop.time() - began < 0.3
        assert not long.done.done()
        await long.done
        assert long.outcomes == [Fate.SPOOLED, Fate.SPOOLED]
    assert bench.spooled() == [f"{row(n).decision_key.hex()}/e" for n in range(3)]
    # The commit under way goes on; what is spooled meanwhile is known then.
    await until(lambda: _is(counted(bench.url), 4), "the batch committed after all")
    assert await bench.outcomes([row(0), row(3)]) == [Fate.KNOWN, Fate.STORED]
    assert bench.ingest.spooled == 3


async def test_while_a_commit_is_stuck_nobody_waits_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_module, "PATIENCE_S", 0.1)
    await bench.outcomes([row(99)])
    loop = asyncio.get_running_loop()
    with locked(bench.url, "policy_versions"):
        await bench.outcomes([row(0)], patience=0.2)
        began = loop.time()
        assert await bench.outcomes([row(1)], patience=30) == [Fate.SPOOLED]
        assert loop.time() - began < 5
    await until(lambda: _is(bench.outcomes([row(2)]), [Fate.STORED]), "the commits go on")


async def test_an_outage(stoppable: StoppableCluster, stoppable_url: str, start):
    """The first events find it out; those that follow are spooled at once; when Postgres is back they are committed."""
    bench = start(stoppable_url)
    assert await bench.outcomes([row(0)]) == [Fate.STORED]
    stoppable.stop()
    assert await bench.outcomes([row(1)]) == [Fate.SPOOLED]
    for number in range(2, 50):
        assert await bench.outcomes([row(number)]) == [Fate.SPOOLED]
    assert len(bench.spooled()) == 49
    stoppable.start()
    number = 50

    async def committed() -> bool:
        nonlocal number
        number += 1
        return await bench.outcomes([row(number)]) == [Fate.STORED]

    await until(committed, "events are committed again")
    assert await bench.outcomes([row(1_000 + n) for n in range(10)]) == [Fate.STORED] * 10


async def test_few_batches_are_tried_while_postgres_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """No storm: of hundreds of events during an outage, a handful find out whether it is over."""
    monkeypatch.setattr(ingest_module, "_PROBE_S", 3_600)
    attempts = 0
    apply = bench.ingest._store.apply

    async def counting(rows: Sequence[EventRow]):
        nonlocal attempts
        attempts += 1
        return await apply(rows)

    monkeypatch.setattr(bench.ingest._store, "apply", counting)
    await query(
        bench.url, "ALTER DATABASE " + bench.url.rsplit("/", 1)[1].split("?")[0] + " SET default_transaction_read_only = on"
    )
    await terminate_others(bench.url)
    for number in range(300):
        assert await bench.outcomes([row(number)]) == [Fate.SPOOLED]
    assert attempts == 1
    assert len(bench.spooled()) == 300


async def test_an_event_that_cannot_be_understood_without_postgres_is_spooled(bench: Bench):
    assert await bench.outcomes([row(0), None, row(1)]) == [Fate.STORED, Fate.SPOOLED, Fate.STORED]
    assert bench.spooled() == ["unknown"]


async def test_more_than_may_wait_is_spooled(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_module, "LARGEST_QUEUE", 10)
    await bench.outcomes([row(99)])
    with locked(bench.url, "policy_versions"):
        first = bench.submit([row(99)])
        await until_waiting(bench.url)
        queued = bench.submit([row(n) for n in range(10)])
        assert await bench.outcomes([row(10)]) == [Fate.SPOOLED]
        assert not queued.done.done()
    await asyncio.gather(first.done, queued.done)
    assert set(queued.outcomes) == {Fate.STORED}


async def test_a_full_spool_refuses_with_a_delay(start, database_url: str):
    bench = start(database_url, spool_bytes=2_000)
    await bench.outcomes([row(9_999)])
    with locked(database_url, "policy_versions"):
        outcomes: list[Outcome | None] = []
        for number in range(200):
            outcomes += await bench.outcomes([row(number)], patience=0.0)
    spooled = outcomes.index(next(o for o in outcomes if o is not Fate.SPOOLED))
    assert 0 < spooled < 200
    assert set(outcomes[:spooled]) == {Fate.SPOOLED}
    for outcome in outcomes[spooled:]:
        assert isinstance(outcome, ResourceExhaustedError)
        assert outcome.retry_after_ms
    assert len(bench.spooled()) == spooled


async def test_what_postgres_does_not_take_at_the_end_is_spooled(bench: Bench):
    await bench.outcomes([row(99)])
    with locked(bench.url, "policy_versions"):
        submissions = [bench.submit([row(n)], patience=60) for n in range(20)]
        await until_waiting(bench.url)
        await bench.ingest.stop(timeout_s=0.05)
        assert {outcome for s in submissions for outcome in s.outcomes} == {Fate.SPOOLED}
    assert len(bench.spooled()) == 20


async def _is(value: Iterable[object] | object, expected: object) -> bool:
    return await value == expected  # type: ignore[misc]


def test_calls_without_patience_are_spooled_on_the_event_loop_of_workers(database_url: str, tmp_path: Path):
    """uvloop's timer of a moment that has passed is not one: submissions after it must not ask it anything."""
    uvloop = pytest.importorskip("uvloop")

    async def run() -> list[Outcome | None]:
        bench = Bench(prepare(database_url), tmp_path)
        try:
            submissions = [bench.submit([row(number)], patience=-1.0) for number in range(3)]
            await asyncio.wait([submission.done for submission in submissions])
            return [outcome for submission in submissions for outcome in submission.outcomes]
        finally:
            await bench.close()

    assert uvloop.run(run()) == [Fate.SPOOLED] * 3
