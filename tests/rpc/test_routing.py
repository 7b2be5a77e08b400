"""Route and BatchRoute on real servers: what is drawn, from what, and what stays with a unit."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections import Counter
from collections.abc import Iterable

import grpc
import pytest
from running import (
    Router,
    StoppableCluster,
    arm,
    assert_replay_agrees,
    channel_to,
    experiment,
    query,
    refusal_of,
    refused,
    scalar,
    terminate_others,
    until,
    until_scalar,
)

from bandit.assignment import bucket, rendezvous
from bandit.posterior import probability_best
from router import server as server_module
from router.server import Clocks
from router.sticky import StickyUnits
from router.v1 import routing_pb2, types_pb2

SAMPLED, STICKY, FORCED, FALLBACK = (
    routing_pb2.REASON_SAMPLED,
    routing_pb2.REASON_STICKY,
    routing_pb2.REASON_FORCED,
    routing_pb2.REASON_FALLBACK,
)


def request(experiment_id: str = "support", **fields: object) -> routing_pb2.RouteRequest:
    return routing_pb2.RouteRequest(experiment_id=experiment_id, **fields)  # type: ignore[arg-type]


def vector(entries: Iterable[types_pb2.ArmProbability]) -> dict[str, float]:
    return {entry.arm_id: entry.probability for entry in entries}


async def knows(router: Router, version: int, experiment_id: str = "support") -> None:
    """Wait until a router decides by at least this policy version."""

    async def decided() -> bool:
        try:
            return (await router.route(experiment_id, unit_id="probe")).policy_version >= version
        except grpc.aio.AioRpcError as error:
            assert error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)  # noqa: PT017
            return False

    await until(decided, f"decisions at policy version {version}")


# What a reply says


async def test_a_decision_says_how_it_was_made(router: Router):
    await router.run(
        experiment(arms=[arm("a", config={"max_tokens": 1024, "nested": {"stop": ["x", None, True]}}), arm("b"), arm("c")])
    )
    decision = await router.route()
    allocation = vector(decision.allocation)
    assert decision.experiment_id == "support"
    assert list(allocation) == ["a", "b", "c"]
    assert math.fsum(allocation.values()) == pytest.approx(1, abs=1e-15)
    assert decision.propensity == allocation[decision.arm.arm_id]
    assert decision.arm.model == f"model-{decision.arm.arm_id}"
    assert decision.reason == SAMPLED
    assert not decision.HasField("stale_for")
    assert not decision.shadow_arms
    assert decision.policy_version == (await router.get()).policy_version
    forced = await router.route(force_arm_id="a")
    assert forced.arm.config["nested"]["stop"][0] == "x"
    assert forced.arm.config["max_tokens"] == 1024


async def test_every_decision_reaches_the_log_with_what_the_caller_said(router: Router):
    await router.run()
    said = {
        "unit_id": "üser/1",
        "session_id": "s 1",
        "turn_id": "t'1",
        "request_id": "r\\1",
        "segment": "mobile",
        "prompt_fingerprint": "abc+/=",
    }
    decision = await router.route(prompt_similarity=0.1, **said)
    columns = ", ".join(said)
    await until_scalar(router.url, "SELECT count(*) FROM decision_log", 1)
    rows = await query(
        router.url,
        f"SELECT experiment_id, arm_id, model, propensity, policy_version, reason, prompt_similarity, allocation_arm_ids,"
        f" allocation, reward, {columns} FROM decision_log",
    )
    assert rows == [
        (
            "support",
            decision.arm.arm_id,
            decision.arm.model,
            decision.propensity,
            decision.policy_version,
            "sampled",
            0.1,
            ["a", "b"],
            [entry.probability for entry in decision.allocation],
            None,
            *said.values(),
        )
    ]


async def test_many_decisions_all_reach_the_log_once(router: Router):
    await router.run()
    replies = await asyncio.gather(*(router.batch_route([request() for _ in range(500)]) for _ in range(8)))
    ids = {result.response.decision_id for reply in replies for result in reply.results}
    assert len(ids) == 4_000
    await until_scalar(router.url, "SELECT count(*) FROM decision_log", 4_000)
    assert await scalar(router.url, "SELECT count(*) FROM decisions") == 4_000


# Eligible subsets and forced arms


async def test_an_eligible_subset_gets_its_own_allocation(router: Router):
    await router.run(experiment(arms=("a", "b", "c"), floor=0.0))
    await router.learn("a", 8, 4)
    await router.learn("b", 6, 4)
    await router.learn("c", 5, 7)
    version = (await router.posterior()).policy_version
    await knows(router, version)
    decision = await router.route(eligible_arm_ids=["c", "b"])
    allocation = vector(decision.allocation)
    assert allocation["a"] == 0.0
    assert math.fsum(allocation.values()) == pytest.approx(1, abs=1e-15)
    exact = probability_best([7.0, 6.0], [5.0, 8.0])
    assert [allocation["b"], allocation["c"]] == pytest.approx(list(exact), abs=1e-12)
    everyone = vector((await router.route()).allocation)
    renormalised = everyone["b"] / (everyone["b"] + everyone["c"])
    assert abs(renormalised - allocation["b"]) > 1e-3, "the two would be the same: the test tells nothing"
    chosen = {(await router.route(eligible_arm_ids=["b", "c"])).arm.arm_id for _ in range(60)}
    assert chosen == {"b", "c"}


async def test_the_order_of_eligible_arms_changes_nothing(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    first = await router.route(eligible_arm_ids=["c", "a"])
    second = await router.route(eligible_arm_ids=["a", "c"])
    assert list(first.allocation) == list(second.allocation)


async def test_all_arms_eligible_is_the_same_as_saying_nothing(router: Router):
    await router.run()
    assert list((await router.route(eligible_arm_ids=["b", "a"])).allocation) == list((await router.route()).allocation)


async def test_a_large_subset_is_renormalised_and_says_so(router: Router):
    names = [f"arm-{n}" for n in range(10)]
    await router.run(experiment(arms=names))
    await router.learn("arm-3", 5, 1)
    await knows(router, (await router.posterior()).policy_version)
    decision = await router.route(eligible_arm_ids=names[:7])
    allocation = vector(decision.allocation)
    assert decision.reason == FALLBACK
    assert math.fsum(allocation.values()) == pytest.approx(1, abs=1e-15)
    assert all(allocation[name] >= 0.01 for name in names[:7])
    assert [allocation[name] for name in names[7:]] == [0.0] * 3
    assert decision.propensity == allocation[decision.arm.arm_id]


async def test_one_eligible_arm_is_certain(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    decision = await router.route(eligible_arm_ids=["b"])
    assert (decision.arm.arm_id, decision.propensity, decision.reason) == ("b", 1.0, SAMPLED)


async def test_a_forced_arm_is_never_learned_from(router: Router):
    await router.run()
    forced = await router.route(force_arm_id="b", unit_id="u")
    assert (forced.arm.arm_id, forced.propensity, forced.reason) == ("b", 1.0, FORCED)
    for fields in ({"reward": 1.0}, {"signal": types_pb2.SIGNAL_TASK_COMPLETED}, {"signal": types_pb2.SIGNAL_THUMBS_DOWN}):
        reply = await router.reward(forced.decision_id, **fields)
        assert (reply.status, reply.arm_id) == (routing_pb2.STATUS_NEUTRAL, "b")
    assert [a.n for a in (await router.posterior()).arms] == [0, 0]
    assert await query(router.url, "SELECT * FROM outcomes") == []
    assert await scalar(router.url, "SELECT count(*) FROM events") == 3
    await assert_replay_agrees(router.url)


async def test_a_forced_arm_may_be_one_of_weight_zero(router: Router):
    await router.run(experiment(kind="FIXED", weights={"a": 1.0}, assignment="STICKY_HASH"))
    assert (await router.route(force_arm_id="b", unit_id="u")).arm.arm_id == "b"
    assert (await router.route(unit_id="u")).arm.arm_id == "a"


async def test_an_arm_of_weight_zero_is_never_drawn(router: Router):
    await router.run(experiment(arms=("a", "b", "c"), kind="FIXED", weights={"a": 0.5, "c": 0.5}, unit="REQUEST"))
    reply = await router.batch_route([request() for _ in range(1_000)])
    assert set(Counter(result.response.arm.arm_id for result in reply.results)) == {"a", "c"}


async def test_caps_and_floors_hold(router: Router):
    await router.run(
        experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b", cap=0.2), arm("c", cap=0.005)], kind="UNIFORM", floor=0.01)
    )
    allocation = vector((await router.route()).allocation)
    assert allocation == pytest.approx({"a": 0.795, "b": 0.2, "c": 0.005}, abs=1e-12)


# Retries


async def test_a_request_id_names_one_decision(router: Router):
    await router.run(experiment(arms=("a", "b", "c", "d")))
    first = await router.route(request_id="r-1", unit_id="u")
    again = await router.route(request_id="r-1", unit_id="u")
    assert first == again
    assert (await router.route(request_id="r-2", unit_id="u")).decision_id != first.decision_id
    in_batch = (await router.batch_route([request(request_id="r-1"), request(request_id="r-1")])).results
    assert {result.response.decision_id for result in in_batch} == {first.decision_id}
    await until_scalar(router.url, "SELECT count(*) FROM decision_log", 2)
    assert await query(router.url, "SELECT request_id FROM decisions ORDER BY 1") == [("r-1",), ("r-2",)]


async def test_a_request_id_is_scoped_to_its_experiment(router: Router):
    await router.run(experiment("one"))
    await router.run(experiment("two"))
    one, two = await router.route("one", request_id="r"), await router.route("two", request_id="r")
    assert (one.experiment_id, two.experiment_id) == ("one", "two")
    assert one.decision_id != two.decision_id


async def test_a_request_id_is_one_decision_whichever_replica_answers(router: Router, other_router: Router):
    await router.run(experiment(arms=("a", "b", "c", "d")))
    await knows(other_router, 2)
    keys = [f"r-{number}" for number in range(20)]
    twice = [(await router.route(request_id=key), await other_router.route(request_id=key)) for key in keys]
    for here, there in twice:
        assert (here.arm.arm_id, here.propensity) == (there.arm.arm_id, there.propensity)
        assert (await router.reward(here.decision_id, 1.0, event_id="e")).status == routing_pb2.STATUS_APPLIED
        assert (await other_router.reward(there.decision_id, 1.0, event_id="e")).status == routing_pb2.STATUS_DUPLICATE
    assert sum(a.n for a in (await router.posterior()).arms) == 20
    await until_scalar(router.url, "SELECT count(*) FROM decisions WHERE request_id <> ''", 20)
    await assert_replay_agrees(router.url)


async def test_a_request_id_counts_once_across_midnight(router: Router, start_router):
    """Retries arrive within seconds; a few of those seconds are the first of a day."""
    midnight_us = (time.time_ns() // 86_400_000_000_000) * 86_400_000_000
    before = await start_router(router.url, Clocks(now_us=lambda: midnight_us - 100_000))
    after = await start_router(router.url, Clocks(now_us=lambda: midnight_us + 100_000))
    await router.run()
    await knows(before, 2)
    await knows(after, 2)
    here, there = await before.route(request_id="r"), await after.route(request_id="r")
    assert here.arm.arm_id == there.arm.arm_id
    # The caller has one of the two answers, and rewards that one, however often.
    for _ in range(2):
        await router.reward(there.decision_id, 1.0, event_id="e")
    assert sum(a.n for a in (await router.posterior()).arms) == 1


async def test_retries_that_overtake_one_another_are_one_decision(router: Router):
    """Under sticky_stored the first one waits for Postgres, so the second arrives meanwhile."""
    await router.run(experiment(assignment="STICKY_STORED"))
    replies = await asyncio.gather(*(router.route(request_id="r", unit_id="u") for _ in range(8)))
    assert len({reply.decision_id for reply in replies}) == 1


# Hashed units


async def test_sticky_hash_is_the_same_arm_on_every_replica(router: Router, other_router: Router):
    names = ("a", "b", "c")
    await router.run(experiment(arms=names, assignment="STICKY_HASH"))
    await knows(other_router, 2)
    seen = Counter()
    for number in range(60):
        unit = f"unit-{number}"
        here, there = await router.route(unit_id=unit), await other_router.route(unit_id=unit)
        allocation = vector(here.allocation)
        assert here.arm.arm_id == there.arm.arm_id
        assert here.arm.arm_id == rendezvous("support", unit, names, [allocation[name] for name in names])
        assert here.reason == there.reason == STICKY
        assert here.propensity == allocation[here.arm.arm_id]
        seen[here.arm.arm_id] += 1
    assert set(seen) == set(names)


@pytest.mark.parametrize("assignment", ["STICKY_HASH", "STICKY_STORED"])
async def test_a_sticky_experiment_needs_a_unit(router: Router, assignment: str):
    await router.run(experiment(assignment=assignment))
    refusal = await refused(router.route())
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(refusal.violations) == ["unit_id"]


async def test_an_ab_test_deals_exact_buckets(router: Router, other_router: Router):
    await router.run(experiment(kind="FIXED", weights={"a": 0.9, "b": 0.1}, assignment="STICKY_HASH"))
    await knows(other_router, 2)
    units = [f"unit-{number}" for number in range(500)]
    requests = [request(unit_id=unit) for unit in units]
    arms: dict[str, str] = {}
    for unit, result in zip(units, (await router.batch_route(requests)).results, strict=True):
        arms[unit] = result.response.arm.arm_id
        assert result.response.propensity == {"a": 0.9, "b": 0.1}[arms[unit]]
        assert arms[unit] == ("a" if bucket("support", unit) < 9_000 else "b")
    assert set(arms.values()) == {"a", "b"}

    updated = await router.update(experiment(kind="FIXED", weights={"a": 0.6, "b": 0.4}, assignment="STICKY_HASH"))
    await knows(other_router, updated.policy_version)
    moved = set()
    for unit, result in zip(units, (await other_router.batch_route(requests)).results, strict=True):
        assert result.response.propensity == {"a": 0.6, "b": 0.4}[result.response.arm.arm_id]
        if result.response.arm.arm_id != arms[unit]:
            moved.add((arms[unit], result.response.arm.arm_id))
    assert moved == {("a", "b")}, "only units of the arm that shrank may move"


async def test_an_ab_test_with_three_arms_keeps_a_unit_whose_arm_is_eligible(router: Router):
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    await router.run(experiment(arms=tuple(weights), kind="FIXED", weights=weights, assignment="STICKY_HASH"))
    for number in range(100):
        unit = f"unit-{number}"
        usual = await router.route(unit_id=unit)
        subset = await router.route(unit_id=unit, eligible_arm_ids=["a", "c"])
        assert subset.arm.arm_id in {"a", "c"}
        if usual.arm.arm_id != "b":
            assert subset.arm.arm_id == usual.arm.arm_id
        assert vector(subset.allocation) == pytest.approx({"a": 5 / 7, "b": 0.0, "c": 2 / 7}, abs=1e-15)


# Stored units


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers that wait as long as it takes at the first sight of a unit, for tests that are not about that wait."""
    monkeypatch.setattr(server_module, "StickyUnits", functools.partial(StickyUnits, wait_s=10))


