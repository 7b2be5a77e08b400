"""Every reason of error_reason.proto, provoked on a real server: its status, its details, and nothing of its cause."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from comparisons import add_comparisons, create, judged_experiment, pairs, stub
from grpc_status import rpc_status
from keyed import caller, create_key, revoke_key
from running import (
    Refusal,
    Router,
    StoppableCluster,
    arm,
    event,
    experiment,
    locked,
    query,
    refusal_of,
    refused,
    until,
    until_scalar,
    until_waiting,
)

from router import server as server_module
from router.access.keys import new_key
from router.decide import Decider
from router.feedback_spool import FeedbackSpool
from router.journal import Journal
from router.v1 import error_reason_pb2, experiments_pb2, interleave_pb2, judge_pb2, posteriors_pb2, routing_pb2, types_pb2

Code = grpc.StatusCode
#: What a client's transport takes of trailing metadata by default; a larger error arrives as another error.
TRANSPORT_BYTES = 8 * 1024


@dataclass
class World:
    """What a case may use."""

    router: Router
    request: pytest.FixtureRequest
    monkeypatch: pytest.MonkeyPatch

    async def start(self, url: str, **settings: Any) -> Router:
        return await self.request.getfixturevalue("start_router")(url, **settings)

    async def with_key(self, *roles: str, revoked: bool = False, **grant: Any) -> Refusal:
        """Route with a key of its own, on a router that asks for one, until that is refused."""
        new = create_key(self.router.url, *roles, **grant)
        if revoked:
            revoke_key(self.router.url, new.key_id)
        one = caller(await self.start(self.router.url, keys=True), new)
        for _ in range(3):
            if not isinstance(error := (await asyncio.gather(one.route(), return_exceptions=True))[0], grpc.aio.AioRpcError):
                continue
            await one.channel.close()
            status = rpc_status.from_call(error)
            assert status is not None
            return refusal_of(status)
        raise AssertionError("it was not refused")


@dataclass
class Case:
    reason: str
    code: Code
    provoke: Callable[[World], Awaitable[Refusal]]
    #: The field that BadRequest names, if any.
    field: str
    #: Keys of ErrorInfo's metadata.
    metadata: tuple[str, ...]
    retried: bool


CASES: list[Case] = []


def provokes(reason: str, code: Code, *, field: str = "", metadata: tuple[str, ...] = (), retried: bool = False):
    def register(provoke: Callable[[World], Awaitable[Refusal]]):
        CASES.append(Case(reason, code, provoke, field, metadata, retried))
        return provoke

    return register


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="reward")
async def reward_above_one(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), 1.5))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="reward")
async def reward_not_a_number(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), math.nan))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="reward")
async def reward_below_zero(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), -1e-300))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="experiment_id")
async def empty_experiment_id(world: World) -> Refusal:
    return await refused(world.router.route(""))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="experiment_id")
async def experiment_id_too_long(world: World) -> Refusal:
    return await refused(world.router.route("x" * 129))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="experiment_id")
async def experiment_id_ends_in_a_newline(world: World) -> Refusal:
    return await refused(world.router.route("support\n"))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="unit_id")
async def nul_in_a_unit_id(world: World) -> Refusal:
    return await refused(world.router.route(unit_id="a\x00b"))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="session_id")
async def session_id_too_long(world: World) -> Refusal:
    return await refused(world.router.route(session_id="é" * 257))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="prompt_similarity")
async def similarity_out_of_range(world: World) -> Refusal:
    return await refused(world.router.route(prompt_similarity=1.0000001))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="eligible_arm_ids")
async def an_arm_listed_twice(world: World) -> Refusal:
    return await refused(world.router.route(eligible_arm_ids=["a", "a"]))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="event_id")
async def empty_event_id(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), 1.0, event_id=""))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="decision_id")
async def empty_decision_id(world: World) -> Refusal:
    return await refused(world.router.reward("", 1.0))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="metadata")
async def too_much_metadata(world: World) -> Refusal:
    metadata = {f"k{n}": "v" for n in range(33)}
    return await refused(world.router.reward(await decided(world), 1.0, metadata=metadata))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field='metadata["k"]')
async def a_metadata_value_too_long(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), 1.0, metadata={"k": "v" * 1_025}))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT)
async def a_metadata_key_of_a_megabyte(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world), 1.0, metadata={"k" * 2**20: "v"}))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT)
async def many_bad_metadata_keys(world: World) -> Refusal:
    metadata = {f"{n:05}" + "\x01" * 200: "\x00" * 1_025 for n in range(500)}
    return await refused(world.router.reward(await decided(world), 1.0, metadata=metadata))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="feedback")
async def no_feedback(world: World) -> Refusal:
    return await refused(world.router.reward(await decided(world)))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="page_size")
async def page_size_below_zero(world: World) -> Refusal:
    request = experiments_pb2.ListExperimentsRequest(page_size=-1)
    return await refused(world.router.experiments.ListExperiments(request))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="experiment")
async def no_experiment(world: World) -> Refusal:
    return await refused(world.router.experiments.CreateExperiment(experiments_pb2.CreateExperimentRequest()))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT, field="experiment.arms[1].cap")
async def a_cap_of_zero(world: World) -> Refusal:
    return await refused(world.router.create(experiment("new", arms=[arm("a"), arm("b", cap=0)])))


@provokes("INVALID_FIELD", Code.INVALID_ARGUMENT)
async def a_thousand_bad_arms(world: World) -> Refusal:
    arms = [types_pb2.Arm(arm_id=f" {n}", model="\x01" * 300, cap=7, cost_usd=-1) for n in range(1_000)]
    return await refused(world.router.create(experiment("new", arms=arms)))


@provokes("MALFORMED_MESSAGE", Code.INVALID_ARGUMENT)
async def bytes_that_are_no_message(world: World) -> Refusal:
    return await refused(raw(world.router, "Route", b"\xff\xff\xff\xff not protobuf"))


@provokes("MALFORMED_MESSAGE", Code.INVALID_ARGUMENT)
async def a_string_that_is_not_utf8(world: World) -> Refusal:
    good = routing_pb2.RouteRequest(experiment_id="support", unit_id="XXXX").SerializeToString()
    return await refused(raw(world.router, "Route", good.replace(b"XXXX", b"\xc3\x28\xff\xfe")))


@provokes("MALFORMED_MESSAGE", Code.INVALID_ARGUMENT)
async def a_lone_surrogate_in_a_reward(world: World) -> Refusal:
    good = event(await decided(world), 1.0, event_id="XXX").SerializeToString()
    return await refused(raw(world.router, "Reward", good.replace(b"XXX", b"\xed\xa0\x80")))


@provokes("MALFORMED_MESSAGE", Code.INVALID_ARGUMENT)
async def a_message_cut_short(world: World) -> Refusal:
    good = event(await decided(world), 1.0).SerializeToString()
    return await refused(raw(world.router, "Reward", good[:-3]))


@provokes("DECISION_ID_MALFORMED", Code.INVALID_ARGUMENT, field="decision_id")
async def a_truncated_id(world: World) -> Refusal:
    return await refused(world.router.reward((await decided(world))[:-8], 1.0))


@provokes("DECISION_ID_MALFORMED", Code.INVALID_ARGUMENT, field="decision_id")
async def an_id_that_is_none(world: World) -> Refusal:
    return await refused(world.router.reward("Wm9vIQ", 1.0))


@provokes("DECISION_ID_TAMPERED", Code.INVALID_ARGUMENT, field="decision_id")
async def an_altered_id(world: World) -> Refusal:
    decision_id = await decided(world)
    other = "A" if decision_id[60] != "A" else "B"
    return await refused(world.router.reward(decision_id[:60] + other + decision_id[61:], 1.0))


@provokes("DECISION_ID_FOREIGN", Code.INVALID_ARGUMENT, field="decision_id")
async def an_id_of_another_deployment(world: World) -> Refusal:
    cluster = world.request.getfixturevalue("cluster")
    with cluster.database_from_template("template_migrated") as url:
        foreign = await world.start(url)
        await foreign.run()
        decision = await foreign.route()
        await foreign.close()
    return await refused(world.router.reward(decision.decision_id, 1.0))


@provokes("EXPERIMENT_NOT_FOUND", Code.NOT_FOUND, metadata=("experiment_id",))
async def route_of_no_experiment(world: World) -> Refusal:
    return await refused(world.router.route("no-such"))


@provokes("EXPERIMENT_NOT_FOUND", Code.NOT_FOUND, metadata=("experiment_id",))
async def route_of_no_experiment_again(world: World) -> Refusal:
    await refused(world.router.route("no-such"))
    return await refused(world.router.route("no-such"))


@provokes("EXPERIMENT_NOT_FOUND", Code.NOT_FOUND, metadata=("experiment_id",))
async def start_of_no_experiment(world: World) -> Refusal:
    return await refused(world.router.move("Start", "no-such"))


@provokes("EXPERIMENT_NOT_FOUND", Code.NOT_FOUND, metadata=("experiment_id",))
async def update_of_no_experiment(world: World) -> Refusal:
    return await refused(world.router.update(experiment("no-such")))


@provokes("EXPERIMENT_NOT_FOUND", Code.NOT_FOUND, metadata=("experiment_id",))
async def get_of_no_experiment(world: World) -> Refusal:
    return await refused(world.router.get("no-such"))


@provokes("EXPERIMENT_EXISTS", Code.ALREADY_EXISTS, metadata=("experiment_id",))
async def created_twice(world: World) -> Refusal:
    return await refused(world.router.create(experiment()))


@provokes("EXPERIMENT_NOT_RUNNING", Code.FAILED_PRECONDITION, metadata=("experiment_id", "state"))
async def route_of_a_draft(world: World) -> Refusal:
    await world.router.create(experiment("draft"))
    return await refused(world.router.route("draft"))


@provokes("EXPERIMENT_NOT_RUNNING", Code.FAILED_PRECONDITION, metadata=("experiment_id", "state"))
async def route_of_a_concluded_experiment(world: World) -> Refusal:
    await world.router.move("Conclude")
    return await refused(world.router.route())


@provokes("INVALID_TRANSITION", Code.FAILED_PRECONDITION, metadata=("experiment_id", "state"))
async def resumed_while_it_runs(world: World) -> Refusal:
    return await refused(world.router.move("Resume"))


@provokes("INVALID_TRANSITION", Code.FAILED_PRECONDITION, metadata=("experiment_id", "state"))
async def updated_after_its_end(world: World) -> Refusal:
    await world.router.move("Conclude")
    return await refused(world.router.update(experiment(arms=("a", "b", "c"))))


@provokes("ARM_NOT_FOUND", Code.INVALID_ARGUMENT, metadata=("arm_id",))
async def forced_onto_no_arm(world: World) -> Refusal:
    return await refused(world.router.route(force_arm_id="nope"))


@provokes("ARM_NOT_FOUND", Code.INVALID_ARGUMENT, metadata=("arm_id",))
async def eligible_is_no_arm(world: World) -> Refusal:
    return await refused(world.router.route(eligible_arm_ids=["a", "nope"]))


@provokes("ARM_NOT_FOUND", Code.INVALID_ARGUMENT, metadata=("arm_id",))
async def no_arm_among_a_hundred_with_long_names(world: World) -> Refusal:
    await world.router.run(experiment("large", arms=[f"{n:03}" + "x" * 125 for n in range(100)], floor=0.0))
    return await refused(world.router.route("large", force_arm_id="é" * 128))


@provokes("NO_ELIGIBLE_ARM", Code.FAILED_PRECONDITION)
async def only_arms_of_weight_zero(world: World) -> Refusal:
    await world.router.run(experiment("ab", kind="FIXED", weights={"a": 1.0}, assignment="STICKY_HASH"))
    return await refused(world.router.route("ab", unit_id="u", eligible_arm_ids=["b"]))


@provokes("NOT_INTERLEAVED", Code.FAILED_PRECONDITION, metadata=("experiment_id",))
async def turns_of_an_experiment_without_turns(world: World) -> Refusal:
    request = interleave_pb2.CompareTurnsRequest(experiment_id="support", arm_id="a", other_arm_id="b")
    return await refused(world.router.interleaving.CompareTurns(request))


@provokes("NO_SNAPSHOT", Code.FAILED_PRECONDITION, metadata=("first_snapshot",))
async def as_of_a_time_without_a_snapshot(world: World) -> Refusal:
    await query(world.router.url, "DELETE FROM snapshots")
    created = (await world.router.get()).create_time
    request = posteriors_pb2.GetPosteriorRequest(experiment_id="support", as_of=created)
    return await refused(world.router.posteriors.GetPosterior(request))


async def judged(world: World, **fields: Any) -> Any:
    """A judge run over one comparison, or over what `comparisons` says."""
    comparisons, definition = (
        fields.pop("comparisons", pairs([(0.1, 0.9)])),
        fields.pop("definition", judged_experiment(experiment_id="e")),
    )
    await world.router.run(definition)
    add_comparisons(world.router.url, comparisons, experiment_id="e")
    return await create(stub(world.router), experiment_id="e", **fields)


@provokes("JUDGE_RUN_NOT_FOUND", Code.NOT_FOUND)
async def no_such_judge_run(world: World) -> Refusal:
    return await refused(stub(world.router).GetJudgeReport(judge_pb2.GetJudgeReportRequest(run_id="none")))


@provokes("JUDGE_RUN_EXISTS", Code.ALREADY_EXISTS)
async def another_judge_run_of_this_id(world: World) -> Refusal:
    await judged(world)
    return await refused(create(stub(world.router), experiment_id="e", seed=2))


@provokes("NO_COMPARABLE_PAIRS", Code.FAILED_PRECONDITION)
async def nothing_to_judge(world: World) -> Refusal:
    return await refused(judged(world, comparisons=[]))


@provokes("TEXT_NOT_RECORDED", Code.FAILED_PRECONDITION, metadata=("setting",))
async def texts_that_were_not_recorded(world: World) -> Refusal:
    definition = judged_experiment(experiment_id="e")
    definition.shadow.text = types_pb2.TEXT_MODE_OFF
    return await refused(judged(world, comparisons=[], definition=definition))


@provokes("JUDGE_FAMILY", Code.FAILED_PRECONDITION, metadata=("arm_id", "family"))
async def a_judge_of_the_answers_family(world: World) -> Refusal:
    definition = judged_experiment(experiment_id="e")
    return await refused(judged(world, definition=definition, judge_family=definition.arms[0].family))


@provokes("INVALID_EXPERIMENT", Code.INVALID_ARGUMENT, field="experiment.allocation.floor")
async def floors_take_half(world: World) -> Refusal:
    return await refused(world.router.create(experiment("new", floor=0.25)))


@provokes("INVALID_EXPERIMENT", Code.INVALID_ARGUMENT, field="experiment.allocation.weights")
async def weights_that_do_not_add_up(world: World) -> Refusal:
    definition = experiment("new", kind="FIXED", weights={"a": 0.5, "b": 0.4}, assignment="STICKY_HASH")
    return await refused(world.router.create(definition))


@provokes("INVALID_EXPERIMENT", Code.INVALID_ARGUMENT, field="experiment.arms[0].config")
async def nul_in_a_config(world: World) -> Refusal:
    return await refused(world.router.create(experiment("new", arms=[arm("a", config={"x": ["\x00"]}), arm("b")])))


@provokes("INVALID_EXPERIMENT", Code.INVALID_ARGUMENT, field="experiment.arms[0].config")
async def infinity_in_a_config(world: World) -> Refusal:
    return await refused(world.router.create(experiment("new", arms=[arm("a", config={"x": math.inf}), arm("b")])))


@provokes("INVALID_EXPERIMENT", Code.INVALID_ARGUMENT)
async def a_thousand_arms_of_one_name(world: World) -> Refusal:
    return await refused(world.router.create(experiment("new", arms=["x" * 128] * 1_000)))


@provokes("STALE_ETAG", Code.ABORTED, metadata=("experiment_id",))
async def updated_with_an_old_etag(world: World) -> Refusal:
    etag = (await world.router.get()).etag
    await world.router.update(experiment(description="somebody else's"))
    return await refused(world.router.update(experiment(description="mine", etag=etag)))


@provokes("STALE_ETAG", Code.ABORTED, metadata=("experiment_id",))
async def paused_with_an_old_etag(world: World) -> Refusal:
    return await refused(world.router.move("Pause", etag="0123456789abcdef"))


@provokes("INVALID_PAGE_TOKEN", Code.INVALID_ARGUMENT, field="page_token")
async def a_page_token_of_another_list(world: World) -> Refusal:
    request = experiments_pb2.ListExperimentsRequest(page_token="bm8gdG9rZW4=")
    return await refused(world.router.experiments.ListExperiments(request))


@provokes("INVALID_PAGE_TOKEN", Code.INVALID_ARGUMENT, field="page_token")
async def a_page_token_that_is_not_base64(world: World) -> Refusal:
    request = experiments_pb2.ListExperimentsRequest(page_token="é\x00!")
    return await refused(world.router.experiments.ListExperiments(request))


@provokes("STORAGE_UNAVAILABLE", Code.UNAVAILABLE, retried=True)
async def route_of_an_unseen_experiment_without_postgres(world: World) -> Refusal:
    away, _ = await without_postgres(world)
    return await refused(away.route("unseen"))


@provokes("STORAGE_UNAVAILABLE", Code.UNAVAILABLE, retried=True)
async def posterior_without_postgres(world: World) -> Refusal:
    away, _ = await without_postgres(world)
    return await refused(away.posterior())


@provokes("STORAGE_UNAVAILABLE", Code.UNAVAILABLE, retried=True)
async def create_without_postgres(world: World) -> Refusal:
    away, _ = await without_postgres(world)
    return await refused(away.create(experiment("new")))


@provokes("OVERLOADED", Code.RESOURCE_EXHAUSTED, retried=True)
async def neither_postgres_nor_the_spool_takes_events(world: World) -> Refusal:
    world.monkeypatch.setattr(server_module, "FeedbackSpool", functools.partial(FeedbackSpool, spool_bytes=0))
    away, decision_id = await without_postgres(world)
    return await refused(away.reward(decision_id, 1.0))


@provokes("OVERLOADED", Code.RESOURCE_EXHAUSTED, retried=True)
async def the_spool_is_full(world: World) -> Refusal:
    world.monkeypatch.setattr(server_module, "Journal", functools.partial(Journal, spool_bytes=0))
    full = await world.start(world.router.url)
    return await refused(full.route())


@provokes("SHUTTING_DOWN", Code.UNAVAILABLE, retried=True)
async def under_way_when_the_drain_ends(world: World) -> Refusal:
    """A call that Postgres does not let finish, and that the spool has no room for: its client is told to go elsewhere."""
    world.monkeypatch.setattr(server_module, "_DRAIN_S", 0.2)
    world.monkeypatch.setattr(server_module, "FeedbackSpool", functools.partial(FeedbackSpool, spool_bytes=0))
    full = await world.start(world.router.url)
    decision_id = (await full.route()).decision_id
    with locked(full.url, "policy_versions"):
        held = asyncio.ensure_future(refused(_sent(full, event(decision_id, 1.0))))
        await until_waiting(full.url)
        await full.server.stop()
        return await held


@provokes("API_KEY_MISSING", Code.UNAUTHENTICATED)
async def no_key(world: World) -> Refusal:
    return await refused((await world.start(world.router.url, keys=True)).route())


@provokes("API_KEY_INVALID", Code.UNAUTHENTICATED)
async def a_key_of_nobody(world: World) -> Refusal:
    one = caller(await world.start(world.router.url, keys=True), new_key())
    refusal = await refused(one.route())
    await one.channel.close()
    return refusal


@provokes("API_KEY_EXPIRED", Code.UNAUTHENTICATED, metadata=("key_id",))
async def a_key_of_yesterday(world: World) -> Refusal:
    return await world.with_key("route", lifetime=timedelta(days=-1))


@provokes("API_KEY_REVOKED", Code.UNAUTHENTICATED, metadata=("key_id",))
async def a_key_that_was_revoked(world: World) -> Refusal:
    return await world.with_key("route", revoked=True)


@provokes("ROLE_MISSING", Code.PERMISSION_DENIED, metadata=("role", "key_id", "experiment_id"))
async def a_key_for_reading(world: World) -> Refusal:
    return await world.with_key("read")


@provokes("EXPERIMENT_OUT_OF_SCOPE", Code.PERMISSION_DENIED, metadata=("experiment_id", "key_id"))
async def a_key_for_another_experiment(world: World) -> Refusal:
    return await world.with_key("route", experiments=["another"])


@provokes("RATE_LIMITED", Code.RESOURCE_EXHAUSTED, metadata=("key_id",), retried=True)
async def a_key_over_its_rate(world: World) -> Refusal:
    return await world.with_key("route", rate=0.01, burst=1.0)


@provokes("INTERNAL", Code.INTERNAL, metadata=("error_id",))
async def a_fault_of_the_decision_path(world: World) -> Refusal:
    async def fail(*_: object) -> None:
        raise RuntimeError("a secret of the implementation")

    world.monkeypatch.setattr(Decider, "decide", fail)
    return await refused(world.router.route())


@provokes("INTERNAL", Code.INTERNAL, metadata=("error_id",))
async def a_fault_within_a_batch(world: World) -> Refusal:
    real = Decider.decide

    async def fail(self: Decider, request: routing_pb2.RouteRequest) -> object:
        if request.unit_id == "bad":
            raise KeyError("a secret of the implementation")
        return await real(self, request)

    world.monkeypatch.setattr(Decider, "decide", fail)
    requests = [routing_pb2.RouteRequest(experiment_id="support", unit_id=unit) for unit in ("good", "bad", "good")]
    results = (await world.router.batch_route(requests)).results
    assert [result.HasField("error") for result in results] == [False, True, False]
    return refusal_of(results[1].error)


# The machinery


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.reason}-{case.provoke.__name__}")
async def test_a_reason_is_provoked(
    case: Case,
    router: Router,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stoppable: StoppableCluster,
    stoppable_url: str,
    start_router: object,
):
    await router.run()
    refusal = await case.provoke(World(router, request, monkeypatch))
    assert refusal.code == case.code, refusal.message
    assert refusal.reason == case.reason, refusal.message
    assert refusal.domain == "bandit-router"
    assert set(refusal.metadata) >= set(case.metadata)
    assert (refusal.retry_after_s is not None) == case.retried
    if case.field:
        assert case.field in refusal.violations
        assert all(refusal.violations.values())
        assert case.field in refusal.message
    # Twice, because the message travels beside the details.
    assert len(refusal.raw) + len(refusal.message.encode()) < TRANSPORT_BYTES
    whole = refusal.raw.decode(errors="replace")
    for secret in ("a secret of the implementation", "Traceback", "psycopg", "127.0.0.1", "port ", "scram"):
        assert secret not in whole, f"{secret!r} leaks"
    if case.reason == "INTERNAL":
        assert refusal.metadata["error_id"] in refusal.message
        logged = [record for record in caplog.records if refusal.metadata["error_id"] in record.getMessage()]
        assert len(logged) == 1
        assert logged[0].levelno == logging.ERROR
        assert logged[0].exc_info, "the cause is beside the id"


def test_every_reason_has_a_case():
    declared = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    provoked = {f"ERROR_REASON_{case.reason}" for case in CASES}
    assert provoked == set(declared) - {"ERROR_REASON_UNSPECIFIED"}


async def decided(world: World) -> str:
    return (await world.router.route()).decision_id


def raw(router: Router, method: str, payload: bytes) -> Awaitable[Any]:
    """Call a method of RouterService with bytes of one's own."""
    call = router.channel.unary_unary(f"/router.v1.RouterService/{method}", lambda data: data, lambda data: data)
    return call(payload)


