"""Which decisions estimates of arms may use, by the draw behind each of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from running import Router, arm, experiment, query, until, until_scalar

from bandit.arm_estimates import estimate_arms
from router.sticky import StickyUnits
from router.storage.analysis import reading
from router.storage.database import DatabaseUrl
from router.storage.labels import new_label
from router.storage.logged import LeftOut, Logged, read_logged
from router.v1 import experiments_pb2, routing_pb2, types_pb2

STICKY = routing_pb2.REASON_STICKY


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers that wait for Postgres at the first sight of a unit: on a busy machine it would fall back on its hash."""
    monkeypatch.setattr("router.server.StickyUnits", functools.partial(StickyUnits, wait_s=10))


def logged(router: Router, start: datetime | None = None, end: datetime | None = None) -> Logged:
    with reading(DatabaseUrl.parse(router.url)) as found:
        of = found.experiment("support")
        assert of is not None
        return read_logged(found, of, start, end)


async def rewarded(
    router: Router, units: Iterable[str], reward: float = 1.0, **fields: object
) -> list[routing_pb2.RouteResponse]:
    """Route one request of each unit, and reward it."""
    replies = [await router.route(unit_id=unit, **fields) for unit in units]
    for reply in replies:
        await router.reward(reply.decision_id, reward)
    return replies


async def stored(router: Router, n: int) -> None:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", n)


def units(name: str, n: int) -> list[str]:
    return [f"{name}{i}" for i in range(n)]


async def test_a_stored_unit_that_could_not_have_drawn_an_arm_says_nothing_of_it(router: Router) -> None:
    """Old units were drawn from a and b. Once there is c, their vectors have it, and their draws never will."""
    await router.run(experiment(kind="UNIFORM", assignment="STICKY_STORED"))
    await rewarded(router, units("old", 20))
    definition = await router.get()
    definition.arms.append(arm("c"))
    await router.update(definition)
    again = await rewarded(router, units("old", 20))
    assert {reply.reason for reply in again} == {STICKY}
    assert all(len(reply.allocation) == 3 for reply in again)
    new = [await rewarded(router, units("new", 30)) for _ in range(2)]
    await stored(router, 100)
    found = logged(router)
    assert found.arm_ids == ("a", "b", "c")
    assert [found.arm_ids[i] for i in found.arms] == [one.arm.arm_id for one in itertools.chain(*new)]
    assert found.propensities == pytest.approx(1 / 3)
    assert found.allocations == pytest.approx(np.full((60, 3), 1 / 3))
    assert found.left_out == LeftOut(other_arms=40)
    assert found.left_out.sentences() == ("40 decisions were left out, made among other arms than those of now",)
    # Every unit earns 1, so each arm is worth 1: by old units c would be worth less than half of that.
    for one in estimate_arms(found.rewards, found.arms, found.propensities, 3, found.clusters, found.allocations):
        assert one.snips is not None
        assert one.snips.value == pytest.approx(1.0)


async def test_the_vector_of_a_stored_unit_is_that_of_its_draw(router: Router) -> None:
    """The posterior moves on, and so does the vector of every reply; what a unit was drawn from does not."""
    await router.run(experiment(assignment="STICKY_STORED", floor=0.1))
    first = await rewarded(router, units("u", 12), 1.0)
    await router.learn("a", 30, 0)
    await router.learn("b", 0, 30)

    async def moved() -> bool:
        return (await router.route(unit_id="probe", force_arm_id="a")).allocation[0].probability > 0.8

    await until(moved, "this replica draws from what was learned")
    (start,) = (await query(router.url, "SELECT now()"))[0]
    again = await rewarded(router, units("u", 12), 0.0)
    assert {reply.reason for reply in again} == {STICKY}
    await until_scalar(router.url, f"SELECT count(*) FROM decisions WHERE decided_at >= '{start}' AND reason = 'sticky'", 12)
    # The draws lie before the range, and count all the same.
    found = logged(router, start)
    assert found.left_out == LeftOut()
    assert found.propensities.tolist() == [one.propensity for one in first]
    assert found.allocations.tolist() == [[entry.probability for entry in one.allocation] for one in first]
    assert found.allocations.max() < 0.75
    assert [found.arm_ids[i] for i in found.arms] == [one.arm.arm_id for one in first]


