"""Ramps through the API: when they begin and start over, what each verb does, and who is refused."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from running import Router, arm, experiment, locked, query, refusal_of, refused, scalar, until, until_waiting

from router.v1 import experiments_pb2 as pb
from router.v1 import routing_pb2

Phase = pb.RampStatus
RAMPING, AWAITING, PROMOTED = Phase.PHASE_RAMPING, Phase.PHASE_AWAITING_APPROVAL, Phase.PHASE_PROMOTED
ROLLED_BACK, ABORTED = Phase.PHASE_ROLLED_BACK, Phase.PHASE_ABORTED


@pytest.fixture(autouse=True)
def _nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the controller does by itself is tested elsewhere."""
    monkeypatch.setattr("router.controllers.ramp.EVERY_S", 3600.0)


def ramp(*caps: float, **fields: Any) -> pb.RampRule:
    """Stages with these caps, an hour each, with a limit on the retry rate."""
    rail = pb.Guardrail(metric="METRIC_RETRY", limit=0.1)
    rule = pb.RampRule(guardrails=[rail], **fields)
    for cap in caps:
        rule.stages.add(cap=cap).duration.FromSeconds(3600)
    return rule


def definition(rule: pb.RampRule | None = None, **fields: Any) -> pb.Experiment:
    fields.setdefault("arms", [arm("old", role="ROLE_CONTROL"), arm("new", role="ROLE_CHALLENGER")])
    return experiment(ramp=rule if rule is not None else ramp(0.1, 0.4, 1.0), **fields)


def stage_of(stored: pb.Experiment) -> tuple[int, int]:
    return stored.ramp_status.phase, stored.ramp_status.stage


async def shares(router: Router, **fields: Any) -> dict[str, float]:
    """The allocation that a request meets."""
    reply = await router.route(**{"unit_id": "u", **fields})
    return {entry.arm_id: entry.probability for entry in reply.allocation}


async def dealt(router: Router) -> list[int]:
    """The arm of each bucket."""
    table = await scalar(router.url, "SELECT bucket_table FROM experiments")
    return [int.from_bytes(table[i : i + 2], "big") for i in range(0, len(table), 2)]


async def test_a_ramp_begins_when_the_experiment_runs(router: Router):
    draft = await router.create(definition())
    assert not draft.HasField("ramp_status")
    running = await router.move("Start", actor="ann", reason="go")
    status = running.ramp_status
    assert (status.phase, status.stage, status.version, status.approved) == (RAMPING, 0, 1, False)
    assert (status.floor, status.cap) == (0.05, 0.1)
    assert status.HasField("stage_since")
    assert (await router.get()).ramp_status.phase == RAMPING
    rows = [(row.kind, row.to, row.actor) for row in await router.transitions()]
    assert rows == [
        (pb.Transition.KIND_DEFINITION, draft.etag, ""),
        (pb.Transition.KIND_STATE, "running", "ann"),
        (pb.Transition.KIND_RAMP, "ramping, stage 1", "ann"),
    ]
    listed = await router.experiments.ListExperiments(pb.ListExperimentsRequest())
    assert [e.ramp_status.phase for e in listed.experiments] == [RAMPING]


async def test_a_ramp_that_is_all_defaults_is_one(router: Router):
    await router.run(definition(pb.RampRule()))
    status = (await router.get()).ramp_status
    assert (status.phase, status.cap) == (RAMPING, 0.01)
    before = await router.get()
    assert await router.update(definition(pb.RampRule())) == before


async def test_thompson_sampling_moves_between_half_the_cap_and_the_cap(router: Router):
    await router.run(definition())
    assert await shares(router) == pytest.approx({"old": 0.9, "new": 0.1})
    await router.learn("old", 200)
    await router.learn("new", 1, 200)

    async def disliked() -> bool:
        return (await shares(router))["new"] == pytest.approx(0.05, abs=1e-6)

    await until(disliked, "the challenger is held at its floor")


