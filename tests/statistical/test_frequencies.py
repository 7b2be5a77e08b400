"""Arms come as often as the logged propensities say, through the whole decision path of a real server.

Claim
    Given the allocations that the decision log holds, arms are drawn independently with exactly those probabilities:
    the counts of arms over N decisions have the sums of the logged vectors as expectation, whatever moved meanwhile.

Test
    Pearson's chi-square with K - 1 degrees of freedom. Where vectors vary between decisions, the counts vary less than
    multinomially, so the test is conservative. Seeded: it passes or fails for good; a change of the path that draws other
    numbers meets a false alarm with probability at most ALPHA for each test.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from running import Router, arm, event, experiment, query, until_scalar
from scipy.stats import chi2

from router.server import Clocks
from router.v1 import routing_pb2

ALPHA = 1e-4


async def logged(router: Router, decisions: int) -> tuple[dict[str, int], dict[str, float]]:
    """Counts of arms and the sums of the vectors they were drawn from, as the decision log holds them."""
    await until_scalar(router.url, "SELECT count(*) FROM decision_log", decisions)
    counts = dict(await query(router.url, "SELECT arm_id, count(*) FROM decision_log GROUP BY 1"))
    sums = await query(
        router.url,
        "SELECT a, sum(p) FROM decision_log, unnest(allocation_arm_ids, allocation) AS t (a, p) GROUP BY 1",
    )
    assert await query(
        router.url,
        "SELECT count(*) FROM decision_log d, unnest(allocation_arm_ids, allocation) AS t (a, p)"
        " WHERE a = arm_id AND p <> propensity",
    ) == [(0,)], "the propensity is the entry of the vector drawn from"
    return counts, dict(sums)


def assert_frequencies(counts: dict[str, int], expected: dict[str, float]) -> None:
    assert set(counts) <= {arm_id for arm_id, value in expected.items() if value > 0}
    drawn = [arm_id for arm_id, value in expected.items() if value > 0]
    observed = np.array([counts.get(arm_id, 0) for arm_id in drawn], dtype=float)
    expectation = np.array([expected[arm_id] for arm_id in drawn])
    assert expectation.min() >= 5, "too few for the approximation"
    assert observed.sum() == pytest.approx(expectation.sum(), abs=1e-6)
    statistic = float(((observed - expectation) ** 2 / expectation).sum())
    critical = float(chi2.isf(ALPHA, len(drawn) - 1))
    assert statistic < critical, f"chi-square {statistic:.2f} >= {critical:.2f}: {counts} against {expected}"


async def seeded(database_url: str, start_router, seed: int) -> Router:
    return await start_router(database_url, Clocks(rng=random.Random(seed)))


async def test_while_it_learns(database_url: str, start_router):
    router = await seeded(database_url, start_router, 1)
    await router.run(experiment(arms=("a", "b", "c", "d"), floor=0.05))
    rewards = random.Random(2)
    rates = {"a": 0.55, "b": 0.5, "c": 0.45, "d": 0.4}
    for _ in range(30):
        requests = [routing_pb2.RouteRequest(experiment_id="support")] * 100
        results = (await router.batch_route(requests)).results
        await router.batch_reward(
            [event(r.response.decision_id, float(rewards.random() < rates[r.response.arm.arm_id])) for r in results[::10]]
        )
    counts, expected = await logged(router, 3_000)
    assert_frequencies(counts, expected)
    assert max(expected.values()) > 1.5 * min(expected.values()), "it did not learn: the test would say little"


async def test_weights_and_subsets(database_url: str, start_router):
    router = await seeded(database_url, start_router, 3)
    weights = {"a": 0.6, "b": 0.25, "c": 0.1, "d": 0.05, "e": 0.0}
    await router.run(experiment(arms=[arm(name) for name in weights], kind="FIXED", weights=weights, unit="REQUEST"))
    subsets = [[], ["b", "c", "d"], ["a", "e"], ["c", "d", "e", "a"]]
    for number in range(8):
        requests = [
            routing_pb2.RouteRequest(experiment_id="support", eligible_arm_ids=subsets[(n + number) % 4]) for n in range(500)
        ]
        await router.batch_route(requests)
    counts, expected = await logged(router, 4_000)
    assert_frequencies(counts, expected)


async def test_request_ids(database_url: str, start_router):
    """Draws by keyed hash are as good as those of the generator. The key is random, so this one test is not seeded."""
    router = await seeded(database_url, start_router, 4)
    await router.run(experiment(arms=("a", "b", "c"), kind="FIXED", weights={"a": 0.7, "b": 0.2, "c": 0.1}, unit="REQUEST"))
    for start in range(0, 4_000, 1_000):
        requests = [
            routing_pb2.RouteRequest(experiment_id="support", request_id=f"request-{n}") for n in range(start, start + 1_000)
        ]
        await router.batch_route(requests)
    counts, expected = await logged(router, 4_000)
    assert_frequencies(counts, expected)


@pytest.mark.parametrize("kind", ["UNIFORM", "FIXED"])
async def test_hashed_units(database_url: str, start_router, kind: str):
    """Rendezvous and buckets give units as drawn ones; nothing here is random, so it passes or fails for good."""
    router = await seeded(database_url, start_router, 5)
    weights = {"a": 0.5, "b": 0.3, "c": 0.2} if kind == "FIXED" else None
    await router.run(experiment(arms=("a", "b", "c"), kind=kind, weights=weights, assignment="STICKY_HASH"))
    for start in range(0, 4_000, 1_000):
        requests = [
            routing_pb2.RouteRequest(experiment_id="support", unit_id=f"unit-{n}") for n in range(start, start + 1_000)
        ]
        await router.batch_route(requests)
    counts, expected = await logged(router, 4_000)
    assert_frequencies(counts, expected)
