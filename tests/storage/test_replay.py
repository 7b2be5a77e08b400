"""Replay agrees with what ingest kept, and finds what somebody changed behind its back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from running import Router, event, experiment, query

from bandit.reward import Evidence
from router.storage.replay import ReplayReport, replay
from router.storage.retention import drop_expired
from router.v1 import routing_pb2


def run(url: str, incarnation: int | None = None, progress: list[tuple[int, int]] | None = None) -> ReplayReport:
    with psycopg.connect(url) as connection:
        if progress is None:
            return replay(connection, incarnation)
        return replay(connection, incarnation, lambda done, total: progress.append((done, total)))


@pytest.fixture
async def learned(router: Router) -> Router:
    """Two experiments with corrected outcomes."""
    for name in ("one", "two"):
        await router.run(experiment(name))
        requests = [routing_pb2.RouteRequest(experiment_id=name) for _ in range(40)]
        ids = [result.response.decision_id for result in (await router.batch_route(requests)).results]
        await router.batch_reward([event(i, float(n % 2)) for n, i in enumerate(ids)])
        await router.batch_reward([event(i, 0.25) for i in ids[:10]])
    return router


async def test_it_agrees(learned: Router):
    progress: list[tuple[int, int]] = []
    report = await asyncio.to_thread(run, learned.url, None, progress)
    assert report.agrees
    assert (report.events, report.outcomes) == (100, 80)
    assert report.rows >= 4
    assert progress[-1] == (100, 100)


async def test_one_experiment_alone(learned: Router):
    ((incarnation,),) = await query(learned.url, "SELECT incarnation FROM experiments WHERE experiment_id = 'two'")
    report = await asyncio.to_thread(run, learned.url, incarnation)
    assert report.agrees
    assert (report.events, report.outcomes) == (50, 40)


async def test_an_empty_database_agrees(database_url: str):
    report = await asyncio.to_thread(run, database_url)
    assert report == ReplayReport(0, 0, 0, ())


async def test_a_tampered_row_is_found(learned: Router):
    await query(
        learned.url,
        "UPDATE evidence SET success_micros = success_micros + 1, failure_micros = failure_micros - 1"
        " WHERE ctid = (SELECT ctid FROM evidence ORDER BY incarnation, arm LIMIT 1)",
    )
    report = await asyncio.to_thread(run, learned.url)
    (disagreement,) = report.disagreements
    assert disagreement.live - disagreement.replayed == Evidence(1, -1, 0)


async def test_an_invented_row_is_found(learned: Router):
    ((incarnation,),) = await query(learned.url, "SELECT incarnation FROM experiments WHERE experiment_id = 'two'")
    await query(learned.url, "INSERT INTO evidence VALUES (%s, 9, '', '2020-01-01Z', 1000000, 0, 1)", incarnation)
    (disagreement,) = (await asyncio.to_thread(run, learned.url)).disagreements
    assert (disagreement.arm, disagreement.live, disagreement.replayed) == (9, Evidence(1_000_000, 0, 1), Evidence())


async def test_a_lost_row_is_found(learned: Router):
    await query(learned.url, "DELETE FROM evidence WHERE ctid = (SELECT ctid FROM evidence LIMIT 1)")
    (disagreement,) = (await asyncio.to_thread(run, learned.url)).disagreements
    assert disagreement.live == Evidence()
    assert disagreement.replayed.n > 0


async def test_a_deleted_event_is_found(learned: Router):
    await query(
        learned.url, "DELETE FROM events WHERE event_id = (SELECT event_id FROM events WHERE reward_micros = 250000 LIMIT 1)"
    )
    (disagreement,) = (await asyncio.to_thread(run, learned.url)).disagreements
    difference = disagreement.live - disagreement.replayed
    assert difference.n == 0, "an earlier event decides now"
    assert abs(difference.success_micros) in (250_000, 750_000)


async def test_it_runs_beside_a_live_service(learned: Router):
    seen: set[int] = set()

    async def send() -> None:
        rounds = 0
        while rounds < 10 or len(seen) < 2:
            rounds += 1
            requests = [routing_pb2.RouteRequest(experiment_id="one")] * 20
            ids = [result.response.decision_id for result in (await learned.batch_route(requests)).results]
            await learned.batch_reward([event(i, 1.0) for i in ids])

    sending = asyncio.ensure_future(send())
    reports = []
    while not sending.done():
        reports.append(await asyncio.to_thread(run, learned.url))
        seen.add(reports[-1].events)
    await sending
    assert all(report.agrees for report in reports)


async def test_days_that_were_dropped_are_in_the_base(learned: Router):
    ((incarnation,),) = await query(learned.url, "SELECT incarnation FROM experiments WHERE experiment_id = 'two'")
    today = datetime.now(UTC).date()
    async with await psycopg.AsyncConnection.connect(learned.url, autocommit=True) as connection:
        # The two batches may lie on both sides of midnight.
        assert await drop_expired(connection, today + timedelta(days=2), 1)
    report = await asyncio.to_thread(run, learned.url)
    assert report == ReplayReport(0, 0, 0, (), base=80)
    report = await asyncio.to_thread(run, learned.url, incarnation)
    assert (report.agrees, report.base) == (True, 40)
    posterior = await learned.posterior("two")
    assert sum(arm.n for arm in posterior.arms) == 40