@pytest.mark.usefixtures("patient")
async def test_a_stored_unit_keeps_arm_and_propensity_everywhere(router: Router, other_router: Router):
    await router.run(experiment(assignment="STICKY_STORED"))
    await knows(other_router, 2)
    units = [f"unit-{number}" for number in range(20)]
    first = {unit: await router.route(unit_id=unit) for unit in units}
    assert {reply.reason for reply in first.values()} == {SAMPLED}
    assert {reply.propensity for reply in first.values()} == {0.5}
    await router.learn("a", 30, 0, "support")
    version = (await router.posterior()).policy_version
    await knows(router, version)
    await knows(other_router, version)
    for replica in (router, other_router):
        for unit, drawn in first.items():
            replayed = await replica.route(unit_id=unit)
            assert replayed.arm.arm_id == drawn.arm.arm_id
            assert replayed.propensity == 0.5, "a replay carries the propensity of its draw"
            assert replayed.reason == STICKY
            assert vector(replayed.allocation)["a"] > 0.9, "the vector is the current one"


@pytest.mark.usefixtures("patient")
async def test_a_stored_unit_whose_arm_is_retired_is_drawn_anew(router: Router, other_router: Router):
    await router.run(experiment(arms=("a", "b", "c"), assignment="STICKY_STORED"))
    await knows(other_router, 2)
    units = [f"unit-{number}" for number in range(24)]
    arms = {unit: (await router.route(unit_id=unit)).arm.arm_id for unit in units}
    for unit in units:
        assert (await other_router.route(unit_id=unit)).arm.arm_id == arms[unit]
    updated = await router.update(experiment(arms=("b", "c"), assignment="STICKY_STORED"))
    await knows(other_router, updated.policy_version)
    for unit in units:
        here = await router.route(unit_id=unit)
        there = await other_router.route(unit_id=unit)
        assert here.arm.arm_id == there.arm.arm_id != "a"
        if arms[unit] != "a":
            assert (here.arm.arm_id, here.reason) == (arms[unit], STICKY)
        else:
            assert (here.reason, there.reason) == (SAMPLED, STICKY)
    epochs = dict(await query(router.url, "SELECT unit_id, epoch FROM sticky_assignments WHERE unit_id LIKE 'unit-%'"))
    assert epochs == {unit: 2 if arms[unit] == "a" else 1 for unit in units}