async def test_each_verb_takes_effect_on_every_replica(router: Router, other_router: Router):
    await router.run(definition())
    await shares(other_router)
    for verb, phase, stage, cap in (
        ("Advance", RAMPING, 1, 0.4),
        ("Advance", RAMPING, 2, 1.0),
        ("RollBack", ROLLED_BACK, 2, 0.0),
    ):
        moved = await router.ramp(verb, actor="ann", reason=f"because {verb}")
        assert stage_of(moved) == (phase, stage)
        assert (moved.ramp_status.cap, moved.ramp_status.version) == (cap, stage + 1 + (phase == ROLLED_BACK))
        assert moved == await router.get()
        assert (await shares(router))["new"] <= cap, "at once where it was asked for"

        async def known(cap: float = cap) -> bool:
            return (await shares(other_router))["new"] <= cap and (cap == 0 or (await shares(other_router))["new"] > cap / 2)

        await until(known, "the other replica knows", 2)
    rows = await router.transitions(kind="RAMP")
    assert [(row.to, row.actor, row.reason) for row in rows[1:]] == [
        ("ramping, stage 2", "ann", "because Advance"),
        ("ramping, stage 3", "ann", "because Advance"),
        ("rolled back, stage 3", "ann", "because RollBack"),
    ]
    assert [row.transition_id for row in rows] == sorted({row.transition_id for row in rows})
    assert not any(row.HasField("assessment") for row in rows)


async def test_promotion_lifts_every_limit_of_the_ramp_and_abort_wins_even_then(router: Router):
    await router.run(definition(arms=[arm("old", role="ROLE_CONTROL"), arm("new", cap=0.7)]))
    promoted = await router.ramp("Promote", actor="ann")
    assert stage_of(promoted) == (PROMOTED, 0)
    assert promoted.ramp_status.approved
    assert (promoted.ramp_status.floor, promoted.ramp_status.cap) == (0.01, 0.7)
    assert await shares(router) == pytest.approx({"old": 0.5, "new": 0.5})
    aborted = await router.ramp("Abort", actor="ann")
    assert stage_of(aborted) == (ABORTED, 0)
    assert await shares(router) == {"old": 1.0, "new": 0.0}


async def test_approval_is_noted_before_it_is_awaited(router: Router):
    await router.run(definition(ramp(0.5, 1.0, approval=True)))
    noted = await router.ramp("Approve", actor="ann")
    assert stage_of(noted) == (RAMPING, 0)
    assert (noted.ramp_status.approved, noted.ramp_status.version) == (True, 2)
    assert (await router.transitions())[-1].to == "ramping, stage 1, approved"
    await query(router.url, "UPDATE ramps SET phase = 'awaiting approval', approved = false, stage = 1")
    approved = await router.ramp("Approve", actor="ben")
    assert stage_of(approved) == (PROMOTED, 1)


PREPARED = {
    "no ramp": lambda router: router.run(),
    "draft": lambda router: router.create(definition()),
    "ramping": lambda router: router.run(definition()),
    "last stage": lambda router: router.run(definition(ramp(1.0))),
    "rolled back": lambda router: _after(router, "RollBack"),
    "aborted": lambda router: _after(router, "Abort"),
    "promoted": lambda router: _after(router, "Promote"),
    "concluded": lambda router: _after(router, "", "Conclude"),
    "paused": lambda router: _after(router, "", "Pause"),
}
REFUSED = {
    "no ramp": {"Approve", "Advance", "Promote", "RollBack", "Abort"},
    "draft": {"Approve", "Advance", "Promote", "RollBack", "Abort"},
    "ramping": {"Approve"},
    "last stage": {"Approve", "Advance"},
    "rolled back": {"Approve", "Advance", "Promote", "RollBack"},
    "aborted": {"Approve", "Advance", "Promote", "RollBack", "Abort"},
    "promoted": {"Approve", "Advance", "Promote", "RollBack"},
    "concluded": {"Approve", "Advance", "Promote", "RollBack", "Abort"},
    "paused": {"Approve", "Promote"},
}


