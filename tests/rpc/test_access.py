"""Keys on a real server: who is let in, to what, how often, and what the audit log has of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from comparisons import add_comparisons, create, judged_experiment, pairs, run_of, stub
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from keyed import EVERY_ROLE, Caller, caller, create_key, revoke_key
from running import Router, StoppableCluster, arm, event, experiment, query, refusal_of, refused, scalar, until, until_scalar

import router.credentials
from router.access.roles import METHODS, OPEN_SERVICES, Role
from router.client import AsyncRouterClient
from router.clocks import Clocks
from router.storage.saved import FILE, SavedFile
from router.v1 import experiments_pb2, interleave_pb2, judge_pb2, posteriors_pb2, routing_pb2, shadow_pb2

StartRouter = Callable[..., Awaitable[Router]]
As = Callable[..., Awaitable[Caller]]
Code = grpc.StatusCode


@pytest_asyncio.fixture
async def keyed(database_url: str, start_router: StartRouter) -> Router:
    """A router that asks for keys; its own channel has none."""
    return await start_router(database_url, keys=True)


@pytest_asyncio.fixture
async def having(keyed: Router) -> AsyncIterator[As]:
    """Makes a key of these roles and calls with it, once the router knows it."""
    opened: list[Caller] = []

    async def make(*roles: str, **grant: Any) -> Caller:
        opened.append(caller(keyed, create_key(keyed.url, *roles, **grant)))
        return await opened[-1].until_known()

    yield make
    for one in opened:
        await one.channel.close()


async def running(having: As, *experiment_ids: str) -> Caller:
    """Whoever may do all, with experiments that run."""
    everything = await having(*EVERY_ROLE)
    for experiment_id in experiment_ids or ("support",):
        await everything.run(experiment(experiment_id))
    return everything


def lists() -> list[tuple[str, dict[str, Any]]]:
    """One call of every method, about the experiment `other`: its name and the fields of its request."""
    ranking = [interleave_pb2.Ranking(arm_id="a", item_ids=["x"]), interleave_pb2.Ranking(arm_id="b", item_ids=["y"])]
    verbs = ["Shadow", "Start", "Pause", "Resume", "Conclude"]
    ramps = ["Approve", "Advance", "Promote", "RollBack", "Abort"]
    about = {"experiment_id": "other"}
    return [
        ("Route", about),
        ("BatchRoute", {"requests": [routing_pb2.RouteRequest(**about)]}),
        ("CreateExperiment", {"experiment": experiment("other")}),
        ("UpdateExperiment", {"experiment": experiment("other")}),
        ("GetExperiment", about),
        ("ListTransitions", about),
        *((f"{verb}Experiment", about) for verb in verbs),
        *((f"{verb}Ramp", {**about, "reason": "why"}) for verb in ramps),
        ("GetPosterior", about),
        ("ListSnapshots", about),
        ("WatchPosterior", about),
        ("GetMetrics", about),
        ("Interleave", {**about, "rankings": ranking}),
        ("GetPreferences", about),
        ("CompareTurns", {**about, "arm_id": "a", "other_arm_id": "b"}),
        ("ListComparisons", about),
        ("CreateJudgeRun", {"run": judge_pb2.JudgeRun(run_id="r", experiment_id="other", judge="m", judge_family="f")}),
        ("ListJudgeRuns", about),
    ]


MODULES = (routing_pb2, experiments_pb2, posteriors_pb2, interleave_pb2, shadow_pb2, judge_pb2)


async def call(one: Router, name: str, **fields: Any) -> Any:
    """Call a method by its name; of a stream, the first message."""
    (path,) = [path for path in METHODS if path.endswith(f"/{name}")]
    (module,) = [module for module in MODULES if hasattr(module, f"{name}Request")]
    request = getattr(module, f"{name}Request")(**fields)
    reply = getattr(module, f"{name}Response")
    if name == "WatchPosterior":
        stream = one.channel.unary_stream(path, type(request).SerializeToString, reply.FromString)(request)
        async for message in stream:
            return message
        raise AssertionError("the stream ended without a message")
    return await one.channel.unary_unary(path, type(request).SerializeToString, reply.FromString)(request)


async def outcome(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Return how a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return Code.OK, ""


# Who is let in


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "API_KEY_MISSING"),
        ("Basic dXNlcjpwYXNz", "API_KEY_INVALID"),
        ("Bearer ", "API_KEY_INVALID"),
        ("Bearer brk_000000000000_" + "A" * 43, "API_KEY_INVALID"),
        ("Bearer " + "x" * 4000, "API_KEY_INVALID"),
    ],
)
async def test_whoever_has_no_key_is_refused(keyed: Router, authorization: str, reason: str) -> None:
    one = caller(keyed, authorization) if authorization else keyed
    for name, fields in lists():
        refusal = await refused(call(one, name, **fields))
        assert (refusal.code, refusal.reason) == (Code.UNAUTHENTICATED, reason)
        assert "brk_0" not in refusal.message, "a key is not repeated"
    if authorization:
        await one.channel.close()


async def test_an_unknown_key_and_a_wrong_secret_are_told_the_same(keyed: Router, having: As) -> None:
    right = await having("read")
    key_id = right.key_id
    said = []
    for text in (f"brk_{key_id}_{'A' * 43}", f"brk_{'0' * 12}_{'A' * 43}", right.text[:-1], right.text + "A"):
        one = caller(keyed, f"Bearer {text}")
        said.append((await refused(one.get("support"))).raw)
        await one.channel.close()
    assert len(set(said)) == 1


async def test_a_message_without_a_key_is_not_awaited(keyed: Router) -> None:
    """It is refused by its headers: no message of 15 MB is read, and one that never ends holds nothing up."""
    calls = keyed.channel.stream_unary("/router.v1.RouterService/BatchReward")()
    await asyncio.wait_for(refused(calls), 5)
    await refused(keyed.channel.unary_unary("/router.v1.RouterService/BatchReward")(bytes(15_000_000)))


async def test_keys_are_not_logged(keyed: Router, having: As, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = await having("read", rate=1.0)
    for _ in range(3):
        await refused(one.get("nowhere"))
    revoke_key(keyed.url, one.key_id)
    await until_refused(one, "API_KEY_REVOKED")
    assert one.text not in caplog.text
    assert one.text.rsplit("_", 1)[1] not in caplog.text


async def test_health_is_open_and_reflection_takes_any_key(keyed: Router, having: As) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    health = await health_pb2_grpc.HealthStub(keyed.channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert {"grpc.health.v1.Health"} == OPEN_SERVICES
    stub = reflection_pb2_grpc.ServerReflectionStub(keyed.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ServerReflectionInfo(iter([request])).read()
    assert raised.value.code() is Code.UNAUTHENTICATED
    one = await having("reward")
    key = (("authorization", f"Bearer {one.text}"),)
    reply = await stub.ServerReflectionInfo(iter([request]), metadata=key).read()
    assert len(reply.list_services_response.service) > 5


async def test_without_keys_anybody_may_do_anything(router: Router) -> None:
    await router.run()
    decision = await router.route()
    assert (await router.reward(decision.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED


# What a key is for


@pytest.mark.parametrize("role", EVERY_ROLE)
async def test_every_method_asks_for_its_role(keyed: Router, having: As, role: str) -> None:
    """Whoever has every role but those that a method takes is refused; whoever has one is past the guard."""
    one = await having(role)
    for name, fields in lists():
        (rule,) = [rule for path, rule in METHODS.items() if path.endswith(f"/{name}")]
        permitted = rule.role == role or (rule.role is Role.READ and role == "admin")
        code, message = await outcome(call(one, name, **fields))
        assert (code is Code.PERMISSION_DENIED) != permitted, (name, message)
        if not permitted:
            assert f"takes the role {rule.role}" in message
            assert name == "BatchRoute" or "'other'" in message


async def test_a_key_reaches_the_experiments_of_its_scope_and_no_others(having: As) -> None:
    await running(having, "mine", "other")
    one = await having(*EVERY_ROLE, experiments=["mine", "new"])
    for name, fields in lists():
        if name == "BatchRoute":
            continue
        refusal = await refused(call(one, name, **fields))
        assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "EXPERIMENT_OUT_OF_SCOPE"), name
        assert "'other'" in refusal.message
    assert (await one.get("mine")).experiment_id == "mine"
    assert (await one.route("mine")).decision_id
    assert (await one.create(experiment("new"))).experiment_id == "new"


async def test_feedback_is_of_the_experiment_that_its_decision_id_names(having: As) -> None:
    everything = await running(having, "mine", "other")
    one = await having("reward", experiments=["mine"])
    mine, other = await everything.route("mine"), await everything.route("other")
    assert (await one.reward(mine.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
    refusal = await refused(one.reward(other.decision_id, 1.0))
    assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "EXPERIMENT_OUT_OF_SCOPE")
    answer = shadow_pb2.ModelAnswer(call=routing_pb2.CallReport(latency=Duration(seconds=1)))
    request = shadow_pb2.RecordShadowRequest(decision_id=other.decision_id, arm_id="b", serving=answer, shadow=answer)
    assert (await refused(one.shadows.RecordShadow(request))).reason == "EXPERIMENT_OUT_OF_SCOPE"
    ranking = [interleave_pb2.Ranking(arm_id="a", item_ids=["x"]), interleave_pb2.Ranking(arm_id="b", item_ids=["y"])]
    dealt = await everything.interleaving.Interleave(
        interleave_pb2.InterleaveRequest(experiment_id="other", rankings=ranking)
    )
    vote = interleave_pb2.CreditRequest(interleaving_id=dealt.interleaving_id, positions=[0])
    assert (await refused(one.interleaving.Credit(vote))).reason == "EXPERIMENT_OUT_OF_SCOPE"
    assert {arm.n for arm in (await everything.arms("other")).values()} == {0}


async def test_a_judge_run_is_of_its_experiment(having: As) -> None:
    everything = await having(*EVERY_ROLE)
    await everything.run(judged_experiment(experiment_id="judged"))
    add_comparisons(everything.url, pairs([(0.1, 0.9)] * 3), experiment_id="judged")
    await create(stub(everything), experiment_id="judged")
    inside, outside = [await having("admin", experiments=[name]) for name in ("judged", "other")]
    requests = {
        "ListPendingJudgments": {"run_id": "run"},
        "RecordVerdict": {"run_id": "run", "judgment": 0, "verdict": judge_pb2.VERDICT_TIE},
        "GetJudgeReport": {"run_id": "run"},
    }
    for name, fields in requests.items():
        refusal = await refused(call(outside, name, **fields))
        assert (refusal.code, refusal.reason) == (Code.PERMISSION_DENIED, "EXPERIMENT_OUT_OF_SCOPE"), name
    pending = await call(inside, "ListPendingJudgments", run_id="run")
    assert len(pending.judgments) == 6, "none was recorded"
    for name, fields in requests.items():
        await call(inside, name, **fields)


async def test_an_item_out_of_scope_fails_alone(having: As) -> None:
    everything = await running(having, "mine", "other")
    one = await having("route", "reward", experiments=["mine"])
    asked = [routing_pb2.RouteRequest(experiment_id=name) for name in ("mine", "other", "mine")]
    results = (await one.batch_route(asked)).results
    assert [result.WhichOneof("result") for result in results] == ["response", "error", "response"]
    assert refusal_of(results[1].error).reason == "EXPERIMENT_OUT_OF_SCOPE"
    other = (await everything.route("other")).decision_id
    mine = results[0].response.decision_id
    rewarded = await one.batch_reward([event(other, 1.0), event(mine, 1.0), event(other, 0.0)])
    assert [result.WhichOneof("result") for result in rewarded] == ["error", "response", "error"]
    assert rewarded[0].error.code == Code.PERMISSION_DENIED.value[0]
    assert sum(arm.n for arm in (await everything.arms("other")).values()) == 0
    assert sum(arm.n for arm in (await everything.arms("mine")).values()) == 1


async def test_lists_show_what_is_in_scope(having: As) -> None:
    everything = await running(having, "a", "b", "c", "d")
    one = await having("read", experiments=["b", "d", "gone"])
    request = experiments_pb2.ListExperimentsRequest(page_size=1)
    seen = []
    while True:
        page = await one.experiments.ListExperiments(request)
        seen += [found.experiment_id for found in page.experiments]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["b", "d"]
    whole = await everything.experiments.ListExperiments(experiments_pb2.ListExperimentsRequest())
    assert [found.experiment_id for found in whole.experiments] == ["a", "b", "c", "d"]


# How long a key is good


async def until_refused(one: Caller, reason: str) -> float:
    """Wait until a key is refused; returns how long that took."""

    async def is_refused() -> bool:
        try:
            await one.get("nowhere")
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)
            return status is not None and refusal_of(status).reason == reason
        return False

    return await until(is_refused, f"refused as {reason}")


async def test_a_revoked_key_is_refused_by_every_replica(keyed: Router, having: As, start_router: StartRouter) -> None:
    other = await start_router(keyed.url, keys=True)
    here = await having("read")
    there = caller(other, f"Bearer {here.text}")
    await there.until_known()
    revoke_key(keyed.url, here.key_id)
    assert max(await asyncio.gather(until_refused(here, "API_KEY_REVOKED"), until_refused(there, "API_KEY_REVOKED"))) < 1.0
    await there.channel.close()


async def test_replicas_are_told_and_need_not_look(
    database_url: str, start_router: StartRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.credentials, "_POLL_S", 3600.0)
    made = await start_router(database_url, keys=True)
    one = await caller(made, create_key(database_url, "read")).until_known()
    revoke_key(database_url, one.key_id)
    await until_refused(one, "API_KEY_REVOKED")
    await one.channel.close()


async def test_a_revocation_whose_message_is_lost_is_found_within_two_seconds(keyed: Router, having: As) -> None:
    one = await having("read")
    await query(
        keyed.url,
        "WITH v AS (UPDATE deployment SET access_version = access_version + 1)"
        " UPDATE api_keys SET revoked_at = now(), revoked_by = 'x', revoke_reason = '' WHERE key_id = %s",
        one.key_id,
    )
    assert await until_refused(one, "API_KEY_REVOKED") < 2.0


async def test_a_stream_ends_with_its_key(having: As) -> None:
    everything = await running(having)
    one = await having("read")
    stream = one.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest(experiment_id="support"))
    assert (await stream.read()).posterior.experiment_id == "support"
    revoke_key(everything.url, one.key_id)
    await until_refused(one, "API_KEY_REVOKED")
    await everything.learn("a", 1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(stream.read(), 10)
    assert raised.value.code() is Code.UNAUTHENTICATED


async def test_a_key_expires_by_the_clock(database_url: str, start_router: StartRouter) -> None:
    ahead_us, now_us = 0, Clocks().now_us
    made = await start_router(database_url, Clocks(now_us=lambda: now_us() + ahead_us), keys=True)
    one = caller(made, create_key(database_url, "read", lifetime=timedelta(days=1)))
    await one.until_known()
    ahead_us = 86_400 * 1_000_000 + 1
    refusal = await refused(one.get("nowhere"))
    assert (refusal.code, refusal.reason) == (Code.UNAUTHENTICATED, "API_KEY_EXPIRED")
    await one.channel.close()


async def test_keys_that_are_known_stay_good_while_postgres_is_away(
    stoppable: StoppableCluster, stoppable_url: str, start_router: StartRouter
) -> None:
    made = await start_router(stoppable_url, keys=True)
    one = caller(made, create_key(stoppable_url, *EVERY_ROLE))
    await one.until_known()
    await one.run()
    await one.route()
    stoppable.stop()
    assert (await one.route()).decision_id
    assert (await refused(made.route())).code is Code.UNAUTHENTICATED
    stoppable.start()
    later = caller(made, create_key(stoppable_url, "read"))
    await later.until_known()
    await later.channel.close()
    await one.channel.close()


async def test_a_start_while_postgres_is_away_lets_in_the_keys_of_the_saved_copy(
    stoppable: StoppableCluster, stoppable_url: str, start_router: StartRouter, tmp_path: Path
) -> None:
    before = await start_router(stoppable_url, keys=True)
    one = caller(before, create_key(stoppable_url, *EVERY_ROLE))
    gone = caller(before, create_key(stoppable_url, "route"))
    await one.until_known()
    await gone.until_known()
    await one.run()
    revoke_key(stoppable_url, gone.key_id)

    def is_saved() -> bool:
        for path in (tmp_path / "spool").glob(f"*/{FILE}"):
            with contextlib.closing(SavedFile(path)) as file:
                revoked = {key.key_id: key.revoked for key in file.api_keys()}
                return revoked == {one.key_id: False, gone.key_id: True} and bool(file.experiments())
        return False

    await until(is_saved, "the keys are saved")
    await before.close()
    stoppable.stop()
    after = await start_router(stoppable_url, keys=True)
    again, refused_again = caller(after, f"Bearer {one.text}"), caller(after, f"Bearer {gone.text}")
    reply = await again.route()
    assert reply.decision_id
    assert reply.HasField("stale_for")
    assert (await refused(refused_again.route())).reason == "API_KEY_REVOKED"
    assert (await refused(after.route())).reason == "API_KEY_MISSING"
    for channel in (one, gone, again, refused_again):
        await channel.channel.close()


async def test_when_a_key_was_used_is_kept_to_a_few_minutes(database_url: str, start_router: StartRouter) -> None:
    ahead_s, monotonic = 0.0, Clocks().monotonic
    made = await start_router(database_url, Clocks(monotonic=lambda: monotonic() + ahead_s), keys=True)
    one = caller(made, create_key(database_url, "read"))
    await one.until_known()
    assert await scalar(database_url, "SELECT last_used_at FROM api_keys") is None
    ahead_s = 61.0
    await until_scalar(database_url, "SELECT last_used_at > now() - interval '2 minutes' FROM api_keys", True)
    await one.channel.close()


# How often


async def test_a_key_over_its_rate_is_told_when_to_come_back(having: As) -> None:
    await running(having)
    one = await having("route", rate=5.0, burst=21.0)
    codes = [(await outcome(one.route()))[0] for _ in range(60)]
    assert codes[:20] == [Code.OK] * 20
    assert Code.RESOURCE_EXHAUSTED in codes
    told = await refused(one.route())
    assert (told.code, told.reason) == (Code.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert told.retry_after_s is not None
    assert 0 < told.retry_after_s <= 0.25
    other = await having("route")
    assert (await other.route()).decision_id, "the limit is the key's own"


async def test_our_clients_wait_as_long_as_they_are_told_and_send_feedback_again(having: As, keyed: Router) -> None:
    """The delay travels as gRPC's own pushback: a retry before it would be refused, and the default ones are over sooner."""
    everything = await running(having)
    one = await having("reward", rate=0.5, burst=1.0)
    decisions = [await everything.route() for _ in range(2)]
    async with AsyncRouterClient(f"127.0.0.1:{keyed.server.port}", api_key=one.text) as client:
        began = time.monotonic()
        for decision in decisions:
            await client.reward(decision.decision_id, signal="task_completed", timeout=20)
        assert time.monotonic() - began > 1.0
    assert sum(arm.n for arm in (await everything.arms()).values()) == 2


