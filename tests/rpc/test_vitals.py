"""What the leader computes for the metrics: posteriors, feedback coverage, orphans; from what real calls left."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any, cast

import pytest
from running import Router, event, experiment, query, scalar, until_scalar
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta

from router.clocks import Clocks
from router.controllers import vitals
from router.controllers.vitals import Vitals
from router.storage.database import Database
from router.telemetry import catalogue
from router.telemetry.catalogue import Metric
from router.v1 import routing_pb2, types_pb2

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US
#: Noon of a day.
NOON_US = 1_790_000_000_000_000 // DAY_US * DAY_US + DAY_US // 2
NOBODY = cast(Any, None)


async def figures(database: Database, at_us: int = NOON_US) -> dict[tuple[str, ...], Any]:
    """What is computed at a time by one that just began to lead: by metric and labels."""
    computing = Vitals(database, lambda: at_us)
    await computing.work(NOBODY)
    return {(name, *labels): value for name, labels, value in computing.samples()}


def of(found: dict[tuple[str, ...], Any], metric: Metric, experiment_id: str = "support") -> dict[str, Any]:
    """The values of a metric by arm."""
    return {key[2]: value for key, value in found.items() if key[:2] == (metric.name, experiment_id)}


@pytest.fixture
async def at_noon(start_router, database_url: str) -> Router:
    return await start_router(database_url, replace(Clocks(), now_us=lambda: NOON_US))


def beats(a: tuple[int, int], b: tuple[int, int]) -> float:
    """P(X > Y) for X ~ Beta(a), Y ~ Beta(b), by the finite sum for whole parameters (Evan Miller, 2013)."""
    (a1, b1), (a2, b2) = b, a
    return sum(exp(betaln(a1 + i, b1 + b2) - betaln(1 + i, b2) - betaln(a1, b1)) / (b2 + i) for i in range(a2))


async def test_what_is_believed(router: Router, database: Database):
    await router.run(experiment(prior=(1.0, 1.0), floor=0.1))
    await router.learn("a", 3, 1)
    await router.learn("b", 1, 3)
    found = await figures(database)
    best = beats((4, 2), (2, 4))
    assert best == pytest.approx(quad(lambda x: beta.pdf(x, 4, 2) * beta.cdf(x, 2, 4), 0, 1)[0])
    assert of(found, catalogue.PROBABILITY_BEST) == pytest.approx({"a": best, "b": 1 - best}, abs=1e-7)
    assert of(found, catalogue.MEAN) == pytest.approx({"a": 4 / 6, "b": 2 / 6})
    assert of(found, catalogue.OUTCOMES) == {"a": 4, "b": 4}
    allocation = {"a": 0.1 + 0.8 * best, "b": 0.1 + 0.8 * (1 - best)}
    assert of(found, catalogue.ALLOCATION) == pytest.approx(allocation, abs=1e-7)
    largest = quad(lambda x: 1 - beta.cdf(x, 4, 2) * beta.cdf(x, 2, 4), 0, 1)[0]
    loss = {"a": largest - 4 / 6, "b": largest - 2 / 6}
    assert of(found, catalogue.EXPECTED_LOSS) == pytest.approx(loss, abs=1e-7)
    regret = sum(allocation[arm] * loss[arm] for arm in allocation)
    assert found[catalogue.EXPECTED_REGRET.name, "support"] == pytest.approx(regret, abs=1e-7)
    version = await scalar(router.url, "SELECT policy_version FROM policy_versions")
    assert found[catalogue.COMMITTED_VERSION.name, "support"] == version
    await until_scalar(router.url, "SELECT max(policy_version) FROM snapshots", version)
    found = await figures(database)
    assert found[catalogue.SNAPSHOT_VERSION.name, "support"] == version


async def test_experiments_by_state_and_only_those_that_answer_have_series(router: Router, database: Database):
    await router.run()
    await router.create(experiment("draft"))
    await router.run(experiment("over"))
    await router.move("Conclude", "over")
    found = await figures(database)
    states = {key[1]: value for key, value in found.items() if key[0] == catalogue.EXPERIMENTS.name}
    assert states == {"running": 1, "draft": 1, "concluded": 1}
    assert {key[1] for key in found if key[0] == catalogue.COMMITTED_VERSION.name} == {"support"}
    assert set(of(found, catalogue.ALLOCATION)) == {"a", "b"}


async def test_beyond_the_bound_those_that_changed_last_have_series(
    router: Router, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(vitals, "MOST_EXPERIMENTS", 1)
    for name in ("one", "two"):
        await router.run(experiment(name))
    await router.learn("a", 1, experiment_id="one")
    found = await figures(database)
    assert {key[1] for key in found if key[0] == catalogue.COMMITTED_VERSION.name} == {"one"}
    assert found[catalogue.HIDDEN.name,] == 1


async def test_an_arm_that_was_taken_out_has_no_series(router: Router, database: Database):
    definition = await router.run(experiment(arms=["a", "b", "c"]))
    await router.learn("c", 2)
    await router.update(experiment(arms=["a", "b"], etag=(await router.get()).etag))
    found = await figures(database)
    assert definition.arms
    assert set(of(found, catalogue.ALLOCATION)) == {"a", "b"}


async def decide(router: Router, arm_id: str, count: int, **fields: Any) -> list[str]:
    requests = [routing_pb2.RouteRequest(experiment_id="support", eligible_arm_ids=[arm_id], **fields) for _ in range(count)]
    return [result.response.decision_id for result in (await router.batch_route(requests)).results]


async def test_coverage_is_of_decisions_that_are_old_enough(at_noon: Router, database: Database):
    router = at_noon
    await router.run()
    a, b = await decide(router, "a", 6), await decide(router, "b", 4)
    await decide(router, "a", 2, force_arm_id="a")
    for decision_id in a[:3]:
        for _ in range(2):
            await router.reward(decision_id, signal=types_pb2.SIGNAL_TASK_COMPLETED)
    await router.reward(b[0], call=routing_pb2.CallReport(error="timeout"))
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 12)
    assert of(await figures(database, NOON_US + 14 * MINUTE_US), catalogue.COVERAGE) == {}
    found = await figures(database, NOON_US + 16 * MINUTE_US)
    assert of(found, catalogue.COVERAGE) == {"a": 0.5, "b": 0.0}
    assert of(found, catalogue.COVERAGE_DECISIONS) == {"a": 6, "b": 4}
    assert of(await figures(database, NOON_US + DAY_US + 16 * MINUTE_US), catalogue.COVERAGE) == {}


async def test_coverage_waits_for_outcomes_to_mature(at_noon: Router, database: Database):
    router = at_noon
    definition = experiment()
    definition.reward_rule.mature_after.FromSeconds(3_600)
    await router.run(definition)
    await decide(router, "a", 2)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 2)
    assert of(await figures(database, NOON_US + 59 * MINUTE_US), catalogue.COVERAGE) == {}
    assert of(await figures(database, NOON_US + 61 * MINUTE_US), catalogue.COVERAGE) == {"a": 0.0}


async def test_coverage_looks_at_the_newest_decisions(at_noon: Router, database: Database, monkeypatch: pytest.MonkeyPatch):
    from router.storage import vitals as statements

    monkeypatch.setattr(statements, "_COVERAGE", statements._COVERAGE.replace("LIMIT 10000", "LIMIT 3"))
    router = at_noon
    await router.run()
    await decide(router, "a", 5)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 5)
    found = await figures(database, NOON_US + 16 * MINUTE_US)
    assert of(found, catalogue.COVERAGE_DECISIONS) == {"a": 3}


async def test_orphans_are_events_whose_decision_never_came(at_noon: Router, database: Database):
    router = at_noon
    await router.run()
    decisions = await decide(router, "a", 4)
    await router.batch_reward([event(decision_id, 1.0) for decision_id in decisions])
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 4)
    orphans, sampled = (catalogue.ORPHANS.name,), (catalogue.ORPHANS_SAMPLED.name,)
    found = await figures(database, NOON_US + 14 * MINUTE_US)
    assert (found.get(orphans), found[sampled]) == (None, 0)
    found = await figures(database, NOON_US + 16 * MINUTE_US)
    assert (found[orphans], found[sampled]) == (0.0, 4)
    await query(
        router.url, "DELETE FROM decisions WHERE decision_key = (SELECT min(decision_key::text)::uuid FROM decisions)"
    )
    found = await figures(database, NOON_US + 16 * MINUTE_US)
    assert (found[orphans], found[sampled]) == (0.25, 4)


async def test_figures_follow_changes(router: Router, database: Database):
    await router.run()
    computing = Vitals(database, lambda: NOON_US)

    async def outcomes() -> float:
        await computing.work(NOBODY)
        return {labels: v for name, labels, v in computing.samples() if name == catalogue.OUTCOMES.name}["support", "a"]  # type: ignore[return-value]

    assert await outcomes() == 0
    await router.learn("a", 2)
    assert await outcomes() == 2