async def _after(router: Router, verb: str, state: str = "") -> None:
    await router.run(definition())
    if verb:
        await router.ramp(verb)
    if state:
        await router.move(state)


@pytest.mark.parametrize("situation", REFUSED)
async def test_a_verb_that_the_ramp_does_not_permit_changes_nothing(router: Router, situation: str):
    await PREPARED[situation](router)
    before, rows = await router.get(), await router.transitions()
    for verb in sorted(REFUSED[situation]):
        refusal = await refused(router.ramp(verb))
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "INVALID_TRANSITION")
        assert "support" in refusal.message
    assert await router.get() == before
    assert await router.transitions() == rows


async def test_promoting_a_paused_experiment_says_what_to_do(router: Router):
    await _after(router, "", "Pause")
    refusal = await refused(router.ramp("Promote"))
    assert "resume it before its challenger is promoted" in refusal.message
    await router.move("Resume")
    assert stage_of(await router.ramp("Promote")) == (PROMOTED, 0)


async def test_unknown_experiments_old_etags_and_a_false_name_are_refused(router: Router):
    await router.run(definition())
    stored = await router.get()
    assert (await refused(router.ramp("Advance", "unknown"))).code is grpc.StatusCode.NOT_FOUND
    moved = await router.ramp("Advance", etag=stored.etag)
    assert moved.etag != stored.etag
    refusal = await refused(router.ramp("Abort", etag=stored.etag))
    assert (refusal.code.name, refusal.reason) == ("ABORTED", "STALE_ETAG")
    false_name = {"actor": "ramp"}
    calls = [
        router.ramp("Advance", **false_name),
        router.move("Pause", **false_name),
        router.update(definition(description="x"), **false_name),
        router.create(definition(experiment_id="y"), **false_name),
    ]
    for call in calls:
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert set(refusal.violations) == {"actor"}
    assert await router.get() == moved


async def test_of_verbs_that_meet_one_wins(router: Router, other_router: Router):
    await router.run(definition(ramp(0.1, 0.2, 0.3, 0.4, 1.0)))
    with locked(router.url, "experiments"):
        calls = [
            asyncio.ensure_future(_or_refusal(each.ramp(verb)))
            for each, verb in itertools.product((router, other_router), ("Advance", "RollBack", "Abort"))
        ]
        await until_waiting(router.url, "experiments", 6)
    results = await asyncio.gather(*calls)
    won = [result for result in results if isinstance(result, pb.Experiment)]
    assert len(won) == 1
    assert {result for result in results if not isinstance(result, pb.Experiment)} == {"ABORTED STALE_ETAG"}
    assert await router.get() == won[0]
    assert len(await router.transitions(kind="RAMP")) == 2


async def _or_refusal(call: Any) -> object:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None
        refusal = refusal_of(status)
        return f"{refusal.code.name} {refusal.reason}"


async def test_what_starts_a_ramp_over_and_what_does_not(router: Router):
    await router.run(definition())
    await router.ramp("Advance")
    for same in (
        definition(description="other words"),
        definition(ramp(0.1, 0.4, 1.0, strict=True, alpha=0.01)),
        definition(floor=0.02),
    ):
        assert stage_of(await router.update(same)) == (RAMPING, 1)
    new_model = [arm("old", role="ROLE_CONTROL"), arm("new", model="newer")]
    third = [*new_model, arm("third")]
    for changed, why in (
        (definition(ramp(0.2, 1.0)), "its stages changed"),
        (definition(ramp(0.2, 1.0), arms=new_model), "its challenger has another model or config"),
        (definition(ramp(0.2, 1.0, challenger_arm_id="third"), arms=third), "its challenger is another arm"),
    ):
        over = await router.update(changed, actor="ann", reason="a try")
        assert stage_of(over) == (RAMPING, 0)
        assert over.ramp_status.cap == 0.2
        ramp_row, definition_row = (await router.transitions())[-2:]
        assert (ramp_row.actor, ramp_row.reason) == ("ann", f"the ramp starts over: {why}: a try")
        assert definition_row.to == over.etag
        await router.ramp("RollBack")  # also from there
    versions = await router.transitions(kind="RAMP")
    assert len(versions) == (await router.get()).ramp_status.version