@pytest.mark.usefixtures("patient")
async def test_a_redraw_on_one_replica_is_heard_on_the_other(router: Router, other_router: Router):
    await router.run(experiment(arms=("a", "b", "c"), assignment="STICKY_STORED"))
    await knows(other_router, 2)
    drawn = (await router.route(unit_id="u")).arm.arm_id
    assert (await other_router.route(unit_id="u")).arm.arm_id == drawn
    rest = [name for name in ("a", "b", "c") if name != drawn]
    redrawn = await router.route(unit_id="u", eligible_arm_ids=rest)
    assert redrawn.arm.arm_id in rest

    async def heard() -> bool:
        return (await other_router.route(unit_id="u")).arm.arm_id == redrawn.arm.arm_id

    await until(heard, "the other replica serves the new draw")


async def test_a_flood_of_new_units_gives_each_one_arm(router: Router, other_router: Router):
    """Many fall back on the hash, because Postgres cannot be asked for all within 25 ms: their arm stays nevertheless."""
    await router.run(experiment(arms=("a", "b", "c"), assignment="STICKY_STORED"))
    await knows(other_router, 2)
    units = [f"unit-{number}" for number in range(200)]
    here = await asyncio.gather(*(router.route(unit_id=unit) for unit in units))
    there = await asyncio.gather(*(other_router.route(unit_id=unit) for unit in units))
    assert [reply.arm.arm_id for reply in here] == [reply.arm.arm_id for reply in there]
    await until_scalar(router.url, "SELECT count(*) FROM sticky_assignments WHERE unit_id LIKE 'unit-%'", 200)
    stored = dict(
        await query(router.url, "SELECT unit_id, arm_id FROM sticky_assignments s JOIN arms USING (incarnation, arm)")
    )
    assert {unit: stored[unit] for unit in units} == {u: r.arm.arm_id for u, r in zip(units, here, strict=True)}
    assert {(await router.route(unit_id=unit)).reason for unit in units} == {STICKY}


