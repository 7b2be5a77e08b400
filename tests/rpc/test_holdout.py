"""Holdouts and stable assignments on real servers: who gets what, on every replica and after every change."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import pytest
from running import (
    Router,
    arm,
    assert_replay_agrees,
    event,
    experiment,
    query,
    refused,
    scalar,
    until,
    until_scalar,
)

from bandit.assignment import bucket, held_out
from router.v1 import experiments_pb2, routing_pb2, types_pb2

SAMPLED, STICKY, FORCED, HOLDOUT = (
    routing_pb2.REASON_SAMPLED,
    routing_pb2.REASON_STICKY,
    routing_pb2.REASON_FORCED,
    routing_pb2.REASON_HOLDOUT,
)
UNITS = [f"user-{n}" for n in range(600)]


def holding_out(share: float = 0.2, **fields: object) -> experiments_pb2.Experiment:
    fields.setdefault("arms", [arm("a", role=types_pb2.ROLE_CONTROL), "b", "c"])
    return experiment(holdout=share, **fields)  # type: ignore[arg-type]


async def routed(router: Router, units: Iterable[str] = UNITS, **fields: object) -> dict[str, routing_pb2.RouteResponse]:
    """Decide for each unit in one batch."""
    names = list(units)
    requests = [
        routing_pb2.RouteRequest(experiment_id="support", unit_id=unit, **fields)  # type: ignore[arg-type]
        for unit in names
    ]
    reply = await router.batch_route(requests)
    return {unit: result.response for unit, result in zip(names, reply.results, strict=True)}


def held(replies: dict[str, routing_pb2.RouteResponse]) -> set[str]:
    return {unit for unit, reply in replies.items() if reply.reason == HOLDOUT}


async def knows(router: Router, version: int) -> None:
    """Wait until a router decides by this policy version."""

    async def decided() -> bool:
        try:
            return (await router.route(unit_id="probe")).policy_version >= version
        except grpc.aio.AioRpcError:
            return False

    await until(decided, f"decisions at policy version {version}")


# Who is held out


@pytest.mark.parametrize("kind", ["PER_REQUEST", "STICKY_HASH", "STICKY_STORED"])
async def test_the_held_out_share_stays_on_the_control(router: Router, kind: str):
    await router.run(holding_out(assignment=kind))
    replies = await routed(router)
    expected = {unit for unit in UNITS if held_out("support", unit, 0.2)}
    assert held(replies) == expected
    assert {replies[unit].arm.arm_id for unit in expected} == {"a"}
    assert {reply.arm.arm_id for unit, reply in replies.items() if unit not in expected} == {"a", "b", "c"}
    for unit in expected:
        one = await router.route(unit_id=unit)
        assert (one.reason, one.propensity, one.arm.arm_id) == (HOLDOUT, 1.0, "a")
        assert [(entry.arm_id, entry.probability) for entry in one.allocation] == [("a", 1.0), ("b", 0.0), ("c", 0.0)]
        break


async def test_in_a_batch_the_allocation_of_the_control_alone_is_sent_once(router: Router):
    await router.run(holding_out())
    reply = await router.batch_route(routing_pb2.RouteRequest(experiment_id="support", unit_id=unit) for unit in UNITS)
    vectors = [tuple(entry.probability for entry in allocation.entries) for allocation in reply.allocations]
    assert len(vectors) == 2
    for unit, result in zip(UNITS, reply.results, strict=True):
        vector = vectors[result.response.allocation_index]
        assert (vector == (1.0, 0.0, 0.0)) == held_out("support", unit, 0.2)


async def test_every_replica_holds_out_the_same_units(router: Router, other_router: Router):
    version = (await router.run(holding_out(assignment="STICKY_HASH"))).policy_version
    await knows(other_router, version)
    mine, theirs = await routed(router), await routed(other_router)
    assert held(mine) == held(theirs)
    assert {unit: reply.arm.arm_id for unit, reply in mine.items()} == {u: r.arm.arm_id for u, r in theirs.items()}


async def test_growing_a_holdout_only_adds_units(router: Router):
    definition = holding_out(0.1, kind="FIXED", weights={"a": 0.2, "b": 0.4, "c": 0.4}, assignment="STICKY_HASH")
    await router.run(definition)
    before = await routed(router)
    definition.assignment.holdout = 0.3
    await router.update(definition)
    after = await routed(router)
    assert held(before) < held(after)
    for unit in set(UNITS) - held(after):
        assert before[unit].arm.arm_id == after[unit].arm.arm_id, "who is not held out keeps its arm"
    definition.assignment.holdout = 0.0
    await router.update(definition)
    none = await routed(router)
    assert held(none) == set()
    for unit in set(UNITS) - held(before):
        assert none[unit].arm.arm_id == before[unit].arm.arm_id


async def test_a_control_without_any_traffic_still_serves_the_holdout(router: Router):
    weights = {"a": 0.0, "b": 1.0}
    arms = [arm("a", role=types_pb2.ROLE_CONTROL), "b"]
    await router.run(holding_out(0.2, arms=arms, kind="FIXED", weights=weights, assignment="STICKY_HASH"))
    for unit, reply in (await routed(router, eligible_arm_ids=["a", "b"])).items():
        assert reply.arm.arm_id == ("a" if held_out("support", unit, 0.2) else "b")
    unit = next(unit for unit in UNITS if held_out("support", unit, 0.2))
    assert (await router.route(unit_id=unit, eligible_arm_ids=["a"])).reason == HOLDOUT
    other = next(unit for unit in UNITS if not held_out("support", unit, 0.2))
    assert (await refused(router.route(unit_id=other, eligible_arm_ids=["a"]))).reason == "NO_ELIGIBLE_ARM"


# What is asked of a request


async def test_a_holdout_needs_a_unit(router: Router):
    await router.run(holding_out())
    refusal = await refused(router.route())
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == ["unit_id"]
    assert "holds out a share" in refusal.violations["unit_id"]
    item = (await router.batch_route([routing_pb2.RouteRequest(experiment_id="support")])).results[0]
    assert item.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_forced_arm_beats_the_holdout(router: Router):
    await router.run(holding_out(0.5))
    for unit in UNITS[:20]:
        reply = await router.route(unit_id=unit, force_arm_id="b")
        assert (reply.reason, reply.arm.arm_id) == (FORCED, "b")
    assert (await router.route(force_arm_id="c")).arm.arm_id == "c", "which needs no unit"


async def test_without_the_control_a_held_out_unit_is_routed_as_others_and_teaches_nothing(router: Router):
    await router.run(holding_out(floor=0.0))
    replies = await routed(router, eligible_arm_ids=["b", "c"])
    expected = {unit for unit in UNITS if held_out("support", unit, 0.2)}
    assert held(replies) == expected, "units do not change sides by what they got"
    assert {replies[unit].arm.arm_id for unit in expected} == {"b", "c"}
    assert {replies[unit].propensity for unit in expected} == {0.5}
    unit = min(expected)
    status = (await router.reward(replies[unit].decision_id, 1.0)).status
    assert status == routing_pb2.STATUS_NEUTRAL
    assert sum(a.n for a in (await router.posterior()).arms) == 0


# What becomes of it


async def test_held_out_decisions_are_logged_and_never_learned_from(router: Router):
    await router.run(holding_out())
    replies = await routed(router, UNITS[:100])
    out = held(replies)
    assert out
    results = await router.batch_reward(event(reply.decision_id, 1.0) for reply in replies.values())
    for unit, result in zip(replies, results, strict=True):
        expected = routing_pb2.STATUS_NEUTRAL if unit in out else routing_pb2.STATUS_APPLIED
        assert result.response.status == expected
    assert sum(a.n for a in (await router.posterior()).arms) == 100 - len(out)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 100)
    rows = await query(router.url, "SELECT unit_id, propensity FROM decisions WHERE reason = 'holdout'")
    assert {unit for unit, _ in rows} == out
    assert {propensity for _, propensity in rows} == {1.0}
    assert await scalar(router.url, "SELECT count(*) FROM events") == 100, "what happened is kept all the same"
    await assert_replay_agrees(router.url)


async def test_a_retry_is_the_same_decision_and_a_changed_holdout_another(router: Router):
    unit = next(unit for unit in UNITS if held_out("support", unit, 0.3) and not held_out("support", unit, 0.1))
    definition = holding_out(0.3, arms=[arm("a", role=types_pb2.ROLE_CONTROL)])
    await router.run(definition)
    first = await router.route(unit_id=unit, request_id="r-1")
    assert (await router.route(unit_id=unit, request_id="r-1")) == first
    definition.assignment.holdout = 0.1
    await router.update(definition)
    assert (await router.route(unit_id=unit, request_id="r-1")) == first


async def test_a_retry_elsewhere_after_the_holdout_shrank_is_a_decision_of_its_own(router: Router, other_router: Router):
    """Both get the control, but one of them teaches nothing: their events must not be one decision's."""
    unit = next(unit for unit in UNITS if held_out("support", unit, 0.3) and not held_out("support", unit, 0.1))
    definition = holding_out(0.3, arms=[arm("a", role=types_pb2.ROLE_CONTROL)])
    await router.run(definition)
    first = await router.route(unit_id=unit, request_id="r-1")
    definition.assignment.holdout = 0.1
    version = (await router.update(definition)).policy_version
    await knows(other_router, version)
    second = await other_router.route(unit_id=unit, request_id="r-1")
    assert (first.reason, second.reason) == (HOLDOUT, SAMPLED)
    await until_scalar(router.url, "SELECT count(DISTINCT decision_key) FROM decisions WHERE request_id = 'r-1'", 2)