async def test_refused_calls_are_in_the_metrics(keyed: Router) -> None:
    await refused(keyed.route())
    await refused(keyed.route())
    counted = [sample for sample in keyed.server.samples() if "UNAUTHENTICATED" in str(sample)]
    assert counted
    assert "Route" in str(counted)


async def test_items_of_a_batch_count_as_calls(having: As) -> None:
    await running(having)
    one = await having("route", rate=1.0, burst=10.0)
    items = [routing_pb2.RouteRequest(experiment_id="support")] * 100
    assert len((await one.batch_route(items)).results) == 100
    told = await refused(one.batch_route(items[:1]))
    assert told.retry_after_s is not None
    assert 80 < told.retry_after_s <= 101, "what was taken in advance is paid back first"


# The audit log


async def audited(url: str) -> list[tuple[Any, ...]]:
    return await query(
        url,
        "SELECT action, actor, experiment_id, outcome, detail, key_id, source FROM audit_log"
        " WHERE action <> 'test' ORDER BY audit_id",
    )


async def test_what_the_audit_log_says_of_an_act(having: As, keyed: Router) -> None:
    everything = await having(*EVERY_ROLE, name="ops")
    await everything.create(experiment(), actor="ana", reason="first")
    await everything.move("Start")
    await everything.move("Pause", actor="ana", reason="lunch")
    await everything.move("Resume")
    await everything.update(experiment(description="again"))
    await everything.move("Conclude")
    rows = await audited(keyed.url)
    assert [row[0] for row in rows] == [
        *("CreateExperiment", "StartExperiment", "PauseExperiment", "ResumeExperiment", "UpdateExperiment"),
        "ConcludeExperiment",
    ]
    assert {row[1:4] for row in rows} == {("ops", "support", "done")}
    assert {row[5] for row in rows} == {everything.key_id}
    assert all(row[6].startswith("ipv4:127.0.0.1:") for row in rows)
    assert rows[2][4] == {"said_actor": "ana", "reason": "lunch"}