async def test_without_postgres_a_new_unit_falls_back_on_its_hash_and_a_known_one_stays(
    stoppable: StoppableCluster, stoppable_url: str, start_router
):
    router = await start_router(stoppable_url)
    await router.run(experiment(arms=("a", "b", "c"), assignment="STICKY_STORED"))
    known = await router.route(unit_id="known")
    stoppable.stop()
    assert (await router.route(unit_id="known")).arm.arm_id == known.arm.arm_id
    new = await router.route(unit_id="new")
    assert new.reason == FALLBACK
    assert new.propensity == vector(new.allocation)[new.arm.arm_id]
    stoppable.start()

    async def settled() -> bool:
        return (await router.route(unit_id="new")).reason == STICKY

    await until(settled, "the unit is stored once Postgres is back")
    assert (await router.route(unit_id="new")).arm.arm_id == new.arm.arm_id


# Batches


async def test_each_item_of_a_batch_stands_alone(router: Router):
    await router.run()
    await router.run(experiment("fixed", kind="FIXED", weights={"a": 1.0}, assignment="STICKY_HASH"))
    await router.create(experiment("draft"))
    items = [
        request(unit_id="u"),
        request("no such id!"),
        request("unknown"),
        request("draft"),
        request(unit_id="nul\x00"),
        request(eligible_arm_ids=["nope"]),
        request("fixed", unit_id="u", eligible_arm_ids=["b"]),
        request("fixed", unit_id="u"),
        request(unit_id="x" * 257),
        request(prompt_similarity=math.nan),
        request(eligible_arm_ids=["a", "a"]),
        request(force_arm_id="a"),
        routing_pb2.RouteRequest(),
        request(),
    ]
    results = (await router.batch_route(items)).results
    outcomes = [r.response.experiment_id if r.HasField("response") else refusal_of(r.error).reason for r in results]
    assert outcomes == [
        "support",
        "INVALID_FIELD",
        "EXPERIMENT_NOT_FOUND",
        "EXPERIMENT_NOT_RUNNING",
        "INVALID_FIELD",
        "ARM_NOT_FOUND",
        "NO_ELIGIBLE_ARM",
        "fixed",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "support",
        "INVALID_FIELD",
        "support",
    ]
    for item, result in zip(items, results, strict=True):
        if result.HasField("error"):
            alone = await refused(router.routing.Route(item))
            assert alone.raw == result.error.SerializeToString()


