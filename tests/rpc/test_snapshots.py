"""Snapshots on real servers: when they are taken, that they can be rebuilt, and how they are read and watched."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hands import HOUR_US, Hand, next_hour_us
from running import Router, event, experiment, query, refused, scalar, until, until_scalar

from router.cli.replay import replay
from router.controllers.discounting import HourHand
from router.controllers.snapshots import Historian
from router.storage import maturing as waiting
from router.storage import retention
from router.storage.connecting import DatabaseUrl, connect
from router.storage.database import Database
from router.storage.election import Session
from router.storage.rebuild import Rebuilt, rebuild
from router.storage.retention import drop_expired
from router.storage.times import day_of
from router.v1 import experiments_pb2, posteriors_pb2, routing_pb2, types_pb2

SECOND_US = 1_000_000


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
async def router(database_url: str, start_router: Any, hand: Hand) -> Router:
    return await start_router(database_url, hand.clocks, keeper=False)


def stamp(us: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(us)
    return found


async def rewarded(router: Router, n: int, experiment_id: str = "support", *, seed: int = 1) -> list[str]:
    """Route and reward `n` requests, with corrections and contradictions among the events."""
    rng = random.Random(seed)
    ids = []
    for number in range(n):
        decision = await router.routing.Route(routing_pb2.RouteRequest(experiment_id=experiment_id, unit_id=f"u{number}"))
        ids.append(decision.decision_id)
        good = rng.random() < 0.6
        signal = types_pb2.SIGNAL_TASK_COMPLETED if good else types_pb2.SIGNAL_IMMEDIATE_RETRY
        await router.routing.Reward(event(decision.decision_id, signal=signal))
        if rng.random() < 0.3:
            await router.routing.Reward(event(decision.decision_id, reward=rng.choice([0.0, 0.25, 1 / 3, 1.0])))
    return ids


async def taken(router: Router) -> list[tuple[Any, ...]]:
    return await query(router.url, "SELECT policy_version, taken_at, n FROM snapshots ORDER BY incarnation, policy_version")


async def test_a_snapshot_is_taken_at_once_and_then_while_the_posterior_changes(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run()
    historian = Historian(database, hand, share=1.0)
    await historian.work(session)
    assert len(await taken(router)) == 1, "the prior"
    hand.now_us += 400 * SECOND_US
    await historian.work(session)
    assert len(await taken(router)) == 1, "nothing has changed"

    await rewarded(router, 1)
    await historian.work(session)
    assert len(await taken(router)) == 2, "from none to one outcome"
    await rewarded(router, 1, seed=2)
    await historian.work(session)
    assert len(await taken(router)) == 2, "not twice within a second"
    hand.now_us += SECOND_US
    await historian.work(session)
    assert len(await taken(router)) == 3

    await rewarded(router, 200, seed=3)
    hand.now_us += SECOND_US
    await historian.work(session)
    kept = len(await taken(router))
    await rewarded(router, 1, seed=4)
    hand.now_us += 2 * SECOND_US
    await historian.work(session)
    assert len(await taken(router)) == kept, "one of 203 outcomes is no growth by a hundredth"
    hand.now_us += 300 * SECOND_US
    await historian.work(session)
    assert len(await taken(router)) == kept + 1, "but is kept within five minutes"


async def test_another_definition_is_kept_at_once(router: Router, hand: Hand, database: Database, session: Session) -> None:
    created = await router.run()
    historian = Historian(database, hand, share=1.0)
    await historian.work(session)
    created.allocation.prior.CopyFrom(experiments_pb2.BetaPrior(alpha=3, beta=5))
    created.etag = ""
    await router.experiments.UpdateExperiment(experiments_pb2.UpdateExperimentRequest(experiment=created))
    hand.now_us += SECOND_US
    await historian.work(session)
    rows = await query(router.url, "SELECT alpha[1], beta[1], prior_alpha[1] FROM snapshots ORDER BY policy_version")
    assert rows == [(1.0, 1.0, 1.0), (3.0, 5.0, 3.0)]


async def test_a_new_leader_goes_on_from_what_is_kept(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run()
    await rewarded(router, 3)
    await Historian(database, hand, share=1.0).work(session)
    await Historian(database, hand, share=1.0).work(session)
    assert len(await taken(router)) == 1


@pytest.mark.parametrize("maturing", [False, True])
async def test_every_snapshot_is_rebuilt_to_the_last_digit(
    router: Router, hand: Hand, database: Database, session: Session, maturing: bool
) -> None:
    """Also those of the middle: events that came later, or replaced others later, are not in them."""
    given = experiment()
    if maturing:
        given.reward_rule.mature_after.CopyFrom(Duration(seconds=60))
    await router.run(given)
    historian = Historian(database, hand, share=1.0)
    decided: list[str] = []
    (incarnation,) = (await query(router.url, "SELECT incarnation FROM experiments"))[0]
    rng = random.Random(5)
    if maturing:
        await waiting.begin(session.connection, incarnation, hand.now_us)
    for step in range(12):
        decided += await rewarded(router, 5, seed=step)
        for old in rng.sample(decided, min(5, len(decided))):
            await router.routing.Reward(event(old, reward=rng.choice([0.0, 0.5, 1.0])))
        if maturing:
            await waiting.advance(session.connection, incarnation, hand.now_us - 60 * SECOND_US)
        hand.now_us += 20 * SECOND_US
        await historian.work(session)
    rows = await taken(router)
    assert len(rows) > 8
    assert len({tuple(row[2]) for row in rows}) > 6, "they differ"
    with connect(DatabaseUrl.parse(router.url)) as connection:
        for version, at, _ in rows:
            found = rebuild(connection, incarnation, at)
            assert found is not None
            assert found.policy_version == version
            assert found.agrees, [(arm.kept, arm.rebuilt) for arm in found.arms]


async def test_a_snapshot_that_was_tampered_with_is_found(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run()
    await rewarded(router, 20)
    await Historian(database, hand, share=1.0).work(session)
    at = datetime.fromtimestamp(hand.now_us / 1e6, UTC).isoformat()
    runner = CliRunner()

    def replayed(*args: str) -> Any:
        return runner.invoke(replay, ["--database-url", router.url, "--as-of", at, *args])

    done = await asyncio.to_thread(replayed)
    assert (done.exit_code, "replay agrees to the last digit" in done.output) == (0, True), done.output
    async with await psycopg.AsyncConnection.connect(router.url, autocommit=True) as connection:
        await connection.execute("UPDATE snapshots SET alpha[1] = alpha[1] + 1e-12")
    done = await asyncio.to_thread(replayed, "--json")
    assert done.exit_code == 1
    (snapshot,) = json.loads(done.output)
    assert [arm["agrees"] for arm in snapshot["arms"]] == [False, True]


@pytest.mark.parametrize("rule", ["plain", "discounted", "maturing"])
async def test_snapshots_are_rebuilt_until_a_day_is_dropped_not_only_until_it_is_closed(
    router: Router, hand: Hand, database: Database, session: Session, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """Between the two may lie hours: the drop gives way to whoever holds the tables."""
    monkeypatch.setattr(retention, "_PAUSE_S", 0.01)
    hand.now_us = next_hour_us()
    given = experiment()
    if rule == "discounted":
        given.allocation.discount.half_life.FromSeconds(72 * 3600)
    if rule == "maturing":
        given.reward_rule.mature_after.FromSeconds(7 * 86_400)
    await router.run(given)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    if rule == "maturing":
        await waiting.begin(session.connection, incarnation, hand.now_us - 1)
    historian = Historian(database, hand, share=1.0)
    first_day = day_of(hand.now_us)

    async def learn(seed: int, hours: int = 0) -> None:
        """Let time pass, learn something, and keep a snapshot of it."""
        hand.now_us += hours * HOUR_US + 300 * SECOND_US
        await HourHand(hand, list).work(session)
        await rewarded(router, 9, seed=seed)
        # As any other change would: outcomes that wait raise no version.
        await query(router.url, "UPDATE policy_versions SET policy_version = policy_version + 1")
        await historian.work(session)

    async def rebuilt() -> list[Rebuilt | None]:
        times = await query(router.url, "SELECT taken_at FROM snapshots ORDER BY policy_version")
        with connect(DatabaseUrl.parse(router.url)) as connection:
            return [await asyncio.to_thread(rebuild, connection, incarnation, at) for (at,) in times]

    await learn(1)
    await learn(2, hours=48)
    async with await psycopg.AsyncConnection.connect(router.url) as exporting:
        await exporting.execute("LOCK TABLE ONLY events IN ACCESS SHARE MODE")
        assert await drop_expired(session.connection, day_of(hand.now_us), 1) == []
        assert await scalar(router.url, "SELECT kept_from FROM retention") == first_day + timedelta(days=1)
        await learn(3)
        found = await rebuilt()
        assert [one.agrees for one in found if one is not None] == [True, True, True], found
    assert await drop_expired(session.connection, day_of(hand.now_us), 1) == [first_day]
    await learn(4)
    *before, after = await rebuilt()
    gone = f"days before {first_day + timedelta(days=1)} were dropped after it was taken, and their events with them"
    assert [one.obstacle for one in before if one is not None] == [gone] * 3
    assert after is not None
    assert after.agrees, after
    assert sum(arm.rebuilt["n"] for arm in after.arms) > 0


async def test_days_that_were_dropped_before_an_experiment_began_are_no_obstacle(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run()
    await rewarded(router, 3)
    await Historian(database, hand, share=1.0).work(session)
    for later in range(3):
        await drop_expired(session.connection, day_of(hand.now_us) + timedelta(days=later), 30)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    with connect(DatabaseUrl.parse(router.url)) as connection:
        found = await asyncio.to_thread(rebuild, connection, incarnation, datetime.fromtimestamp(hand.now_us / 1e6, UTC))
    assert found is not None
    assert found.agrees, found
    assert found.events > 0


async def test_replay_says_what_it_cannot_do(router: Router, hand: Hand, database: Database, session: Session) -> None:
    await router.run()
    runner = CliRunner()

    def replayed(at: str) -> Any:
        return runner.invoke(replay, ["--database-url", router.url, "--as-of", at])

    assert "does not say its time zone" in (await asyncio.to_thread(replayed, "2026-11-22T10:00:00")).output
    assert "is not a time" in (await asyncio.to_thread(replayed, "yesterday")).output
    assert "there is no snapshot that old" in (await asyncio.to_thread(replayed, "2020-01-01T00:00:00Z")).output
    await rewarded(router, 3)
    await Historian(database, hand, share=1.0).work(session)
    kept_from = day_of(hand.now_us) + timedelta(days=1)
    assert await drop_expired(session.connection, kept_from + timedelta(days=1), 1) == [day_of(hand.now_us)]
    done = await asyncio.to_thread(replayed, "2030-01-01T00:00:00Z")
    assert done.exit_code == 1
    assert f"CANNOT be rebuilt: days before {kept_from} were dropped after it was taken" in done.output


async def test_get_posterior_as_of(router: Router, hand: Hand, database: Database, session: Session) -> None:
    await router.run()
    created_us = int((await query(router.url, "SELECT created_at FROM experiments"))[0][0].timestamp() * 1e6)
    hand.now_us = created_us + 3600 * SECOND_US
    historian = Historian(database, hand, share=1.0)

    async def as_of(us: int) -> posteriors_pb2.GetPosteriorResponse:
        asked = posteriors_pb2.GetPosteriorRequest(experiment_id="support", as_of=stamp(us))
        return await router.posteriors.GetPosterior(asked)

    refusal = await refused(as_of(hand.now_us))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SNAPSHOT")
    assert "there is none yet" in refusal.message

    await rewarded(router, 30)
    await historian.work(session)
    first_us, first = (
        hand.now_us,
        await router.posteriors.GetPosterior(posteriors_pb2.GetPosteriorRequest(experiment_id="support")),
    )
    hand.now_us += 3600 * SECOND_US
    await rewarded(router, 30, seed=9)
    await historian.work(session)

    for us in (first_us, first_us + 1800 * SECOND_US):
        then = await as_of(us)
        assert then.as_of.ToMicroseconds() == first_us
        assert then.policy_version == first.policy_version
        assert list(then.arms) == list(first.arms)
    now = await as_of(hand.now_us)
    assert sum(arm.n for arm in now.arms) == 60

    refusal = await refused(as_of(first_us - SECOND_US))
    assert refusal.reason == "NO_SNAPSHOT"
    assert "the first one is of" in refusal.message
    refusal = await refused(as_of(created_us - SECOND_US))
    assert (refusal.code, list(refusal.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["as_of"])
    assert "before the experiment" in refusal.message
    refusal = await refused(as_of(hand.now_us + SECOND_US))
    assert "lies in the future" in refusal.violations["as_of"]
    asked = posteriors_pb2.GetPosteriorRequest(experiment_id="support", as_of=Timestamp(seconds=10**15))
    assert "as_of" in (await refused(router.posteriors.GetPosterior(asked))).violations


async def test_snapshots_are_listed_page_by_page(router: Router, hand: Hand, database: Database, session: Session) -> None:
    await router.run()
    historian = Historian(database, hand, share=1.0)
    times = []
    for step in range(7):
        await rewarded(router, 2 * (step + 1), seed=step)
        hand.now_us += 60 * SECOND_US
        times.append(hand.now_us)
        await historian.work(session)

    async def listed(**fields: Any) -> posteriors_pb2.ListSnapshotsResponse:
        asked = posteriors_pb2.ListSnapshotsRequest(experiment_id="support", **fields)
        return await router.posteriors.ListSnapshots(asked)

    everything = await listed()
    assert [one.snapshot_time.ToMicroseconds() for one in everything.snapshots] == times
    assert not everything.next_page_token
    assert everything.snapshots[-1].arms[0].n + everything.snapshots[-1].arms[1].n == 56
    paged, token = [], ""
    while True:
        page = await listed(page_size=3, page_token=token)
        paged += page.snapshots
        token = page.next_page_token
        if not token:
            break
    assert paged == list(everything.snapshots)
    some = await listed(start_time=stamp(times[2]), end_time=stamp(times[5]))
    assert [one.snapshot_time.ToMicroseconds() for one in some.snapshots] == times[2:5]

    assert "the range is empty" in (await refused(listed(start_time=stamp(9), end_time=stamp(9)))).violations["end_time"]
    assert (await refused(listed(page_token="x"))).reason == "INVALID_PAGE_TOKEN"
    asked = posteriors_pb2.ListSnapshotsRequest(experiment_id="nothing")
    assert (await refused(router.posteriors.ListSnapshots(asked))).reason == "EXPERIMENT_NOT_FOUND"


async def test_the_history_is_a_view(router: Router, hand: Hand, database: Database, session: Session) -> None:
    await router.run()
    await rewarded(router, 10)
    await Historian(database, hand, share=1.0).work(session)
    now = await router.posteriors.GetPosterior(posteriors_pb2.GetPosteriorRequest(experiment_id="support"))
    rows = await query(
        router.url, "SELECT arm_id, alpha, beta, n, probability_best, allocation FROM posterior_history ORDER BY arm_id"
    )
    arms = sorted(now.arms, key=lambda arm: arm.arm_id)
    assert rows == [(a.arm_id, a.alpha, a.beta, a.n, a.probability_best, a.allocation) for a in arms]


async def test_a_posterior_is_watched(router: Router) -> None:
    await router.run()
    call = router.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest(experiment_id="support"))
    first = (await call.read()).posterior
    assert sum(arm.n for arm in first.arms) == 0
    await rewarded(router, 1)
    later = (await call.read()).posterior
    assert sum(arm.n for arm in later.arms) == 1
    assert later.policy_version > first.policy_version
    await rewarded(router, 20, seed=2)
    seen = later
    while sum(arm.n for arm in seen.arms) < 21:
        before, seen = seen, (await call.read()).posterior
        assert seen.policy_version > before.policy_version
    call.cancel()

    unknown = router.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest(experiment_id="nothing"))
    assert (await refused(unknown.read())).reason == "EXPERIMENT_NOT_FOUND"
    invalid = router.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest())
    assert "experiment_id" in (await refused(invalid.read())).violations


async def test_streams_are_bounded_and_end_with_the_server(database_url: str, start_router: Any) -> None:
    router = await start_router(database_url, keeper=False)
    await router.run()

    def watch() -> Any:
        return router.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest(experiment_id="support"))

    calls = [watch() for _ in range(100)]
    for call in calls:
        await call.read()
    refusal = await refused(watch().read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    calls.pop().cancel()
    again = watch()

    async def admitted() -> bool:
        nonlocal again
        try:
            return (await again.read()) is not grpc.aio.EOF
        except grpc.aio.AioRpcError:
            again = watch()
            return False

    await until(admitted, "the place of a stream that was ended is free")
    stopping = asyncio.create_task(router.server.stop())
    refusal = await refused(calls[0].read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    await asyncio.wait_for(stopping, 10)
    router.closed = True


async def test_the_leader_takes_snapshots(database_url: str, start_router: Any) -> None:
    router = await start_router(database_url)
    await router.run()
    await rewarded(router, 5)
    await until_scalar(router.url, "SELECT max((SELECT sum(u) FROM unnest(n) u)) FROM snapshots", 5)
