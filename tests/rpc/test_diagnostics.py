"""Diagnostics on real servers: what is pending, silent and covered by hand-made decisions; drift; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hands import HOUR_US, NOON_US, Hand
from running import Router, arm, event, experiment, query, refused, until_scalar

from bandit.drift import drift
from bandit.inference import rate_interval
from bandit.reward import MICROS, Evidence
from router.storage.connecting import DatabaseUrl
from router.storage.database import Database
from router.storage.retention import drop_expired
from router.v1 import experiments_pb2, posteriors_pb2, routing_pb2, types_pb2

RETRY, FOLLOW_UP = types_pb2.SIGNAL_IMMEDIATE_RETRY, types_pb2.SIGNAL_FOLLOW_UP_QUESTION


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
async def router(database_url: str, start_router, hand: Hand) -> Router:
    return await start_router(database_url, hand.clocks)


async def diagnosed(router: Router, **fields) -> posteriors_pb2.GetPosteriorResponse:
    request = posteriors_pb2.GetPosteriorRequest(experiment_id="support", diagnostics=True, **fields)
    return await router.posteriors.GetPosterior(request)


async def of_arms(router: Router) -> dict[tuple[str, int], posteriors_pb2.ArmDiagnostics]:
    return {(entry.arm_id, entry.version): entry.diagnostics for entry in (await diagnosed(router)).arms}


async def stored(router: Router, decisions: int) -> None:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", decisions)


def counts(found: posteriors_pb2.ArmDiagnostics) -> tuple[int, int, int, int | None]:
    covered = found.coverage.count if found.HasField("coverage") else None
    return found.decisions, found.pending_decisions, found.silent_decisions, covered


async def test_counts_worked_out_by_hand(router: Router, hand: Hand):
    await router.run(experiment(window_s=3_600, holdout=0.0))

    async def decided(arm_id: str, *signals: int, **fields) -> str:
        decision = await router.route(eligible_arm_ids=[arm_id], **fields)
        for signal in signals:
            await router.reward(decision.decision_id, signal=signal)
        return decision.decision_id

    # Past the window in the end: two with feedback, a neutral word among it; one called; three silent, one heard late.
    await decided("a", RETRY)
    await decided("a", FOLLOW_UP)
    await router.routing.Reward(event(await decided("a"), call=routing_pb2.CallReport(error="timeout")))
    late = await decided("a")
    for _ in range(2):
        await decided("a")
    await decided("b", RETRY)
    await router.route(force_arm_id="b")
    hand.now_us += HOUR_US + 1
    assert (await router.reward(late, signal=RETRY)).status == routing_pb2.STATUS_LATE
    # Within it: an outcome, a neutral word, and nothing.
    await decided("a", RETRY)
    await decided("a", FOLLOW_UP)
    await decided("a")
    await stored(router, 11)
    found = await of_arms(router)
    assert counts(found["a", 1]) == (9, 2, 3, 3)
    assert counts(found["b", 1]) == (1, 0, 0, 1), "the forced decision is not learned from"
    coverage = found["a", 1].coverage
    assert (coverage.value, coverage.lower, coverage.upper) == (0.5, *rate_interval(3, 6))


async def test_nothing_yet(router: Router):
    await router.run()
    for found in (await of_arms(router)).values():
        assert counts(found) == (0, 0, 0, None)
        assert not found.drift.alarm
        assert not found.drift.HasField("since")
        assert not found.drift.HasField("before")


async def test_units_that_are_held_out_are_not_counted(router: Router):
    arms = [arm("a", role=types_pb2.ROLE_CONTROL), "b"]
    await router.run(experiment(arms=arms, assignment="STICKY_HASH", holdout=0.5))
    for n in range(40):
        await router.route(unit_id=f"u{n}")
    await stored(router, 40)
    ((held,),) = await query(router.url, "SELECT count(*) FROM decisions WHERE reason = 'holdout'")
    assert 0 < held < 40
    assert sum(found.decisions for found in (await of_arms(router)).values()) == 40 - held


async def test_the_window_is_that_of_the_rule_in_force_when_it_was_decided(router: Router, hand: Hand):
    await router.run(experiment(arms=["a"], window_s=60))
    await router.route()
    await router.update(experiment(arms=["a"], window_s=3_600))
    await router.route()
    await stored(router, 2)
    assert counts((await of_arms(router))["a", 1]) == (2, 2, 0, None)
    hand.now_us += 61_000_000
    assert counts((await of_arms(router))["a", 1]) == (2, 1, 1, 0)
    hand.now_us += HOUR_US
    assert counts((await of_arms(router))["a", 1]) == (2, 0, 2, 0)


async def test_silence_that_counts_is_no_coverage(router: Router, hand: Hand):
    """Where silence has a reward, it has an outcome; nothing was heard all the same."""
    definition = experiment(arms=["a"], window_s=7_200)
    definition.reward_rule.mature_after.CopyFrom(Duration(seconds=60))
    definition.reward_rule.no_feedback = 0.0
    await router.run(definition)
    await router.route()
    await stored(router, 1)
    hand.now_us += 3_600_000_000
    await until_scalar(router.url, "SELECT count(*) FROM events WHERE kind = 'no_feedback'", 1)
    assert counts((await of_arms(router))["a", 1]) == (1, 0, 0, None)
    hand.now_us += 2 * HOUR_US
    assert counts((await of_arms(router))["a", 1]) == (1, 0, 1, 0)


async def test_versions_of_an_arm_have_their_own(router: Router, hand: Hand):
    await router.run(experiment(arms=["a"]))
    await router.learn("a", 3)
    await router.update(experiment(arms=[arm("a", model="another")]))
    await router.learn("a", 1, 1)
    await stored(router, 5)
    found = await of_arms(router)
    assert {key: of.decisions for key, of in found.items()} == {("a", 2): 2, ("a", 1): 3}
    hand.now_us += HOUR_US
    found = await of_arms(router)
    assert (found["a", 1].drift.before, found["a", 2].drift.before) == (1.0, 0.5)


# Drift


async def learned_hours(router: Router, hand: Hand, hours: list[tuple[int, int]]) -> list[tuple[int, Evidence]]:
    """Learn so much of arm a in each hour; returns it as it is kept."""
    buckets = []
    for successes, failures in hours:
        await router.learn("a", successes, failures)
        buckets.append((hand.now_us, Evidence(successes * MICROS, failures * MICROS, successes + failures)))
        hand.now_us += HOUR_US
    return buckets


def unlimited(mature_after_s: int = 0) -> experiments_pb2.Experiment:
    """The same units come back every hour, and all that they say counts."""
    definition = experiment()
    definition.reward_rule.unit_share = 0
    if mature_after_s:
        definition.reward_rule.mature_after.CopyFrom(Duration(seconds=mature_after_s))
    return definition


FALL = [(16, 4)] * 4 + [(4, 16)] * 4


async def test_an_arm_that_changed_is_said_to_have(router: Router, hand: Hand):
    await router.run(unlimited())
    buckets = await learned_hours(router, hand, FALL)
    await router.learn("b", 20, 20)
    found = await of_arms(router)
    expected = drift(buckets, hand.now_us, 0.005)
    assert expected.alarm
    of_a = found["a", 1].drift
    assert (of_a.alarm, of_a.log_e) == (True, pytest.approx(expected.log_e, abs=1e-9))
    assert of_a.since.ToMicroseconds() == NOON_US + 4 * HOUR_US
    assert (of_a.before, of_a.after, of_a.outcomes_before, of_a.outcomes_after) == (0.8, 0.2, 80, 80)
    # The hour that is not over yet is left out.
    assert not found["b", 1].drift.alarm
    assert found["b", 1].drift.outcomes_before == 0


async def test_hours_that_may_still_change_are_left_out(router: Router, hand: Hand):
    await router.run(unlimited(mature_after_s=2 * 3_600))
    await learned_hours(router, hand, FALL)
    # The seventh hour was decided two hours ago, and ended one hour ago: it counts, and is not whole yet.
    await until_scalar(router.url, f"SELECT sum(n) >= {20 * 7} FROM evidence", True)
    found = (await of_arms(router))["a", 1].drift
    assert found.outcomes_before + found.outcomes_after == 20 * 6


async def test_drift_goes_on_where_days_are_dropped(router: Router, hand: Hand):
    await router.run(unlimited())
    buckets = await learned_hours(router, hand, [(16, 4)] * 14)
    buckets += await learned_hours(router, hand, [(4, 16)] * 4)
    before = (await of_arms(router))["a", 1].drift
    # Noon to midnight are dropped: two hours of .8 are left, and four of .2.
    await query(router.url, "UPDATE arms SET created_at = to_timestamp(%s)", NOON_US / 1e6)
    database = Database(DatabaseUrl.parse(router.url))
    tomorrow = datetime.fromtimestamp(hand.now_us / 1e6, UTC).date() + timedelta(days=1)
    async with await database.connect(autocommit=True) as connection:
        assert await drop_expired(connection, tomorrow, 1)
    await database.dispose()
    after = (await of_arms(router))["a", 1].drift
    base = (NOON_US, sum((of for _, of in buckets[:12]), Evidence()))
    expected = drift(buckets[12:], hand.now_us, 0.005, base=base)
    assert after.log_e == pytest.approx(expected.log_e, abs=1e-9)
    assert after.alarm
    assert after.log_e < before.log_e
    assert after.since.ToMicroseconds() == before.since.ToMicroseconds() == NOON_US + 14 * HOUR_US
    assert (after.before, after.outcomes_before) == pytest.approx((0.8, 280))


# What is refused


@pytest.mark.parametrize("field", ["as_of", "segment"])
async def test_only_of_now_and_of_all_traffic(router: Router, field: str):
    await router.run()
    fields = {"as_of": Timestamp(seconds=1_790_000_000)} if field == "as_of" else {"segment": "de"}
    error = await refused(diagnosed(router, **fields))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert f"leave out {field}" in error.violations["diagnostics"]


async def test_an_experiment_that_is_not_there(router: Router):
    assert (await refused(diagnosed(router))).code == grpc.StatusCode.NOT_FOUND


async def test_without_asking_there_are_none(router: Router):
    await router.run()
    assert not any(entry.HasField("diagnostics") for entry in (await router.posterior()).arms)
    with_them = await diagnosed(router)
    assert all(entry.HasField("diagnostics") for entry in with_them.arms)
    for entry in with_them.arms:
        entry.ClearField("diagnostics")
    assert list(with_them.arms) == list((await router.posterior()).arms)


async def test_levels_of_all_arms_that_may_ever_be_add_up_to_one_in_a_hundred():
    from router.services.diagnostics import alarm_level

    numbered = [replace(_any_arm(), number=n) for n in range(10_000)]
    assert sum(map(alarm_level, numbered)) == pytest.approx(0.01, rel=2e-4)
    assert sum(map(alarm_level, numbered)) < 0.01


def _any_arm():
    from decisions import policy

    return policy().arms[0]
