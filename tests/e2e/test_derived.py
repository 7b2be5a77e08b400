"""Derived signals and maturing from Route to the posterior: two servers, a keeper, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from running import Router, assert_replay_agrees, event, experiment, query, scalar, until

from router.clocks import Clocks
from router.v1 import experiments_pb2 as pb
from router.v1 import routing_pb2, types_pb2

HOUR_US = 3_600_000_000
NOON_US = 1_790_000_000_000_000 // (24 * HOUR_US) * 24 * HOUR_US + 12 * HOUR_US
DONE = types_pb2.SIGNAL_TASK_COMPLETED


@dataclass
class World:
    """Two replicas, one with a keeper, and a clock."""

    routers: list[Router] = field(default_factory=list)
    clock_us: int = NOON_US
    routed: int = 0
    turns: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return self.routers[0].url

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock_us += round(seconds * 1e6)

    async def run(self, **rule: object) -> pb.Experiment:
        """An experiment with this reward rule: durations in seconds, derived ones among them."""
        definition = experiment(arms=["a"])
        write(definition.reward_rule, rule)
        return await self.routers[0].run(definition)

    async def route(self, replica: int = 0, **fields: object) -> routing_pb2.RouteResponse:
        """Route, and let the decision come out of the spool."""
        reply = await self.routers[replica].route(**fields)
        self.routed += 1
        count = "SELECT count(*) FROM decisions"

        async def drained() -> bool:
            return await scalar(self.url, count) >= self.routed

        await until(drained, "the decision is stored")
        return reply

    async def posterior(self, successes: float, failures: float) -> None:
        """Wait until both replicas say so."""
        for router in self.routers:

            async def as_expected(router: Router = router) -> bool:
                learned = (await router.arms())["a"]
                found = (round(learned.alpha - 1, 6), round(learned.beta - 1, 6))
                return found == (successes, failures)

            await until(as_expected, f"{successes} successes and {failures} failures")

    async def passes(self, count: int = 3) -> None:
        """Wait for the leader to have had its turns."""
        await asyncio.sleep(0.06 * count + 0.1)


def write(rule: pb.RewardRule, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        target = rule if name in pb.RewardRule.DESCRIPTOR.fields_by_name else rule.derived
        if isinstance(value, int):
            getattr(target, name).FromSeconds(value)
        else:
            setattr(target, name, value)


@pytest.fixture
async def world(database_url: str, start_router: Callable[..., Awaitable[Router]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("router.controllers.derive.EVERY_S", 0.05)
    world = World()
    clocks = Clocks(now_us=lambda: world.clock_us, rng=random.Random(3))
    for keeper in (True, False):
        world.routers.append(await start_router(database_url, clocks, keeper=keeper))
    yield world
    await assert_replay_agrees(world.url)


async def test_a_retry_moves_the_posterior_and_what_is_sent_takes_its_place(world: World):
    await world.run(retry_within=30)
    first = await world.route(session_id="s", turn_id="1")
    world.wait(5)
    await world.route(1, session_id="s", turn_id="1")
    world.wait(2)
    await world.posterior(0, 1)
    await world.routers[1].reward(first.decision_id, signal=DONE)
    await world.posterior(1, 0)


async def test_the_same_call_again_is_no_retry(world: World):
    """A client that repeats its call on another replica has made one decision, not two."""
    await world.run(retry_within=30)
    one = await world.route(session_id="s", turn_id="1", request_id="call")
    world.wait(1)
    await world.routers[1].route(session_id="s", turn_id="1", request_id="call")
    world.wait(5)
    await world.route(session_id="other", turn_id="1")
    world.wait(5)
    await world.passes()
    assert await scalar(world.url, "SELECT count(*) FROM events") == 0
    assert one.decision_id


async def test_a_rephrased_query(world: World):
    await world.run(rephrased_similarity=0.8)
    await world.route(session_id="s", turn_id="1")
    world.wait(20)
    await world.route(1, session_id="s", turn_id="2", prompt_similarity=0.9)
    world.wait(2)
    await world.posterior(0, 1)


async def test_with_abandonment_outcomes_mature_when_sessions_have_been_abandoned(world: World):
    await world.run(abandon_after=600)
    thanked = await world.route(session_id="thanked")
    await world.route(session_id="gone")
    world.wait(2)
    await world.passes()
    # Maturing has begun by now: what was decided before it began would count at once.
    later = await world.route(session_id="later")
    for decision in (thanked, later):
        reply = await world.routers[1].reward(decision.decision_id, signal=DONE)
        assert reply.status == routing_pb2.STATUS_APPLIED
    await world.passes()
    assert await scalar(world.url, "SELECT count(*) FROM pending_outcomes") >= 1
    world.wait(602)
    await world.posterior(2, 1)
    assert await scalar(world.url, "SELECT count(*) FROM pending_outcomes") == 0


async def test_silence_has_a_reward_until_something_is_heard(world: World):
    await world.run(mature_after=60, no_feedback=0.25)
    silent = await world.route()
    world.wait(62)
    await world.posterior(0.25, 0.75)
    await world.routers[1].reward(silent.decision_id, 1.0)
    await world.posterior(1, 0)


async def test_a_new_rule_that_lets_nothing_wait_counts_what_waited(world: World):
    definition = await world.run(mature_after=600)
    await until_matures(world)
    world.wait(1)
    waiting = await world.route()
    await world.routers[0].reward(waiting.decision_id, signal=DONE)
    await world.passes()
    await world.posterior(0, 0)
    definition.reward_rule.ClearField("mature_after")
    await world.routers[0].update(definition)
    await world.posterior(1, 0)
    assert await query(world.url, "SELECT matured_to FROM policy_versions") == [(None,)]


async def until_matures(world: World) -> None:
    async def begun() -> bool:
        return bool(await scalar(world.url, "SELECT count(*) FROM policy_versions WHERE matured_to IS NOT NULL"))

    await until(begun, "maturing has begun")


@pytest.mark.slow
async def test_the_delay_bias_and_its_end(world: World):
    """Failures within 2 s; successes of the better arm (.7) after 10 minutes, those of the worse one (.5) after 1 minute.

    One decision a second for 20 minutes, in steps of 10. In 500 simulated runs the worse arm had, of the last 5 minutes, .83
    to .99 where feedback counted at once, and at most .11 where it matured (`bandit.simulate.delayed_choices`).
    """
    naive, matures = experiment("naive", ["better", "worse"]), experiment("matures", ["better", "worse"])
    matures.reward_rule.mature_after.FromSeconds(600)
    for definition in (naive, matures):
        await world.routers[0].run(definition)
    await until_matures(world)
    rng = random.Random(1)
    coming: list[tuple[int, str, float]] = []
    worse = {name: [0] * 12 for name in ("naive", "matures")}
    for step in range(120):
        world.wait(10)
        due = []
        while coming and coming[0][0] <= world.clock_us:
            _, decision_id, reward = heapq.heappop(coming)
            due.append(event(decision_id, reward))
        if due:
            await world.routers[0].batch_reward(due)
        await asyncio.sleep(0.06)
        for name, counts in worse.items():
            routed = await world.routers[1].batch_route([routing_pb2.RouteRequest(experiment_id=name)] * 10)
            for result in routed.results:
                is_worse = result.response.arm.arm_id == "worse"
                succeeded = rng.random() < (0.5 if is_worse else 0.7)
                after_s = 2 if not succeeded else 60 if is_worse else 600
                decided = (world.clock_us + after_s * 1_000_000, result.response.decision_id, float(succeeded))
                heapq.heappush(coming, decided)
                counts[step // 10] += is_worse
    last = {name: sum(counts[-3:]) / 300 for name, counts in worse.items()}
    assert last["naive"] > 0.6, worse
    assert last["matures"] < 0.3, worse