async def test_a_batch_sends_each_allocation_once(router: Router):
    await router.run(experiment(arms=("a", "b", "c")))
    await router.run(experiment("other", arms=("x", "y")))
    items = [
        request(),
        request("other"),
        request("unknown"),
        request(eligible_arm_ids=["a", "b"]),
        request(),
        request(eligible_arm_ids=["b", "a"]),
    ]
    reply = await router.batch_route(items)
    assert len(reply.allocations) == 3
    assert [r.response.allocation_index for r in reply.results if r.HasField("response")] == [0, 1, 2, 0, 2]
    assert [len(allocation.entries) for allocation in reply.allocations] == [3, 2, 3]
    for result in reply.results:
        if result.HasField("response"):
            assert not result.response.allocation
            entries = vector(reply.allocations[result.response.allocation_index].entries)
            assert entries[result.response.arm.arm_id] == result.response.propensity


async def test_a_batch_of_a_thousand(router: Router):
    await router.run()
    assert len((await router.batch_route([request() for _ in range(1_000)])).results) == 1_000
    refusal = await refused(router.batch_route([request() for _ in range(1_001)]))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["requests"])
    refusal = await refused(router.batch_route([]))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["requests"])


# Changes while serving


async def test_arms_come_and_go_without_losing_what_others_learned(router: Router, other_router: Router):
    await router.run(experiment(arms=("a", "b")))
    await router.learn("a", 12, 3)
    await router.learn("b", 4, 6)
    grown = await router.update(experiment(arms=("a", "b", "c")))
    await knows(other_router, grown.policy_version)
    assert set(vector((await other_router.route()).allocation)) == {"a", "b", "c"}
    arms = await router.arms()
    assert {k: (v.alpha, v.beta) for k, v in arms.items()} == {"a": (13, 4), "b": (5, 7), "c": (1, 1)}
    late = await router.route(eligible_arm_ids=["b"])
    shrunk = await router.update(experiment(arms=("c", "a")))
    await knows(other_router, shrunk.policy_version)
    assert set(vector((await other_router.route()).allocation)) == {"a", "c"}
    assert (await refused(other_router.route(eligible_arm_ids=["b"]))).reason == "ARM_NOT_FOUND"
    assert (await refused(other_router.route(force_arm_id="b"))).reason == "ARM_NOT_FOUND"
    reply = await other_router.reward(late.decision_id, 1.0)
    assert (reply.status, reply.arm_id) == (routing_pb2.STATUS_APPLIED, "b")
    await router.learn("c", 2, 0)
    await router.update(experiment(arms=("a", "b", "c")))
    arms = await router.arms()
    assert {k: (v.alpha, v.beta) for k, v in arms.items()} == {"a": (13, 4), "b": (6, 7), "c": (3, 1)}
    await assert_replay_agrees(router.url)


