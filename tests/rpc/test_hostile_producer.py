"""A producer with a good key that wants one arm to win: what it can repeat, forge or borrow moves nothing."""

from __future__ import annotations

import random
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from keyed import EVERY_ROLE, Caller, caller, create_key
from postgres import TestCluster
from running import Router, assert_replay_agrees, event, experiment, refusal_of, refused, scalar

from router.tokens import TokenCodec, TokenKey
from router.v1 import interleave_pb2, routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest_asyncio.fixture
async def owner(database_url: str, start_router: StartRouter) -> Caller:
    """Whoever may do all, with an experiment that runs."""
    made = await start_router(database_url, keys=True)
    one = await caller(made, create_key(database_url, *EVERY_ROLE, name="owner")).until_known()
    await one.run()
    return one


@pytest_asyncio.fixture
async def hostile(owner: Caller) -> Caller:
    """A producer."""
    return await caller(owner, create_key(owner.url, "reward", name="hostile")).until_known()


async def counted(owner: Caller) -> dict[str, tuple[int, float]]:
    """Outcomes and mean of each arm."""
    return {arm_id: (arm.n, round(arm.mean, 6)) for arm_id, arm in (await owner.arms()).items()}


async def decided_for(owner: Caller, arm_id: str) -> str:
    return (await owner.route(eligible_arm_ids=[arm_id])).decision_id


async def test_an_event_that_is_repeated_counts_once(owner: Caller, hostile: Caller) -> None:
    decision_id = await decided_for(owner, "a")
    statuses = [(await hostile.reward(decision_id, 1.0, event_id="e")).status for _ in range(50)]
    batch = await hostile.batch_reward([event(decision_id, 1.0, event_id="e")] * 1_000)
    statuses += [result.response.status for result in batch]
    assert sorted(set(statuses)) == [routing_pb2.STATUS_APPLIED, routing_pb2.STATUS_DUPLICATE]
    assert statuses.count(routing_pb2.STATUS_APPLIED) == 1
    assert await counted(owner) == {"a": (1, round(2 / 3, 6)), "b": (0, 0.5)}


async def test_a_decision_has_one_outcome_however_many_events(owner: Caller, hostile: Caller) -> None:
    decision_id = await decided_for(owner, "a")
    await hostile.batch_reward([event(decision_id, 1.0, event_id=f"e{n}") for n in range(2_000)])
    assert (await counted(owner))["a"] == (1, round(2 / 3, 6))
    await assert_replay_agrees(owner.url)


async def test_times_of_ones_own_making_decide_nothing_twice(owner: Caller, hostile: Caller) -> None:
    decision_id = await decided_for(owner, "a")
    far = [Timestamp(seconds=seconds) for seconds in (-62_135_596_800, 0, 253_402_300_799)]
    for n, at in enumerate(far):
        await hostile.reward(decision_id, 1.0, event_id=f"e{n}", occurred_at=at)
    assert (await counted(owner))["a"][0] == 1


async def test_every_altered_byte_of_a_decision_id_is_noticed(owner: Caller, hostile: Caller) -> None:
    decision_id = await decided_for(owner, "b")
    raw = bytearray(urlsafe_b64decode(decision_id + "=" * (-len(decision_id) % 4)))
    rng = random.Random(7)
    forged = []
    for position in range(len(raw)):
        for mask in (1, 0x80, rng.randrange(1, 256)):
            altered = bytearray(raw)
            altered[position] ^= mask
            forged.append(urlsafe_b64encode(altered).decode().rstrip("="))
    forged += [decision_id[:-1], decision_id + "A", decision_id[::-1], decision_id + "=", "A" * len(decision_id)]
    results = await hostile.batch_reward([event(text, 1.0) for text in forged])
    assert {result.WhichOneof("result") for result in results} == {"error"}
    assert {result.error.code for result in results} == {INVALID}
    reasons = {refusal_of(result.error).reason for result in results}
    assert reasons == {"DECISION_ID_TAMPERED", "DECISION_ID_FOREIGN", "DECISION_ID_MALFORMED"}
    assert await scalar(owner.url, "SELECT count(*) FROM events") == 0