async def test_every_administrative_act_is_audited(having: As, keyed: Router) -> None:
    """Each method that changes something succeeds once or more, and each time is one row."""
    everything = await having(*EVERY_ROLE)
    ramping = experiment(
        "ramping",
        arms=[arm("a", role="ROLE_CONTROL"), arm("b", role="ROLE_CHALLENGER")],
        ramp=experiments_pb2.RampRule(approval=True),
    )
    mirrored = experiment("mirrored", arms=[arm("a", role="ROLE_CONTROL"), arm("b"), arm("s", role="ROLE_SHADOW")])
    mirrored.shadow.CopyFrom(experiments_pb2.ShadowRule(rate=0.5, text="TEXT_MODE_OFF"))
    done: list[tuple[str, str]] = []

    async def does(name: str, about: str, **fields: Any) -> None:
        await call(everything, name, **fields)
        done.append((name, about))

    for definition in (ramping, mirrored, judged_experiment(experiment_id="judged")):
        await does("CreateExperiment", definition.experiment_id, experiment=definition)
    await does("UpdateExperiment", "mirrored", experiment=mirrored)
    for verb in ("Shadow", "Start", "Pause", "Resume", "Conclude"):
        await does(f"{verb}Experiment", "mirrored", experiment_id="mirrored")
    await does("StartExperiment", "ramping", experiment_id="ramping")
    for verb in ("Approve", "Advance", "RollBack", "Abort"):
        await does(f"{verb}Ramp", "ramping", experiment_id="ramping", reason="why")
    again = experiment("again", arms=list(ramping.arms), ramp=ramping.ramp)
    await does("CreateExperiment", "again", experiment=again)
    await does("StartExperiment", "again", experiment_id="again")
    await does("PromoteRamp", "again", experiment_id="again", reason="why")
    await does("StartExperiment", "judged", experiment_id="judged")
    add_comparisons(keyed.url, pairs([(0.1, 0.9)]), experiment_id="judged")
    await does("CreateJudgeRun", "judged", run=run_of(experiment_id="judged"))

    assert {name for name, _ in done} == {path.rsplit("/", 1)[1] for path, rule in METHODS.items() if rule.audited}
    assert [(row[0], row[2]) for row in await audited(keyed.url)] == done


