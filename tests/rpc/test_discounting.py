"""Discounted evidence on real servers: posteriors move with the hour, and every version of them can be computed again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hands import HOUR_US, Hand, next_hour_us
from running import Router, assert_replay_agrees, experiment, query, scalar, until

from bandit.posterior import probability_best
from router.controllers import discounting
from router.controllers.discounting import HourHand
from router.controllers.snapshots import Historian
from router.storage.connecting import DatabaseUrl, connect
from router.storage.database import Database
from router.storage.election import Session
from router.storage.rebuild import rebuild
from router.storage.retention import drop_expired
from router.storage.saved import FILE, SavedFile
from router.storage.saver import Saver
from router.storage.token_keys import deployment_id
from router.v1 import experiments_pb2, posteriors_pb2


@pytest.fixture
def hand() -> Hand:
    return Hand(next_hour_us())


@pytest.fixture
async def router(database_url: str, start_router: Any, hand: Hand) -> Router:
    return await start_router(database_url, hand.clocks, keeper=False)


@pytest.fixture
async def other_router(router: Router, start_router: Any, hand: Hand) -> Router:
    # Without a keeper: the test itself leads.
    return await start_router(router.url, hand.clocks, keeper=False)


@pytest.fixture
def move(hand: Hand, session: Session) -> Callable[..., Any]:
    """Lets hours pass, and tells the leader's clock of it; returns how many experiments were moved."""

    async def work(hours: float = 0.0) -> int:
        hand.now_us += int(hours * HOUR_US)
        moved: list[int] = []

        def announce(incarnations: Iterable[int]) -> None:
            moved.extend(incarnations)

        await HourHand(hand, announce).work(session)
        return len(moved)

    return work


def forgetting(**hours: float) -> experiments_pb2.Experiment:
    definition = experiment()
    for name, length in hours.items():
        getattr(definition.allocation.discount, name).CopyFrom(Duration(seconds=int(length * 3600)))
    return definition


async def parameters(router: Router) -> dict[str, tuple[float, float, int]]:
    return {arm_id: (arm.alpha, arm.beta, arm.n) for arm_id, arm in (await router.arms()).items()}


async def as_analysts_see(router: Router) -> dict[str, tuple[float, float, int]]:
    rows = await query(router.url, "SELECT arm_id, alpha, beta, n FROM posterior_latest WHERE active")
    return {arm_id: (alpha, beta, n) for arm_id, alpha, beta, n in rows}


async def test_a_half_life_halves_what_was_learned(router: Router, other_router: Router, move) -> None:
    await router.run(forgetting(half_life=2))
    await move()
    await router.learn("a", 8, 4)
    assert await parameters(router) == {"a": (9.0, 5.0, 12), "b": (1.0, 1.0, 0)}
    version = (await router.posterior()).policy_version
    assert await move(0.9) == 0, "within the hour nothing changes"
    assert (await router.posterior()).policy_version == version
    assert await move(1.1) == 1
    reply = await router.posterior()
    assert reply.policy_version == version + 1
    assert await parameters(router) == {"a": (5.0, 3.0, 12), "b": (1.0, 1.0, 0)}
    await router.learn("b", 0, 3)
    await move(4)
    expected = {"a": (2.0, 1.5, 12), "b": (1.0, 1.75, 3)}
    assert await parameters(router) == expected
    for arm_id, seen in (await as_analysts_see(router)).items():
        assert seen == pytest.approx(expected[arm_id])
    best = probability_best([2.0, 1.0], [1.5, 1.75])

    async def follows(replica: Router) -> bool:
        shares = [entry.probability for entry in (await replica.route()).allocation]
        return shares == pytest.approx(0.01 + 0.98 * best, abs=1e-12)

    await until(lambda: follows(router), "this replica draws from it")
    await until(lambda: follows(other_router), "so does the other")
    await assert_replay_agrees(router.url)


async def test_a_window_forgets_at_once(router: Router, move) -> None:
    await router.run(forgetting(window=3))
    await move()
    await router.learn("a", 5)
    await move(1)
    await router.learn("a", 1)
    await move(1)
    assert (await parameters(router))["a"] == (7.0, 1.0, 6)
    await move(1)
    assert (await parameters(router))["a"] == (2.0, 1.0, 6)
    await move(1)
    assert (await parameters(router))["a"] == (1.0, 1.0, 6)
    assert (await as_analysts_see(router))["a"] == (1.0, 1.0, 6)


async def test_a_leader_that_was_away_for_ages_underflows_nothing(router: Router, move) -> None:
    await router.run(forgetting(half_life=1))
    await move()
    await router.learn("a", 5)
    await move(50_000)
    assert (await parameters(router))["a"] == (1.0, 1.0, 5)
    assert (await as_analysts_see(router))["a"] == (1.0, 1.0, 5)


async def test_the_hour_never_goes_back_and_others_are_left_alone(router: Router, move) -> None:
    await router.run(forgetting(half_life=2))
    await router.run(experiment("plain"))
    await router.run(_named("ended"))
    await router.move("Conclude", "ended")
    plain = (await router.posterior("plain")).policy_version
    ended = (await router.posterior("ended")).policy_version
    assert await move(1) == 1
    assert await move(-2) == 0
    assert (await router.posterior("plain")).policy_version == plain
    assert (await router.posterior("ended")).policy_version == ended, "it stays as it ended"


