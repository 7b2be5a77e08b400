"""First draws, for tests of the split: which decisions are some, and the vectors they were drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import numpy as np
import pytest
from postgres import TestCluster
from running import Router, arm, experiment, query, until, until_scalar

import router.analysis as analysis
from bandit.srm import srm_sequential
from router.storage.analysis import reading
from router.storage.database import DatabaseUrl
from router.storage.drawn import Drawn, read_drawn
from router.v1 import routing_pb2, types_pb2


def drawn(router: Router, start: datetime | None = None, end: datetime | None = None) -> Drawn:
    with reading(DatabaseUrl.parse(router.url)) as found:
        of = found.experiment("support")
        assert of is not None
        return read_drawn(found, of, start, end)


async def stored(router: Router, n: int) -> list[datetime]:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", n)
    return [at for (at,) in await query(router.url, "SELECT decided_at FROM decisions ORDER BY decided_at, decision_key")]


def same(found: Drawn, replies: Sequence[routing_pb2.RouteResponse]) -> None:
    assert [found.arm_ids[index] for index in found.arms] == [one.arm.arm_id for one in replies]
    vectors = [{entry.arm_id: entry.probability for entry in one.allocation} for one in replies]
    expected = np.array([[vector.get(name, 0.0) for name in found.arm_ids] for vector in vectors])
    assert found.allocations == pytest.approx(expected)
    own = found.allocations[np.arange(len(replies)), found.arms]
    assert own == pytest.approx([one.propensity for one in replies])


async def test_each_request_is_a_draw_and_a_retry_is_none(router: Router) -> None:
    await router.run(experiment(arms=["a", "b", "c"], floor=0.05))
    replies = [await router.route(unit_id=f"u{i % 3}", request_id=f"r{i}" if i % 2 else "") for i in range(20)]
    # A choice between two of three is a draw, of which the third had no chance.
    replies.append(await router.route(unit_id="u0", eligible_arm_ids=["a", "c"]))
    for fields in ({"force_arm_id": "a"}, {"eligible_arm_ids": ["b"]}):
        await router.route(unit_id="u", **fields)
    for reply in replies[::3]:
        await router.reward(reply.decision_id, 1.0)
    await stored(router, 23)
    found = drawn(router)
    assert found.arm_ids == ("a", "b", "c")
    same(found, replies)
    assert found.feedback.tolist() == [i % 3 == 0 for i in range(21)]
    assert (found.repeated, found.unknown) == (0, 0)
    # A retry that another replica answered by a newer policy is a decision of its own, of the same random number.
    await query(
        router.url,
        "INSERT INTO decisions SELECT decision_day, gen_random_uuid(), incarnation, arm, decided_at + interval '1 second',"
        " propensity, policy_version, allocation_id, reason, unit_id, session_id, turn_id, request_id, segment,"
        " prompt_fingerprint, prompt_similarity FROM decisions WHERE request_id = 'r5'",
    )
    again = drawn(router)
    assert again.arms.size == 21
    assert again.repeated == 1


@pytest.mark.parametrize("assignment", ["STICKY_HASH", "STICKY_STORED"])
async def test_of_a_sticky_unit_the_first_decision_is_the_draw(router: Router, assignment: str) -> None:
    await router.run(experiment(assignment=assignment, floor=0.1))
    first = [await router.route(unit_id=f"u{i}") for i in range(12)]
    for i, reply in enumerate(first):
        await router.reward(reply.decision_id, float(i % 2))
    # The allocation moves, and the units come back.
    for i in range(12):
        await router.route(unit_id=f"u{i}")
    late = [await router.route(unit_id=f"late{i}") for i in range(4)]
    times = await stored(router, 28)
    found = drawn(router)
    same(found, [*first, *late])
    assert found.feedback.tolist() == [True] * 12 + [False] * 4
    assert (found.repeated, found.unknown) == (12, 0)
    # Who was drawn before the range is not drawn again in it.
    part = drawn(router, start=times[12])
    same(part, late)
    assert part.repeated == 12
    same(drawn(router, end=times[12]), first)


async def test_a_replay_of_a_draw_that_is_not_kept_is_left_out(router: Router) -> None:
    await router.run(experiment(assignment="STICKY_STORED", floor=0.1))
    first = await router.route(unit_id="u")
    await stored(router, 1)
    await query(router.url, "TRUNCATE decisions")
    await router.learn(first.arm.arm_id, 0, 30)

    async def moved() -> bool:
        reply = await router.route(unit_id="probe", force_arm_id=first.arm.arm_id)
        return max(entry.probability for entry in reply.allocation) > first.propensity + 0.1

    await until(moved, "the allocation has moved")
    for i in range(6):
        await router.route(unit_id="u")
        await router.route(unit_id=f"v{i}")
    await until_scalar(router.url, "SELECT count(*) FROM decisions WHERE unit_id ~ '^(u|v)'", 12)
    found = drawn(router)
    assert found.arms.size == 6
    # Those that taught it had one arm to choose from.
    assert (found.repeated, found.unknown) == (5, 1)


async def test_units_that_were_erased_and_held_out_are_no_draws(router: Router) -> None:
    await router.run(
        experiment(arms=[arm("a", role=types_pb2.ROLE_CONTROL), arm("b")], assignment="STICKY_HASH", holdout=0.3)
    )
    replies = [await router.route(unit_id=f"u{i}") for i in range(40)]
    times = await stored(router, 40)
    free = [reply for reply in replies if reply.reason != routing_pb2.REASON_HOLDOUT]
    assert 0 < len(free) < 40
    same(drawn(router), free)
    await query(router.url, "UPDATE decisions SET unit_id = '' WHERE decided_at >= %s AND reason <> 'holdout'", times[20])
    kept = drawn(router)
    assert kept.arms.size < len(free)
    assert kept.repeated == len(free) - kept.arms.size


async def test_of_a_session_of_interleaved_turns_the_first_is_kept(router: Router) -> None:
    await router.run(experiment(kind="UNIFORM", assignment="INTERLEAVED"))
    first = []
    for turn in range(1, 5):
        for session in range(6):
            reply = await router.route(unit_id="u", session_id=f"s{session}", turn_id=f"{turn}")
            if turn == 1:
                first.append(reply)
    await stored(router, 24)
    same(drawn(router), first)


async def test_versions_of_an_arm_and_retired_arms_keep_their_draws(router: Router) -> None:
    await router.run(experiment(kind="UNIFORM"))
    old = [await router.route(unit_id=f"old{i}") for i in range(10)]
    definition = await router.get()
    definition.arms[1].model = "another"
    definition.arms.append(arm("c"))
    await router.update(definition)
    new = [await router.route(unit_id=f"new{i}") for i in range(30)]
    times = await stored(router, 40)
    found = drawn(router)
    assert set(found.arm_ids) == {"a", "b", "b v2", "c"}
    assert found.allocations.sum(axis=1) == pytest.approx(np.ones(40))
    before = found.allocations[:10][:, [found.arm_ids.index(name) for name in ("b v2", "c")]]
    assert not before.any()
    assert drawn(router, start=times[10]).arm_ids == ("a", "b v2", "c")
    assert [found.arm_ids[i].removesuffix(" v2") for i in found.arms] == [one.arm.arm_id for one in [*old, *new]]


async def test_vectors_that_are_gone_are_counted(router: Router) -> None:
    await router.run(experiment())
    for i in range(5):
        await router.route(unit_id=f"u{i}")
    await stored(router, 5)
    await query(router.url, "DELETE FROM allocations")
    found = drawn(router)
    assert (found.arms.size, found.unknown, found.arm_ids) == (0, 5, ())
    assert found.allocations.shape == (0, 0)


async def test_an_outcome_that_waits_is_no_feedback_yet(router: Router) -> None:
    await router.run(experiment())
    replies = [await router.route(unit_id=f"u{i}") for i in range(3)]
    for reply in replies:
        await router.reward(reply.decision_id, 1.0)
    await stored(router, 3)
    await query(router.url, "UPDATE policy_versions SET matured_to = now() - interval '1 hour'")
    await query(
        router.url,
        "UPDATE outcomes SET decided_at = now() WHERE decision_key IN"
        " (SELECT decision_key FROM decisions ORDER BY decided_at, decision_key LIMIT 2)",
    )
    assert drawn(router).feedback.tolist() == [False, False, True]


async def test_a_data_scientist_has_them_as_a_table(router: Router, cluster: TestCluster) -> None:
    """Read as the analyst, and told to the test of the split as the documents say."""
    await router.run(experiment(arms=["a", "b", "c"]))
    replies = [await router.route(unit_id=f"u{i}") for i in range(40)]
    await router.reward(replies[3].decision_id, 1.0)
    times = await stored(router, 40)
    url = cluster.analyst_url_of(urlsplit(router.url).path.removeprefix("/"))
    table = analysis.draws(url, "support")
    found = drawn(router)
    assert table["arm_id"].to_pylist() == [one.arm.arm_id for one in replies]
    assert table["decided_at"].to_pylist() == times
    assert table["feedback"].to_pylist() == [i == 3 for i in range(40)]
    arms, vectors = table["arm"].to_numpy(), np.array(table["allocation"].to_pylist())
    assert srm_sequential(arms, vectors) == pytest.approx(srm_sequential(found.arms, found.allocations))
    empty = analysis.draws(url, "support", end=datetime(2001, 1, 1, tzinfo=UTC))
    assert (empty.num_rows, empty.column_names) == (0, table.column_names)
    assert empty.schema == table.schema
    with pytest.raises(analysis.AnalysisError, match="with a time zone"):
        analysis.draws(url, "support", start=datetime(2026, 1, 1))
    with pytest.raises(analysis.AnalysisError, match="no such experiment"):
        analysis.draws(url, "nope")