async def test_a_change_is_seen_by_the_next_call_on_the_replica_that_made_it(router: Router):
    await router.run()
    for number in range(5):
        names = {f"arm-{number}", f"arm-{number + 1}"}
        updated = await router.update(experiment(arms=sorted(names)))
        decision = await router.route()
        assert decision.policy_version >= updated.policy_version
        assert decision.arm.arm_id in names
    await router.move("Pause")
    assert (await refused(router.route())).metadata["state"] == "paused"
    await router.move("Resume")
    await router.route()


async def test_a_new_experiment_is_found_by_a_replica_that_was_asked_for_it_before(router: Router, other_router: Router):
    assert (await refused(other_router.route("late"))).reason == "EXPERIMENT_NOT_FOUND"
    await router.run(experiment("late"))

    async def found() -> bool:
        try:
            await other_router.route("late")
        except Exception:
            return False
        return True

    await until(found, "the other replica finds the new experiment")


async def test_a_replica_started_later_knows_everything(router: Router, start_router):
    await router.run()
    await router.learn("a", 20, 1)
    late = await start_router(router.url)
    decision = await late.route()
    assert decision.policy_version == (await router.posterior()).policy_version
    assert vector(decision.allocation)["a"] > 0.9


async def test_two_replicas_share_what_they_learn(router: Router, other_router: Router, record_property):
    """From the answer to Reward on one to the first decision on the other that knows it."""
    await router.run()
    await knows(other_router, 2)
    lags = []
    for number in range(20):
        sender, observer = (router, other_router) if number % 2 else (other_router, router)
        decision = await sender.route()
        await sender.reward(decision.decision_id, float(number % 2))
        version = (await sender.posterior()).policy_version

        async def learned(observer: Router = observer, version: int = version) -> bool:
            return (await observer.route()).policy_version >= version

        lags.append(await until(learned, "the other replica decides by what this one learned"))
    lags.sort()
    record_property("lag_ms_median", round(lags[10] * 1e3, 1))
    record_property("lag_ms_greatest", round(lags[-1] * 1e3, 1))
    print(f"lag from Reward acknowledged to the other replica's decisions: median {lags[10] * 1e3:.1f} ms")
    assert lags[10] < 0.5, f"notifications are not heard, only polls: {lags}"