async def test_a_ramp_is_added_changed_while_paused_and_removed(router: Router):
    plain = definition()
    plain.ClearField("ramp")
    await router.run(plain)
    assert await shares(router) == pytest.approx({"old": 0.5, "new": 0.5})
    await router.move("Pause")
    added = await router.update(definition())
    assert not added.HasField("ramp_status"), "it begins once the experiment runs"
    assert stage_of(await router.move("Resume")) == (RAMPING, 0)
    assert (await shares(router))["new"] <= 0.1
    await router.ramp("Advance")
    assert stage_of(await router.update(definition(ramp(1.0)))) == (RAMPING, 0), "fewer stages than it had come to"
    removed = await router.update(plain, reason="no more")
    assert not removed.HasField("ramp_status")
    assert await shares(router) == pytest.approx({"old": 0.5, "new": 0.5})
    last = (await router.transitions(kind="RAMP"))[-1]
    assert (getattr(last, "from"), last.to) == ("ramping, stage 1", "")


async def test_a_ramp_ends_with_its_experiment(router: Router):
    await router.run(definition())
    concluded = await router.move("Conclude", actor="ann")
    assert stage_of(concluded) == (ABORTED, 0)
    await router.run(definition(experiment_id="second"))
    await router.ramp("Promote", "second")
    assert stage_of(await router.move("Conclude", "second")) == (PROMOTED, 0)


async def test_a_stable_ab_test_moves_only_the_buckets_that_it_needs(router: Router):
    arms = [arm("old", role="ROLE_CONTROL"), arm("new"), arm("third")]
    weights = {"old": 0.3, "new": 0.5, "third": 0.2}
    await router.run(
        definition(
            ramp(0.01, 0.2, 1.0, challenger_arm_id="new"), arms=arms, kind="FIXED", weights=weights, assignment="STICKY_HASH"
        )
    )
    before = await dealt(router)
    assert [before.count(n) for n in range(3)] == [7_900, 100, 2_000]
    for verb, expected, moved in (
        ("Advance", [6_000, 2_000, 2_000], 1_900),
        ("Advance", [3_000, 5_000, 2_000], 3_000),
        ("RollBack", [8_000, 0, 2_000], 5_000),
    ):
        await router.ramp(verb)
        after = await dealt(router)
        assert [after.count(n) for n in range(3)] == expected
        changes = {(x, y) for x, y in zip(before, after, strict=True) if x != y}
        assert sum(x != y for x, y in zip(before, after, strict=True)) == moved
        assert changes == {(1, 0) if verb == "RollBack" else (0, 1)}
        assert await shares(router) == {f: n / 10_000 for f, n in zip(("old", "new", "third"), expected, strict=True)}
        before = after