async def without_postgres(world: World) -> tuple[Router, str]:
    """A router that has served, and whose Postgres has stopped since."""
    away = await world.start(world.request.getfixturevalue("stoppable_url"))
    await away.run()
    decision = await away.route()
    world.request.getfixturevalue("stoppable").stop()
    return away, decision.decision_id


async def _sent(router: Router, request: routing_pb2.RewardRequest) -> routing_pb2.RewardResponse:
    return await router.routing.Reward(request)


# Beyond single reasons


@pytest.mark.parametrize("method", ["Route", "BatchRoute", "Reward", "BatchReward"])
@pytest.mark.parametrize("payload", [b"\x08", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"garbage" * 1_000])
async def test_garbage_is_the_callers_error(router: Router, method: str, payload: bytes):
    refusal = await refused(raw(router, method, payload))
    assert refusal.code == Code.INVALID_ARGUMENT
    assert refusal.reason in {"MALFORMED_MESSAGE", "INVALID_FIELD"}


async def test_a_message_beyond_the_limit_is_refused_and_the_next_is_served(router: Router):
    await router.run()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw(router, "Route", b"\x00" * (16 * 1024 * 1024 + 1))
    assert raised.value.code() == Code.RESOURCE_EXHAUSTED
    await router.route()


async def test_an_unknown_method_is_unimplemented(router: Router):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await raw(router, "Nope", b"")
    assert raised.value.code() == Code.UNIMPLEMENTED


