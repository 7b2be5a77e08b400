"""Ramps from the first per cent to the end, on real servers and keepers, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from running import Router, arm, event, experiment, query, scalar, until

from router.clocks import Clocks
from router.keeper import Keeper
from router.settings import WorkerSettings
from router.v1 import experiments_pb2 as pb
from router.v1 import routing_pb2, types_pb2

HOUR_US = 3_600_000_000
#: Noon: no partition that the keeper makes ahead is missed.
NOON_US = 1_790_000_000_000_000 // (24 * HOUR_US) * 24 * HOUR_US + 12 * HOUR_US
CAPS = (0.01, 0.05, 0.2, 0.5, 1.0)
HOURS = (2, 6, 24, 48, 0)
#: The most observations that a default guardrail needs for a pass, and some more.
ENOUGH = 100

Phase = pb.RampStatus


@dataclass
class World:
    """Two replicas with a keeper each, a clock, and a share of bad answers."""

    routers: list[Router]
    clock_us: int = NOON_US
    bad: float = 0.05
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    units: itertools.count[int] = field(default_factory=itertools.count)
    sent: int = 0

    @property
    def url(self) -> str:
        return self.routers[0].url

    async def status(self) -> pb.RampStatus:
        return (await self.routers[0].get()).ramp_status

    async def serve(self, calls: int, feedback: bool = True) -> tuple[int, int]:
        """Route requests through both replicas, and say what the users then did.

        Returns how many decisions the challenger got, and how many there were.
        """
        challenger = total = 0
        for batch in range(0, calls, 500):
            requests = [
                routing_pb2.RouteRequest(experiment_id="support", unit_id=f"u{next(self.units)}") for _ in range(500)
            ]
            router = self.routers[batch // 500 % 2]
            replies = [result.response for result in (await router.batch_route(requests)).results]
            of_challenger = [reply.decision_id for reply in replies if reply.arm.arm_id == "new"]
            challenger, total = challenger + len(of_challenger), total + len(replies)
            if feedback and of_challenger:
                await router.batch_reward(event(decision_id, signal=self.signal()) for decision_id in of_challenger)
        self.sent += total
        return challenger, total

    def signal(self) -> types_pb2.Signal:
        bad = self.rng.random() < self.bad
        return types_pb2.SIGNAL_IMMEDIATE_RETRY if bad else types_pb2.SIGNAL_TASK_COMPLETED

    async def stored(self) -> None:
        """Wait until the decisions have come out of the spool."""

        async def all_there() -> bool:
            return await scalar(self.url, "SELECT count(*) FROM decisions") == self.sent

        await until(all_there, "the decisions are stored")

    async def looked(self) -> pb.RampStatus:
        """Wait for a look by the clock as it stands."""

        async def at_this_time() -> bool:
            status = await self.status()
            assessed = status.assessment.assess_time.ToMicroseconds() >= self.clock_us
            return assessed or status.stage_since.ToMicroseconds() >= self.clock_us or status.phase != Phase.PHASE_RAMPING

        await until(at_this_time, "somebody looks")
        return await self.status()

    async def give(self, decisions: int) -> None:
        """Serve until the challenger has had this many decisions."""
        had = 0
        for _ in range(60):
            challenger, _ = await self.serve(2_000 if had else 1_000)
            had += challenger
            if had >= decisions:
                break
        await self.stored()


@pytest.fixture
async def world(database_url: str, start_router: Callable[..., Awaitable[Router]], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("router.controllers.ramp.EVERY_S", 0.05)
    world = World([])
    clocks = Clocks(now_us=lambda: world.clock_us)
    for keeper in (True, False):
        world.routers.append(await start_router(database_url, clocks, keeper=keeper))
    arms = [arm("old", role="ROLE_CONTROL"), arm("new", role="ROLE_CHALLENGER")]
    await world.routers[0].run(experiment(arms=arms, ramp=pb.RampRule()))
    for router in world.routers:
        await router.route(unit_id="first")
        world.sent += 1
    return world


async def rows(world: World, kind: str) -> list[pb.Transition]:
    return await world.routers[0].transitions(kind=kind)


@pytest.mark.slow
async def test_a_healthy_challenger_comes_to_all_traffic_through_all_five_stages(world: World):
    for stage, (cap, hours) in enumerate(zip(CAPS, HOURS, strict=True)):
        status = await world.status()
        assert (status.phase, status.stage, status.cap) == (Phase.PHASE_RAMPING, stage, cap)
        await known_everywhere(world, lambda share, cap=cap: cap / 2 - 1e-9 <= share <= cap + 1e-9)
        if stage < 2:
            got, of = await world.serve(3_000)
            assert got / of < 2 * cap, "the cap holds for what is drawn"
        await world.give(ENOUGH)
        if hours:
            world.clock_us += hours * HOUR_US - 60_000_000
            assert (await world.looked()).stage == stage, "not before its time"
        world.clock_us += 120_000_000

        async def passed(stage: int = stage) -> bool:
            status = await world.status()
            return status.stage == stage + 1 or status.phase == Phase.PHASE_PROMOTED

        await until(passed, f"stage {stage + 1} passes")
    assert (await world.status()).phase == Phase.PHASE_PROMOTED
    moves = await rows(world, "RAMP")
    stages = [f"ramping, stage {n}" for n in range(1, 6)]
    assert [row.to for row in moves] == [*stages, "promoted, stage 5"]
    assert [row.actor for row in moves] == ["", *["ramp"] * 5]
    assert all(row.assessment.outcome == pb.RampAssessment.OUTCOME_PASS for row in moves[1:])
    assert moves[1].reason.startswith("stage 1 of 5 (up to 0.01 of the traffic) passed: retry ")
    await known_everywhere(world, lambda share: share > 0.9)


@pytest.mark.slow
async def test_a_bad_challenger_is_taken_out_at_one_per_cent_and_gets_nothing_afterwards(world: World):
    world.bad = 0.30
    got = 0
    while (await world.status()).phase == Phase.PHASE_RAMPING and got < 1_000:
        challenger, _ = await world.serve(4_000)
        got += challenger
        await world.stored()
        world.clock_us += 60_000_000
        await world.looked()
    status = await world.status()
    assert (status.phase, status.stage, status.cap) == (Phase.PHASE_ROLLED_BACK, 0, 0.0)
    assert status.assessment.outcome == pb.RampAssessment.OUTCOME_FAIL
    assert not status.assessment.HasField("next_check_time")
    (_, last) = await rows(world, "RAMP")
    assert last.reason.startswith("stage 1 of 5 (up to 0.01 of the traffic) failed: retry ")
    assert last.assessment.verdicts[0].challenger.lower > 0.15
    await known_everywhere(world, lambda share: share == 0.0)
    assert (await world.serve(20_000))[0] == 0
    world.clock_us += 100 * HOUR_US
    await asyncio.sleep(0.3)
    assert (await world.status()).phase == Phase.PHASE_ROLLED_BACK


@pytest.mark.slow
async def test_silence_holds_the_stage_and_warns_after_a_while(world: World):
    await world.serve(12_000, feedback=False)
    await world.stored()
    world.clock_us += 3 * HOUR_US
    status = await world.looked()
    assert (status.phase, status.stage, status.assessment.warning) == (Phase.PHASE_RAMPING, 0, "")
    assert status.assessment.decisions > 50
    assert "0.00% of" in " ".join(status.assessment.missing)
    assert status.assessment.next_check_time.ToMicroseconds() == world.clock_us + 50_000, "the next poll comes first"
    world.clock_us += 24 * HOUR_US
    status = await world.looked()
    assert (status.phase, status.stage) == (Phase.PHASE_RAMPING, 0)
    assert status.assessment.warning.startswith(
        "stage 1 of 5 (up to 0.01 of the traffic) has no verdict 25.0 h after its time"
    )
    assert len(await rows(world, "RAMP")) == 1
    assert len(await rows(world, "VERDICT")) <= 3, "a row for each new outcome, not for each look"
    assert len(await rows(world, "VERDICT")) >= 1


async def test_a_paused_experiment_is_not_judged(world: World):
    world.bad = 0.9
    await world.routers[0].move("Pause")
    await query(
        world.url,
        "UPDATE ramps SET assessment = NULL",
    )
    world.clock_us += 3 * HOUR_US
    await asyncio.sleep(0.5)
    assert not (await world.status()).HasField("assessment")
    await world.routers[0].move("Resume")

    async def assessed() -> bool:
        return (await world.status()).HasField("assessment")

    await until(assessed, "it is judged again")


@pytest.mark.slow
async def test_a_leader_that_is_cut_off_within_a_transition_hands_over_exactly_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each stage ends with the leader's connection cut at a moment of its own: what it left, another finishes."""
    settings = WorkerSettings("127.0.0.1", 0, world.url, str(tmp_path / "spool-2"))
    second = Keeper(settings, Clocks(now_us=lambda: world.clock_us))
    await second.start()
    try:
        for stage, table in enumerate(("ramps", "transitions", "policy_versions")):
            await world.give(ENOUGH)
            # Whoever holds this up stops the transition before or after it has written the state.
            async with await psycopg.AsyncConnection.connect(world.url) as holder:
                await holder.execute(f"LOCK TABLE {table} IN SHARE MODE")
                world.clock_us += HOURS[stage] * HOUR_US + 60_000_000
                await until(lambda table=table: leader_waits(world.url, table), "the leader is in the middle of it")
                await query(world.url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE " + LEADS)
                await holder.rollback()

            async def moved(stage: int = stage) -> bool:
                return (await world.status()).stage == stage + 1

            await until(moved, "its successor goes on")
            await known_everywhere(world, lambda share, cap=CAPS[stage + 1]: cap / 2 - 1e-9 <= share <= cap + 1e-9)
    finally:
        await second.stop()
    assert [row.to for row in await rows(world, "RAMP")] == [f"ramping, stage {n}" for n in (1, 2, 3, 4)]
    assert (await world.status()).version == 4


#: The lock of the leadership, in this database.
LEADS = (
    "locktype = 'advisory' AND granted AND objid = 7261180214 % 4294967296"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


async def leader_waits(url: str, table: str) -> bool:
    """Whether the leader waits for a lock of a table."""
    return bool(
        await scalar(
            url,
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass('" + table + "')"
            " AND pid IN (SELECT pid FROM pg_locks WHERE " + LEADS + ")",
        )
    )


async def known_everywhere(world: World, condition: Callable[[float], bool]) -> None:
    """Wait until every replica routes by a share of the challenger that meets a condition."""
    for router in world.routers:

        async def known(router: Router = router) -> bool:
            reply = await router.route(unit_id="probe")
            world.sent += 1
            return condition({entry.arm_id: entry.probability for entry in reply.allocation}["new"])

        await until(known, "the replica knows", 3)