@pytest.mark.parametrize("assignment", ["PER_REQUEST", "STICKY_HASH", "STICKY_STORED"])
@pytest.mark.parametrize("kind", ["THOMPSON", "UNIFORM", "FIXED"])
async def test_a_challenger_that_is_taken_out_gets_nothing_on_any_path(
    router: Router, other_router: Router, kind: str, assignment: str
):
    arms = [arm("old", role="ROLE_CONTROL"), arm("new"), arm("third")]
    weights = {"old": 0.3, "new": 0.5, "third": 0.2} if kind == "FIXED" else None
    rule = ramp(1.0, challenger_arm_id="new")
    await router.run(definition(rule, arms=arms, kind=kind, weights=weights, assignment=assignment, unit="REQUEST"))
    # What units have stored from before the ramp is what has to be drawn anew.
    await router.update(_without_ramp(kind, weights, assignment, arms))
    units = [f"u{n}" for n in range(60)]

    async def routed(each: Router, **fields: Any) -> set[str]:
        requests = [routing_pb2.RouteRequest(experiment_id="support", unit_id=unit, **fields) for unit in units]
        return {result.response.arm.arm_id for result in (await each.batch_route(requests)).results}

    assert "new" in await routed(router)
    await router.update(definition(rule, arms=arms, kind=kind, weights=weights, assignment=assignment, unit="REQUEST"))
    assert "new" in await routed(router)
    await router.ramp("Abort" if kind == "UNIFORM" else "RollBack")

    async def known() -> bool:
        return (await shares(other_router))["new"] == 0.0

    await until(known, "the other replica knows", 2)
    for each in (router, other_router):
        assert await routed(each) <= {"old", "third"}
        assert await routed(each, eligible_arm_ids=["new", "third"]) == {"third"}
        refusal = await refused(each.route(unit_id="u", eligible_arm_ids=["new"]))
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "NO_ELIGIBLE_ARM")


def _without_ramp(kind: str, weights: dict[str, float] | None, assignment: str, arms: list[Any]) -> pb.Experiment:
    return experiment(arms=arms, kind=kind, weights=weights, assignment=assignment, unit="REQUEST")


async def test_units_with_a_stored_arm_are_hashed_while_the_ramp_is_open(router: Router):
    """Else those who drew the control at 1 % would keep it when the challenger has all there is."""
    arms = [arm("old", role="ROLE_CONTROL"), arm("new")]
    weights = {"old": 0.0, "new": 1.0}
    await router.run(definition(ramp(0.1, 0.6, 1.0), arms=arms, kind="FIXED", weights=weights, assignment="STICKY_STORED"))

    async def arms_of() -> dict[str, str]:
        return {f"u{n}": (await router.route(unit_id=f"u{n}")).arm.arm_id for n in range(100)}

    seen = [await arms_of()]
    for verb in ("Advance", "Advance"):
        await router.ramp(verb)
        seen.append(await arms_of())
    counts = [sum(name == "new" for name in arms.values()) for arms in seen]
    assert counts[0] < 25 < counts[1] < 85 < counts[2] == 100
    for before, after in itertools.pairwise(seen):
        assert not [unit for unit, name in before.items() if name == "new" and after[unit] == "old"]
    await router.ramp("Promote")
    assert await arms_of() == seen[-1]
    assert await scalar(router.url, "SELECT count(*) FROM sticky_assignments") == 100


async def test_transitions_come_in_pages(router: Router):
    await router.run(definition(ramp(0.1, 0.2, 0.3, 0.4, 1.0)))
    for _ in range(4):
        await router.ramp("Advance")
    every = (await router.transitions())[::-1]
    assert len(every) == 7
    assert {row.experiment_id for row in every} == {"support"}
    pages: list[pb.Transition] = []
    token = ""
    for size in (3, 3, 1):
        reply = await router.experiments.ListTransitions(
            pb.ListTransitionsRequest(experiment_id="support", page_size=3, page_token=token)
        )
        assert len(reply.transitions) == size
        pages += reply.transitions
        token = reply.next_page_token
    assert (token, pages) == ("", every)


@pytest.mark.parametrize(
    "token", ["x", "YWZ0ZXI6YQ==", "YmVmb3JlOng=", "YmVmb3JlOi0x", "YmVmb3JlOjk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
async def test_other_page_tokens_are_refused(router: Router, token: str):
    await router.create(experiment())
    request = pb.ListTransitionsRequest(experiment_id="support", page_token=token)
    refusal = await refused(router.experiments.ListTransitions(request))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
    unknown = pb.ListTransitionsRequest(experiment_id="unknown")
    assert (await refused(router.experiments.ListTransitions(unknown))).code is grpc.StatusCode.NOT_FOUND
