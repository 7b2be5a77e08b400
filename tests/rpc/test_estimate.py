"""The command `estimate`, on logs whose truth is known: what it finds, what it cannot say, and what it prints."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from adaptive_logs import Logs, thompson_logs
from click.testing import CliRunner, Result
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray
from running import Router, arm, event, experiment, query, until_scalar

from bandit.arm_estimates import estimate_arms
from bandit.arm_intervals import arm_intervals
from bandit.learners import BetaLearner
from bandit.policy_values import policy_value
from bandit.rejection import rejection_replay
from bandit.split import split_of
from bandit.stopping import DAY_US, decide
from bandit.targets import fixed_arm, uniform, with_floor
from router.cli.main import main
from router.clocks import Clocks
from router.v1 import experiments_pb2, routing_pb2, types_pb2

MEANS = [0.6, 0.5, 0.35]
NAMES = ["a", "b", "c"]
FLOOR = 0.1


def logs(n: int = 3_000, seed: int = 7) -> Logs:
    return thompson_logs(MEANS, n, 1, FLOOR, np.random.default_rng(seed))


def three(**fields: Any) -> experiments_pb2.Experiment:
    arms = [arm("a", role=types_pb2.ROLE_CONTROL), arm("b"), arm("c")]
    return experiment(arms=arms, **{"floor": FLOOR, **fields})


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def planted(
    router: Router,
    log: Logs,
    kept: NDArray[np.bool_] | None = None,
    feedback: NDArray[np.bool_] | None = None,
    units: NDArray[Any] | None = None,
    **fields: Any,
) -> None:
    """An experiment whose log is this one, a second between decisions; some are lost, or have no feedback."""
    await router.run(three(**fields))
    partitions = ", ".join(f"'{table}_{midnight():%Y%m%d}'" for table in ("decisions", "outcomes"))
    await until_scalar(router.url, f"SELECT count(*) FROM pg_class WHERE relname IN ({partitions})", 2)
    await asyncio.to_thread(_write, router.url, log, kept, feedback, units)


def _write(
    url: str,
    log: Logs,
    kept: NDArray[np.bool_] | None,
    feedback: NDArray[np.bool_] | None,
    units: NDArray[Any] | None,
) -> None:
    rng, start = np.random.default_rng(1), midnight()
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT incarnation, arm, arm_id FROM arms ORDER BY arm_id").fetchall()
        incarnation, numbers = found[0][0], [number for _, number, _ in found]
        vectors: dict[bytes, uuid.UUID] = {}
        decisions, outcomes, allocations = [], [], []
        for i, (drawn, reward, vector) in enumerate(zip(log.arms[0], log.rewards[0], log.allocations[0], strict=True)):
            if vector.tobytes() not in vectors:
                vectors[vector.tobytes()] = uuid.UUID(bytes=rng.bytes(16))
                allocations.append((vectors[vector.tobytes()], incarnation, 1, numbers, vector.tolist()))
            key, at = uuid.UUID(bytes=rng.bytes(16)), start + timedelta(seconds=i)
            if kept is not None and not kept[i]:
                continue
            unit = f"u{i}" if units is None else f"u{units[i]}"
            row = (
                start.date(),
                key,
                incarnation,
                numbers[drawn],
                at,
                vector[drawn],
                1,
                vectors[vector.tobytes()],
                "sampled",
            )
            decisions.append((*row, unit, "", "", "", "", ""))
            if feedback is None or feedback[i]:
                micros = round(reward * 1_000_000)
                outcomes.append((start.date(), key, incarnation, numbers[drawn], "", start, 1, at, "e", micros))
        for table, rows in (("allocations", allocations), ("decisions", decisions), ("outcomes", outcomes)):
            columns = ", ".join(_COLUMNS[table])
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:  # type: ignore[arg-type]
                for one in rows:
                    copy.write_row(one)


_COLUMNS = {
    "allocations": ["allocation_id", "incarnation", "policy_version", "arms", "probabilities"],
    "decisions": ["decision_day", "decision_key", "incarnation", "arm", "decided_at", "propensity", "policy_version",
                  "allocation_id", "reason", "unit_id", "session_id", "turn_id", "request_id", "segment",
                  "prompt_fingerprint"],
    "outcomes": ["decision_day", "decision_key", "incarnation", "arm", "segment", "bucket", "rank", "occurred_at",
                 "event_id", "reward_micros"],
}  # fmt: skip


async def learned(url: str, successes: dict[str, int], outcomes: dict[str, int], days: float = 20.0) -> None:
    """Evidence as if it had come over so many days."""
    for name, n in outcomes.items():
        await query(
            url,
            "INSERT INTO evidence_base SELECT incarnation, arm, '', %s, %s, %s FROM arms WHERE arm_id = %s",
            successes[name] * 10**6, (n - successes[name]) * 10**6, n, name,
        )  # fmt: skip
    await query(url, "UPDATE transitions SET transition_at = now() - %s * interval '1 day' WHERE kind = 'state'", days)


async def run(router: Router, *arguments: str, name: str = "support") -> Result:
    command = ["estimate", name, *arguments, "--database-url", router.url]
    return await asyncio.to_thread(CliRunner().invoke, main, command)


async def answer(router: Router, *arguments: str) -> Any:
    done = await run(router, *arguments, "--json")
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return json.loads(done.stdout, parse_constant=pytest.fail)


def values(found: object) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(found, default=lambda one: {name: getattr(one, name) for name in one.__slots__}))


async def test_the_document_has_the_values_of_the_library(router: Router) -> None:
    log = logs(800)
    feedback = np.random.default_rng(2).random(800) < 0.8
    await planted(router, log, feedback=feedback)
    a, r, p, v = (x[0][feedback] for x in (log.arms, log.rewards, log.propensities, log.allocations))
    found = await answer(
        router, "--policy", "uniform", "--policy", "arm:b", "--policy", "floor:0.15", "--replay", "prior=6:4,floor=0.05",
        "--runs", "2", "--seed", "9",
    )  # fmt: skip
    assert (found["decisions"], found["units"], found["left_out"], found["control"]) == (640, 640, 0, "a")
    for one, wanted in zip(found["arms"], estimate_arms(r, a, p, 3, None, v), strict=True):
        assert (one["arm_id"], one["decisions"]) == (NAMES[wanted.arm], wanted.decisions)
        for method in ("raw", "ips", "snips", "dr", "adaptive"):
            assert one["estimates"][method] == values(getattr(wanted, method))
    for one, looks in zip(found["arms"], arm_intervals(r, a, p, v, 0), strict=True):
        assert one["at_every_look"]["exact"] == values(looks.exact)
        assert one["at_every_look"]["average"] == values(looks.average)
        assert one["at_every_look"]["less_control"] == values(looks.less_control)
    policies = {"uniform": uniform(3), "arm:b": fixed_arm(1, 3), "floor:0.15": with_floor(v, FLOOR, 0.15)}
    for one, (name, policy) in zip(found["policies"], policies.items(), strict=True):
        value = policy_value(r, a, p, v, policy)
        assert (one["policy"], one["insufficient"]) == (name, "")
        assert one["estimates"] == {method: values(getattr(value, method)) for method in ("ips", "snips", "dr", "adaptive")}
    assert found["as_run"]["value"] == pytest.approx(r.mean())
    (replayed,) = found["replays"]
    for i, one in enumerate(replayed["runs"]):
        learner = BetaLearner([(6, 4)] * 3, floor=0.05, every=20)
        assert one == values(rejection_replay(r, a, v, learner, np.random.default_rng([9, i])))
    assert len(replayed["runs"]) == 2
    drawn = split_of(log.arms[0], log.allocations[0])
    assert (found["split"]["every"]["e_value"], found["split"]["every"]["largest"]) == (drawn.e_value, drawn.largest)
    assert found["split"]["with_feedback"]["largest"] == split_of(a, v).largest


async def test_the_truth_is_within(router: Router) -> None:
    """Seed 7 of known means: doubly robust intervals, and those at every look, hold them."""
    await planted(router, logs())
    found = await answer(router, "--policy", "uniform", "--policy", "arm:c")
    for one, mean in zip(found["arms"], MEANS, strict=True):
        looks = one["at_every_look"]
        for interval in (one["estimates"]["dr"], one["estimates"]["adaptive"], looks["exact"], looks["average"]):
            assert interval["lower"] < mean < interval["upper"]
        if looks["less_control"] is not None:
            assert looks["less_control"]["lower"] < mean - MEANS[0] < looks["less_control"]["upper"]
    for one, mean in zip(found["policies"], (np.mean(MEANS), MEANS[2]), strict=True):
        assert one["estimates"]["snips"]["lower"] < mean < one["estimates"]["snips"]["upper"]


async def test_a_sound_log_passes_and_a_lost_arm_is_found(router: Router) -> None:
    """The log of seed 7 is sound; the same without three in ten decisions for b is not."""
    log = logs()
    await planted(router, log, feedback=np.arange(3_000) % 2 == 0)
    found = await answer(router)
    assert found["split"]["every"]["mismatch"] is False
    assert found["split"]["with_feedback"]["mismatch"] is False
    assert (found["split"]["every"]["n"], found["split"]["with_feedback"]["n"]) == (3_000, 1_500)
    text = (await run(router)).stdout
    assert "Of 3,000 first draws: no mismatch. The largest e-value is" in text
    kept = (log.arms[0] != 1) | (np.random.default_rng(3).random(3_000) < 0.5)
    await query(router.url, "TRUNCATE decisions, outcomes, allocations")
    await asyncio.to_thread(_write, router.url, log, kept, None, None)
    found = (await answer(router))["split"]["every"]
    wanted = split_of(log.arms[0][kept], log.allocations[0][kept])
    assert found["mismatch"] is True
    assert found["largest"] == wanted.largest >= 100
    assert wanted.found_at is not None
    at = midnight() + timedelta(seconds=int(np.flatnonzero(kept)[wanted.found_at]))
    assert datetime.fromisoformat(found["found_at"]) == at
    assert [one["observed"] for one in found["arms"]] == list(wanted.observed)
    flat = " ".join((await run(router)).stdout.split())
    assert f"MISMATCH of {wanted.n:,} first draws: the e-value reached" in flat
    assert f"b is farthest off: {wanted.observed[1]} decisions, fewer than {wanted.expected[1]:,.1f}." in flat
    assert "Decisions are missing from the log" in flat


async def test_what_a_router_draws_is_sound_until_decisions_are_lost(
    database_url: str, start_router: Callable[..., Awaitable[Router]]
) -> None:
    """Equal shares from a seeded generator, so that every run has the same draws; then four in ten for c are deleted."""
    router = await start_router(database_url, Clocks(rng=random.Random(11)))
    await router.run(three(kind="UNIFORM", floor=0.0))
    for part in range(3):
        asked = [
            routing_pb2.RouteRequest(
                experiment_id="support", unit_id=f"u{part}-{i}", eligible_arm_ids=["a", "b"] * (i % 5 == 0)
            )
            for i in range(500)
        ]
        replies = [result.response for result in (await router.batch_route(asked)).results]
        await router.batch_reward([event(one.decision_id, 1.0) for one in replies[::2]])
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1_500)
    found = await answer(router)
    drawn = found["split"]["every"]
    assert (drawn["n"], drawn["mismatch"], found["split"]["with_feedback"]["mismatch"]) == (1_500, False, False)
    assert [one["expected"] for one in drawn["arms"]] == pytest.approx([550, 550, 400])
    assert found["left_out_because"]["some_arms"] == 150
    await query(
        router.url,
        "DELETE FROM decisions WHERE arm = (SELECT arm FROM arms WHERE arm_id = 'c')"
        " AND get_byte(sha256(uuid_send(decision_key)), 0) < 102",
    )
    lost = (await answer(router))["split"]["every"]
    assert lost["mismatch"] is True
    assert min(lost["arms"], key=lambda one: one["deviations"])["arm_id"] == "c"


async def test_feedback_that_depends_on_the_arm_is_told_from_lost_decisions(router: Router) -> None:
    log = logs()
    await planted(router, log, feedback=(log.arms[0] != 0) | (np.random.default_rng(4).random(3_000) < 0.6))
    found = await answer(router)
    assert found["split"]["every"]["mismatch"] is False
    assert found["split"]["with_feedback"]["mismatch"] is True
    flat = " ".join((await run(router)).stdout.split())
    assert "first draws with feedback: the e-value reached" in flat
    assert "Feedback depends on the arm" in flat
    assert "Decisions are missing from the log" not in flat


async def test_stopping_counts_outcomes_and_no_prior_of_an_arm(router: Router) -> None:
    definition = three()
    definition.allocation.priors["c"].CopyFrom(experiments_pb2.BetaPrior(alpha=60, beta=40))
    await router.run(definition)
    successes, outcomes = {"a": 300, "b": 200, "c": 20}, {"a": 500, "b": 500, "c": 50}
    await learned(router.url, successes, outcomes)
    await router.route(unit_id="u")
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1)
    found = (await answer(router))["stopping"]
    alpha, beta = [301.0, 201.0, 80.0], [201.0, 301.0, 70.0]
    wanted = decide(alpha, beta, [300, 200, 20], [500, 500, 50], 0, 20 * DAY_US)
    assert (found["verdict"], found["reason"]) == ("too early", "arm c has 50 outcomes: every arm must have 100")
    assert found["leader"] == "a"
    assert found["probability_best"] == pytest.approx(wanted.probability_best)
    assert found["value_remaining"] == pytest.approx(wanted.value_remaining)
    assert wanted.lower is not None
    assert (found["lower"], found["outcomes"]) == (pytest.approx(wanted.lower), [500.0, 500.0, 50.0])
    text = (await run(router)).stdout
    assert "Go on: it is too early to say: arm c has 50 outcomes: every arm must have 100." in text
    await query(router.url, "UPDATE evidence_base SET n = n * 4, success_micros = success_micros * 4,"
                " failure_micros = failure_micros * 4")  # fmt: skip
    stop = await answer(router)
    assert stop["stopping"]["verdict"] == "stop"
    assert stop["stopping"]["reason"].startswith("arm a is the best with probability")
    assert "Stop: arm a is the best with probability" in (await run(router)).stdout
    assert "no more than 0.00% of the mean of a is to be gained" in " ".join((await run(router)).stdout.split())


async def test_discounted_evidence_has_no_intervals(router: Router) -> None:
    definition = three()
    definition.allocation.discount.half_life.CopyFrom(Duration(seconds=86_400))
    await router.run(definition)
    reply = await router.route(unit_id="u")
    await router.reward(reply.decision_id, 1.0)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1)
    found = (await answer(router))["stopping"]
    assert (found["lower"], found["upper"]) == (None, None)
    assert found["withheld"].startswith("the evidence is discounted")
    assert sum(found["outcomes"]) == 1.0
    assert "no intervals: the evidence is discounted" in " ".join((await run(router)).stdout.split())


async def test_units_that_come_back_are_clusters_and_are_drawn_once(router: Router) -> None:
    log = logs(600)
    once = np.arange(600) % 200
    kept = Logs(
        *(np.concatenate([x[:, :200]] * 3, axis=1) for x in (log.arms, log.rewards, log.allocations, log.propensities))
    )
    await planted(router, kept, units=once, assignment="STICKY_HASH")
    found = await answer(router, "--replay", "discount=0.99", "--runs", "1")
    assert (found["decisions"], found["units"]) == (600, 200)
    assert (found["split"]["every"]["n"], found["split"]["repeated"]) == (200, 400)
    assert found["arms"][0]["estimates"]["dr"]["clusters"] == 200
    assert sum(one["at_every_look"]["exact"]["n"] for one in found["arms"]) == 200
    assert found["replays"][0]["runs"][0]["n"] == 200
    # Without stickiness each decision is a draw, and one that says less.
    definition = await router.get()
    definition.assignment.Clear()
    await router.update(definition)
    each = await answer(router, "--replay", "discount=0.99", "--runs", "1")
    replayed = each["replays"][0]["runs"][0]
    assert replayed["n"] == each["split"]["every"]["n"] == 600
    assert replayed["clusters"] < replayed["accepted"]
    definition = await router.get()
    definition.assignment.kind = experiments_pb2.AssignmentRule.KIND_STICKY_HASH
    await router.update(definition)
    text = (await run(router)).stdout
    assert "600 decisions with an outcome of 200 units or sessions" in text
    assert "400 decisions are no first draws" in text


async def test_what_the_log_cannot_tell_is_said(router: Router) -> None:
    """Of b there is one outcome, and none of c, which could not be drawn at first."""
    log = logs(60)
    log.allocations[0, :20] = [0.5, 0.5, 0.0]
    log.allocations[0, 20:] = [0.8, 0.1, 0.1]
    log.arms[0] = 0
    log.arms[0, 30] = 1
    await planted(router, log, floor=0.0)
    found = await answer(router, "--policy", "uniform", "--policy", "arm:b", "--replay", "kind=top_two")
    insufficient = [one["insufficient"] for one in found["arms"]]
    assert insufficient[0] == ""
    assert "arm b has 1 decisions" in insufficient[1]
    assert "arm c" in insufficient[2]
    assert found["arms"][2]["at_every_look"]["exact"] == {"insufficient": "arm c has no outcome"}
    assert found["policies"][0]["insufficient"] == "arm c was never tried, and the policy draws it"
    assert "needs at least 2" in found["policies"][1]["insufficient"]
    text = (await run(router, "--policy", "uniform")).stdout
    assert "uniform: arm c was never tried, and the policy draws it" in text
    assert "nan" not in text.lower()


async def test_a_log_without_outcomes_has_a_split(router: Router) -> None:
    await planted(router, logs(200), feedback=np.zeros(200, dtype=bool))
    found = await answer(router, "--policy", "arm:a", "--replay", "prior=1:1")
    assert (found["decisions"], found["arms"], found["policies"], found["replays"]) == (0, [], [], [])
    assert found["split"]["every"]["n"] == 200
    assert found["split"]["with_feedback"] is None
    text = (await run(router)).stdout
    assert "No first draw has feedback." in text
    assert "No decision has an outcome that estimates can use." in text


async def test_what_these_arms_cannot_have_is_refused(router: Router) -> None:
    await router.run(three())
    await router.route(unit_id="u")
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 1)
    for arguments, status, message in (
        (["--end", "2001-01-01T00:00:00Z"], 1, "support: no decision until 2001-01-01T00:00:00+00:00 can be estimated from"),
        (["--policy", "arm:zebra"], 2, "--policy arm:zebra: no arm of this id is offered traffic now, but a, b, c"),
        (["--policy", "floor:0.3"], 2, "--policy floor:0.3: floor 0.3 over 3 arms"),
        (["--replay", "prior=1e-99:1"], 2, "--replay prior=1e-99:1: "),
        (["--replay", "floor=0.2"], 2, "--replay floor=0.2: floor 0.2 over 3 arms"),
    ):
        done = await run(router, *arguments)
        assert (done.exit_code, message in " ".join(done.stderr.split())) == (status, True), done.output
        assert "Traceback" not in done.output
    as_json = await run(router, "--end", "2001-01-01T00:00:00Z", "--json")
    assert as_json.exit_code == 1


async def test_an_experiment_without_decisions_or_of_another_name(router: Router) -> None:
    await router.run(three())
    done = await run(router)
    assert (done.exit_code, "support: no decision so far can be estimated from" in done.stderr) == (1, True)
    done = await run(router, name="nope")
    assert (done.exit_code, "EXPERIMENT nope: no such experiment in" in done.stderr) == (2, True)
