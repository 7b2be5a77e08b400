"""Shadow traffic on real servers: what is mirrored, what never answers, what is kept and what it may cost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from running import (
    Router,
    StoppableCluster,
    arm,
    assert_replay_agrees,
    experiment,
    query,
    refused,
    scalar,
    until,
    until_scalar,
)

from bandit.assignment import bucket, unit_number
from router.clocks import Clocks
from router.v1 import experiments_pb2 as pb
from router.v1 import interleave_pb2, posteriors_pb2, routing_pb2, shadow_pb2, shadow_pb2_grpc, types_pb2

SAMPLED, FORCED, HOLDOUT = routing_pb2.REASON_SAMPLED, routing_pb2.REASON_FORCED, routing_pb2.REASON_HOLDOUT
DAY_US = 86_400_000_000


class Calendar:
    """A clock whose days the test turns: noon of today, and a microsecond more at each look."""

    def __init__(self) -> None:
        self.time_us = int(datetime.now(UTC).timestamp() * 1e6) // DAY_US * DAY_US + DAY_US // 2
        self.clocks = Clocks(now_us=self.look)

    def look(self) -> int:
        self.time_us += 1
        return self.time_us


def mirroring(*arms: Any, rate: float | None = 1.0, text: str = "OFF", **fields: Any) -> pb.Experiment:
    """An experiment with the control "a", the challenger "b" and the shadow arm "s", unless told otherwise."""
    shadow = {name: fields.pop(name) for name in ("daily_budget_usd", "text_limit") if name in fields}
    given = arms or (arm("a", role="ROLE_CONTROL"), arm("b"), arm("s", role="ROLE_SHADOW", config={"top_k": 3}))
    definition = experiment(arms=given, **fields)
    definition.shadow.CopyFrom(pb.ShadowRule(rate=rate, text=f"TEXT_MODE_{text}", **shadow))
    return definition


def costing(usd: float | None = 0.5, **fields: Any) -> pb.Experiment:
    """The same, where a call of the shadow arm costs something."""
    arms = (arm("a", role="ROLE_CONTROL", cost_usd=0.1), arm("b", cost_usd=0.2), arm("s", role="ROLE_SHADOW", cost_usd=usd))
    return mirroring(*arms, **fields)


def stub(router: Router) -> shadow_pb2_grpc.ShadowServiceStub:
    return shadow_pb2_grpc.ShadowServiceStub(router.channel)


def record_request(decision_id: str, arm_id: str = "s", **fields: Any) -> shadow_pb2.RecordShadowRequest:
    fields.setdefault("serving", shadow_pb2.ModelAnswer(text="served", call=routing_pb2.CallReport(cost_usd=0.25)))
    fields.setdefault("shadow", shadow_pb2.ModelAnswer(text="mirrored", call=routing_pb2.CallReport()))
    return shadow_pb2.RecordShadowRequest(decision_id=decision_id, arm_id=arm_id, **fields)


async def record(router: Router, decision_id: str, arm_id: str = "s", **fields: Any) -> bool:
    """Record a mirrored call; returns whether it was known."""
    return (await stub(router).RecordShadow(record_request(decision_id, arm_id, **fields))).duplicate


async def comparisons(router: Router, **fields: Any) -> list[shadow_pb2.Comparison]:
    reply = await stub(router).ListComparisons(shadow_pb2.ListComparisonsRequest(experiment_id="support", **fields))
    return list(reply.comparisons)


def mirrored(reply: routing_pb2.RouteResponse) -> list[str]:
    return [found.arm_id for found in reply.shadow_arms]


# What is mirrored


async def test_a_decision_names_the_shadow_arms_and_how_much_text_is_wanted(router: Router):
    await router.run(mirroring(text="TRUNCATED", text_limit=40))
    reply = await router.route()
    assert reply.arm.arm_id in ("a", "b")
    (found,) = reply.shadow_arms
    assert (found.arm_id, found.model, found.config["top_k"]) == ("s", "model-s", 3)
    assert (reply.shadow_text, reply.shadow_text_limit) == (types_pb2.TEXT_MODE_TRUNCATED, 40)
    assert sorted(entry.arm_id for entry in reply.allocation) == ["a", "b"]
    assert sum(entry.probability for entry in reply.allocation) == pytest.approx(1)


async def test_without_shadow_arms_nothing_is_mirrored(router: Router):
    await router.run(mirroring(arm("a", role="ROLE_CONTROL"), arm("b")))
    reply = await router.route()
    assert mirrored(reply) == []
    assert (reply.shadow_text, reply.shadow_text_limit) == (types_pb2.TEXT_MODE_UNSPECIFIED, 0)


@pytest.mark.parametrize(("rate", "share"), [(None, 0.1), (0.0, 0.0), (0.4, 0.4), (1.0, 1.0)])
async def test_the_share_that_is_mirrored_is_a_hash_of_the_decision(router: Router, rate: float | None, share: float):
    await router.run(mirroring(rate=rate))
    replies = [result.response for result in (await router.batch_route([_request(f"r-{n}") for n in range(600)])).results]
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 600)
    keys = dict(await _keys(router))
    for reply in replies:
        expected = unit_number("shadow", "support", keys[reply.decision_id].hex) < share
        assert (mirrored(reply) == ["s"]) == expected
    count = sum(bool(reply.shadow_arms) for reply in replies)
    # Ten standard deviations of a binomial: the draw is fixed by the hash, but not by this test.
    assert abs(count - 600 * share) <= 10 * (600 * share * (1 - share)) ** 0.5


def _request(request_id: str = "", **fields: Any) -> routing_pb2.RouteRequest:
    return routing_pb2.RouteRequest(experiment_id="support", request_id=request_id, **fields)


async def _keys(router: Router) -> list[tuple[str, uuid.UUID]]:
    """The key of each decision of these 600, by its id: a repeated request is the same decision."""
    again = await router.batch_route([_request(f"r-{n}") for n in range(600)])
    rows = dict(await query(router.url, "SELECT request_id, decision_key FROM decisions"))
    return [(result.response.decision_id, rows[f"r-{n}"]) for n, result in enumerate(again.results)]


async def test_a_retry_is_mirrored_alike_on_every_replica(router: Router, other_router: Router):
    await router.run(mirroring(rate=0.5))
    for n in range(40):
        one, same, other = [await r.route(request_id=f"r-{n}") for r in (router, router, other_router)]
        assert one == same
        assert mirrored(one) == mirrored(other)


async def test_a_batch_mirrors_as_single_calls_do(router: Router):
    await router.run(mirroring(text="FULL"))
    reply = await router.batch_route([_request(), _request(force_control=True), _request(eligible_arm_ids=["a"])])
    shown = [(mirrored(r.response), r.response.shadow_text, r.response.reason) for r in reply.results]
    full, none = types_pb2.TEXT_MODE_FULL, types_pb2.TEXT_MODE_UNSPECIFIED
    # Whoever may answer: the shadow arm is called beside it.
    assert shown == [(["s"], full, SAMPLED), ([], none, FORCED), (["s"], full, SAMPLED)]


async def test_units_that_are_held_out_are_mirrored_too(router: Router):
    await router.run(mirroring(holdout=0.5))
    replies = [await router.route(unit_id=f"u-{n}") for n in range(40)]
    assert {reply.reason for reply in replies} == {SAMPLED, HOLDOUT}
    assert all(mirrored(reply) == ["s"] for reply in replies)


# A shadow arm never answers


@pytest.mark.parametrize(
    ("fields", "field"), [({"force_arm_id": "s"}, "force_arm_id"), ({"eligible_arm_ids": ["a", "s"]}, "eligible_arm_ids[1]")]
)
async def test_asking_for_a_shadow_arm_is_refused_with_the_reason(router: Router, fields: dict[str, Any], field: str):
    await router.run(mirroring())
    refusal = await refused(router.route(**fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ARM_NOT_FOUND")
    assert refusal.metadata == {"arm_id": "s"}
    assert refusal.message == (
        f"{field}: 's' is a shadow arm of experiment 'support': it is called beside the arm that answers, and never answers"
        " itself"
    )


async def test_an_arm_changes_roles_and_keeps_its_evidence(router: Router):
    await router.run(mirroring())
    await router.learn("b", 7, 3)
    as_shadow = mirroring(arm("a", role="ROLE_CONTROL"), arm("b", role="ROLE_SHADOW"))
    await router.update(as_shadow)
    reply = await router.route(unit_id="u")
    assert (reply.arm.arm_id, reply.propensity, mirrored(reply)) == ("a", 1.0, ["b"])
    assert set(await router.arms()) == {"a"}
    assert await query(router.url, "SELECT arm_id, active FROM posterior_latest ORDER BY 1") == [("a", True), ("s", False)]
    shown = {found.arm_id: found for found in (await router.get()).arms}
    assert (shown["b"].role, shown["b"].version) == (types_pb2.ROLE_SHADOW, 1)
    await router.update(mirroring(arm("a", role="ROLE_CONTROL"), arm("b")))
    found = (await router.arms())["b"]
    assert (found.alpha, found.beta, found.n, found.version) == (8, 4, 10, 1)
    await assert_replay_agrees(router.url)


async def test_late_feedback_on_an_arm_that_became_a_shadow_counts(router: Router):
    await router.run(mirroring())
    decision = await router.route(eligible_arm_ids=["b"])
    await router.update(mirroring(arm("a", role="ROLE_CONTROL"), arm("b", role="ROLE_SHADOW")))
    assert (await router.reward(decision.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
    await router.update(mirroring())
    assert (await router.arms())["b"].n == 1


# The control forced


async def test_the_control_can_be_forced_and_teaches_nothing(router: Router):
    await router.run(mirroring(arm("b"), arm("a", role="ROLE_CONTROL"), holdout=0.2))
    decision = await router.route(force_control=True)
    assert (decision.arm.arm_id, decision.propensity, decision.reason) == ("a", 1.0, FORCED)
    assert (await router.reward(decision.decision_id, 1.0)).status == routing_pb2.STATUS_NEUTRAL
    assert (await router.arms())["a"].n == 0


async def test_a_retry_of_a_failed_call_is_not_answered_by_the_same_arm_again(router: Router):
    await router.run(experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b")]))
    first = await router.route(request_id="r", eligible_arm_ids=["b"])
    assert first.arm.arm_id == "b"
    assert (await router.route(request_id="r", eligible_arm_ids=["b"], force_control=True)).arm.arm_id == "a"


async def test_forcing_the_control_needs_one(router: Router):
    await router.run()
    refusal = await refused(router.route(force_control=True))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_ELIGIBLE_ARM")
    assert "'support' has no control" in refusal.message


async def test_two_arms_cannot_be_forced(router: Router):
    await router.run(mirroring())
    refusal = await refused(router.route(force_control=True, force_arm_id="b"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert set(refusal.violations) == {"force_control"}


# The shadow state


@pytest.mark.parametrize("assignment", ["PER_REQUEST", "STICKY_HASH", "STICKY_STORED"])
async def test_in_state_shadow_the_control_answers_alone(router: Router, assignment: str):
    await router.create(mirroring(assignment=assignment, holdout=0.3))
    moved = await router.move("Shadow")
    assert moved.state == pb.STATE_SHADOW
    for _ in range(20):
        reply = await router.route()  # no unit is needed
        assert (reply.arm.arm_id, reply.propensity, reply.reason) == ("a", 1.0, SAMPLED)
        assert mirrored(reply) == ["b", "s"]
        assert {entry.arm_id: entry.probability for entry in reply.allocation} == {"a": 1.0, "b": 0.0}
    assert (await router.reward(reply.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
    found = await router.arms()
    assert (found["a"].n, found["a"].allocation, found["b"].allocation) == (1, 1.0, 0.0)
    assert await scalar(router.url, "SELECT count(*) FROM sticky_assignments") == 0
    refusal = await refused(router.route(eligible_arm_ids=["b"]))
    assert refusal.reason == "NO_ELIGIBLE_ARM"
    forced = await router.route(force_arm_id="b")
    assert (forced.arm.arm_id, forced.reason, mirrored(forced)) == ("b", FORCED, [])
    await router.move("Start")
    decisions = [await router.route(unit_id=f"u-{n}") for n in range(60)]
    assert {decision.arm.arm_id for decision in decisions} == {"a", "b"}
    assert {tuple(mirrored(decision)) for decision in decisions} == {("s",)}
    await assert_replay_agrees(router.url)


async def test_a_stable_ab_test_deals_units_the_same_arms_before_and_after(router: Router):
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    arms = (arm("a", role="ROLE_CONTROL"), arm("b"), arm("c"))
    await router.run(mirroring(*arms, kind="FIXED", weights=weights, assignment="STICKY_HASH"))
    units = [f"u-{n}" for n in range(200)]

    async def dealt() -> dict[str, str]:
        replies = await router.batch_route([_request(unit_id=unit) for unit in units])
        return {unit: result.response.arm.arm_id for unit, result in zip(units, replies.results, strict=True)}

    before = await dealt()
    # Contiguous runs of buckets, by hand: 5,000 for a, 3,000 for b, the rest for c.
    assert before == {
        u: "a" if bucket("support", u) < 5_000 else "b" if bucket("support", u) < 8_000 else "c" for u in units
    }
    await router.move("Shadow")
    assert set((await dealt()).values()) == {"a"}
    # A definition that changes meanwhile moves only the units that it must.
    await router.update(mirroring(*arms, kind="FIXED", weights={"a": 0.4, "b": 0.4, "c": 0.2}, assignment="STICKY_HASH"))
    assert set((await dealt()).values()) == {"a"}
    await router.move("Start")
    after = await dealt()
    moved = [unit for unit in units if before[unit] != after[unit]]
    assert {(before[unit], after[unit]) for unit in moved} == {("a", "b")}
    assert len(moved) < 40  # 20 are expected


async def test_the_ramp_begins_when_the_experiment_first_runs(router: Router):
    await router.create(mirroring(arm("a", role="ROLE_CONTROL"), arm("b"), ramp=pb.RampRule(challenger_arm_id="b")))
    in_shadow = await router.move("Shadow")
    assert not in_shadow.HasField("ramp_status")
    assert (await refused(router.ramp("Promote"))).reason == "INVALID_TRANSITION"
    running = await router.move("Start")
    assert running.ramp_status.stage == 0
    assert running.ramp_status.cap == pytest.approx(0.01)
    back = await router.move("Shadow")
    assert (back.ramp_status.floor, back.ramp_status.cap) == (0.0, 0.0)
    refusal = await refused(router.ramp("Promote"))
    assert "it is shadow: start it before its challenger is promoted" in refusal.message
    assert (await router.route()).arm.arm_id == "a"


async def test_an_interleaved_experiment_needs_no_turns_in_state_shadow_and_deals_no_lists(router: Router):
    await router.create(mirroring(kind="UNIFORM", assignment="INTERLEAVED"))
    await router.move("Shadow")
    assert (await router.route()).arm.arm_id == "a"
    rankings = [interleave_pb2.Ranking(arm_id=name, item_ids=["x", "y"]) for name in ("a", "b")]
    asked = interleave_pb2.InterleaveRequest(experiment_id="support", rankings=rankings)
    refusal = await refused(router.interleaving.Interleave(asked))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXPERIMENT_NOT_RUNNING")
    assert refusal.metadata["state"] == "shadow"
    turns = interleave_pb2.CompareTurnsRequest(experiment_id="support", arm_id="b")
    assert (await router.interleaving.CompareTurns(turns)).excluded_turns == 0
    await router.move("Start")
    assert len((await router.interleaving.Interleave(asked)).items) == 2
    rankings[1].arm_id = "s"
    asked = interleave_pb2.InterleaveRequest(experiment_id="support", rankings=rankings)
    assert "'s' is a shadow arm" in (await refused(router.interleaving.Interleave(asked))).message


async def test_a_replica_that_knows_the_state_before_asks_before_it_refuses(router: Router, other_router: Router):
    await router.create(mirroring(kind="UNIFORM"))
    await router.move("Shadow")
    assert (await other_router.route()).arm.arm_id == "a"
    await router.move("Start")
    rankings = [interleave_pb2.Ranking(arm_id=name, item_ids=["x", "y"]) for name in ("a", "b")]
    asked = interleave_pb2.InterleaveRequest(experiment_id="support", rankings=rankings)
    assert len((await other_router.interleaving.Interleave(asked)).items) == 2


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        (experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b")]), "shadow: the shadow state needs it"),
        (mirroring(arm("a"), arm("b")), "arms: in state shadow the control answers alone, and there is none"),
        (mirroring(arm("a", role="ROLE_CONTROL")), "arms: in state shadow the other arms are mirrored, and there is none"),
        (
            mirroring(arm("a", role="ROLE_CONTROL"), arm("b"), daily_budget_usd=1.0),
            "arms[1].cost_usd: with shadow.daily_budget_usd each arm that is mirrored needs it",
        ),
    ],
)
async def test_what_keeps_an_experiment_from_the_shadow_state(router: Router, definition: pb.Experiment, told: str):
    await router.create(definition)
    refusal = await refused(router.move("Shadow"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION")
    assert told in refusal.message
    assert (await router.get()).state == pb.STATE_DRAFT


async def test_a_definition_that_could_not_be_in_state_shadow_is_refused_there(router: Router):
    await router.create(mirroring())
    await router.move("Shadow")
    for arms, fields in (((arm("a"), arm("b")), {}), ((arm("a", role="ROLE_CONTROL"), arm("b")), {"daily_budget_usd": 2.0})):
        refusal = await refused(router.update(mirroring(*arms, **fields)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION")
    without = experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b")])
    assert (await router.update(without)).state == pb.STATE_SHADOW
    reply = await router.route()
    assert (reply.arm.arm_id, mirrored(reply)) == ("a", [])


async def test_the_life_of_an_experiment_with_a_shadow_state(router: Router):
    await router.create(mirroring())
    states = [(await router.move(verb)).state for verb in ("Shadow", "Start", "Shadow", "Start", "Pause", "Shadow")]
    shadow, running = pb.STATE_SHADOW, pb.STATE_RUNNING
    assert states == [shadow, running, shadow, running, pb.STATE_PAUSED, shadow]
    for verb in ("Pause", "Resume", "Shadow"):
        assert (await refused(router.move(verb))).metadata["state"] == "shadow"
    assert (await router.move("Conclude")).state == pb.STATE_CONCLUDED
    assert (await refused(router.move("Shadow"))).metadata["state"] == "concluded"
    told = await router.transitions(kind="STATE")
    assert [(getattr(change, "from"), change.to) for change in told[:2]] == [("draft", "shadow"), ("shadow", "running")]


async def test_a_definition_comes_back_as_it_was_given(router: Router):
    given = costing(text="TRUNCATED", text_limit=20, daily_budget_usd=3.5, rate=0.25)
    given.allocation.priors["b"].CopyFrom(pb.BetaPrior(alpha=6, beta=4))
    created = await router.create(given)
    assert created.shadow == given.shadow
    assert created.allocation == given.allocation
    assert [found.role for found in created.arms] == [1, 2, 3]
    assert (await router.update(created)).etag == created.etag
    created.shadow.rate = 0.5
    assert (await router.update(created)).etag != created.etag


# Priors of single arms


async def test_an_arm_learns_on_from_its_own_prior(router: Router):
    definition = experiment(prior=(2.0, 3.0), floor=0.0)
    definition.allocation.priors["b"].CopyFrom(pb.BetaPrior(alpha=60, beta=40))
    await router.run(definition)
    await router.learn("a", 1)
    await router.learn("b", 3, 1)
    found = await router.arms()
    assert (found["a"].alpha, found["a"].beta, found["b"].alpha, found["b"].beta) == (3, 3, 63, 41)
    assert await query(router.url, "SELECT arm_id, alpha, beta FROM posterior_latest ORDER BY 1") == [
        ("a", 3.0, 3.0),
        ("b", 63.0, 41.0),
    ]
    version = (await router.posterior()).policy_version

    async def same() -> bool:
        reply = await router.route(unit_id="u")
        shares = {entry.arm_id: entry.probability for entry in reply.allocation}
        return reply.policy_version >= version and shares == {name: found[name].allocation for name in ("a", "b")}

    await until(same, "Route draws from what GetPosterior says")
    assert found["b"].allocation == pytest.approx(0.68, abs=0.05)
    await assert_replay_agrees(router.url)


# What is recorded


async def test_a_comparison_is_kept_whole(router: Router):
    await router.run(mirroring(text="FULL"))
    decision = await router.route(unit_id="u-1")
    call = routing_pb2.CallReport(latency=Duration(seconds=1, nanos=5000), input_tokens=3, output_tokens=0, cost_usd=0.0)
    answers = {
        "serving": shadow_pb2.ModelAnswer(
            text="Grüße", call=call, model="m-1", stop_reason="end_turn", provider_request_id="req_1"
        ),
        "shadow": shadow_pb2.ModelAnswer(call=routing_pb2.CallReport(error="timeout"), model="m-2"),
    }
    assert not await record(router, decision.decision_id, prompt="Hallo\nWelt", request_id="my-1", **answers)
    (found,) = await comparisons(router)
    assert (found.serving, found.shadow) == (answers["serving"], answers["shadow"])
    assert (found.prompt, found.request_id, found.text) == ("Hallo\nWelt", "my-1", types_pb2.TEXT_MODE_FULL)
    assert (found.serving_arm_id, found.serving_arm_version) == (decision.arm.arm_id, 1)
    assert (found.shadow_arm_id, found.shadow_arm_version) == ("s", 1)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1)
    ((key, decided_at),) = await query(router.url, "SELECT decision_key, decided_at FROM decisions")
    assert (found.decision_key, found.decision_time.ToDatetime(UTC)) == (str(key), decided_at)
    assert found.record_time.ToDatetime(UTC) >= decided_at
    assert await scalar(router.url, "SELECT decision_day FROM shadow_comparisons") == decided_at.date()


async def test_comparisons_of_a_unit_are_known_as_such(router: Router):
    await router.run(mirroring())
    for unit in ("u-1", "u-2", "u-1", ""):
        await record(router, (await router.route(unit_id=unit)).decision_id, request_id=unit or "none")
    rows = await query(
        router.url, "SELECT request_id, count(*), count(DISTINCT unit_hash) FROM shadow_comparisons GROUP BY 1"
    )
    assert sorted(rows) == [("none", 1, 0), ("u-1", 2, 1), ("u-2", 1, 1)]
    assert await scalar(router.url, "SELECT count(DISTINCT unit_hash) FROM shadow_comparisons") == 2


async def test_a_repeated_record_changes_nothing(router: Router):
    await router.run(costing(text="FULL"))
    decision = await router.route()
    assert not await record(router, decision.decision_id)
    other = shadow_pb2.ModelAnswer(text="another", call=routing_pb2.CallReport(cost_usd=9))
    assert await record(router, decision.decision_id, shadow=other)
    (found,) = await comparisons(router)
    assert found.shadow.text == "mirrored"
    assert await query(router.url, "SELECT cost_usd, calls FROM shadow_spend") == [(0.5, 1)]
    ids = [(await router.route()).decision_id for _ in range(8)]
    replies = await asyncio.gather(*(record(router, decision_id) for decision_id in ids))
    assert replies == [False] * 8
    one = (await router.route()).decision_id
    assert Counter(await asyncio.gather(*(record(router, one) for _ in range(6)))) == {False: 1, True: 5}
    assert await query(router.url, "SELECT cost_usd, calls FROM shadow_spend") == [(5.0, 10)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("FULL", ("12345678", "abcdefg", "äöüäöü")), ("TRUNCATED", ("1234", "abcd", "äöüä")), ("OFF", ("", "", ""))],
)
async def test_the_server_applies_the_text_rule_whatever_it_is_sent(router: Router, text: str, kept: tuple[str, ...]):
    await router.run(mirroring(text=text, **({"text_limit": 4} if text == "TRUNCATED" else {})))
    decision = await router.route()
    answers = {
        name: shadow_pb2.ModelAnswer(text=said, call=routing_pb2.CallReport())
        for name, said in (("serving", "abcdefg"), ("shadow", "äöüäöü"))
    }
    await record(router, decision.decision_id, prompt="12345678", **answers)
    (found,) = await comparisons(router)
    assert (found.prompt, found.serving.text, found.shadow.text) == kept
    nulls = await scalar(router.url, "SELECT num_nulls(prompt, serving_text, shadow_text) FROM shadow_comparisons")
    assert nulls == (3 if text == "OFF" else 0)


async def test_the_rule_in_force_when_a_record_arrives_counts(router: Router, other_router: Router):
    await router.run(mirroring(text="FULL"))
    first, second = [(await other_router.route()).decision_id for _ in range(2)]
    await router.update(mirroring(text="OFF"))
    await record(other_router, first, prompt="private")
    await router.update(experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b")]))
    await record(other_router, second, prompt="private")  # its arm is retired, and there is no rule any more
    assert await scalar(router.url, "SELECT count(*) FROM shadow_comparisons WHERE prompt IS NULL") == 2


@pytest.mark.parametrize("verbs", [["Pause"], ["Conclude"]])
async def test_records_of_experiments_that_do_not_serve_any_more_are_kept(router: Router, verbs: list[str]):
    await router.run(mirroring())
    decision = await router.route()
    for verb in verbs:
        await router.move(verb)
    assert not await record(router, decision.decision_id)
    assert len(await comparisons(router)) == 1


async def test_the_version_that_was_called_is_the_one_compared(router: Router):
    await router.run(costing())
    decision = await router.route()
    newer = costing()
    newer.arms[2].model = "newer"
    newer.arms[2].cost_usd = 7
    await router.update(newer)
    await record(router, decision.decision_id)
    await record(router, (await router.route()).decision_id)
    assert sorted((found.shadow_arm_version) for found in await comparisons(router)) == [1, 2]
    assert await scalar(router.url, "SELECT cost_usd FROM shadow_spend") == 7.5


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"arm_id": "nobody"}, "", "ARM_NOT_FOUND"),
        ({"arm_id": "a"}, "", "ARM_NOT_FOUND"),
        ({"arm_id": ""}, "arm_id", "INVALID_FIELD"),
        ({"decision_id": "x"}, "decision_id", "DECISION_ID_MALFORMED"),
        ({"shadow": shadow_pb2.ModelAnswer()}, "shadow.call", "INVALID_FIELD"),
        ({"prompt": "\0"}, "prompt", "INVALID_FIELD"),
        (
            {"shadow": shadow_pb2.ModelAnswer(call=routing_pb2.CallReport(latency=Duration(nanos=2_000_000_000)))},
            "shadow.call.latency",
            "INVALID_FIELD",
        ),
    ],
)
async def test_a_record_that_is_refused(router: Router, fields: dict[str, Any], field: str, reason: str):
    await router.run(mirroring())
    decision = await router.route(force_arm_id="a")
    refusal = await refused(stub(router).RecordShadow(record_request(**{"decision_id": decision.decision_id, **fields})))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert set(refusal.violations) == ({field} if field else set())
    assert await scalar(router.url, "SELECT count(*) FROM shadow_comparisons") == 0


async def test_a_tampered_decision_id_is_refused(router: Router):
    await router.run(mirroring())
    decision_id = (await router.route()).decision_id
    forged = decision_id[:40] + ("A" if decision_id[40] != "A" else "B") + decision_id[41:]
    assert (await refused(stub(router).RecordShadow(record_request(forged)))).reason == "DECISION_ID_TAMPERED"


async def test_while_postgres_is_away_records_wait_with_their_caller(
    stoppable: StoppableCluster, stoppable_url: str, start_router: Any
):
    router = await start_router(stoppable_url)
    await router.run(mirroring())
    decision_id = (await router.route()).decision_id
    stoppable.stop()
    refusal = await refused(stub(router).RecordShadow(record_request(decision_id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refusal.retry_after_s == 1.0

    async def unmirrored() -> bool:
        return not (await router.route()).shadow_arms

    await until(unmirrored, "nothing is mirrored that nobody could record")
    stoppable.start()

    async def stored() -> bool:
        try:
            return not await record(router, decision_id)
        except grpc.aio.AioRpcError:
            return False

    await until(stored, "the record is taken")


# Lists


async def test_comparisons_are_listed_newest_first_page_by_page(database_url: str, start_router: Any):
    calendar = Calendar()
    router = await start_router(database_url, calendar.clocks)
    await router.create(mirroring(text="FULL"))
    await router.move("Shadow")
    for n in range(5):
        decision = await router.route(request_id=f"r-{n}")
        for name in ("b", "s"):
            await record(router, decision.decision_id, name, request_id=f"{n}{name}")
    whole = [found.request_id for found in await comparisons(router)]
    assert whole == [f"{n}{name}" for n in (4, 3, 2, 1, 0) for name in ("s", "b")]
    pages, token = [], ""
    while True:
        asked = shadow_pb2.ListComparisonsRequest(experiment_id="support", page_size=3, page_token=token)
        reply = await stub(router).ListComparisons(asked)
        pages.append([found.request_id for found in reply.comparisons])
        token = reply.next_page_token
        if not token:
            break
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert [name for page in pages for name in page] == whole
    assert [found.request_id for found in await comparisons(router, arm_id="b")] == ["4b", "3b", "2b", "1b", "0b"]


async def test_a_page_ends_before_it_is_too_large(router: Router):
    await router.run(mirroring(text="FULL"))
    long = shadow_pb2.ModelAnswer(text="ä" * 900_000, call=routing_pb2.CallReport())
    for _ in range(7):
        await record(router, (await router.route()).decision_id, prompt="p" * 1_000_000, shadow=long)
    asked = shadow_pb2.ListComparisonsRequest(experiment_id="support")
    sizes = []
    while True:
        reply = await stub(router).ListComparisons(asked)
        assert reply.ByteSize() <= 8 * 1024 * 1024
        sizes.append(len(reply.comparisons))
        if not reply.next_page_token:
            break
        asked.page_token = reply.next_page_token
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"arm_id": "nobody"}, "ARM_NOT_FOUND"),
        ({"page_token": "x"}, "INVALID_PAGE_TOKEN"),
        ({"page_token": "YmVmb3JlOjE6Mg=="}, "INVALID_PAGE_TOKEN"),
        ({"experiment_id": "nothing"}, "EXPERIMENT_NOT_FOUND"),
    ],
)
async def test_a_list_that_is_refused(router: Router, fields: dict[str, str], reason: str):
    await router.run(mirroring())
    asked = shadow_pb2.ListComparisonsRequest(**{"experiment_id": "support", **fields})
    assert (await refused(stub(router).ListComparisons(asked))).reason == reason


# The budget


async def test_the_budget_ends_mirroring_until_the_next_day_on_every_replica_and_after_a_restart(
    database_url: str, start_router: Any
):
    calendar = Calendar()
    router, other = [await start_router(database_url, calendar.clocks, keeper=False) for _ in range(2)]
    await router.run(costing(daily_budget_usd=1.25))
    reported = shadow_pb2.ModelAnswer(call=routing_pb2.CallReport(cost_usd=0.25))
    decisions = [await each.route() for each in (router, other, router, router)]
    assert [mirrored(decision) for decision in decisions] == [["s"]] * 4
    await record(router, decisions[0].decision_id)  # 0.5: the arm's cost
    await record(other, decisions[1].decision_id, shadow=reported)  # 0.75
    assert [mirrored(await each.route()) for each in (router, other)] == [["s"], ["s"]]
    await record(router, decisions[2].decision_id)  # 1.25
    assert mirrored(await router.route()) == []

    async def ended(each: Router) -> bool:
        return not (await each.route()).shadow_arms

    await until(lambda: ended(other), "the other replica hears of it")
    # What was under way is recorded all the same.
    assert not await record(other, decisions[3].decision_id)
    day = date(1970, 1, 1) + timedelta(days=calendar.time_us // DAY_US)
    assert await query(database_url, "SELECT day, cost_usd, calls FROM shadow_spend") == [(day, 1.75, 4)]
    third = await start_router(database_url, calendar.clocks, keeper=False)
    assert mirrored(await third.route()) == []
    calendar.time_us += DAY_US
    for each in (router, other, third):
        assert mirrored(await each.route()) == ["s"]
    await record(router, (await router.route()).decision_id)
    days = await query(database_url, "SELECT day - %s::date, cost_usd FROM shadow_spend ORDER BY 1", day)
    assert days == [(0, 1.75), (1, 0.5)]


async def test_replicas_find_out_without_a_message(router: Router, other_router: Router):
    await router.run(costing(daily_budget_usd=1.0))
    assert mirrored(await other_router.route()) == ["s"]
    await query(
        router.url, "INSERT INTO shadow_spend SELECT incarnation, (now() AT TIME ZONE 'utc')::date, 2, 1 FROM experiments"
    )

    async def ended() -> bool:
        return not any([(await each.route()).shadow_arms for each in (router, other_router)])

    await until(ended, "both have read what was spent")


async def test_a_new_budget_counts_what_was_spent_today(router: Router):
    await router.run(costing())
    for _ in range(3):
        await record(router, (await router.route()).decision_id)
    await router.update(costing(daily_budget_usd=1.5))
    assert mirrored(await router.route()) == []
    await router.update(costing(daily_budget_usd=1.51))
    assert mirrored(await router.route()) == ["s"]


async def test_enormous_costs_do_not_break_the_sum(router: Router):
    await router.run(mirroring())
    costly = shadow_pb2.ModelAnswer(call=routing_pb2.CallReport(cost_usd=1.7e308))
    for _ in range(2):
        await record(router, (await router.route()).decision_id, shadow=costly)
    assert await scalar(router.url, "SELECT cost_usd FROM shadow_spend") == 2e9
    assert {found.shadow.call.cost_usd for found in await comparisons(router)} == {1.7e308}


async def test_what_is_asked_about_an_experiment_with_shadow_arms_is_answered(router: Router):
    await router.run(mirroring())
    decision = await router.route(session_id="s", turn_id="1")
    await router.reward(decision.decision_id, 1.0)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1)
    metrics = await router.posteriors.GetMetrics(posteriors_pb2.GetMetricsRequest(experiment_id="support"))
    assert [found.arm_id for found in metrics.metrics] == [decision.arm.arm_id]
    assert not any("s has no decisions" in warning for warning in metrics.warnings)
    assert await query(router.url, "SELECT arm_id FROM arm_metrics") == [(decision.arm.arm_id,)]
    assert {found.arm_id for found in (await router.posterior()).arms} == {"a", "b"}


@pytest.mark.parametrize("arm_id", ["", "\0", "s\0", "s t", "x" * 129])
async def test_arm_ids_that_no_arm_can_have(router: Router, arm_id: str) -> None:
    await router.run(mirroring())
    reply = await router.route()
    found = await refused(stub(router).RecordShadow(record_request(reply.decision_id, arm_id)))
    assert (found.code, list(found.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["arm_id"])
