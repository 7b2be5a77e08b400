"""Segments on real servers: who decides what, where evidence goes, and that all of it can be computed again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hands import HOUR_US, Hand, next_hour_us
from running import Router, assert_replay_agrees, event, experiment, query, refused, scalar, until, until_scalar

from bandit.assignment import rendezvous
from bandit.posterior import probability_best
from bandit.reward import Evidence
from router import analysis
from router.cli.picture import picture
from router.cli.replay import replay
from router.cli.status import status
from router.controllers.derive import Deriver
from router.controllers.snapshots import Historian
from router.pictures import history_of, history_of_rows
from router.policy import compile_policy
from router.storage.connecting import DatabaseUrl, connect
from router.storage.database import Database
from router.storage.election import Session
from router.storage.imports import Import, add
from router.storage.policies import read_evidence
from router.storage.rebuild import rebuild
from router.storage.retention import drop_expired
from router.storage.saved import FILE, SavedFile
from router.storage.saver import Saver
from router.storage.token_keys import deployment_id
from router.v1 import experiments_pb2, posteriors_pb2, routing_pb2


@pytest.fixture
def hand() -> Hand:
    return Hand(next_hour_us())


@pytest.fixture
async def router(database_url: str, start_router: Any, hand: Hand) -> Router:
    return await start_router(database_url, hand.clocks, keeper=False)


@pytest.fixture
async def other_router(router: Router, start_router: Any, hand: Hand) -> Router:
    return await start_router(router.url, hand.clocks, keeper=False)


def divided(names: Iterable[str] = ("de", "fr"), **fields: Any) -> experiments_pb2.Experiment:
    definition = experiment(**fields)
    definition.allocation.segments.names.extend(names)
    return definition


async def decided(router: Router, arm_id: str, segment: str, unit: str = "u") -> str:
    """The id of a decision for an arm that is learned from."""
    return (await router.route(eligible_arm_ids=[arm_id], segment=segment, unit_id=unit)).decision_id


async def learn(router: Router, segment: str, arm_id: str, successes: int, failures: int = 0) -> None:
    requests = [
        routing_pb2.RouteRequest(
            experiment_id="support", unit_id=f"{segment}-{n}", eligible_arm_ids=[arm_id], segment=segment
        )
        for n in range(successes + failures)
    ]
    routed = await router.batch_route(requests)
    events = [event(one.response.decision_id, 1.0 if n < successes else 0.0) for n, one in enumerate(routed.results)]
    for result in await router.batch_reward(events):
        assert result.response.status == routing_pb2.STATUS_APPLIED, result


async def posterior(router: Router, segment: str = "", **fields: Any) -> posteriors_pb2.GetPosteriorResponse:
    request = posteriors_pb2.GetPosteriorRequest(experiment_id="support", segment=segment, **fields)
    return await router.posteriors.GetPosterior(request)


async def parameters(router: Router, segment: str = "") -> dict[str, tuple[float, float, int]]:
    return {arm.arm_id: (arm.alpha, arm.beta, arm.n) for arm in (await posterior(router, segment)).arms}


async def evidence(url: str) -> dict[tuple[str, str], int]:
    """Outcomes by segment and arm, of rows that have any."""
    rows = await query(
        url,
        "SELECT segment, arm_id, sum(n)::int FROM evidence_all JOIN arms USING (incarnation, arm) GROUP BY 1, 2"
        " HAVING sum(n) <> 0",
    )
    return {(segment, arm_id): n for segment, arm_id, n in rows}


async def shares(router: Router, segment: str) -> list[float]:
    return [entry.probability for entry in (await router.route(segment=segment, unit_id="u")).allocation]


async def test_each_segment_is_decided_by_its_own_posterior_on_every_replica(router: Router, other_router: Router) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 8, 2)
    await learn(router, "fr", "b", 5)
    await learn(router, "", "a", 0, 10)
    await learn(router, "elsewhere", "b", 1, 4)
    assert await evidence(router.url) == {("de", "a"): 10, ("fr", "b"): 5, ("", "a"): 10, ("", "b"): 5}
    # Of other traffic a fifth: of a 0 successes and 10 failures, of b 6 and 4.
    assert await parameters(router, "de") == {"a": (9.0, 5.0, 10), "b": pytest.approx((2.2, 1.8, 0))}
    assert await parameters(other_router, "fr") == {"a": pytest.approx((2.6, 3.4, 0)), "b": pytest.approx((6.2, 1.8, 5))}
    assert await parameters(router) == {"a": (9.0, 13.0, 20), "b": (7.0, 5.0, 10)}
    expected = {
        "de": probability_best([9.0, 2.2], [5.0, 1.8]),
        "fr": probability_best([2.6, 6.2], [3.4, 1.8]),
        "": probability_best([9.0, 7.0], [13.0, 5.0]),
        "elsewhere": probability_best([9.0, 7.0], [13.0, 5.0]),
    }
    for replica in (router, other_router):
        for segment, best in expected.items():

            async def follows(replica: Router = replica, segment: str = segment, best: Any = best) -> bool:
                return await shares(replica, segment) == pytest.approx(0.01 + 0.98 * best, abs=1e-12)

            await until(follows, f"segment {segment!r} is drawn from its posterior")
    reply = await posterior(router, "de")
    assert reply.segment == "de"
    assert [arm.allocation for arm in reply.arms] == pytest.approx(0.01 + 0.98 * expected["de"])
    assert [arm.probability_best for arm in reply.arms] == pytest.approx(expected["de"])
    await assert_replay_agrees(router.url)


async def test_without_a_rule_segments_are_labels(router: Router) -> None:
    await router.run()
    await learn(router, "de", "a", 3)
    assert await evidence(router.url) == {("", "a"): 3}
    refusal = await refused(posterior(router, "de"))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.violations["segment"] == "'de' is not among the segments of experiment 'support', which has none"


async def test_a_segment_that_is_not_named_has_no_posterior(router: Router) -> None:
    await router.run(divided())
    pb = posteriors_pb2
    for call in (
        posterior(router, "br"),
        posterior(router, "br", as_of=Timestamp(seconds=1)),
        router.posteriors.ListSnapshots(pb.ListSnapshotsRequest(experiment_id="support", segment="br")),
        router.posteriors.WatchPosterior(pb.WatchPosteriorRequest(experiment_id="support", segment="br")).read(),
    ):
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(refusal.violations) == ["segment"]
        assert refusal.violations["segment"].endswith("which has 'de', 'fr'")


async def test_a_correction_moves_an_outcome_to_the_segment_that_it_belongs_to_now(router: Router) -> None:
    await router.run(divided())
    ids = [await decided(router, "a", "de") for _ in range(3)]
    for decision_id in ids:
        await router.reward(decision_id, 1.0)
    old = await decided(router, "a", "fr")
    await router.update(divided(["fr"]))
    # What was counted stays where it is, and is other traffic now.
    assert await evidence(router.url) == {("de", "a"): 3}
    assert (await parameters(router, "fr"))["a"] == pytest.approx((1.6, 1.0, 0))
    await router.reward(ids[0], 0.25)
    await router.reward(ids[1], 1.0, event_id="later")
    await router.reward(old, 1.0)
    assert await evidence(router.url) == {("", "a"): 2, ("de", "a"): 1, ("fr", "a"): 1}
    assert await parameters(router) == {"a": (4.25, 1.75, 4), "b": (1.0, 1.0, 0)}
    assert (await parameters(router, "fr"))["a"] == pytest.approx((1 + 0.2 * 2.25 + 1, 1 + 0.2 * 0.75, 1))
    await assert_replay_agrees(router.url)
    # Named again, what it had kept is its own.
    await router.update(divided())
    assert (await parameters(router, "de"))["a"] == pytest.approx((1 + 0.2 * 2.25 + 1, 1 + 0.2 * 0.75, 1))


async def test_eligible_arms_retries_and_the_log_are_of_the_segment(
    router: Router, other_router: Router, start_router: Any
) -> None:
    await router.run(divided(arms=("a", "b", "c")))
    await learn(router, "de", "a", 9)
    await learn(router, "fr", "b", 9)
    version = (await posterior(router)).policy_version

    async def caught_up() -> bool:
        return (await other_router.route(segment="de")).policy_version == version

    await until(caught_up, "the other replica has learned")
    found = await parameters(router, "de")
    alpha, beta = ([found[arm][i] for arm in ("a", "b")] for i in (0, 1))
    reply = await router.route(segment="de", eligible_arm_ids=["b", "a"])
    assert {entry.arm_id: entry.probability for entry in reply.allocation} == pytest.approx(
        dict(zip("abc", [*(0.01 + 0.98 * probability_best(alpha, beta)), 0.0], strict=True))
    )
    for n in range(30):
        first = await router.route(segment="de", request_id=f"r{n}")
        again = await other_router.route(segment="de", request_id=f"r{n}")
        assert (first.arm.arm_id, first.propensity) == (again.arm.arm_id, again.propensity)
        assert first.allocation == again.allocation
    # The keeper stores the log: each vector once, by its content.
    await start_router(router.url)

    async def stored() -> bool:
        return await scalar(router.url, "SELECT count(*) FROM decision_log WHERE request_id = 'r29' AND segment = 'de'") > 0

    await until(stored, "the decisions are stored")
    ((allocation, propensity),) = await query(
        router.url, "SELECT DISTINCT allocation, propensity FROM decision_log WHERE request_id = 'r29'"
    )
    assert allocation == [entry.probability for entry in first.allocation]
    assert propensity == first.propensity


@pytest.mark.parametrize("kind", ["STICKY_HASH", "STICKY_STORED"])
async def test_sticky_units_are_drawn_from_the_vector_of_their_segment(router: Router, kind: str) -> None:
    await router.run(divided(assignment=kind))
    for segment, best, worst in (("de", "a", "b"), ("fr", "b", "a")):
        await learn(router, segment, best, 40)
        await learn(router, segment, worst, 0, 40)

        async def learned(segment: str = segment, best: str = best) -> bool:
            return (await shares(router, segment))["ab".index(best)] > 0.98

        await until(learned, "this replica draws from what was learned")
    arms = {}
    for segment in ("de", "fr"):
        for n in range(40):
            reply = await router.route(segment=segment, unit_id=f"unit-{segment}-{n}")
            vector = [entry.probability for entry in reply.allocation]
            assert (
                reply.arm.arm_id == rendezvous("support", f"unit-{segment}-{n}", ["a", "b"], vector) or kind != "STICKY_HASH"
            )
            arms[segment, n] = reply.arm.arm_id
            assert reply.propensity == vector["ab".index(reply.arm.arm_id)]
    assert sum(arms["de", n] == "a" for n in range(40)) > 30
    assert sum(arms["fr", n] == "b" for n in range(40)) > 30
    if kind == "STICKY_STORED":
        # A unit that appears in another segment keeps its arm: its probability there is not 0.
        for n in range(40):
            reply = await router.route(segment="fr", unit_id=f"unit-de-{n}")
            assert (reply.arm.arm_id, reply.reason) == (arms["de", n], routing_pb2.REASON_STICKY)


async def test_units_held_out_and_forced_decisions_teach_no_segment(router: Router) -> None:
    definition = divided(assignment="STICKY_HASH", holdout=0.5)
    definition.arms[0].role = 1
    await router.run(definition)
    for n in range(20):
        reply = await router.route(segment="de", unit_id=f"u{n}")
        await router.reward(reply.decision_id, 1.0)
        if reply.reason == routing_pb2.REASON_HOLDOUT:
            assert (reply.arm.arm_id, reply.propensity) == ("a", 1.0)
    forced = await router.route(segment="de", unit_id="u0", force_arm_id="b")
    await router.reward(forced.decision_id, 1.0)
    counted = await evidence(router.url)
    held_out = await scalar(router.url, "SELECT 20 - sum(n)::int FROM evidence")
    assert {segment for segment, _ in counted} == {"de"}
    assert 2 <= held_out <= 18


async def test_silence_counts_in_its_segment(router: Router, start_router: Any, hand: Hand) -> None:
    definition = divided()
    definition.reward_rule.mature_after.CopyFrom(Duration(seconds=30))
    definition.reward_rule.no_feedback = 0.0
    await router.run(definition)
    await start_router(router.url, hand.clocks)
    await until_scalar(router.url, "SELECT matured_to IS NOT NULL FROM policy_versions", True)
    for segment in ("de", "de", "fr", "elsewhere"):
        hand.now_us += 1_000_000
        await router.route(segment=segment, eligible_arm_ids=["a"])
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 4)
    hand.now_us += HOUR_US

    async def counted() -> bool:
        return await evidence(router.url) == {("de", "a"): 2, ("fr", "a"): 1, ("", "a"): 1}

    await until(counted, "silence is a failure of its segment")
    await assert_replay_agrees(router.url)


async def test_derived_signals_count_in_their_segment(
    router: Router, start_router: Any, hand: Hand, database: Database, session: Session
) -> None:
    definition = divided()
    definition.reward_rule.derived.retry_within.CopyFrom(Duration(seconds=60))
    await router.run(definition)
    # The test leads: this keeper only stores decisions.
    await start_router(router.url, hand.clocks)
    for segment in ("de", "elsewhere"):
        for _ in range(2):
            hand.now_us += 1_000_000
            await router.route(segment=segment, session_id=f"in-{segment}", turn_id="1", eligible_arm_ids=["a"])
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 4)
    deriver = Deriver(database, clock_us=hand, announce=lambda incarnations: None, hash_id=lambda unit_id: bytes(8))
    for _ in range(3):
        hand.now_us += 5_000_000
        await deriver.work(session)
    await deriver.close()
    assert await evidence(router.url) == {("de", "a"): 1, ("", "a"): 1}


async def taught(
    router: Router, hand: Hand, database: Database, session: Session, move: Callable[[], None] | None = None
) -> None:
    """Six snapshots, with corrections, a change of the rule, and evidence in segments that are named no longer."""
    historian = Historian(database, hand, share=1.0)
    ids = []
    for step in range(6):
        for segment, arm_id, reward in (("de", "a", 1.0), ("fr", "b", 0.75), ("", "a", 0.0), ("jp", "b", 1 / 3)):
            for n in range(step + 1):
                ids.append(await decided(router, arm_id, segment, f"{step}-{n}"))
                await router.reward(ids[-1], reward)
        await router.reward(ids[step], 0.5, event_id="correction")
        hand.now_us += 1_000_000
        if move is not None:
            move()
        await historian.work(session)
        if step == 2:
            changed = await router.get()
            del changed.allocation.segments.names[:]
            changed.allocation.segments.names.extend(["de", "jp"])
            changed.allocation.segments.weight, changed.allocation.segments.largest = 0.7, 4.0
            await router.update(changed)


@pytest.mark.parametrize("half_life_s", [None, 5400])
async def test_snapshots_of_segments_are_kept_and_rebuilt_to_the_last_digit(
    router: Router, hand: Hand, database: Database, session: Session, half_life_s: int | None
) -> None:
    definition = divided()
    if half_life_s is not None:
        definition.allocation.discount.half_life.CopyFrom(Duration(seconds=half_life_s))
    await router.run(definition)

    def hour() -> None:
        hand.now_us += HOUR_US

    await taught(router, hand, database, session, hour if half_life_s is not None else None)
    rows = await query(
        router.url,
        "SELECT policy_version, taken_at, array_agg(segment ORDER BY segment), min(weight) FROM snapshots"
        " GROUP BY 1, 2 ORDER BY 1",
    )
    assert [names for _, _, names, _ in rows] == [["", "de", "fr"]] * 3 + [["", "de", "jp"]] * 3
    assert [weight for *_, weight in rows] == [0.2] * 3 + [0.7] * 3
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    with connect(DatabaseUrl.parse(router.url)) as connection:
        for version, taken_at, names, _ in rows:
            found = await asyncio.to_thread(rebuild, connection, incarnation, taken_at)
            assert found is not None
            assert (found.policy_version, found.agrees) == (version, True), found
            assert [arm.segment for arm in found.arms] == [name for name in names for _ in range(2)]
            assert all(arm.kept == arm.rebuilt for arm in found.arms), "on one machine to the last digit"
    for segment in ("", "de", "jp"):
        now, then = await posterior(router, segment), await posterior(router, segment, as_of=_stamp(hand.now_us))
        assert (list(now.arms), now.policy_version) == (list(then.arms), then.policy_version)
        assert then.segment == segment
    early = await posterior(router, "de", as_of=_stamp(int(rows[1][1].timestamp() * 1e6)))
    listed = await router.posteriors.ListSnapshots(
        posteriors_pb2.ListSnapshotsRequest(experiment_id="support", segment="de")
    )
    assert [one.policy_version for one in listed.snapshots] == [version for version, *_ in rows]
    assert list(listed.snapshots[1].arms) == list(early.arms)
    listed = await router.posteriors.ListSnapshots(
        posteriors_pb2.ListSnapshotsRequest(experiment_id="support", segment="jp")
    )
    assert [one.policy_version for one in listed.snapshots] == [version for version, *_ in rows[3:]]
    refusal = await refused(posterior(router, "jp", as_of=_stamp(int(rows[1][1].timestamp() * 1e6))))
    assert refusal.reason == "NO_SNAPSHOT"
    assert "segment 'jp'" in refusal.message


async def test_imported_evidence_and_dropped_days_stay_in_their_segment(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 8, 2)
    await learn(router, "", "a", 5, 5)
    before = await parameters(router, "de")
    later = datetime.fromtimestamp(hand.now_us / 1e6, UTC).date() + timedelta(days=3)
    async with await database.connect(autocommit=True) as connection:
        assert await drop_expired(connection, later, 1)
    assert await parameters(router, "de") == before
    historian = Historian(database, hand, share=1.0)
    await historian.work(session)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    past = datetime(2026, 1, 1, tzinfo=UTC)
    given = {(0, "de"): Evidence(2_000_000, 1_000_000, 3), (0, "fr"): Evidence(5_000_000, 0, 5)}
    with connect(DatabaseUrl.parse(router.url)) as connection:
        imported = Import("one", bytes(32), past, past, given, "me", "history")
        assert (await asyncio.to_thread(add, connection, incarnation, imported)).new
    # Of others' 15 outcomes a fifth: 10 successes and 5 failures.
    assert (await parameters(router, "de"))["a"] == pytest.approx((1 + 2 + 10, 1 + 1 + 3, 13))
    hand.now_us += 1_000_000
    await historian.work(session)
    times = await query(router.url, "SELECT DISTINCT taken_at FROM snapshots")
    assert len(times) == 2
    with connect(DatabaseUrl.parse(router.url)) as connection:
        for (taken_at,) in times:
            found = await asyncio.to_thread(rebuild, connection, incarnation, taken_at)
            assert found is not None
            assert found.agrees, found


async def test_a_snapshot_of_a_segment_that_was_tampered_with_is_found(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 3)
    await learn(router, "", "a", 3)
    await Historian(database, hand, share=1.0).work(session)
    at = datetime.fromtimestamp(hand.now_us / 1e6, UTC).isoformat()
    runner = CliRunner()

    def replayed(*args: str) -> Any:
        return runner.invoke(replay, ["--database-url", router.url, "--as-of", at, *args])

    done = await asyncio.to_thread(replayed)
    assert (done.exit_code, "2 arms in 3 posteriors" in done.output) == (0, True), done.output
    # As if it had borrowed more.
    await query(router.url, "UPDATE snapshots SET largest = 2, weight = 1 WHERE segment = 'de'")
    done = await asyncio.to_thread(replayed)
    assert (done.exit_code, "DISAGREES for a v1 in de" in done.output) == (1, True), done.output
    done = await asyncio.to_thread(replayed, "--json")
    (snapshot,) = json.loads(done.output)
    assert [(arm["segment"], arm["agrees"]) for arm in snapshot["arms"]] == [
        *(("", True), ("", True)),
        # What is probably the best follows from both.
        *(("de", False), ("de", False)),
        *(("fr", True), ("fr", True)),
    ]


async def test_history_is_of_all_traffic_and_segments_have_a_view(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 3)
    await learn(router, "fr", "b", 3)
    await Historian(database, hand, share=1.0).work(session)
    columns = "arm_id, alpha, beta, n, mean, probability_best, expected_loss, allocation"

    def expected(reply: posteriors_pb2.GetPosteriorResponse) -> list[tuple[Any, ...]]:
        names = columns.split(", ")
        return [tuple(getattr(arm, name) for name in names) for arm in reply.arms]

    pooled = await query(router.url, f"SELECT {columns} FROM posterior_history ORDER BY arm_id")
    assert pooled == expected(await posterior(router))
    for segment in ("de", "fr"):
        own = await query(
            router.url, f"SELECT {columns} FROM posterior_segments WHERE segment = %s ORDER BY arm_id", segment
        )
        assert own == expected(await posterior(router, segment))
    latest = await query(router.url, "SELECT arm_id, n FROM posterior_latest ORDER BY arm_id")
    assert latest == [("a", 3), ("b", 3)]


async def test_analysis_has_the_history_of_segments(
    router: Router, hand: Hand, database: Database, session: Session
) -> None:
    await router.run(divided())
    historian = Historian(database, hand, share=1.0)
    for n in (1, 2):
        await learn(router, "de", "a", n)
        hand.now_us += 1_000_000
        await historian.work(session)
    table = (await asyncio.to_thread(analysis.snapshots, router.url, "support")).to_pylist()
    assert [(row["segment"], row["arm_id"], row["n"]) for row in table] == [
        (segment, arm_id, n if segment in ("", "de") and arm_id == "a" else 0)
        for n in (1, 3)
        for segment in ("", "de", "fr")
        for arm_id in ("a", "b")
    ]
    for segment in ("", "de", "fr"):
        listed = await router.posteriors.ListSnapshots(
            posteriors_pb2.ListSnapshotsRequest(experiment_id="support", segment=segment)
        )
        assert history_of_rows(table, segment) == history_of(listed.snapshots)


async def test_status_shows_every_segment(router: Router) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 3)
    runner = CliRunner()
    server = f"127.0.0.1:{router.server.port}"
    done = await asyncio.to_thread(runner.invoke, status, ["support", "--server", server, "--json"])
    (shown,) = json.loads(done.output)["experiments"]
    assert [posterior["segment"] for posterior in shown["segments"]] == ["de", "fr"]
    assert shown["segments"][0]["arms"][0]["alpha"] == 4.0
    done = await asyncio.to_thread(runner.invoke, status, ["support", "--server", server])
    assert "support, segment fr" in done.output


async def test_segments_are_drawn(router: Router, hand: Hand, database: Database, session: Session, tmp_path: Path) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 9)
    await Historian(database, hand, share=1.0).work(session)
    drawn = tmp_path / "de.svg"
    where = ["--experiment", "support", "--server", f"127.0.0.1:{router.server.port}", "-o", str(drawn)]
    for name in ("posteriors", "best"):
        done = await asyncio.to_thread(CliRunner().invoke, picture, [name, "--segment", "de", *where])
        assert done.exit_code == 0, done.output
        assert "support, segment de" in drawn.read_text()
    done = await asyncio.to_thread(CliRunner().invoke, picture, ["best", "--segment", "br", *where])
    assert done.exit_code == 1
    assert "'br' is not among the segments" in str(done.output) + str(done.exception)


async def test_a_segment_is_watched(router: Router) -> None:
    await router.run(divided())
    request = posteriors_pb2.WatchPosteriorRequest(experiment_id="support", segment="de")
    call = router.posteriors.WatchPosterior(request)
    first = (await call.read()).posterior
    await learn(router, "de", "a", 1)
    second = (await call.read()).posterior
    call.cancel()
    assert [(reply.segment, reply.arms[0].alpha) for reply in (first, second)] == [("de", 1.0), ("de", 2.0)]


async def test_the_saved_copy_has_segments(router: Router, hand: Hand, database: Database, tmp_path: Path) -> None:
    await router.run(divided())
    await learn(router, "de", "a", 8, 4)
    await learn(router, "", "b", 1, 4)
    saver = Saver(database, await deployment_id(database), tmp_path, clock_us=hand, rest_s=0.01)
    task = asyncio.create_task(saver.run())
    await until(lambda: saver.saved_at is not None, "it is saved")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    file = SavedFile(tmp_path / FILE)
    ((definition, saved),) = file.experiments()
    file.close()
    async with database.begin() as connection:
        (live,) = await read_evidence(connection, [definition.incarnation])
    compiled = [
        compile_policy(definition, read.policy_version, read.evidence, None, read.hours, read.by_segment)
        for read in (saved, live)
    ]
    ids = [{name: part.everyone.allocation_id for name, part in policy.segments.items()} for policy in compiled]
    assert ids[0] == ids[1]
    assert set(ids[0]) == {"de", "fr"}


def _stamp(us: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(us)
    return found