async def test_an_open_call_is_finished_while_the_router_drains(router: Router):
    await router.run()
    decision = await router.route()
    with locked(router.url, "policy_versions"):
        held = asyncio.ensure_future(router.batch_reward([event(decision.decision_id, 1.0)]))
        await until_waiting(router.url)
        stopping = asyncio.ensure_future(router.server.stop())
        await until(lambda: _is_refused(router), "new calls are refused")
        assert not stopping.done()
    assert (await held)[0].response.status == routing_pb2.STATUS_APPLIED
    await stopping
    router.closed = True
    await router.channel.close()


async def _is_refused(router: Router) -> bool:
    try:
        await router.route()
    except grpc.aio.AioRpcError:
        return True
    return False


async def test_a_router_stops_in_time_although_postgres_hangs(router: Router, monkeypatch: pytest.MonkeyPatch):
    """A rolling restart must not wait for a database that does not answer; what waits for it is spooled."""
    monkeypatch.setattr(server_module, "_DRAIN_S", 0.2)
    await router.run()
    ids = [(await router.route()).decision_id for _ in range(4)]
    await router.reward(ids.pop(), 1.0)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 4)
    with locked(router.url, "policy_versions") as holding:
        # In a thread: who holds the table now may need this loop to let go of it.
        await asyncio.to_thread(holding.execute, "LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
        calls = [asyncio.ensure_future(_sent(router, event(ids[0], 1.0)))]
        await until_waiting(router.url)
        calls += [asyncio.ensure_future(_sent(router, event(decision_id, 1.0))) for decision_id in ids[1:]]
        await router.route()
        router.closed = True
        async with asyncio.timeout(20):
            await router.server.stop()
    await router.channel.close()
    for reply in await asyncio.gather(*calls):
        assert reply.status == routing_pb2.STATUS_SPOOLED


async def test_posterior_errors_are_as_rich(router: Router):
    request = posteriors_pb2.GetPosteriorRequest(experiment_id="a b")
    refusal = await refused(router.posteriors.GetPosterior(request))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["experiment_id"])