async def test_units_that_kept_an_arm_because_it_was_permitted_are_a_choice(router: Router) -> None:
    """A unit whose arm is ruled out is drawn anew. Those that are not, because they have another arm, are no sample."""
    await router.run(experiment(kind="UNIFORM", assignment="STICKY_STORED"))
    first = await rewarded(router, units("u", 20))
    kept = [unit for unit, one in zip(units("u", 20), first, strict=True) if one.arm.arm_id == "b"]
    assert 0 < len(kept) < 20
    narrow = await rewarded(router, units("u", 20), eligible_arm_ids=["b"])
    assert [one.reason for one in narrow].count(STICKY) == len(kept)
    # All have b now: some by a draw among both, the others by one that had no choice.
    after = await rewarded(router, units("u", 20))
    assert {(one.arm.arm_id, one.reason) for one in after} == {("b", STICKY)}
    await stored(router, 60)
    found = logged(router)
    assert found.arms.size == 20 + len(kept)
    assert found.left_out == LeftOut(some_arms=40 - len(kept))
    assert "made among some of the arms alone" in found.left_out.sentences()[0]


async def test_a_first_decision_that_fell_back_on_the_hash_is_the_draw_of_its_unit(router: Router) -> None:
    """Where Postgres is slow the first reply is a fallback, and what it drew is stored nevertheless."""
    await router.run(experiment(assignment="STICKY_STORED", floor=0.1))
    first = await rewarded(router, units("u", 6))
    await stored(router, 6)
    await query(router.url, "UPDATE decisions SET reason = 'fallback'")
    await router.learn("a", 20, 0)
    await rewarded(router, units("u", 6))
    await until_scalar(router.url, "SELECT count(*) FROM decisions WHERE reason = 'sticky'", 6)
    found = logged(router)
    assert found.left_out == LeftOut(some_arms=20)
    assert found.allocations[6:].tolist() == [[entry.probability for entry in one.allocation] for one in first]


async def test_a_draw_that_is_not_kept_is_said(router: Router) -> None:
    await router.run(experiment(kind="UNIFORM", assignment="STICKY_STORED"))
    await rewarded(router, units("old", 5))
    await rewarded(router, units("old", 5))
    await rewarded(router, units("new", 7))
    await stored(router, 17)
    # As if the first five had been decided on a day that was dropped.
    gone = "SELECT decision_key FROM decisions WHERE unit_id LIKE 'old%' AND reason = 'sampled'"
    await query(router.url, f"DELETE FROM outcomes WHERE decision_key IN ({gone})")
    await query(router.url, "DELETE FROM decisions WHERE unit_id LIKE 'old%' AND reason = 'sampled'")
    today = datetime.now(UTC).date()
    await query(router.url, "UPDATE experiments SET created_at = %s", today - timedelta(days=9))
    await query(router.url, "UPDATE retention SET kept_from = %s", today)
    found = logged(router)
    assert found.arms.size == 7
    assert found.left_out == LeftOut(unknown_draw=5)
    assert found.left_out.sentences() == ("5 decisions were left out, of a draw that is not in the log any more",)


@pytest.mark.parametrize("assignment", ["STICKY_STORED", "STICKY_HASH"])
async def test_a_forgotten_unit_keeps_its_draws(router: Router, assignment: str) -> None:
    await router.run(experiment(kind="UNIFORM", assignment=assignment))
    for _ in range(2):
        await rewarded(router, units("u", 3))
    await stored(router, 6)
    forgotten = "UPDATE decisions SET unit_id = %s WHERE unit_id = %s"
    await query(router.url, forgotten, new_label(), "u0")
    found = logged(router)
    assert (found.arms.size, found.left_out) == (6, LeftOut())
    assert found.clusters is not None
    assert sorted(np.bincount(found.clusters)) == [2, 2, 2]
    # Forgotten in two runs: what was decided first cannot be told to be of the same unit.
    await query(
        router.url,
        f"{forgotten} AND decided_at = (SELECT max(decided_at) FROM decisions WHERE unit_id = %s)",
        new_label(),
        "u1",
        "u1",
    )
    found = logged(router)
    lost = int(assignment == "STICKY_STORED")
    assert (found.arms.size, found.left_out) == (6 - lost, LeftOut(unknown_draw=lost))


