"""Shares of units on real servers: what callers hear, whatever way events take, and how far a flood gets."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from running import Router, assert_replay_agrees, event, experiment, locked, query, scalar, until, until_scalar

from router.storage.rebuild import rebuild
from router.v1 import experiments_pb2, routing_pb2, types_pb2

APPLIED, LIMITED = routing_pb2.STATUS_APPLIED, routing_pb2.STATUS_LIMITED
DUPLICATE, NEUTRAL, SPOOLED = routing_pb2.STATUS_DUPLICATE, routing_pb2.STATUS_NEUTRAL, routing_pb2.STATUS_SPOOLED


def once(**fields: Any) -> experiments_pb2.Experiment:
    """A definition by which a unit counts once."""
    definition = experiment(**fields)
    definition.reward_rule.evidence_unit = experiments_pb2.RewardRule.EVIDENCE_UNIT_UNIT
    return definition


async def routed(router: Router, count: int, unit: str = "u", **fields: Any) -> list[str]:
    """Decision ids of as many decisions for a unit."""
    requests = [routing_pb2.RouteRequest(experiment_id="support", unit_id=unit, **fields) for _ in range(count)]
    return [result.response.decision_id for result in (await router.batch_route(requests)).results]


async def statuses(router: Router, decision_ids: Sequence[str], **fields: Any) -> list[int]:
    """What each of them hears about a reward of its own."""
    replies = await router.batch_reward([event(decision_id, 1.0, **fields) for decision_id in decision_ids])
    return [reply.response.status for reply in replies]


async def counted(router: Router) -> int:
    return sum(arm.n for arm in (await router.arms()).values())


async def test_ten_outcomes_of_a_unit_count_unless_the_experiment_says_otherwise(router: Router) -> None:
    await router.run()
    ids = await routed(router, 12)
    assert [(await router.reward(id_, 1.0, event_id="first")).status for id_ in ids] == [APPLIED] * 10 + [LIMITED] * 2
    assert await counted(router) == 10
    reply = await router.reward(ids[11], 1.0, event_id="first")
    assert (reply.status, bool(reply.arm_id)) == (DUPLICATE, True)
    assert await statuses(router, ids, event_id="second") == [APPLIED] * 10 + [LIMITED] * 2
    assert await statuses(router, await routed(router, 12, "another")) == [APPLIED] * 10 + [LIMITED] * 2
    assert await statuses(router, await routed(router, 12, "")) == [APPLIED] * 12
    assert await counted(router) == 10 + 10 + 12
    await assert_replay_agrees(router.url)


async def test_in_one_batch_events_take_their_turns_and_repetitions_are_duplicates(router: Router) -> None:
    await router.run(experiment(unit_share=2))
    one, two, three = await routed(router, 3)
    events = [event(one, signal=types_pb2.SIGNAL_FOLLOW_UP_QUESTION), event(three, 0.0), event(two, 1.0, event_id="e")]
    events += [event(one, 1.0, event_id="e"), events[2], event(one, 1.0, event_id="e"), event(three, 1.0)]
    replies = await router.batch_reward(events)
    # By the first event of each decision, the neutral one included: one, three, two.
    expected = [NEUTRAL, APPLIED, LIMITED, APPLIED, DUPLICATE, DUPLICATE, APPLIED]
    assert [reply.response.status for reply in replies] == expected
    assert await counted(router) == 2


async def test_the_rule_in_force_when_the_decision_was_made_applies(router: Router) -> None:
    await router.run(experiment(unit_share=1))
    before = await routed(router, 3)
    await router.update(experiment(unit_share=0))
    after = await routed(router, 3)
    assert await statuses(router, after) == [APPLIED] * 3
    assert await statuses(router, before) == [APPLIED, LIMITED, LIMITED]
    assert await counted(router) == 4
    await assert_replay_agrees(router.url)


async def test_a_unit_may_count_once(router: Router) -> None:
    await router.run(once(unit_share=0))
    ids = await routed(router, 3)
    assert await statuses(router, ids[1:2]) == [APPLIED]
    assert await statuses(router, ids) == [LIMITED, APPLIED, LIMITED]
    assert await statuses(router, await routed(router, 2, "")) == [APPLIED] * 2
    assert await query(router.url, "SELECT share_day::text, n FROM unit_shares") == [("-infinity", 1)]
    assert await counted(router) == 3


async def test_what_is_never_learned_from_takes_no_share(router: Router) -> None:
    await router.run(experiment(unit_share=2))
    assert await statuses(router, await routed(router, 3, force_arm_id="a")) == [NEUTRAL] * 3
    late = [event(id_, call=routing_pb2.CallReport(latency=Duration(seconds=1))) for id_ in await routed(router, 3)]
    assert [reply.response.status for reply in await router.batch_reward(late)] == [NEUTRAL] * 3
    assert await statuses(router, await routed(router, 3)) == [APPLIED, APPLIED, LIMITED]


async def test_spooled_events_are_limited_when_they_are_stored(router: Router) -> None:
    await router.run(experiment(unit_share=2))
    ids = await routed(router, 6)
    assert await statuses(router, ids[:1]) == [APPLIED]
    with locked(router.url, "policy_versions"):
        replies = await asyncio.gather(*(router.reward(id_, 1.0) for id_ in ids[1:]))
    assert {reply.status for reply in replies} == {SPOOLED}
    await until_scalar(router.url, "SELECT count(*) FROM events", 6)
    assert await query(router.url, "SELECT status, count(*) FROM events GROUP BY 1 ORDER BY 1") == [
        ("applied", 2),
        ("limited", 4),
    ]
    assert await counted(router) == 2
    await assert_replay_agrees(router.url)


async def test_a_limited_event_keeps_what_it_was_worth_for_analysts(router: Router) -> None:
    await router.run(experiment(unit_share=1))
    ids = await routed(router, 2)
    assert await statuses(router, ids, metadata={"k": "v"}) == [APPLIED, LIMITED]
    rows = await query(router.url, "SELECT status, reward_micros, details - 'unit_hash' FROM events ORDER BY status")
    assert rows == [
        ("applied", 1_000_000, {"metadata": {"k": "v"}}),
        ("limited", None, {"metadata": {"k": "v"}, "reward_micros": 1_000_000}),
    ]


async def test_snapshots_of_a_posterior_with_limited_events_are_rebuilt(router: Router) -> None:
    await router.run(experiment(unit_share=2))
    assert sorted(await statuses(router, await routed(router, 9))) == [APPLIED] * 2 + [LIMITED] * 7
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    await until_scalar(router.url, "SELECT max((SELECT sum(x) FROM unnest(n) x))::int FROM snapshots", 2)

    def again() -> Any:
        with psycopg.connect(router.url) as connection:
            return rebuild(connection, incarnation, datetime.now(UTC) + timedelta(minutes=1))

    rebuilt = await asyncio.to_thread(again)
    assert (rebuilt.agrees, rebuilt.events, rebuilt.obstacle) == (True, 2, "")


@pytest.mark.parametrize(("decisions", "times"), [(300, 6), pytest.param(2_000, 10, marks=pytest.mark.slow)])
async def test_a_user_that_floods_through_two_routers_moves_the_posterior_by_its_share(
    router: Router, other_router: Router, decisions: int, times: int
) -> None:
    """Of one unit come `decisions` x `times` events, in any order, every tenth of them twice; of others, one each."""
    await router.run()
    await until(lambda: other_router.route(), "the other router knows the experiment")
    rng = random.Random(3)
    ids = await routed(router, decisions // 2) + await routed(other_router, decisions // 2)
    honest = [id_ for n in range(20) for id_ in await routed(router, 1, f"honest-{n}")]
    events = [event(id_, 1.0, event_id=f"e{number}") for id_ in ids for number in range(times)]
    events += rng.sample(events, len(events) // 10) + [event(id_, 0.0, event_id="e") for id_ in honest]
    rng.shuffle(events)
    heard: Counter[int] = Counter()

    async def send(to: Router, own: Sequence[routing_pb2.RewardRequest]) -> None:
        for start in range(0, len(own), 500):
            heard.update(reply.response.status for reply in await to.batch_reward(own[start : start + 500]))

    half = len(events) // 2
    await asyncio.gather(send(router, events[:half]), send(other_router, events[half:]))
    await until_scalar(router.url, "SELECT count(*) FROM events", decisions * times + len(honest))
    assert await counted(router) == await counted(other_router) == 10 + len(honest)
    assert await scalar(router.url, "SELECT sum(success_micros)::int8 FROM evidence") == 10 * 1_000_000
    assert await query(router.url, "SELECT n, count(*) FROM unit_shares GROUP BY 1 ORDER BY 1") == [(1, 20), (10, 1)]
    assert await scalar(router.url, "SELECT count(*) FROM outcomes") == 10 + len(honest)
    assert await scalar(router.url, "SELECT count(*) FROM events WHERE status = 'applied'") == 10 * times + len(honest)
    if not heard[SPOOLED]:
        assert heard == {
            APPLIED: 10 * times + len(honest),
            LIMITED: (decisions - 10) * times,
            DUPLICATE: decisions * times // 10,
        }
    await assert_replay_agrees(router.url)