# Stable A/B assignment


async def test_growing_a_challengers_share_moves_only_the_units_it_needs(router: Router):
    definition = experiment(kind="FIXED", weights={"a": 0.9, "b": 0.1}, assignment="STICKY_HASH")
    await router.run(definition)
    before = await routed(router)
    definition.allocation.weights["a"], definition.allocation.weights["b"] = 0.7, 0.3
    await router.update(definition)
    after = await routed(router)
    moved = {unit for unit in UNITS if before[unit].arm.arm_id != after[unit].arm.arm_id}
    assert all(after[unit].arm.arm_id == "b" for unit in moved), "nobody leaves the arm that grows"
    assert len(moved) / len(UNITS) == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / len(UNITS)) ** 0.5)
    assert {bucket("support", unit) // 1_000 for unit in moved} <= set(range(10)), "and moves by whole buckets"


async def test_an_assignment_survives_a_restart(database_url: str, start_router):
    first = await start_router(database_url)
    await first.run(experiment(kind="FIXED", weights={"a": 0.5, "b": 0.5}, assignment="STICKY_HASH"))
    before = {unit: reply.arm.arm_id for unit, reply in (await routed(first)).items()}
    await first.close()
    second = await start_router(database_url)
    assert {unit: reply.arm.arm_id for unit, reply in (await routed(second)).items()} == before
    assert {reply.reason for reply in (await routed(second)).values()} == {STICKY}
