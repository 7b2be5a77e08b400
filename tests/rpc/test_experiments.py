"""ExperimentService on a real server: definitions, states, etags and pages."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable

import pytest
from google.protobuf.json_format import MessageToDict
from running import Router, arm, assert_replay_agrees, experiment, locked, query, refused, scalar, until_waiting

from router.v1 import experiments_pb2 as pb
from router.v1 import types_pb2

DRAFT, RUNNING, PAUSED, CONCLUDED = pb.STATE_DRAFT, pb.STATE_RUNNING, pb.STATE_PAUSED, pb.STATE_CONCLUDED


async def test_what_is_created_is_what_is_read(router: Router):
    config = {"max_tokens": 1024, "temperature": 0.1, "stop": ["\n", None, True, {"deep": {"er": []}}], "é\u2028": "'\\\""}
    definition = experiment(
        "team/support:v1@x",
        arms=[
            arm("haiku", role="ROLE_CONTROL", family="anthropic", cost_usd=0.0125, config=config),
            arm("sonnet", role="ROLE_CHALLENGER", cap=0.3, config={}),
            arm("third"),
        ],
        floor=0.02,
        prior=(0.5, 2.25),
        assignment="STICKY_STORED",
        unit="SESSION",
        ttl_s=86_400,
        window_s=3_600,
        signals={types_pb2.SIGNAL_FOLLOW_UP_QUESTION: 0.25, types_pb2.SIGNAL_THUMBS_DOWN: None},
        description="What the team asked for: \N{SNOWMAN}",
    )
    created = await router.create(definition)
    assert created == await router.get("team/support:v1@x")
    assert (created.state, created.policy_version) == (DRAFT, 1)
    assert created.etag
    assert created.HasField("create_time")
    assert [(a.version, a.state) for a in created.arms] == [(1, types_pb2.ARM_STATE_ACTIVE)] * 3
    kept, given = MessageToDict(created), MessageToDict(definition)
    given["arms"][2]["role"] = "ROLE_CHALLENGER"  # unspecified is treated as challenger, and shown so
    for name in ("experimentId", "description", "allocation", "assignment", "rewardRule"):
        assert kept[name] == given[name]
    for shown, wanted in zip(kept["arms"], given["arms"], strict=True):
        assert {k: v for k, v in shown.items() if k not in ("version", "state")} == {
            k: v for k, v in wanted.items() if v != {}
        }


async def test_an_experiment_goes_through_its_states(router: Router):
    etags = {(await router.create(experiment())).etag}
    for verb, state in (("Start", RUNNING), ("Pause", PAUSED), ("Resume", RUNNING), ("Conclude", CONCLUDED)):
        moved = await router.move(verb)
        assert moved.state == state
        assert moved == await router.get()
        etags.add(moved.etag)
    assert len(etags) == 5
    assert moved.policy_version == 5


STATES = {"draft": [], "running": ["Start"], "paused": ["Start", "Pause"], "concluded": ["Conclude"]}
ALLOWED = {
    "Start": {"draft"},
    "Pause": {"running"},
    "Resume": {"paused"},
    "Conclude": {"draft", "running", "paused"},
}


@pytest.mark.parametrize("state", STATES)
async def test_each_state_permits_its_verbs_alone(router: Router, state: str):
    for verb, allowed in ALLOWED.items():
        name = f"{state}-{verb}"
        await router.create(experiment(name))
        for step in STATES[state]:
            await router.move(step, name)
        if state in allowed:
            await router.move(verb, name)
        else:
            before = await router.get(name)
            refusal = await refused(router.move(verb, name))
            assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "INVALID_TRANSITION")
            assert refusal.metadata["state"] == state
            assert await router.get(name) == before


async def test_an_update_with_the_current_etag_and_with_an_old_one(router: Router):
    first = await router.create(experiment())
    second = await router.update(experiment(description="second", etag=first.etag))
    assert second.etag != first.etag
    refusal = await refused(router.update(experiment(description="third", etag=first.etag)))
    assert (refusal.code.name, refusal.reason) == ("ABORTED", "STALE_ETAG")
    assert await router.get() == second
    for verb in ("Start", "Conclude"):
        assert (await refused(router.move(verb, etag=first.etag))).code.name == "ABORTED"
    assert (await router.move("Start", etag=second.etag)).state == RUNNING


async def test_of_updates_with_one_etag_one_wins(router: Router, other_router: Router):
    created = await router.create(experiment())
    updates = [(router, other_router)[n % 2].update(experiment(description=f"by {n}", etag=created.etag)) for n in range(6)]
    results = await asyncio.gather(*(_or_error(update) for update in updates))
    winners = [result for result in results if isinstance(result, pb.Experiment)]
    assert len(winners) == 1
    assert await router.get() == winners[0]


async def _or_error(call: Awaitable[pb.Experiment]) -> object:
    try:
        return await call
    except Exception as error:
        return error


async def test_updates_without_etags_that_meet_all_succeed(router: Router, other_router: Router):
    """Each waits for the one before and then sees what that one wrote: here, arms that take new numbers."""
    await router.run()
    with locked(router.url, "experiments"):
        updates = [
            asyncio.ensure_future(_or_error((router, other_router)[n % 2].update(experiment(arms=("a", f"new-{n}")))))
            for n in range(4)
        ]
        await until_waiting(router.url, "experiments", 4)
    results = await asyncio.gather(*updates)
    assert [type(result) for result in results] == [pb.Experiment] * 4, results
    stored = await router.get()
    assert stored.etag in {result.etag for result in results}
    assert {a.arm_id for a in stored.arms} == {"a", "b", "new-0", "new-1", "new-2", "new-3"}
    assert len([a for a in stored.arms if a.state == types_pb2.ARM_STATE_ACTIVE]) == 2


async def test_an_update_that_changes_nothing_makes_no_version(router: Router):
    definition = experiment(
        arms=[arm("a", config={"t": 0.1, "n": 3, "big": 1e300, "seed": 12345678901234567890, "neg": -1e23}), arm("b")],
        floor=0.03,
        window_s=60,
        signals={types_pb2.SIGNAL_THUMBS_UP: 0.3},
    )
    await router.run(definition)
    before = await router.get()
    for _ in range(3):
        assert await router.update(definition) == before


async def test_another_config_is_another_version_with_evidence_of_its_own(router: Router):
    await router.run()
    await router.learn("a", 5, 2)
    changed = experiment(arms=[arm("a", config={"max_tokens": 2048}), arm("b")])
    updated = await router.update(changed)
    assert [(a.arm_id, a.version, a.state) for a in updated.arms] == [
        ("a", 2, types_pb2.ARM_STATE_ACTIVE),
        ("b", 1, types_pb2.ARM_STATE_ACTIVE),
        ("a", 1, types_pb2.ARM_STATE_RETIRED),
    ]
    assert (await router.arms())["a"].n == 0
    decision = await router.route(force_arm_id="a")
    assert decision.arm.config["max_tokens"] == 2048
    back = await router.update(experiment())
    assert [(a.arm_id, a.version) for a in back.arms] == [("a", 1), ("b", 1), ("a", 2)]
    assert (await router.arms())["a"].n == 7
    await assert_replay_agrees(router.url)


async def test_role_family_cap_and_cost_change_in_place(router: Router):
    await router.run(experiment(arms=[arm("a", role="ROLE_CONTROL"), arm("b")]))
    await router.learn("a", 2, 0)
    arms = [arm("b", role="ROLE_CONTROL", family="f"), arm("a", cap=0.4, cost_usd=0.1)]
    updated = await router.update(experiment(arms=arms))
    assert [(a.arm_id, a.version, a.role) for a in updated.arms] == [
        ("b", 1, types_pb2.ROLE_CONTROL),
        ("a", 1, types_pb2.ROLE_CHALLENGER),
    ]
    assert (updated.arms[1].cap, updated.arms[1].cost_usd) == (0.4, 0.1)
    assert (await router.arms())["a"].n == 2


async def test_read_change_write_back(router: Router):
    """The flow that etags are for: what is read can be sent back with one thing changed, and only that changes."""
    await router.run(experiment(arms=("a", "b", "c")))
    await router.update(experiment(arms=[arm("a", config={"v": 2}), arm("b")]))
    read = await router.get()
    assert [a.arm_id for a in read.arms] == ["a", "b", "a", "c"], "retired arms follow"
    read.description = "changed"
    written = await router.update(read)
    assert written.description == "changed"
    assert list(written.arms) == list(read.arms), "retired arms stay retired"


async def test_pages_cover_everything_once_and_in_order(router: Router):
    names = sorted(["a", "B", "_not"[1:], "z.1", "z-1", "z/1", "Z", "0", "m:1", "m@1"])
    for name in reversed(names):
        await router.create(experiment(name))
    seen: list[str] = []
    token = ""
    for _ in range(math.ceil(len(names) / 3)):
        page = await router.experiments.ListExperiments(pb.ListExperimentsRequest(page_size=3, page_token=token))
        assert len(page.experiments) <= 3
        seen += [e.experiment_id for e in page.experiments]
        token = page.next_page_token
    assert token == ""
    assert seen == names
    everything = await router.experiments.ListExperiments(pb.ListExperimentsRequest())
    assert [e.experiment_id for e in everything.experiments] == names
    assert everything.experiments[0] == await router.get(names[0])
    exact = await router.experiments.ListExperiments(pb.ListExperimentsRequest(page_size=len(names)))
    assert exact.next_page_token == ""


async def test_an_empty_list(router: Router):
    page = await router.experiments.ListExperiments(pb.ListExperimentsRequest())
    assert (list(page.experiments), page.next_page_token) == ([], "")


async def test_a_refused_definition_leaves_nothing(router: Router):
    assert (await refused(router.create(experiment(floor=0.3)))).reason == "INVALID_EXPERIMENT"
    assert (await refused(router.create(experiment(arms=[])))).reason == "INVALID_FIELD"
    for table in ("experiments", "arms", "policy_versions", "reward_rules"):
        assert await scalar(router.url, f"SELECT count(*) FROM {table}") == 0
    before = await router.create(experiment())
    assert (await refused(router.update(experiment(floor=0.3)))).reason == "INVALID_EXPERIMENT"
    assert await router.get() == before


async def test_of_creates_at_once_one_wins(router: Router, other_router: Router):
    creates = [(router, other_router)[n % 2].create(experiment(description=f"by {n}")) for n in range(6)]
    results = await asyncio.gather(*(_or_error(create) for create in creates))
    assert sum(isinstance(result, pb.Experiment) for result in results) == 1
    assert {result.code().name for result in results if not isinstance(result, pb.Experiment)} == {"ALREADY_EXISTS"}


async def test_a_hundred_arms(router: Router):
    await router.run(experiment(arms=[f"arm-{n}" for n in range(100)], floor=0.001))
    decision = await router.route()
    assert len(decision.allocation) == 100
    assert math.fsum(entry.probability for entry in decision.allocation) == pytest.approx(1, abs=1e-12)
    reply = await router.posterior()
    assert math.fsum(a.probability_best for a in reply.arms) == pytest.approx(1, abs=1e-8)


async def test_a_large_config_and_one_too_large(router: Router):
    await router.run(experiment(arms=[arm("a", config={"text": "x" * 65_000}), arm("b")]))
    decision = await router.route(force_arm_id="a")
    assert len(decision.arm.config["text"]) == 65_000
    refusal = await refused(router.create(experiment("large", arms=[arm("a", config={"text": "x" * 65_536}), arm("b")])))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_EXPERIMENT", ["experiment.arms[0].config"])


async def test_old_reward_rules_stay(router: Router):
    await router.run(experiment(signals={types_pb2.SIGNAL_TASK_COMPLETED: 0.5}))
    await router.update(experiment(signals={types_pb2.SIGNAL_TASK_COMPLETED: 0.6}))
    await router.update(experiment(signals={types_pb2.SIGNAL_TASK_COMPLETED: 0.6}, description="no new rule"))
    assert await query(router.url, "SELECT version FROM reward_rules ORDER BY 1") == [(1,), (2,)]


async def test_every_change_says_who_asked_for_it_and_why(router: Router):
    created = await router.create(experiment(), actor="ann", reason="to try sonnet")
    started = await router.move("Start", actor="ben")
    updated = await router.update(experiment(description="x"), actor="ann", reason="a typo\nin two lines")
    await router.update(experiment(description="x"), actor="ann", reason="nothing differs")
    assert (await refused(router.move("Start", actor="eve"))).code.name == "FAILED_PRECONDITION"
    for verb in ("Pause", "Resume", "Conclude"):
        await router.move(verb, reason=f"because of {verb}")
    rows = await router.transitions()
    definition, state = pb.Transition.KIND_DEFINITION, pb.Transition.KIND_STATE
    assert [(row.kind, getattr(row, "from"), row.to, row.actor, row.reason) for row in rows] == [
        (definition, "", created.etag, "ann", "to try sonnet"),
        (state, "draft", "running", "ben", ""),
        (definition, started.etag, updated.etag, "ann", "a typo\nin two lines"),
        (state, "running", "paused", "", "because of Pause"),
        (state, "paused", "running", "", "because of Resume"),
        (state, "running", "concluded", "", "because of Conclude"),
    ]
    assert created.create_time.seconds <= rows[0].transition_time.seconds <= rows[-1].transition_time.seconds
    assert not any(row.HasField("assessment") for row in rows)


@pytest.mark.parametrize("actor", ["ramp", "Ramp", " RAMP "])
async def test_nobody_may_sign_as_the_router_itself(router: Router, actor: str):
    refusal = await refused(router.create(experiment(), actor=actor))
    assert (refusal.code.name, list(refusal.violations)) == ("INVALID_ARGUMENT", ["actor"])
    assert await scalar(router.url, "SELECT count(*) FROM experiments") == 0


async def test_actors_and_reasons_have_limits(router: Router):
    await router.create(experiment())
    for field, value in (("actor", "a" * 129), ("actor", "a\nb"), ("reason", "a" * 1_025), ("reason", "a\x00b")):
        refusal = await refused(router.move("Start", **{field: value}))
        assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", [field])
    assert len(await router.transitions()) == 1
