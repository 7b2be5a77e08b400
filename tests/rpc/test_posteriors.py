"""GetPosterior: what was acknowledged is in it, and its figures are those of the statistics."""

import asyncio

import numpy as np
import pytest
from running import Router, assert_replay_agrees, experiment, query, refused, until

from bandit.posterior import credible_interval, expected_loss, probability_best
from router.v1 import routing_pb2, types_pb2


async def test_without_events_it_is_the_prior(router: Router):
    await router.run(experiment(prior=(2.0, 3.0)))
    reply = await router.posterior()
    assert reply.experiment_id == "support"
    assert [(a.arm_id, a.alpha, a.beta, a.n, a.mean) for a in reply.arms] == [(i, 2.0, 3.0, 0, 0.4) for i in "ab"]
    assert [a.probability_best for a in reply.arms] == pytest.approx([0.5, 0.5], abs=1e-8)
    assert [a.version for a in reply.arms] == [1, 1]
    assert reply.HasField("as_of")


async def test_a_draft_has_a_posterior(router: Router):
    await router.create(experiment())
    assert [a.n for a in (await router.posterior()).arms] == [0, 0]


async def test_its_figures_follow_from_the_evidence(router: Router):
    await router.run(experiment(arms=("a", "b", "c"), floor=0.02))
    await router.learn("a", 30, 10)
    await router.learn("b", 5, 12)
    await router.learn("c", 1, 1)
    arms = await router.arms()
    alpha, beta = np.array([31.0, 6.0, 2.0]), np.array([11.0, 13.0, 2.0])
    best, loss = probability_best(alpha, beta), expected_loss(alpha, beta)
    lower, upper = credible_interval(alpha, beta)
    for i, arm_id in enumerate("abc"):
        arm = arms[arm_id]
        assert (arm.alpha, arm.beta) == (alpha[i], beta[i])
        assert arm.n == alpha[i] + beta[i] - 2
        assert arm.mean == pytest.approx(alpha[i] / (alpha[i] + beta[i]), rel=1e-15)
        assert arm.probability_best == pytest.approx(best[i], abs=1e-12)
        assert arm.expected_loss == pytest.approx(loss[i], abs=1e-12)
        assert (arm.lower, arm.upper) == pytest.approx((lower[i], upper[i]), abs=1e-12)
        assert arm.allocation == pytest.approx(0.02 + 0.94 * best[i], abs=1e-12)


async def test_it_includes_every_acknowledged_reward(router: Router, other_router: Router):
    """Each answer to Reward is followed at once by a GetPosterior on the other replica, many in flight."""
    await router.run()
    counted = 0

    async def reward_then_read(number: int) -> None:
        nonlocal counted
        sender, reader = (router, other_router) if number % 2 else (other_router, router)
        decision = await sender.route()
        assert (await sender.reward(decision.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
        counted += 1
        acknowledged = counted
        assert sum(arm.n for arm in (await reader.posterior()).arms) >= acknowledged

    await until(lambda: _knows(other_router), "the other replica knows the experiment")
    await asyncio.gather(*(reward_then_read(number) for number in range(60)))
    assert sum(arm.n for arm in (await router.posterior()).arms) == 60
    await assert_replay_agrees(router.url)


async def _knows(router: Router) -> bool:
    await router.route()
    return True


async def test_retired_arms_follow_and_keep_what_they_learned(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    await router.learn("a", 3, 1)
    await router.update(experiment(arms=("c", "b")))
    reply = await router.posterior()
    assert [arm.arm_id for arm in reply.arms] == ["c", "b", "a"]
    assert [arm.state for arm in reply.arms] == [types_pb2.ARM_STATE_ACTIVE] * 2 + [types_pb2.ARM_STATE_RETIRED]
    retired = reply.arms[2]
    assert (retired.alpha, retired.beta, retired.n) == (4.0, 2.0, 4)
    assert (retired.probability_best, retired.expected_loss, retired.allocation) == (0.0, 0.0, 0.0)


async def test_version_and_allocation_are_those_of_the_next_decision(router: Router):
    await router.run()
    await router.learn("a", 10, 0)
    posterior = await router.posterior()

    async def decided() -> bool:
        decision = await router.route()
        if decision.policy_version != posterior.policy_version:
            return False
        assert {e.arm_id: e.probability for e in decision.allocation} == {a.arm_id: a.allocation for a in posterior.arms}
        return True

    await until(decided, "a decision at the posterior's version")


async def test_the_view_agrees(router: Router):
    await router.run(experiment(prior=(0.5, 2.0)))
    await router.learn("a", 3, 1)
    await router.reward((await router.route()).decision_id, 0.25)
    expected = {(a.arm_id, a.version, a.alpha, a.beta, a.n) for a in (await router.posterior()).arms}
    assert set(await query(router.url, "SELECT arm_id, arm_version, alpha, beta, n FROM posterior_latest")) == expected


async def test_an_unknown_experiment(router: Router):
    refusal = await refused(router.posterior("no-such"))
    assert (refusal.code.name, refusal.reason) == ("NOT_FOUND", "EXPERIMENT_NOT_FOUND")