async def test_units_of_an_open_ramp_are_drawn_by_their_hash_each_time(router: Router) -> None:
    """Nothing is stored while the ramp is open: no decision is the draw of another."""
    rule = experiments_pb2.RampRule(guardrails=[experiments_pb2.Guardrail(metric="METRIC_RETRY", limit=0.1)])
    for cap in (0.3, 1.0):
        rule.stages.add(cap=cap).duration.FromSeconds(3600)
    arms = [arm("old", role=types_pb2.ROLE_CONTROL), arm("new")]
    await router.run(experiment(arms=arms, assignment="STICKY_STORED", ramp=rule))
    one = await rewarded(router, units("u", 10))
    await router.ramp("Advance")
    two = await rewarded(router, units("u", 10))
    await stored(router, 20)
    found = logged(router)
    assert found.left_out == LeftOut()
    sent = [[entry.probability for entry in reply.allocation] for reply in (*one, *two)]
    assert found.allocations.tolist() == sent
    assert sent[0] != sent[-1]


async def test_an_arm_of_weight_0_leaves_the_others_their_estimates(router: Router) -> None:
    await router.run(
        experiment(
            arms=["a", "b", "c"],
            kind="FIXED",
            weights={"a": 0.5, "b": 0.49999, "c": 0.00001},
            floor=0.0,
            assignment="STICKY_HASH",
        )
    )
    sent = await rewarded(router, units("u", 30))
    assert [entry.probability for entry in sent[0].allocation] == [0.5, 0.5, 0.0]
    await rewarded(router, units("v", 4), eligible_arm_ids=["b", "c"])
    await stored(router, 34)
    found = logged(router)
    assert found.arms.size == 30
    assert found.allocations.tolist() == [[0.5, 0.5, 0.0]] * 30
    assert found.left_out == LeftOut(some_arms=4), "c had nothing by its weight, and a by the request"


async def test_an_arm_that_thompson_sampling_gave_up_is_not_left_out_of_the_past(router: Router) -> None:
    """Without a floor P(best) of an arm may be exactly 0: such decisions stay, or its beginning would be all there is."""
    await router.run(experiment(floor=0.0))
    before = await rewarded(router, units("u", 5))
    await router.learn("a", 900, 100)
    await router.learn("b", 100, 900)

    async def given_up() -> bool:
        return (await router.route(unit_id="probe", force_arm_id="a")).allocation[1].probability == 0.0

    await until(given_up, "b is the best with probability 0")
    (start,) = (await query(router.url, "SELECT now()"))[0]
    await rewarded(router, units("v", 8))
    await until_scalar(router.url, f"SELECT count(*) FROM decisions WHERE decided_at >= '{start}' AND unit_id LIKE 'v%'", 8)
    found = logged(router, start)
    assert found.left_out == LeftOut()
    assert found.allocations.tolist() == [[1.0, 0.0]] * 8
    assert len(before) == 5


@pytest.mark.parametrize(
    ("assignment", "names", "expected"),
    [
        # A unit has several sessions, and is the coarser of the two.
        ("PER_REQUEST", [("u1", "s1"), ("u1", "s2"), ("u2", "s3"), ("u2", "s3")], "aabb"),
        # Every request is a unit of its own, and its session is the coarser.
        ("PER_REQUEST", [("u1", "s1"), ("u2", "s1"), ("u3", "s2"), ("u4", "s2")], "aabb"),
        # What has no unit is clustered by its session, even one of the same name, and what has neither is alone.
        ("PER_REQUEST", [("x", ""), ("x", ""), ("", "x"), ("", "x"), ("", ""), ("", "")], "aabbcd"),
        ("PER_REQUEST", [("u1", ""), ("", "s1"), ("", "")], None),
        # Turns of a session are dealt together: it goes before the unit.
        ("INTERLEAVED", [("u1", "s1"), ("u1", "s1"), ("u1", "s2"), ("u1", "s2")], "aabb"),
        ("INTERLEAVED", [("", "s1"), ("", "s1"), ("", "s2"), ("", "s2")], "aabb"),
    ],
)
async def test_clusters_are_units_or_sessions(
    router: Router, assignment: str, names: list[tuple[str, str]], expected: str | None
) -> None:
    await router.run(experiment(kind="UNIFORM", assignment=assignment))
    for i, (unit, session) in enumerate(names):
        reply = await router.route(unit_id=unit, session_id=session, turn_id=str(i))
        await router.reward(reply.decision_id, 1.0)
    await stored(router, len(names))
    found = logged(router)
    if expected is None:
        assert found.clusters is None
        return
    assert found.clusters is not None
    labels = np.array(list(expected))
    assert (np.equal.outer(found.clusters, found.clusters) == np.equal.outer(labels, labels)).all()