async def test_ids_signed_by_others_are_noticed(
    owner: Caller, hostile: Caller, cluster: TestCluster, tmp_path: Path
) -> None:
    """By a key of one's own under the id of the deployment's, and by another deployment."""
    known = (await owner.route()).decision_id
    key_id = await scalar(owner.url, "SELECT key_id FROM token_keys")
    secret = bytes(await scalar(owner.url, "SELECT secret FROM token_keys"))
    token = TokenCodec(TokenKey(key_id, secret), {}).open(known)
    forged = TokenCodec(TokenKey(key_id, bytes(32)), {}).mint(token._replace(arm=1, propensity=0.001))[0].decode()
    assert (await refused(hostile.reward(forged, 1.0))).reason == "DECISION_ID_TAMPERED"
    with cluster.database_from_template("template_migrated") as url:
        other = await Router.start(url, tmp_path / "other", keeper=False)
        await other.run()
        foreign = (await other.route()).decision_id
        await other.close()
    assert (await refused(hostile.reward(foreign, 1.0))).reason == "DECISION_ID_FOREIGN"
    assert await scalar(owner.url, "SELECT count(*) FROM events") == 0


async def test_an_interleaving_id_is_no_decision_id(owner: Caller, hostile: Caller) -> None:
    ranking = [interleave_pb2.Ranking(arm_id=name, item_ids=[name]) for name in ("a", "b")]
    request = interleave_pb2.InterleaveRequest(experiment_id="support", rankings=ranking)
    dealt = await owner.interleaving.Interleave(request)
    assert (await refused(hostile.reward(dealt.interleaving_id, 1.0))).reason == "DECISION_ID_MALFORMED"
    vote = interleave_pb2.CreditRequest(interleaving_id=(await owner.route()).decision_id, positions=[0])
    assert (await refused(hostile.interleaving.Credit(vote))).reason == "DECISION_ID_MALFORMED"


async def test_a_forced_decision_teaches_nothing(owner: Caller, hostile: Caller) -> None:
    """Whoever may route could choose the arm that it rewards: such decisions are never learned from."""
    forced = await owner.route(force_arm_id="b")
    assert (await hostile.reward(forced.decision_id, 1.0)).status == routing_pb2.STATUS_NEUTRAL
    assert await counted(owner) == {"a": (0, 0.5), "b": (0, 0.5)}


async def test_whoever_rewards_cannot_make_the_decisions_for_it(owner: Caller, hostile: Caller) -> None:
    assert (await refused(hostile.route())).reason == "ROLE_MISSING"
    assert (await refused(hostile.batch_route([routing_pb2.RouteRequest(experiment_id="support")]))).reason == "ROLE_MISSING"


async def test_a_scope_and_a_rate_bound_what_a_key_can_do(owner: Caller) -> None:
    """Of two experiments it reaches one, and of that no more in any time than its rate lets through."""
    await owner.run(experiment("other"))
    one = caller(owner, create_key(owner.url, "reward", name="bounded", experiments=["other"], rate=50.0, burst=100.0))
    await one.until_known()
    mine = [(await owner.route("other")).decision_id for _ in range(400)]
    theirs = (await owner.route("support")).decision_id
    assert (await refused(one.reward(theirs, 1.0))).reason == "EXPERIMENT_OUT_OF_SCOPE"
    applied, codes, began = 0, set(), time.monotonic()
    for decision_id in mine:
        try:
            await one.reward(decision_id, 1.0)
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
        else:
            applied += 1
    took_s = time.monotonic() - began
    assert applied <= 100 + 50 * took_s + 1
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert sum(n for n, _ in (await counted(owner)).values()) == 0
    await one.channel.close()


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -1.0, 2.0, 1e300])
async def test_rewards_beyond_the_range_are_refused(owner: Caller, hostile: Caller, reward: float) -> None:
    decision_id = await decided_for(owner, "a")
    assert (await refused(hostile.reward(decision_id, reward))).code is grpc.StatusCode.INVALID_ARGUMENT