BREAK = """
WITH broken AS (
    UPDATE experiments SET allocation = '{"kind": "TOMORROW"}' WHERE experiment_id = 'broken' RETURNING incarnation
)
UPDATE policy_versions v SET policy_version = 99, definition_version = 99 FROM broken b WHERE v.incarnation = b.incarnation
"""


async def test_a_broken_row_harms_no_other_experiment(router: Router, other_router: Router):
    """A definition that this version cannot read, as a newer version may write, must stop only its own experiment."""
    await router.run(experiment(unit_share=0))
    await router.run(experiment("broken"))
    await knows(other_router, 2)
    await knows(other_router, 2, "broken")
    await query(router.url, BREAK)
    polled_twice = time.monotonic() + 2.5
    while time.monotonic() < polled_twice:
        await router.learn("a", 5, 0)
        version = (await router.posterior()).policy_version
        await knows(router, version)
        await knows(other_router, version)


async def test_a_router_starts_beside_a_broken_row(router: Router, start_router):
    await router.run()
    await router.run(experiment("broken"))
    await query(router.url, BREAK)
    late = await start_router(router.url)
    await late.route()


# Postgres away


async def test_decisions_go_on_without_postgres_and_say_for_how_long(
    stoppable: StoppableCluster, stoppable_url: str, start_router
):
    router = await start_router(stoppable_url)
    await router.run()
    await router.learn("a", 9, 1)
    await knows(router, (await router.posterior()).policy_version)
    before = await router.route()
    assert not before.HasField("stale_for")
    stoppable.stop()

    async def stale_for_s() -> float:
        reply = await router.route()
        assert list(reply.allocation) == list(before.allocation)
        return reply.stale_for.ToTimedelta().total_seconds()

    await until(stale_for_s, "decisions say that they are stale")
    first = await stale_for_s()
    await until(lambda: _more(stale_for_s, first + 0.2), "staleness grows")
    decided = [await router.route() for _ in range(50)]
    stoppable.start()

    async def fresh() -> bool:
        return not (await router.route()).HasField("stale_for")

    await until(fresh, "decisions are fresh again")
    assert len({reply.decision_id for reply in decided}) == 50
    await until_scalar(stoppable_url, "SELECT count(*) >= 50 + 12 FROM decision_log", True)
    assert (await router.reward(decided[0].decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED


async def _more(measure, bound: float) -> bool:
    return (await measure()) > bound


async def test_cut_connections_are_made_again(router: Router, other_router: Router):
    await router.run()
    await knows(other_router, 2)
    for _ in range(3):
        assert await terminate_others(router.url) > 0
        decision = await router.route()
        assert (await router.reward(decision.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
        version = (await router.posterior()).policy_version
        await knows(other_router, version)
    assert sum(a.n for a in (await router.posterior()).arms) == 3
    await assert_replay_agrees(router.url)


# Standard services


async def test_health_and_reflection(router: Router):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    names = {f"router.v1.{name}" for name in ("RouterService", "ExperimentService", "PosteriorService")}
    health = health_pb2_grpc.HealthStub(router.channel)
    for name in ("", *names):
        reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(router.channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    replies = [reply async for reply in call]
    listed = {service.name for service in replies[0].list_services_response.service}
    assert listed >= names | {"grpc.health.v1.Health"}
    call = reflection.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol="router.v1.RouterService")])
    )
    replies = [reply async for reply in call]
    assert replies[0].file_descriptor_response.file_descriptor_proto


async def test_health_says_that_a_router_drains(router: Router):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = channel_to(router.server.port)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.ensure_future(router.close())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await channel.close()
    await stopping
