"""The log as arrays for estimates, and summed up for plans, beside what was sent."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import numpy as np
import pytest
from postgres import TestCluster
from running import Router, arm, experiment, query, until_scalar

import router.analysis as analysis
from bandit.arm_estimates import estimate_arms
from bandit.intraclass import ClusterSums, intraclass_correlation
from bandit.situation import History
from router.storage.analysis import reading
from router.storage.database import DatabaseUrl
from router.storage.logged import LeftOut, Logged, active_arm_ids, read_history, read_logged
from router.v1 import types_pb2


def logged(router: Router, start: datetime | None = None, end: datetime | None = None) -> Logged:
    with reading(DatabaseUrl.parse(router.url)) as found:
        of = found.experiment("support")
        assert of is not None
        return read_logged(found, of, start, end)


def history(router: Router, start: datetime | None = None, end: datetime | None = None) -> History | None:
    with reading(DatabaseUrl.parse(router.url)) as found:
        of = found.experiment("support")
        assert of is not None
        return read_history(found, of, start, end)


async def stored(router: Router, n: int) -> None:
    await until_scalar(router.url, "SELECT count(*) FROM decisions", n)


async def test_the_log_is_what_was_drawn_and_rewarded(router: Router) -> None:
    await router.run(experiment(floor=0.05))
    rng = random.Random(1)
    sent = []
    for i in range(60):
        reply = await router.route(unit_id=f"u{i % 20}")
        if i % 3:
            reward = rng.choice([0.0, 0.25, 1.0])
            await router.reward(reply.decision_id, reward)
            vector = [entry.probability for entry in reply.allocation]
            sent.append((reply.arm.arm_id, reward, reply.propensity, vector, f"u{i % 20}"))
    # Neither is a draw among all arms.
    for fields in ({"force_arm_id": "a"}, {"eligible_arm_ids": ["b"]}):
        reply = await router.route(unit_id="u", **fields)
        await router.reward(reply.decision_id, 1.0)
    await stored(router, 62)
    found = logged(router)
    assert found.arm_ids == ("a", "b")
    assert [found.arm_ids[index] for index in found.arms] == [one[0] for one in sent]
    assert found.rewards.tolist() == [one[1] for one in sent]
    assert found.propensities.tolist() == pytest.approx([one[2] for one in sent])
    assert found.allocations == pytest.approx(np.array([one[3] for one in sent]))
    labels = [one[4] for one in sent]
    assert found.clusters is not None
    same = np.equal.outer(found.clusters, found.clusters)
    assert (same == np.equal.outer(np.array(labels), np.array(labels))).all()
    assert found.left_out == LeftOut(some_arms=1), "the one with a single eligible arm"
    assert len(estimate_arms(found.rewards, found.arms, found.propensities, 2, found.clusters, found.allocations)) == 2


async def test_units_that_come_once_are_no_clusters_and_ranges_are_half_open(router: Router) -> None:
    await router.run(experiment())
    for i in range(12):
        reply = await router.route(unit_id=f"u{i}" if i % 2 else "")
        await router.reward(reply.decision_id, i / 12)
    await stored(router, 12)
    assert logged(router).clusters is None
    times = [at for (at,) in await query(router.url, "SELECT decided_at FROM decisions ORDER BY decided_at")]
    part = logged(router, times[3], times[8])
    assert part.rewards.tolist() == pytest.approx([i / 12 for i in range(3, 8)])
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    empty = logged(router, end=long_ago)
    assert empty.arms.size == 0
    assert empty.allocations.shape == (0, 2)
    assert history(router, end=long_ago) is None


async def test_only_choices_among_the_arms_of_now_are_compared(router: Router) -> None:
    await router.run(experiment())
    old = [await router.route(unit_id=f"old{i}") for i in range(5)]
    definition = await router.get()
    definition.arms.append(arm("c"))
    await router.update(definition)
    new = [await router.route(unit_id=f"new{i}") for i in range(7)]
    for reply in [*old, *new]:
        await router.reward(reply.decision_id, 1.0)
    await stored(router, 12)
    found = logged(router)
    assert found.arm_ids == ("a", "b", "c")
    assert (found.arms.size, found.left_out) == (7, LeftOut(other_arms=5))


async def test_outcomes_that_wait_do_not_count(router: Router) -> None:
    await router.run(experiment())
    replies = [await router.route(unit_id=f"u{i}") for i in range(4)]
    for reply in replies:
        await router.reward(reply.decision_id, 1.0)
    await stored(router, 4)
    await query(router.url, "UPDATE policy_versions SET matured_to = now() - interval '1 hour'")
    await query(router.url, "UPDATE outcomes SET decided_at = now() WHERE decision_key IN"
                " (SELECT decision_key FROM decisions ORDER BY decided_at LIMIT 3)")  # fmt: skip
    assert logged(router).arms.size == 1


async def test_a_history_is_that_of_the_log(router: Router) -> None:
    await router.run(experiment(arms=[arm("a", role=types_pb2.ROLE_CONTROL), arm("b")]))
    rng = random.Random(2)
    sent: list[tuple[str, str, float | None]] = []
    for i in range(90):
        session = f"s{i // 6}" if i % 6 < 4 else ""
        reply = await router.route(unit_id=f"u{i}", session_id=session)
        reward = float(rng.random() < 0.3 + 0.03 * (i // 6)) if i % 5 else None
        if reward is not None:
            await router.reward(reply.decision_id, reward)
        sent.append((session or f"alone{i}", reply.arm.arm_id, reward))
    forced = await router.route(unit_id="f", force_arm_id="a")
    await router.reward(forced.decision_id, 1.0)
    await stored(router, 91)
    # As if they had been made a minute apart, and each outcome had come a second later for each decision before it.
    day = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0)
    numbers = "(SELECT decision_key, row_number() OVER (ORDER BY decided_at) - 1 AS i FROM decisions) r"
    await query(
        router.url,
        "UPDATE decisions d SET decided_at = %s + r.i * interval '1 minute', decision_day = %s"
        f" FROM {numbers} WHERE r.decision_key = d.decision_key",
        day,
        day.date(),
    )
    await query(
        router.url,
        "UPDATE outcomes o SET decision_day = d.decision_day, occurred_at = d.decided_at + r.i * interval '1 second'"
        f" FROM decisions d, {numbers} WHERE d.decision_key = o.decision_key AND r.decision_key = o.decision_key",
    )
    found = history(router)
    assert found is not None
    with_outcome = [(i, one) for i, one in enumerate(sent) if one[2] is not None]
    control = [one[2] for _, one in with_outcome if one[1] == "a"]
    assert found.baseline == pytest.approx(np.mean(control))
    assert found.variance == pytest.approx(np.var(control, ddof=1))
    assert found.coverage == pytest.approx(len(with_outcome) / 90)
    assert found.turns_per_session == pytest.approx(90 / len({one[0] for one in sent}))
    assert found.traffic_per_day == pytest.approx(24 * 60)
    lags = sorted(i for i, _ in with_outcome)
    assert found.feedback_delay_us == lags[int(np.ceil(0.9 * len(lags))) - 1] * 1_000_000
    means = {name: np.mean([one[2] for _, one in with_outcome if one[1] == name]) for name in "ab"}
    groups: dict[str, list[float]] = {}
    for _, (session, name, reward) in with_outcome:
        groups.setdefault(session, []).append(reward - means[name])
    values = list(groups.values())
    sums = ClusterSums(
        len(values),
        sum(map(len, values)),
        sum(len(g) ** 2 for g in values),
        sum(x * x for g in values for x in g),
        sum(sum(g) ** 2 / len(g) for g in values),
        sum(map(sum, values)),
    )
    assert found.weighted_outcomes_per_session == pytest.approx(sum(len(g) ** 2 for g in values) / len(with_outcome))
    assert found.weighted_outcomes_per_session > len(with_outcome) / len(values) + 0.1, "sessions have 1 to 4 outcomes"
    assert found.icc == pytest.approx(intraclass_correlation(sums), abs=1e-9)
    half = history(router, day, day + timedelta(minutes=45))
    assert half is not None
    assert half.coverage == pytest.approx(36 / 45)


async def test_what_a_history_cannot_tell_is_none(router: Router) -> None:
    definition = experiment(arms=["a", "b", arm("shade", role=types_pb2.ROLE_SHADOW)])
    definition.shadow.text = types_pb2.TEXT_MODE_OFF
    await router.run(definition)
    await router.route(unit_id="u")
    await stored(router, 1)
    assert history(router) == History(turns_per_session=1.0)
    with reading(DatabaseUrl.parse(router.url)) as found:
        of = found.experiment("support")
        assert of is not None
        assert active_arm_ids(found, of) == ("a", "b")


async def test_the_login_of_an_analyst_will_do(router: Router, cluster: TestCluster) -> None:
    await router.run(experiment())
    reply = await router.route(unit_id="u")
    await router.reward(reply.decision_id, 1.0)
    await stored(router, 1)
    url = cluster.analyst_url_of(urlsplit(router.url).path.removeprefix("/"))
    with reading(DatabaseUrl.parse(url)) as found:
        of = found.experiment("support")
        assert of is not None
        assert read_logged(found, of, None, None).rewards.tolist() == [1.0]
        assert read_history(found, of, None, None) == history(router)
    assert analysis.logged(url, "support").rewards.tolist() == [1.0]
    assert analysis.logged(url, "support", end=datetime(2001, 1, 1, tzinfo=UTC)).rewards.tolist() == []
    with pytest.raises(analysis.AnalysisError, match="there is no such experiment"):
        analysis.logged(url, "nope")
    with pytest.raises(analysis.AnalysisError, match=r"start .*: must be a datetime with a time zone"):
        analysis.logged(url, "support", datetime(2026, 1, 1))