async def test_what_failed_left_no_trace_and_what_was_denied_did(having: As, keyed: Router) -> None:
    everything = await running(having)
    before = len(await audited(keyed.url))
    assert (await refused(everything.move("Start"))).code is Code.FAILED_PRECONDITION
    one = await having("read", name="reader")
    assert (await refused(one.move("Pause"))).code is Code.PERMISSION_DENIED
    scoped = await having("admin", name="elsewhere", experiments=["other"])
    assert (await refused(scoped.move("Pause"))).code is Code.PERMISSION_DENIED
    assert (await refused(one.route())).code is Code.PERMISSION_DENIED, "not administrative"
    await until_scalar(keyed.url, "SELECT count(*) FROM audit_log WHERE action <> 'test'", before + 2)
    rows = (await audited(keyed.url))[before:]
    assert [row[:4] for row in rows] == [
        ("PauseExperiment", "reader", "support", "denied"),
        ("PauseExperiment", "elsewhere", "support", "denied"),
    ]


async def test_denials_without_end_do_not_fill_the_log(having: As, keyed: Router) -> None:
    one = await having("read")
    for _ in range(5):
        await asyncio.gather(*(refused(one.move("Pause")) for _ in range(60)))
    await until_scalar(keyed.url, "SELECT count(*) >= 100 FROM audit_log WHERE outcome = 'denied'", True)
    assert await scalar(keyed.url, "SELECT count(*) FROM audit_log WHERE outcome = 'denied'") < 200


async def test_without_keys_acts_are_audited_too(router: Router) -> None:
    await router.run()
    assert [row[:4] for row in await audited(router.url)] == [
        ("CreateExperiment", "", "support", "done"),
        ("StartExperiment", "", "support", "done"),
    ]