def _named(experiment_id: str) -> experiments_pb2.Experiment:
    definition = forgetting(half_life=2)
    definition.experiment_id = experiment_id
    return definition


async def test_forgetting_can_be_begun_and_given_up(router: Router, move) -> None:
    await router.run()
    await router.learn("a", 8)
    await router.update(forgetting(half_life=2))
    assert await scalar(router.url, "SELECT seen_from FROM policy_versions") is not None
    await move()
    await move(2)
    assert (await parameters(router))["a"][0] == pytest.approx(5.0)
    await router.update(forgetting(window=1))
    assert (await parameters(router))["a"] == (1.0, 1.0, 8)
    await router.update(experiment())
    assert await scalar(router.url, "SELECT seen_from FROM policy_versions") is None
    assert (await parameters(router))["a"] == (9.0, 1.0, 8)
    assert await move(1) == 0


@pytest.mark.parametrize("rule", [{"half_life": 1.5}, {"window": 4}])
async def test_snapshots_are_of_their_hour_and_can_be_rebuilt(
    router: Router, move, hand: Hand, database: Database, session: Session, rule: dict[str, float]
) -> None:
    await router.run(forgetting(**rule))
    await move()
    historian = Historian(database, hand, share=1.0)
    for hours in (0, 1, 0.5, 2, 3):
        await move(hours)
        await router.learn("a", 5, 2)
        await router.learn("b", 1, 3)
        hand.now_us += 1_000_000
        await historian.work(session)
    kept = await query(router.url, "SELECT taken_at, alpha[1] FROM snapshots ORDER BY policy_version")
    assert len({alpha for _, alpha in kept}) >= 4
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    with connect(DatabaseUrl.parse(router.url)) as connection:
        for taken_at, alpha in kept:
            rebuilt = await asyncio.to_thread(rebuild, connection, incarnation, taken_at)
            assert rebuilt.agrees, rebuilt
            assert rebuilt.arms[0].rebuilt["alpha"] == alpha, "on one machine to the last digit"
    then = Timestamp()
    then.FromDatetime(kept[2][0])
    request = posteriors_pb2.GetPosteriorRequest(experiment_id="support", as_of=then)
    assert (await router.posteriors.GetPosterior(request)).arms[0].alpha == kept[2][1]


async def test_a_tampered_hour_is_found(router: Router, move, hand: Hand, database: Database, session: Session) -> None:
    await router.run(forgetting(half_life=2))
    await move()
    await router.learn("a", 8)
    await move(2)
    await Historian(database, hand, share=1.0).work(session)
    await query(router.url, "UPDATE snapshots SET seen_from = seen_from + interval '1 hour'")
    ((incarnation, taken_at),) = await query(router.url, "SELECT incarnation, taken_at FROM snapshots")
    with connect(DatabaseUrl.parse(router.url)) as connection:
        rebuilt = await asyncio.to_thread(rebuild, connection, incarnation, taken_at)
    assert not rebuilt.agrees


async def test_the_saved_copy_compiles_to_the_same_posterior(
    router: Router, move, hand: Hand, database: Database, tmp_path: Path
) -> None:
    await router.run(forgetting(half_life=2))
    await move()
    await router.learn("a", 8, 4)
    await move(1)
    saver = Saver(database, await deployment_id(database), tmp_path, clock_us=hand, rest_s=0.01)
    task = asyncio.create_task(saver.run())
    await until(lambda: saver.saved_at is not None, "it is saved")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    file = SavedFile(tmp_path / FILE)
    ((definition, reading),) = file.experiments()
    file.close()
    arm = definition.active_arms[0]
    learned = definition.rules.discount.weighted(reading.hours.by_arm[arm.number], reading.hours.seen_from_us)
    assert learned.posterior(1.0, 1.0) == (await parameters(router))["a"][:2]
    assert (await parameters(router))["a"][0] == pytest.approx(1 + 8 / 2**0.5)


async def test_dropped_days_count_for_nothing_and_replicas_hear_of_it(
    router: Router, move, hand: Hand, database: Database
) -> None:
    await router.run(forgetting(half_life=1000))
    await move()
    await router.learn("a", 8)
    before = (await router.posterior()).policy_version
    later = datetime.fromtimestamp(hand.now_us / 1e6, UTC).date() + timedelta(days=3)
    async with await database.connect(autocommit=True) as connection:
        assert await drop_expired(connection, later, 1)
    assert (await parameters(router))["a"] == (1.0, 1.0, 8)
    assert (await as_analysts_see(router))["a"] == (1.0, 1.0, 8)
    assert (await router.posterior()).policy_version == before + 1


async def test_a_keeper_moves_the_hour(
    database_url: str, start_router: Any, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discounting, "EVERY_S", 0.05)
    router = await start_router(database_url, hand.clocks)
    await router.run(forgetting(half_life=2))
    await router.learn("a", 8)
    hand.now_us += 2 * HOUR_US

    async def halved() -> bool:
        return (await parameters(router))["a"] == (5.0, 1.0, 8)

    await until(halved, "the leader saw that two hours passed")
