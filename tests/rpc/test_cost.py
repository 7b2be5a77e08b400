"""Cost on real servers: what is served keeps the ceiling, is what the posterior says, and can be computed again."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from running import Router, arm, assert_replay_agrees, event, experiment, query, refused, scalar, until, until_scalar
from scipy.stats import chi2

from bandit.allocation import AllocationKind, AllocationRule
from bandit.cost import keep_ceiling, probability_best_value
from bandit.posterior import probability_best
from router.controllers.snapshots import Historian
from router.pictures import worth_of
from router.policy import compile_policy
from router.storage.analysis import reading
from router.storage.connecting import DatabaseUrl
from router.storage.costs import ArmCost, read_ceiling, read_costs
from router.storage.database import Database
from router.storage.election import elected
from router.storage.rebuild import Rebuilt, rebuild
from router.storage.saved import FILE, SavedFile
from router.storage.saver import Saver
from router.storage.token_keys import deployment_id
from router.v1 import experiments_pb2, posteriors_pb2, routing_pb2, types_pb2

COSTS = {"dear": 0.015, "cheap": 0.00003, "middle": 0.0006}
CONTROL = types_pb2.ROLE_CONTROL
#: Successes and failures to learn from.
LEARNED = {"dear": (40, 4), "cheap": (24, 20), "middle": (38, 6)}
ALPHA, BETA = ([1.0 + LEARNED[name][i] for name in COSTS] for i in range(2))
RULE = AllocationRule(AllocationKind.THOMPSON, 0.01, (1.0, 1.0, 1.0), 0)


def priced(
    costs: dict[str, float] | None = None, ceiling_usd: float | None = None, reward_per_usd: float | None = None, **fields
) -> experiments_pb2.Experiment:
    costs = costs or COSTS
    arms = [arm(name, cost_usd=usd, role=CONTROL if name == "dear" else 0) for name, usd in costs.items()]
    definition = experiment(arms=arms, **fields)
    rule = experiments_pb2.CostRule(ceiling_usd=ceiling_usd, reward_per_usd=reward_per_usd)
    definition.allocation.cost.CopyFrom(rule)
    return definition


async def learned(router: Router) -> None:
    for name, (successes, failures) in LEARNED.items():
        await router.learn(name, successes, failures)


async def allocation(router: Router, **fields) -> list[float]:
    found = {entry.arm_id: entry.probability for entry in (await router.route(**fields)).allocation}
    return [found[name] for name in COSTS]


async def until_served(router: Router, expected: list[float]) -> None:
    async def served() -> bool:
        return await allocation(router) == expected

    await until(served, f"Route serves {expected}")


async def test_what_is_served_is_what_the_posterior_says(router: Router):
    await router.run(priced(ceiling_usd=0.003))
    await learned(router)
    found = keep_ceiling(RULE, ALPHA, BETA, list(COSTS.values()), 0.003)
    assert 0 < found.reward_per_usd < math.inf, "the ceiling binds"
    await until_served(router, found.allocation.tolist())
    reply = await router.posterior()
    assert [entry.allocation for entry in reply.arms] == found.allocation.tolist()
    assert (reply.expected_cost_usd, reply.reward_per_usd) == (found.cost_usd, found.reward_per_usd)
    assert [entry.probability_best for entry in reply.arms] == probability_best(ALPHA, BETA).tolist(), "by reward alone"
    drawn = await router.route()
    assert drawn.propensity == found.allocation[list(COSTS).index(drawn.arm.arm_id)]
    assert drawn.reason == routing_pb2.REASON_SAMPLED
    await assert_replay_agrees(router.url)


async def test_decisions_keep_the_ceiling_and_their_propensities(router: Router):
    """Claims: of 2,000 decisions the mean cost is at most 4 standard errors above the ceiling, and the arms' numbers are
    those of the propensities by chi-squared at 1e-4. From a right router either fails once in 1e4 runs or rarer.
    """
    await router.run(priced(ceiling_usd=0.003))
    await learned(router)
    p = keep_ceiling(RULE, ALPHA, BETA, list(COSTS.values()), 0.003).allocation
    await until_served(router, p.tolist())
    requests = [routing_pb2.RouteRequest(experiment_id="support") for _ in range(1_000)]
    results = [*(await router.batch_route(requests)).results, *(await router.batch_route(requests)).results]
    names = [result.response.arm.arm_id for result in results]
    cost = np.array(list(COSTS.values()))
    paid = np.array([COSTS[name] for name in names])
    stderr = math.sqrt((p @ cost**2 - (p @ cost) ** 2) / len(paid))
    assert paid.mean() <= 0.003 + 4 * stderr
    assert paid.mean() >= 0.003 - 4 * stderr, "the ceiling is used up"
    counts = np.array([names.count(name) for name in COSTS])
    assert ((counts - 2_000 * p) ** 2 / (2_000 * p)).sum() < chi2.isf(1e-4, 2)


async def test_a_price(router: Router):
    await router.run(priced(reward_per_usd=5.0))
    await learned(router)
    expected = 0.01 + 0.97 * probability_best_value(ALPHA, BETA, list(COSTS.values()), 5.0)
    found = await router.posterior()
    assert [entry.allocation for entry in found.arms] == pytest.approx(expected.tolist(), abs=1e-12)
    assert found.reward_per_usd == 5.0
    assert found.expected_cost_usd == pytest.approx(float(expected @ list(COSTS.values())))


async def test_a_subset_is_allocated_at_the_same_price(router: Router):
    await router.run(priced(reward_per_usd=5.0))
    reply = await router.route(eligible_arm_ids=["dear", "cheap"])
    p = 0.01 + 0.98 * probability_best_value([1, 1], [1, 1], [0.015, 0.00003], 5.0)
    assert [entry.probability for entry in reply.allocation] == pytest.approx([*p, 0.0], abs=1e-12)
    assert reply.reason == routing_pb2.REASON_SAMPLED


async def test_another_cost_is_another_policy_and_no_other_arm(router: Router):
    await router.run(priced(ceiling_usd=0.003))
    await learned(router)
    before = await router.posterior()
    await router.update(priced({**COSTS, "dear": 0.05}, ceiling_usd=0.003))
    after = await router.posterior()
    assert after.policy_version > before.policy_version
    assert [(entry.arm_id, entry.version, entry.n) for entry in after.arms] == [
        (entry.arm_id, entry.version, entry.n) for entry in before.arms
    ]
    found = keep_ceiling(RULE, ALPHA, BETA, [0.05, 0.00003, 0.0006], 0.003)
    assert [entry.allocation for entry in after.arms] == found.allocation.tolist()
    assert found.allocation[0] < before.arms[0].allocation
    await until_served(router, found.allocation.tolist())


async def test_a_ceiling_that_cannot_be_kept_is_refused(router: Router):
    error = await refused(router.create(priced(ceiling_usd=0.0001)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_EXPERIMENT")
    (field,) = error.violations
    assert field == "experiment.allocation.cost.ceiling_usd"
    assert "is 0.0001, and within floor and caps a decision costs at least 0.0001854 USD" in error.violations[field]
    # An update that takes the cheap arm out is refused too.
    await router.run(priced(ceiling_usd=0.0003))
    dear = {name: usd for name, usd in COSTS.items() if name != "cheap"}
    error = await refused(router.update(priced(dear, ceiling_usd=0.0003)))
    assert list(error.violations) == ["experiment.allocation.cost.ceiling_usd"]


async def test_a_ramp_goes_before_the_ceiling_and_says_so_once(router: Router, caplog: pytest.LogCaptureFixture):
    costs = {"dear": 0.015, "cheap": 0.00003}
    rule = experiments_pb2.RampRule(challenger_arm_id="cheap")
    for cap in (0.05, 1.0):
        stage = rule.stages.add(cap=cap, duration=Duration(seconds=60))
        stage.guardrails.add(metric="METRIC_RETRY", limit=0.5)
    with caplog.at_level(logging.INFO, logger="router.refreshing"):
        await router.run(priced(costs, ceiling_usd=0.001, ramp=rule))
        found = await router.posterior()
        assert [entry.allocation for entry in found.arms] == pytest.approx([0.95, 0.05])
        assert found.expected_cost_usd > 0.001
        assert found.reward_per_usd == math.inf
        for name in costs:
            await router.learn(name, 5, 5)
        assert (await router.route()).allocation[1].probability == pytest.approx(0.05)
        told = [record.getMessage() for record in caplog.records if "goes where it costs the least" in record.getMessage()]
        assert len(told) == 1, told
        assert told[0].startswith("support: traffic goes where it costs the least: ceiling_usd is 0.001")
        await router.ramp("Promote", reason="enough is known")
        promoted = await router.posterior()
        assert promoted.expected_cost_usd <= 0.001 * (1 + 1e-9)
        assert (await router.route()).policy_version == promoted.policy_version
    assert any("is kept again" in record.getMessage() for record in caplog.records)


async def test_the_shadow_state_is_the_controls_whatever_it_costs(router: Router):
    definition = priced(ceiling_usd=0.003)
    definition.shadow.text = types_pb2.TEXT_MODE_OFF
    await router.create(definition)
    await router.move("Shadow")
    found = await router.posterior()
    assert [entry.allocation for entry in found.arms] == [1, 0, 0]
    assert not found.HasField("reward_per_usd")
    assert found.expected_cost_usd == 0.015


async def test_without_costs_nothing_is_said_of_them(router: Router):
    await router.run()
    found = await router.posterior()
    assert not found.HasField("expected_cost_usd")
    assert not found.HasField("reward_per_usd")


@pytest.fixture
async def alone(database_url: str, start_router) -> Router:
    """Without a keeper: the test itself leads."""
    return await start_router(database_url, keeper=False)


async def test_replicas_snapshots_and_the_saved_copy_have_the_same_digits(
    alone: Router, start_router, database: Database, tmp_path: Path
):
    router, other = alone, await start_router(alone.url, keeper=False)
    await router.run(priced(ceiling_usd=0.003))
    for name, (successes, failures) in LEARNED.items():
        await other.learn(name, successes, failures)
    expected = [entry.allocation for entry in (await router.posterior()).arms]
    later = await start_router(router.url, keeper=False)
    for one in (router, other, later):
        await until_served(one, expected)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    async with elected(database) as session:
        assert session is not None
        await Historian(database, now_us).work(session)
    ((kept,),) = await query(router.url, "SELECT allocation FROM snapshots ORDER BY policy_version DESC LIMIT 1")
    assert kept == expected
    assert await saved_allocation(database, tmp_path) == expected
    # The rule and the costs of now are others; what the snapshot has stays, and is rebuilt from the log.
    await router.update(priced({**COSTS, "dear": 0.05}, reward_per_usd=1.0))
    asked = posteriors_pb2.GetPosteriorRequest(experiment_id="support")
    asked.as_of.FromMicroseconds(now_us())
    then = await router.posteriors.GetPosterior(asked)
    assert [entry.allocation for entry in then.arms] == expected
    assert not then.HasField("expected_cost_usd"), "what arms cost then is not kept"
    rebuilt = await asyncio.to_thread(_rebuilt, router.url, incarnation)
    assert rebuilt is not None
    assert rebuilt.agrees, rebuilt


def now_us() -> int:
    return time.time_ns() // 1_000


def _rebuilt(url: str, incarnation: int) -> Rebuilt | None:
    with psycopg.connect(url) as connection:
        return rebuild(connection, incarnation, datetime.now(UTC))


async def saved_allocation(database: Database, directory: Path) -> list[float]:
    """What a router that starts from a saved copy serves."""
    saver = Saver(database, await deployment_id(database), directory, clock_us=now_us, rest_s=0.01)
    task = asyncio.create_task(saver.run())
    await until(lambda: saver.saved_at is not None, "it is saved")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    file = SavedFile(directory / FILE)
    ((definition, reading),) = file.experiments()
    file.close()
    everyone = compile_policy(definition, reading.policy_version, reading.evidence).everyone
    assert everyone is not None
    return everyone.probabilities.tolist()


def worths(url: str) -> tuple[list[ArmCost], float | None]:
    with reading(DatabaseUrl.parse(url)) as log:
        of = log.experiment("support")
        assert of is not None
        return read_costs(log, of, None, None), read_ceiling(log, of)


async def test_what_calls_reported_is_read_beside_what_was_declared(router: Router):
    await router.run(priced(ceiling_usd=0.003))
    await router.learn("dear", 3, 1)
    for name, costs in {"dear": (0.01, 0.02, 0.03), "cheap": (0.00004,)}.items():
        for usd in costs:
            decision = await router.route(eligible_arm_ids=[name])
            # Of several reports the one received last counts.
            for cost in (1.0, usd):
                await router.routing.Reward(event(decision.decision_id, call=routing_pb2.CallReport(cost_usd=cost)))
    await router.routing.Reward(event(decision.decision_id, call=routing_pb2.CallReport(input_tokens=3)))
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 8)
    await until_scalar(router.url, "SELECT count(*) > 0 FROM snapshots", True)
    (dear, cheap, middle), ceiling = await asyncio.to_thread(worths, router.url)
    assert ceiling == 0.003
    assert (dear.arm_id, dear.alpha, dear.beta, dear.declared_usd, dear.calls) == ("dear", 4.0, 2.0, 0.015, 3)
    assert (dear.mean_usd, dear.deviation_usd) == pytest.approx((0.02, 0.01))
    # One call says nothing of how far its cost is from the mean.
    assert (cheap.calls, cheap.mean_usd, cheap.deviation_usd) == (1, 0.00004, None)
    assert (worth_of(cheap).cost_usd, worth_of(cheap).cost_lower, worth_of(cheap).cost_upper) == (0.00004, None, None)
    assert (middle.calls, middle.declared_usd) == (0, 0.0006)
    assert sum(arm.allocation for arm in (dear, cheap, middle)) == pytest.approx(1)
    worth = worth_of(dear)
    assert (worth.reward, worth.cost_usd, worth.declared_usd) == pytest.approx((4 / 6, 0.02, 0.015))
    assert worth.cost_upper - worth.cost_usd == pytest.approx(1.959964 * 0.01 / 3**0.5)
    assert (worth_of(middle).cost_lower, worth_of(middle).cost_usd, worth_of(middle).declared_usd) == (0.0006, 0.0006, None)
