"""Top-two: the allocation that is served is that of the statistics, over the wire, in ramps and in snapshots."""

import numpy as np
import pytest
from running import Router, arm, assert_replay_agrees, experiment, until

from bandit.top_two import top_two
from router.v1 import experiments_pb2, routing_pb2


def top_two_of(arms=("a", "b", "c"), share: float | None = None, **fields) -> experiments_pb2.Experiment:
    definition = experiment(arms=arms, kind="TOP_TWO", **fields)
    if share is not None:
        definition.allocation.leader_share = share
    return definition


async def allocation(router: Router, **fields) -> dict[str, float]:
    return {entry.arm_id: entry.probability for entry in (await router.route(**fields)).allocation}


async def test_route_and_posterior_serve_what_the_statistics_say(router: Router):
    await router.run(top_two_of(share=0.3))
    await router.learn("a", 30, 10)
    await router.learn("b", 5, 12)
    alpha, beta = np.array([31.0, 6.0, 1.0]), np.array([11.0, 13.0, 1.0])
    expected = dict(zip("abc", 0.01 + 0.97 * top_two(alpha, beta, 0.3), strict=True))
    assert {a: arm.allocation for a, arm in (await router.arms()).items()} == pytest.approx(expected, abs=1e-12)

    async def learned() -> bool:
        return await allocation(router) == pytest.approx(expected, abs=1e-12)

    await until(learned, "Route knows the evidence")
    reply = await router.route()
    assert reply.reason == routing_pb2.REASON_SAMPLED
    assert reply.propensity == pytest.approx(expected[reply.arm.arm_id], abs=1e-12)
    await assert_replay_agrees(router.url)


async def test_a_challenger_keeps_half_of_the_traffic_where_thompson_gives_it_none(router: Router):
    await router.run(top_two_of(arms=("a", "b")))
    await router.learn("a", 100, 10)
    await router.learn("b", 10, 100)
    arms = await router.arms()
    assert arms["a"].probability_best > 1 - 1e-12
    assert (arms["a"].allocation, arms["b"].allocation) == pytest.approx((0.5, 0.5), abs=1e-9)


async def test_a_subset_is_the_whole_rescaled_and_says_so(router: Router):
    await router.run(top_two_of(floor=0.0))
    whole = await allocation(router)
    pair = await router.route(eligible_arm_ids=["a", "c"])
    shares = {entry.arm_id: entry.probability for entry in pair.allocation}
    total = whole["a"] + whole["c"]
    assert shares == pytest.approx({"a": whole["a"] / total, "b": 0, "c": whole["c"] / total}, abs=1e-12)
    assert pair.reason == routing_pb2.REASON_FALLBACK
    alone = await router.route(eligible_arm_ids=["b"])
    assert (alone.propensity, alone.reason) == (1.0, routing_pb2.REASON_SAMPLED)


async def test_a_ramp_bounds_the_challenger(router: Router):
    ramp = experiments_pb2.RampRule(challenger_arm_id="new")
    definition = top_two_of(arms=[arm("old", role="ROLE_CONTROL"), arm("new")], ramp=ramp)
    await router.run(definition)
    assert await allocation(router) == pytest.approx({"old": 0.99, "new": 0.01})
    await router.ramp("Advance")
    assert await allocation(router) == pytest.approx({"old": 0.95, "new": 0.05})


async def test_what_was_read_can_be_sent_back_and_changed_to_another_strategy(router: Router):
    stored = await router.run(top_two_of(share=0.25))
    assert stored.allocation.leader_share == 0.25
    assert await router.update(stored) == stored
    await router.learn("a", 20, 5)
    await router.update(experiment(arms=("a", "b", "c")))
    arms = await router.arms()
    assert arms["a"].n == 25
    assert arms["a"].allocation == pytest.approx(0.01 + 0.97 * arms["a"].probability_best, abs=1e-12)
