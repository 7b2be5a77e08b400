"""GetMetrics on real servers: what is counted, for whom and when, and what a reader is warned of."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hands import HOUR_US, NOON_US, Hand
from running import Router, StoppableCluster, arm, event, experiment, query, refused, until_scalar

from bandit.assignment import held_out
from bandit.inference import rate_interval
from router.v1 import experiments_pb2, posteriors_pb2, routing_pb2, types_pb2

RETRY, REPHRASED, ABANDONED, FOLLOW_UP, COMPLETED, UP = (
    types_pb2.SIGNAL_IMMEDIATE_RETRY,
    types_pb2.SIGNAL_REPHRASED_QUERY,
    types_pb2.SIGNAL_SESSION_ABANDONED,
    types_pb2.SIGNAL_FOLLOW_UP_QUESTION,
    types_pb2.SIGNAL_TASK_COMPLETED,
    types_pb2.SIGNAL_THUMBS_UP,
)


@pytest.fixture
def hand() -> Hand:
    return Hand()


def time(us: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    return stamp


async def metrics(router: Router, experiment_id: str = "support", **fields) -> posteriors_pb2.GetMetricsResponse:
    return await router.posteriors.GetMetrics(posteriors_pb2.GetMetricsRequest(experiment_id=experiment_id, **fields))


async def stored(router: Router, decisions: int) -> None:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", decisions)


def counts(entry: posteriors_pb2.ArmMetrics) -> list[int]:
    rates = (entry.coverage, entry.retry, entry.rephrase, entry.abandonment, entry.follow_up, entry.completion)
    return [entry.interactions, *(rate.count for rate in rates), entry.outcomes]


# What is counted


async def test_counts_worked_out_by_hand(router: Router):
    await router.run()
    sent = {
        "a": [(), (RETRY,), (RETRY, RETRY), (RETRY, COMPLETED), (REPHRASED, ABANDONED), (FOLLOW_UP,)],
        "b": [(COMPLETED,), (UP,), (), ()],
    }
    for arm_id, decisions in sent.items():
        for signals in decisions:
            decision = await router.route(eligible_arm_ids=[arm_id])
            for signal in signals:
                await router.reward(decision.decision_id, signal=signal)
    await router.route(force_arm_id="b")
    called = await router.route(eligible_arm_ids=["b"])
    await router.routing.Reward(event(called.decision_id, call=routing_pb2.CallReport(error="timeout")))
    await stored(router, 12)
    reply = await metrics(router)
    of_a, of_b = reply.metrics
    assert (of_a.arm_id, of_a.version, of_a.holdout, of_b.arm_id) == ("a", 1, False, "b")
    # interactions, coverage, retry, rephrase, abandonment, follow-up, completion, outcomes
    assert counts(of_a) == [6, 5, 3, 1, 1, 1, 1, 4]
    assert counts(of_b) == [5, 3, 0, 0, 0, 0, 1, 2], "the forced decision is not counted, the call report is"
    assert of_a.mean_reward == 0.25, "of retry, two retries, a completion that came last, and a rephrased query"
    assert of_b.mean_reward == 1.0
    assert of_a.retry.value == 0.5
    assert (of_a.retry.lower, of_a.retry.upper) == rate_interval(3, 6)
    assert of_b.coverage.value == 3 / 5
    assert reply.experiment_id == "support"
    assert reply.HasField("as_of")


async def test_late_events_count_for_nothing(start_router, database_url: str, hand: Hand):
    router = await start_router(database_url, hand.clocks)
    await router.run(experiment(window_s=60))
    decision = await router.route(eligible_arm_ids=["a"])
    hand.now_us += 61_000_000
    assert (await router.reward(decision.decision_id, signal=RETRY)).status == routing_pb2.STATUS_LATE
    await stored(router, 1)
    (entry,) = (await metrics(router)).metrics
    assert counts(entry) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert not entry.HasField("mean_reward")


async def test_versions_of_an_arm_have_entries_of_their_own(router: Router):
    await router.run()
    await router.route(eligible_arm_ids=["a"])
    await router.update(experiment(arms=[arm("a", model="another"), "b"]))
    for _ in range(2):
        await router.route(eligible_arm_ids=["a"])
    await stored(router, 3)
    reply = await metrics(router)
    assert [(entry.arm_id, entry.version, entry.interactions) for entry in reply.metrics] == [("a", 2, 2), ("a", 1, 1)]
    assert any(warning.startswith("a version 1 has 1 decisions") for warning in reply.warnings)
    assert "b has no decisions in this time" in reply.warnings


# Holdouts


def holding_out(**fields: object) -> experiments_pb2.Experiment:
    arms = [arm("a", role=types_pb2.ROLE_CONTROL)]
    return experiment(arms=arms, holdout=0.5, **fields)  # type: ignore[arg-type]


UNITS = [f"user-{n}" for n in range(200)]
HELD = [unit for unit in UNITS if held_out("support", unit, 0.5)]
OTHERS = [unit for unit in UNITS if unit not in HELD]


async def test_the_holdout_is_measured_as_everybody_else_is(router: Router):
    """The same signals to both groups give the same figures, though only one group is learned from."""
    await router.run(holding_out(signals={FOLLOW_UP: 0.25, UP: 0.75}))
    stories = [(), (COMPLETED,), (FOLLOW_UP, UP), (UP, RETRY), (COMPLETED, RETRY), (RETRY, COMPLETED), (FOLLOW_UP,)]
    for group in (HELD, OTHERS):
        for unit, story in zip(group, stories, strict=False):
            decision = await router.route(unit_id=unit)
            for n, signal in enumerate(story):
                await router.reward(decision.decision_id, signal=signal, event_id=f"e{n}")
    await stored(router, 2 * len(stories))
    of_others, of_held = (await metrics(router)).metrics
    assert (of_others.holdout, of_held.holdout) == (False, True)
    assert (of_others.arm_id, of_held.arm_id) == ("a", "a")
    assert counts(of_others) == counts(of_held) == [7, 6, 3, 0, 0, 2, 3, 6]
    # 1; a rating over a sign: .75; .75 over a retry; the later of completion and retry, both ways; .25
    assert of_others.mean_reward == of_held.mean_reward == pytest.approx((1 + 0.75 + 0.75 + 0 + 1 + 0.25) / 6, rel=1e-9)
    assert sum(entry.n for entry in (await router.posterior()).arms) == 6


async def test_the_holdouts_outcomes_follow_the_rule_in_force_when_they_were_decided(router: Router):
    await router.run(holding_out())
    before = await router.route(unit_id=HELD[0])
    await router.update(holding_out(signals={COMPLETED: 0.5}))
    after = await router.route(unit_id=HELD[0])
    for decision in (before, after):
        await router.reward(decision.decision_id, signal=COMPLETED)
    await stored(router, 2)
    (entry,) = (await metrics(router)).metrics
    assert (entry.holdout, entry.outcomes, entry.mean_reward) == (True, 2, 0.75)


async def test_the_holdouts_silence_counts_where_silence_does(start_router, database_url: str, hand: Hand):
    router = await start_router(database_url, hand.clocks, keeper=True)
    definition = holding_out()
    definition.reward_rule.no_feedback = 0.25
    definition.reward_rule.mature_after.FromSeconds(600)
    await router.run(definition)
    await router.route(unit_id=HELD[0])
    answered = await router.route(unit_id=HELD[1])
    await router.reward(answered.decision_id, signal=COMPLETED)
    await stored(router, 2)
    (entry,) = (await metrics(router)).metrics
    assert (entry.outcomes, entry.mean_reward) == (1, 1.0), "the silent one is too young to tell"
    hand.now_us += 601_000_000
    await router.route(unit_id=HELD[2])
    await stored(router, 3)
    (entry,) = (await metrics(router)).metrics
    assert (entry.interactions, entry.outcomes, entry.mean_reward) == (3, 2, 0.625)
    assert entry.coverage.count == 1, "silence is no feedback"


async def test_numbers_count_where_the_log_holds_them(router: Router):
    await router.run(holding_out())
    numbered, signalled = [await router.route(unit_id=unit) for unit in HELD[:2]]
    await router.reward(numbered.decision_id, 0.5)
    await router.reward(signalled.decision_id, signal=COMPLETED)
    await stored(router, 2)
    assert await query(router.url, "SELECT details FROM events WHERE kind = 'reward'") == [({"reward_micros": 500_000},)]
    # What the version before stored.
    await query(router.url, "UPDATE events SET details = NULL WHERE kind = 'reward'")
    reply = await metrics(router)
    (entry,) = reply.metrics
    assert (entry.outcomes, entry.mean_reward) == (1, 1.0)
    assert any(w.startswith("1 decisions for units that are held out were rewarded with numbers") for w in reply.warnings)
    await query(router.url, """UPDATE events SET details = '{"reward_micros": 500000}' WHERE kind = 'reward'""")
    reply = await metrics(router)
    (entry,) = reply.metrics
    assert (entry.outcomes, entry.mean_reward) == (2, 0.75)
    assert not any("numbers" in warning for warning in reply.warnings)


# Periods


async def test_periods_are_those_of_the_request(start_router, database_url: str, hand: Hand):
    router = await start_router(database_url, hand.clocks)
    await router.run()
    # On the edges of hours, and in the next day.
    for after in (0, HOUR_US - 1, HOUR_US, 2 * HOUR_US, 13 * HOUR_US):
        hand.now_us = NOON_US + after
        await router.route(eligible_arm_ids=["a"])
    await stored(router, 5)
    span = {"start_time": time(NOON_US), "end_time": time(NOON_US + 13 * HOUR_US)}
    reply = await metrics(router, **span, period=Duration(seconds=3600))
    found = [((e.start_time.ToMicroseconds() - NOON_US) / HOUR_US, e.interactions) for e in reply.metrics]
    assert found == [(0, 2), (1, 1), (2, 1)], "the end is not part of it, and empty periods are left out"
    assert all(e.end_time.ToMicroseconds() - e.start_time.ToMicroseconds() == HOUR_US for e in reply.metrics)
    (whole,) = (await metrics(router, **span)).metrics
    assert (whole.interactions, whole.end_time) == (4, span["end_time"])
    (everything,) = (await metrics(router)).metrics
    assert (everything.interactions, everything.start_time) == (5, time(NOON_US))
    assert everything.end_time == time(hand.now_us + 1), "the last decision, made just now, is in it"
    days = (await metrics(router, period=Duration(seconds=86_400))).metrics
    midnight = NOON_US - 12 * HOUR_US
    assert [(e.start_time, e.interactions) for e in days] == [(time(midnight), 4), (time(midnight + 24 * HOUR_US), 1)]
    cut = {"start_time": time(NOON_US), "end_time": time(NOON_US + HOUR_US + 1), "period": Duration(seconds=3600)}
    assert [e.end_time for e in (await metrics(router, **cut)).metrics] == [time(NOON_US + HOUR_US), cut["end_time"]]


@pytest.mark.parametrize(
    ("fields", "named", "rule"),
    [
        ({"start_time": time(NOON_US), "end_time": time(NOON_US)}, "end_time", "after start_time"),
        ({"start_time": time(NOON_US + 1), "end_time": time(NOON_US)}, "end_time", "after start_time"),
        ({"start_time": time(NOON_US + HOUR_US)}, "start_time", "before now"),
        ({"start_time": Timestamp(seconds=2**60)}, "start_time", "years 1 and 9999"),
        ({"end_time": Timestamp(seconds=0, nanos=-1)}, "end_time", "years 1 and 9999"),
        (
            {"start_time": time(0), "end_time": time(60_000_000 * 1_000 + 1), "period": Duration(seconds=60)},
            "period",
            "1,001",
        ),
        ({"period": Duration(seconds=59)}, "period", "60"),
        ({"period": Duration(seconds=60, nanos=2_000_000_000)}, "period", ""),
    ],
)
async def test_what_it_asks_of_times(start_router, database_url: str, hand: Hand, fields, named, rule):
    router = await start_router(database_url, hand.clocks)
    await router.create(experiment())
    refusal = await refused(metrics(router, **fields))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == [named]
    assert rule in refusal.violations[named]


async def test_a_thousand_periods_are_fine(router: Router):
    await router.create(experiment())
    reply = await metrics(router, start_time=time(0), end_time=time(60_000_000 * 1_000), period=Duration(seconds=60))
    assert list(reply.metrics) == []


async def test_every_year_may_be_asked_for(router: Router):
    await router.run()
    await router.route()
    await stored(router, 1)
    first, last = Timestamp(seconds=-62_135_596_800), Timestamp(seconds=253_402_300_799)
    (entry,) = (await metrics(router, start_time=first, end_time=last)).metrics
    assert entry.interactions == 1


# Warnings


async def test_nothing_is_said_plainly(router: Router):
    await router.create(experiment())
    reply = await metrics(router)
    assert list(reply.metrics) == []
    assert list(reply.warnings) == ["no decisions were made in this time"]
    assert (await refused(metrics(router, "none"))).code == grpc.StatusCode.NOT_FOUND


async def test_coverage_that_differs_is_flagged(router: Router):
    """Feedback on 60 of 120 decisions for one arm, and on 90 of 120 for the other: p = 7e-5."""
    await router.run()
    for arm_id, answered in (("a", 60), ("b", 90)):
        request = routing_pb2.RouteRequest(experiment_id="support", eligible_arm_ids=[arm_id])
        routed = await router.batch_route([request] * 120)
        await router.batch_reward(event(r.response.decision_id, signal=COMPLETED) for r in routed.results[:answered])
    await stored(router, 240)
    reply = await metrics(router)
    (warning,) = reply.warnings
    assert warning.startswith("feedback covers the arms differently (a 50.0%, b 75.0%; chi-squared p = 6.")
    assert "flagged below 0.01" in warning


async def test_coverage_that_is_alike_is_not_flagged(router: Router):
    await router.run()
    for arm_id, answered in (("a", 60), ("b", 65)):
        request = routing_pb2.RouteRequest(experiment_id="support", eligible_arm_ids=[arm_id])
        routed = await router.batch_route([request] * 120)
        await router.batch_reward(event(r.response.decision_id, signal=COMPLETED) for r in routed.results[:answered])
    await stored(router, 240)
    assert list((await metrics(router)).warnings) == []


# Without Postgres


async def test_without_postgres_there_are_no_metrics(start_router, stoppable: StoppableCluster, stoppable_url: str):
    router = await start_router(stoppable_url)
    await router.run()
    stoppable.stop()
    refusal = await refused(metrics(router))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refusal.retry_after_s == 1.0
