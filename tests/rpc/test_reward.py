"""Reward and BatchReward on real servers: what counts, what does not, and that nothing counts twice."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from running import (
    Router,
    StoppableCluster,
    assert_replay_agrees,
    event,
    experiment,
    locked,
    query,
    refusal_of,
    refused,
    scalar,
    terminate_others,
    until,
    until_scalar,
    until_waiting,
)

from bandit.reward import DEFAULT_SIGNAL_MICROS
from router.feedback import event_row
from router.server import Clocks
from router.tokens import TokenCodec, TokenKey
from router.v1 import routing_pb2, types_pb2

APPLIED, DUPLICATE, NEUTRAL, LATE, SPOOLED = (
    routing_pb2.STATUS_APPLIED,
    routing_pb2.STATUS_DUPLICATE,
    routing_pb2.STATUS_NEUTRAL,
    routing_pb2.STATUS_LATE,
    routing_pb2.STATUS_SPOOLED,
)
DAY_S = 86_400


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)

    def clocks(self) -> Clocks:
        return Clocks(now_us=lambda: int(self.now.timestamp() * 1e6))

    def stamp(self, **offset: float) -> Timestamp:
        stamp = Timestamp()
        stamp.FromDatetime(self.now + timedelta(**offset))
        return stamp


async def outcomes(router: Router) -> list[int]:
    return [micros for (micros,) in await query(router.url, "SELECT reward_micros FROM outcomes ORDER BY 1")]


async def evidence(router: Router, experiment_id: str = "support") -> tuple[float, float, int]:
    """Successes, failures and n over all arms; prior Beta(1, 1)."""
    arms = (await router.posterior(experiment_id)).arms
    return (
        math.fsum(arm.alpha - 1 for arm in arms),
        math.fsum(arm.beta - 1 for arm in arms),
        sum(arm.n for arm in arms),
    )


# What an event is worth


@pytest.mark.parametrize("signal", list(DEFAULT_SIGNAL_MICROS), ids=lambda signal: signal.name)
async def test_each_signal_has_its_default_reward(router: Router, signal):
    await router.run()
    decision = await router.route()
    reply = await router.reward(decision.decision_id, signal=int(signal))
    expected = DEFAULT_SIGNAL_MICROS[signal]
    assert reply.arm_id == decision.arm.arm_id
    assert reply.status == (NEUTRAL if expected is None else APPLIED)
    assert await outcomes(router) == ([] if expected is None else [expected])
    await assert_replay_agrees(router.url)


@pytest.mark.parametrize("reward", [0.0, -0.0, 1e-7, 0.3333333, 0.5, 0.9999999, 1.0])
async def test_a_numeric_reward_is_kept_to_a_millionth(router: Router, reward: float):
    await router.run()
    decision = await router.route()
    assert (await router.reward(decision.decision_id, reward)).status == APPLIED
    assert await outcomes(router) == [round(reward * 1e6)]
    arm = (await router.arms())[decision.arm.arm_id]
    assert (arm.alpha, arm.n) == (1 + round(reward * 1e6) / 1e6, 1)


async def test_the_experiment_says_what_a_signal_is_worth(router: Router):
    signals = {types_pb2.SIGNAL_FOLLOW_UP_QUESTION: 0.25, types_pb2.SIGNAL_TASK_COMPLETED: None}
    await router.run(experiment(signals=signals))
    first, second, third = [await router.route() for _ in range(3)]
    assert (await router.reward(first.decision_id, signal=types_pb2.SIGNAL_FOLLOW_UP_QUESTION)).status == APPLIED
    assert (await router.reward(second.decision_id, signal=types_pb2.SIGNAL_TASK_COMPLETED)).status == NEUTRAL
    assert (await router.reward(third.decision_id, signal=types_pb2.SIGNAL_THUMBS_UP)).status == APPLIED
    assert await outcomes(router) == [250_000, 1_000_000]


async def test_a_measurement_outranks_a_rating_which_outranks_behaviour(router: Router):
    await router.run()
    decision = await router.route()
    steps = [
        ({"signal": types_pb2.SIGNAL_TASK_COMPLETED}, 1_000_000),
        ({"signal": types_pb2.SIGNAL_REPHRASED_QUERY}, 0),
        ({"signal": types_pb2.SIGNAL_THUMBS_UP}, 1_000_000),
        ({"signal": types_pb2.SIGNAL_SESSION_ABANDONED}, 1_000_000),
        ({"reward": 0.2}, 200_000),
        ({"signal": types_pb2.SIGNAL_THUMBS_DOWN}, 200_000),
        ({"reward": 0.1}, 100_000),
    ]
    for fields, outcome in steps:
        assert (await router.reward(decision.decision_id, **fields)).status == APPLIED
        assert await outcomes(router) == [outcome]
        assert await evidence(router) == pytest.approx((outcome / 1e6, 1 - outcome / 1e6, 1), abs=1e-12)
    await assert_replay_agrees(router.url)


async def test_the_later_of_two_equals_decides_whatever_their_order(router: Router):
    await router.run()
    first, second = await router.route(), await router.route()
    now = datetime.now(UTC)
    early, late = Timestamp(), Timestamp()
    early.FromDatetime(now + timedelta(milliseconds=1))
    late.FromDatetime(now + timedelta(milliseconds=2))
    await until(lambda: datetime.now(UTC) > now + timedelta(milliseconds=3), "both times are past")
    await router.reward(first.decision_id, 0.1, occurred_at=early)
    await router.reward(first.decision_id, 0.9, occurred_at=late)
    await router.reward(second.decision_id, 0.9, occurred_at=late)
    await router.reward(second.decision_id, 0.1, occurred_at=early)
    assert await outcomes(router) == [900_000, 900_000]


async def test_a_call_report_is_stored_and_never_counts(router: Router):
    await router.run()
    decision = await router.route()
    call = routing_pb2.CallReport(
        latency=Duration(seconds=1, nanos=500_000_000), input_tokens=12, output_tokens=0, cost_usd=0.0125, error="time out"
    )
    assert (await router.reward(decision.decision_id, call=call, metadata={"k": "v\n'\"\\"})).status == NEUTRAL
    ((details,),) = await query(router.url, "SELECT details FROM events")
    assert details == {
        "latency_ms": 1500.0,
        "input_tokens": 12,
        "output_tokens": 0,
        "cost_usd": 0.0125,
        "error": "time out",
        "metadata": {"k": "v\n'\"\\"},
    }, "without a unit there is nobody to forget"
    assert await evidence(router) == (0, 0, 0)


@pytest.mark.parametrize(
    "latency",
    [Duration(seconds=2**63 - 1), Duration(seconds=1, nanos=2**31 - 1), Duration(nanos=-1)],
    ids=["too long", "nanos too many", "negative"],
)
async def test_a_strange_latency_is_refused_or_stored_but_no_fault(router: Router, latency: Duration):
    await router.run()
    decision = await router.route()
    try:
        await router.reward(decision.decision_id, call=routing_pb2.CallReport(latency=latency))
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()  # noqa: PT017
    ok = await router.reward(decision.decision_id, 1.0)
    assert ok.status == APPLIED


# Once


async def test_an_event_sent_again_changes_nothing(router: Router):
    await router.run()
    decision = await router.route()
    assert (await router.reward(decision.decision_id, 1.0, event_id="e")).status == APPLIED
    version = (await router.posterior()).policy_version
    for _ in range(20):
        assert (await router.reward(decision.decision_id, 1.0, event_id="e")).status == DUPLICATE
    assert (await router.reward(decision.decision_id, 0.0, event_id="e")).status == DUPLICATE
    assert await evidence(router) == (1.0, 0.0, 1)
    assert (await router.posterior()).policy_version == version


async def test_the_ids_of_derived_events_are_refused(router: Router):
    await router.run()
    decision = await router.route()
    found = await refused(router.reward(decision.decision_id, 1.0, event_id="derived:immediate_retry"))
    assert (found.reason, found.violations) == (
        "INVALID_FIELD",
        {"event_id": "must not begin with 'derived:': such events are the router's own"},
    )


async def test_an_event_id_is_scoped_to_its_decision(router: Router):
    await router.run()
    for _ in range(3):
        assert (await router.reward((await router.route()).decision_id, 1.0, event_id="same")).status == APPLIED
    assert await evidence(router) == (3.0, 0.0, 3)


async def test_one_event_sent_to_two_replicas_at_once_counts_once(router: Router, other_router: Router):
    await router.run()
    decisions = [await router.route() for _ in range(20)]
    for number, decision in enumerate(decisions):
        request = event(decision.decision_id, float(number % 2), event_id="e")
        sent = (r.routing.Reward(request) for r in (router, other_router, router, other_router))
        replies = await asyncio.gather(*sent)
        assert sorted(reply.status for reply in replies) == [APPLIED, DUPLICATE, DUPLICATE, DUPLICATE]
    assert await evidence(router) == (10.0, 10.0, 20)
    await assert_replay_agrees(router.url)


async def test_two_replicas_correct_one_another_exactly(router: Router, other_router: Router):
    """Many events of few decisions, to both replicas at once, in batches: the evidence is that of the fold."""
    await router.run(experiment(arms=("a", "b", "c")))
    decisions = [await router.route(request_id=f"r-{n}") for n in range(30)]
    events = [
        event(decision.decision_id, ((7 * n + 13 * k) % 101) / 100)
        for n, decision in enumerate(decisions)
        for k in range(20)
    ]
    halves = [events[offset::4] for offset in range(4)]
    results = await asyncio.gather(
        *(r.batch_reward(half) for r, half in zip((router, other_router) * 2, halves, strict=True))
    )
    assert {result.response.status for batch in results for result in batch} == {APPLIED}
    assert sum(arm.n for arm in (await router.posterior()).arms) == 30
    report = await assert_replay_agrees(router.url)
    assert (report.events, report.outcomes) == (600, 30)


async def test_the_same_event_by_another_receipt_of_the_decision_is_no_contradiction(router: Router):
    """Two replies to one request id differ in their decision ids; an event sent with either is the same event."""
    await router.run()
    request = event("one", 1.0, event_id="e")
    other = event("two", 1.0, event_id="e")
    token, definition = _token_and_definition()
    codec = TokenCodec(TokenKey(1, bytes(32)), {})
    contents = {event_row(r, token, definition, 2_000_000, codec.hash_content).content for r in (request, other)}
    assert len(contents) == 1
    another = event("one", 0.5, event_id="e")
    assert event_row(another, token, definition, 2_000_000, codec.hash_content).content not in contents


def test_without_the_key_nobody_can_try_what_an_event_held():
    """Signing keys come and go; the first one names units and keys what tells repetitions."""
    token, definition = _token_and_definition()
    first, second = TokenKey(1, bytes(32)), TokenKey(2, b"\1" * 32, activates_at_us=1)

    def content(codec: TokenCodec) -> bytes:
        sent = event("one", 1.0, event_id="e", metadata={"phone": "+49301234567"})
        return event_row(sent, token, definition, 2_000_000, codec.hash_content).content

    assert (
        content(TokenCodec.of([first], 9))
        == content(TokenCodec.of([first, second], 9))
        != content(TokenCodec.of([second], 9))
    )


def _token_and_definition():
    from datetime import timedelta
    from types import SimpleNamespace

    from router.experiment import RewardRule
    from router.tokens import DecisionToken

    token = DecisionToken(1, bytes(16), 0, 1, True, 1, 0.5, 1_000_000, bytes(8), bytes(8), bytes(8), "")
    rule = RewardRule(DEFAULT_SIGNAL_MICROS, timedelta(days=7))
    return token, SimpleNamespace(reward_rules={1: rule}, rules=SimpleNamespace(named_segment=lambda segment: ""))


# Time


async def test_an_event_beyond_the_window_is_stored_and_never_counts(router: Router, start_router):
    clock = Clock()
    timed = await start_router(router.url, clock.clocks())
    await timed.run(experiment(window_s=60))
    inside, outside, corrected = [await timed.route() for _ in range(3)]
    assert (await timed.reward(corrected.decision_id, 0.0)).status == APPLIED
    clock.advance(seconds=60)
    assert (await timed.reward(inside.decision_id, 1.0)).status == APPLIED
    clock.advance(microseconds=2)
    assert (await timed.reward(outside.decision_id, 1.0)).status == LATE
    assert (await timed.reward(corrected.decision_id, 1.0)).status == LATE
    assert (await timed.reward(outside.decision_id, signal=types_pb2.SIGNAL_FOLLOW_UP_QUESTION)).status == LATE
    in_time = clock.stamp(seconds=-30)
    assert (await timed.reward(outside.decision_id, 1.0, occurred_at=in_time)).status == APPLIED
    assert await evidence(router) == (2.0, 1.0, 3)
    assert await scalar(router.url, "SELECT count(*) FROM events") == 6
    await assert_replay_agrees(router.url)


async def test_times_are_clamped_between_decision_and_receipt(router: Router, start_router):
    clock = Clock()
    timed = await start_router(router.url, clock.clocks())
    await timed.run()
    decision = await timed.route()
    clock.advance(seconds=10)
    decision_id = decision.decision_id
    past, future = clock.stamp(days=-400), clock.stamp(days=400)
    assert (await timed.reward(decision_id, 0.3, occurred_at=past, event_id="past")).status == APPLIED
    assert (await timed.reward(decision_id, 0.6, occurred_at=future, event_id="future")).status == APPLIED
    clock.advance(seconds=10)
    assert (await timed.reward(decision_id, 0.9, event_id="now")).status == APPLIED
    rows = await query(router.url, "SELECT event_id, occurred_at - decided_at FROM events ORDER BY 2")
    assert rows == [("past", timedelta(0)), ("future", timedelta(seconds=10)), ("now", timedelta(seconds=20))]
    assert await outcomes(router) == [900_000]


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1, -(2**63)])
async def test_a_time_that_is_none_is_refused(router: Router, seconds: int):
    await router.run()
    decision = await router.route()
    refusal = await refused(router.reward(decision.decision_id, 1.0, occurred_at=Timestamp(seconds=seconds)))
    assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(refusal.violations) == ["occurred_at"]


async def test_the_rule_of_the_decision_applies(router: Router):
    await router.run(experiment(signals={types_pb2.SIGNAL_TASK_COMPLETED: 0.75}))
    before = await router.route()
    await router.update(experiment(signals={types_pb2.SIGNAL_TASK_COMPLETED: 0.25}))
    after = await router.route()
    for decision in (before, after):
        assert (await router.reward(decision.decision_id, signal=types_pb2.SIGNAL_TASK_COMPLETED)).status == APPLIED
    assert await outcomes(router) == [250_000, 750_000]
    rows = await query(router.url, "SELECT reward_rule_version, reward_micros FROM events ORDER BY 1")
    assert rows == [(1, 750_000), (2, 250_000)]


@pytest.mark.parametrize("verb", ["Pause", "Conclude"])
async def test_late_feedback_counts_when_the_experiment_no_longer_serves(router: Router, other_router: Router, verb: str):
    await router.run()
    decision = await router.route()
    await router.move(verb)
    assert (await router.reward(decision.decision_id, 1.0)).status == APPLIED
    assert (await other_router.reward(decision.decision_id, 0.5)).status == APPLIED
    assert (await evidence(router))[2] == 1


async def test_an_event_of_yesterday_and_of_an_hour_ago(router: Router, start_router):
    """Partitions are made on demand, and evidence keeps the hour of the decision."""
    clock = Clock()
    timed = await start_router(router.url, clock.clocks())
    await timed.run()
    decisions = []
    for _ in range(4):
        decisions.append(await timed.route())
        clock.advance(hours=-20)
    clock.advance(hours=100)
    for decision in decisions:
        assert (await timed.reward(decision.decision_id, 1.0)).status == APPLIED
    assert await scalar(router.url, "SELECT count(DISTINCT bucket) FROM evidence") == 4
    await until_scalar(router.url, "SELECT count(*) FROM decision_log WHERE reward = 1", 4)
    await assert_replay_agrees(router.url)


# Decision ids


async def test_no_character_of_a_decision_id_may_change(router: Router):
    await router.run()
    decision_id = (await router.route(segment="mobile")).decision_id
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    altered = []
    for i, character in enumerate(decision_id):
        other = alphabet[(alphabet.index(character) + 1 + i % 62) % 64]
        altered.append(decision_id[:i] + other + decision_id[i + 1 :])
    altered += [decision_id[:n] for n in range(1, len(decision_id), 7)]
    altered += [decision_id + c for c in "A=-."] + [f" {decision_id}", f"{decision_id}\n", decision_id.swapcase()]
    altered += [decision_id * 2, decision_id[::-1], "é" + decision_id[1:], "", "x" * 513]
    results = await router.batch_reward([event(text, 1.0) for text in altered])
    refusals = [refusal_of(result.error) for result in results]
    assert all(refusal.code == grpc.StatusCode.INVALID_ARGUMENT for refusal in refusals)
    assert all(set(refusal.violations) == {"decision_id"} for refusal in refusals)
    reasons = [refusal.reason for refusal in refusals]
    assert set(reasons[:-2]) == {"DECISION_ID_MALFORMED", "DECISION_ID_TAMPERED", "DECISION_ID_FOREIGN"}
    assert reasons[-2:] == ["INVALID_FIELD", "INVALID_FIELD"]
    assert await scalar(router.url, "SELECT count(*) FROM events") == 0


async def test_a_decision_of_another_deployment_is_foreign(router: Router, cluster, start_router):
    await router.run()
    with cluster.database_from_template("template_migrated") as url:
        foreign = await start_router(url)
        await foreign.run()
        decision = await foreign.route()
        refusal = await refused(router.reward(decision.decision_id, 1.0))
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "DECISION_ID_FOREIGN")
        assert (await foreign.reward(decision.decision_id, 1.0)).status == APPLIED
        await foreign.close()


async def test_a_decision_may_be_rewarded_before_it_is_in_the_log(router: Router):
    await router.run()
    decision = await router.route()
    with locked(router.url, "policy_versions"):
        pass
    assert (await router.reward(decision.decision_id, 1.0)).status == APPLIED


# Batches


async def test_each_item_of_a_batch_stands_alone(router: Router):
    await router.run()
    decisions = [(await router.route()).decision_id for _ in range(3)]
    tampered = decisions[0][:-3] + ("AAA" if decisions[0][-3:] != "AAA" else "BBB")
    requests = [
        event(decisions[0], 1.0, event_id="e1"),
        event("garbage", 1.0),
        event(tampered, 1.0),
        event(decisions[0], 2.0),
        event(decisions[0], math.nan),
        event(decisions[0], -0.1),
        event(decisions[0], math.inf),
        event(decisions[1], 1.0, event_id=""),
        event(decisions[1], 1.0, event_id="nul\x00"),
        event(decisions[1], 1.0, event_id="x" * 129),
        event(decisions[1], 1.0, metadata={f"k{n}": "v" for n in range(33)}),
        event(decisions[1], 1.0, metadata={"k": "v" * 1_025}),
        event(decisions[1], 1.0, metadata={"k": "nul\x00"}),
        event(decisions[1], 1.0, metadata={"": "v"}),
        event(decisions[1]),
        event(decisions[1], signal=0),
        event(decisions[1], signal=99),
        routing_pb2.RewardRequest(),
        event(decisions[0], 1.0, event_id="e1"),
        event(decisions[2], 0.0, event_id="e1"),
        event(decisions[0], 0.0, event_id="e1"),
        event(decisions[1], call=routing_pb2.CallReport(cost_usd=math.inf)),
        event(decisions[1], call=routing_pb2.CallReport(input_tokens=-1)),
        event(decisions[1], call=routing_pb2.CallReport(latency=Duration(seconds=-1))),
    ]
    results = await router.batch_reward(requests)
    assert len(results) == len(requests)
    found = [r.response.status if r.HasField("response") else refusal_of(r.error).reason for r in results]
    assert found == [
        APPLIED,
        "DECISION_ID_MALFORMED",
        "DECISION_ID_TAMPERED",
        *["INVALID_FIELD"] * 15,
        DUPLICATE,
        APPLIED,
        DUPLICATE,
        *["INVALID_FIELD"] * 3,
    ]
    for request, result in zip(requests, results, strict=True):
        if result.HasField("error"):
            alone = await refused(router.routing.Reward(request))
            assert alone.raw == result.error.SerializeToString()
    assert await evidence(router) == (1.0, 1.0, 2)


async def test_a_batch_of_ten_thousand(router: Router):
    await router.run()
    routed = [await router.batch_route([routing_pb2.RouteRequest(experiment_id="support")] * 1_000) for _ in range(2)]
    ids = [result.response.decision_id for reply in routed for result in reply.results]
    events = [event(decision_id, float(k % 2)) for k in range(5) for decision_id in ids]
    results = await router.batch_reward(events)
    assert len(results) == 10_000
    # What a busy machine does not commit within a second is spooled, and stored soon.
    assert {result.response.status for result in results} <= {APPLIED, SPOOLED}
    await until_scalar(router.url, "SELECT count(*) FROM events", 10_000)
    report = await assert_replay_agrees(router.url)
    assert (report.events, report.outcomes) == (10_000, 2_000)
    refusal = await refused(router.batch_reward([*events, events[0]]))
    assert (refusal.reason, list(refusal.violations)) == ("INVALID_FIELD", ["requests"])


# Postgres away


async def test_without_postgres_events_are_spooled_and_count_once_when_it_is_back(
    stoppable: StoppableCluster, stoppable_url: str, start_router
):
    """With the time of their receipt, however long the outage, and whether or not they are sent again."""
    clock = Clock()
    router = await start_router(stoppable_url, clock.clocks())
    await router.run(experiment(window_s=3_600))
    decisions = [(await router.route(eligible_arm_ids=["a"])).decision_id for _ in range(20)]
    stoppable.stop()
    first = await router.reward(decisions[0], 1.0, event_id="e")
    assert first.status == SPOOLED
    assert first.arm_id == "a"
    for result in await router.batch_reward(event(decision, 1.0, event_id="e") for decision in decisions[:10]):
        assert result.response.status == SPOOLED
    clock.advance(hours=2)
    stoppable.start()
    sent_again = (await router.reward(decisions[0], 1.0, event_id="e")).status
    assert sent_again in {SPOOLED, DUPLICATE, LATE}
    await until(lambda: _is(evidence(router), (10.0, 0.0, 10)), "what was spooled is counted")
    # The worker itself finds out by one of its next events.
    await until(lambda: _is(_status(router, decisions[0]), DUPLICATE), "events are committed again")
    assert await _status(router, decisions[10]) == LATE
    in_time = "SELECT DISTINCT received_at - decided_at < interval '1 hour' FROM events WHERE status = 'applied'"
    received = await query(router.url, in_time)
    assert received == [(True,)]
    await assert_replay_agrees(router.url)


async def test_connections_cut_under_load_lose_and_double_nothing(router: Router, other_router: Router):
    """Whoever was not answered sends again, as clients do; in the end every event counted once."""
    await router.run()
    results = (await router.batch_route([routing_pb2.RouteRequest(experiment_id="support")] * 300)).results
    ids = [result.response.decision_id for result in results]

    async def send(number: int, decision_id: str) -> None:
        request = event(decision_id, float(number % 2), event_id="e")
        replica = (router, other_router)[number % 2]
        deadline = time.monotonic() + 20
        while True:
            try:
                await replica.routing.Reward(request)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error.details()  # noqa: PT017
                assert time.monotonic() < deadline
                continue
            return

    for start in range(0, 300, 25):
        sending = asyncio.gather(*(send(n, ids[n]) for n in range(start, start + 25)))
        await terminate_others(router.url)
        await sending
    # Some were spooled, and count once the spool has drained.
    await until(lambda: _is(evidence(router), (150.0, 150.0, 300)), "every event counted")
    await assert_replay_agrees(router.url)


async def test_a_cancelled_call_harms_no_other(router: Router):
    await router.run()
    first, second = await router.route(), await router.route()
    with locked(router.url, "policy_versions"):
        given_up = router.routing.Reward(event(first.decision_id, 1.0))
        kept = router.routing.Reward(event(second.decision_id, 1.0))
        waiting = asyncio.ensure_future(_reply(kept))
        await until_waiting(router.url)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    assert (await waiting).status == APPLIED
    assert (await router.reward((await router.route()).decision_id, 1.0)).status == APPLIED
    await assert_replay_agrees(router.url)


async def _reply(call):
    return await call


async def _status(router: Router, decision_id: str) -> int:
    return (await router.reward(decision_id, 1.0, event_id="e")).status


async def _is(value, expected) -> bool:
    return await value == expected


async def test_a_reader_of_the_log_does_not_hold_up_a_new_day(router: Router, start_router):
    """An analyst's long query must not stop the events of the first decision of a day, nor those behind it."""
    clock = Clock()
    timed = await start_router(router.url, clock.clocks())
    await timed.run()
    decision = await timed.route()
    assert (await timed.reward(decision.decision_id, 1.0)).status == APPLIED
    clock.advance(days=1)
    with locked(router.url, "deployment") as reading:
        reading.execute("SELECT count(*) FROM events, outcomes, decisions")
        tomorrow = await timed.route()
        async with asyncio.timeout(5):
            assert (await timed.reward(tomorrow.decision_id, 1.0)).status == APPLIED
            await until_scalar(router.url, "SELECT count(*) FROM decisions", 2)
