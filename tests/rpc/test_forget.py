"""A unit is forgotten, as the command does it: no trace of it is left, and the evidence agrees with the log as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg import sql
from running import (
    Router,
    assert_replay_agrees,
    event,
    experiment,
    query,
    scalar,
    until,
    until_scalar,
)

from router.cli.main import main
from router.feedback_spool import FeedbackSpool
from router.spool import frame
from router.storage.connecting import DatabaseUrl, connect
from router.storage.labels import PATTERN, is_label, new_label
from router.storage.traces import Trace
from router.v1 import interleave_pb2, routing_pb2, types_pb2

#: Distinct texts, all of which must go.
UNIT, SESSION, TURN, REQUEST = "kim@example.org ü", "session-of-kim", "turn-of-kim", "request-of-kim"
FINGERPRINT, METADATA, TEXT = "fingerprint-of-kim", "phone-of-kim", "I am Kim"
TRACES = (UNIT, SESSION, TURN, REQUEST, FINGERPRINT, METADATA, TEXT)
Forget = Callable[..., Any]


def _found(url: str, traces: list[bytes]) -> list[tuple[str, str]]:
    """Every table and trace of which a column of a row holds the trace: as text, or among the bytes."""
    found = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for name in tables:
            with connection.cursor().copy(
                sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(sql.Identifier(*name))
            ) as copy:
                content = b"".join(bytes(part) for part in copy)
            found += [(name[1], trace.decode(errors="replace")) for trace in traces if trace in content]
    return found


async def found(url: str, *more: bytes) -> list[tuple[str, str]]:
    return await asyncio.to_thread(_found, url, [*(trace.encode() for trace in TRACES), *more])


def _hashes(url: str) -> list[bytes]:
    with connect(DatabaseUrl.parse(url)) as connection:
        return Trace(connection, UNIT, None).hashes


@pytest.fixture
def forget(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forget:
    async def forget(*arguments: str, unit: str = UNIT) -> Result:
        command = ["forget", unit, "--json", "--actor", "the data officer", "--reason", "asked for on paper"]
        monkeypatch.setattr("sys.argv", ["bandit-router", *command])
        where = ["--database-url", router.url, "--data-dir", str(tmp_path)]
        return await asyncio.to_thread(CliRunner().invoke, main, [*command, *where, *arguments])

    return forget


def result(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


async def lived(router: Router) -> routing_pb2.RouteResponse:
    """A unit leaves all that a unit can leave, beside another one; returns its last decision."""
    await router.run(experiment(assignment="STICKY_STORED"))
    for unit, session, turn, request, fingerprint, metadata in (
        (UNIT, SESSION, TURN, REQUEST, FINGERPRINT, METADATA),
        ("other", "s", "t", "r", "f", "m"),
    ):
        for i in range(4):
            reply = await router.route(
                unit_id=unit,
                session_id=session,
                turn_id=f"{turn}{i}",
                request_id=f"{request}{i}",
                prompt_fingerprint=fingerprint,
            )
            await router.reward(reply.decision_id, 0.1 * i, metadata={"phone": metadata})
            await router.routing.Reward(event(reply.decision_id, signal=types_pb2.SIGNAL_THUMBS_UP))
        rankings = [interleave_pb2.Ranking(arm_id=name, item_ids=["x", "y"]) for name in ("a", "b")]
        await router.interleaving.Interleave(
            interleave_pb2.InterleaveRequest(experiment_id="support", rankings=rankings, unit_id=unit)
        )
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 8)
    await query(router.url, "SELECT count(*) FROM interleavings")
    (own,) = await asyncio.to_thread(_hashes, router.url)
    for unit, unit_hash, text in ((UNIT, own, TEXT), ("other", b"\1" * 8, "somebody")):
        await query(
            router.url,
            "INSERT INTO shadow_comparisons SELECT decision_key, 1, incarnation, arm, decision_day, decided_at, now(), %s,"
            " request_id, 'full', %s, %s, 'm', 'end', request_id, 1, 1, 1, 0, '', %s, 'm', 'end', request_id, 1, 1, 1, 0, ''"
            " FROM decisions WHERE unit_id = %s",
            *(unit_hash, text, text, text, unit),
        )
    await query(
        router.url,
        "INSERT INTO judge_runs SELECT 'run', incarnation, now(), 1, 0, '{}' FROM experiments",
    )
    await query(
        router.url,
        "INSERT INTO judgments SELECT 'run', row_number() OVER () - 1, decision_key, shadow_arm, decision_day, unit_hash,"
        " true, false, 'a', prompt FROM shadow_comparisons",
    )
    # A comparison that retention dropped: its judgment is known by the hash alone.
    await query(
        router.url,
        "INSERT INTO judgments SELECT 'run', 100, gen_random_uuid(), 1, '2026-01-01', %s, true, false, 'tie', %s",
        *(own, TEXT),
    )
    return reply


LEARNED = (
    "SELECT arm, segment, success_micros, failure_micros, n FROM evidence ORDER BY 1, 2",
    "SELECT decision_key, event_id, rank, occurred_at, reward_micros, status FROM events ORDER BY 1, 2",
    "SELECT decision_key, arm, reward_micros, event_id FROM outcomes ORDER BY 1",
    "SELECT decision_key, arm, propensity, policy_version, allocation_id, reason, decided_at FROM decisions ORDER BY 1",
    "SELECT run_id, judgment, verdict FROM judgments ORDER BY 1, 2",
    "SELECT decision_key, shadow_arm, serving_latency_us, shadow_cost_usd FROM shadow_comparisons ORDER BY 1, 2",
    "SELECT interleaving_key, arms, teams FROM interleavings ORDER BY 1",
    "SELECT policy_version FROM policy_versions",
)


async def learned(url: str) -> list[Any]:
    return [await query(url, statement) for statement in LEARNED]


async def test_no_trace_is_left_and_nothing_learned_is_lost(router: Router, forget: Forget) -> None:
    await lived(router)
    (own,) = await asyncio.to_thread(_hashes, router.url)
    held = {trace for _, trace in await found(router.url)}
    assert held == set(TRACES), "the search finds each of them before"
    before = await learned(router.url)
    others = await query(router.url, "SELECT * FROM decisions WHERE unit_id = 'other' ORDER BY decision_key")

    done = result(await forget())
    assert await found(router.url, own) == []
    assert await learned(router.url) == before
    report = await assert_replay_agrees(router.url)
    assert report.outcomes == 8
    assert await query(router.url, "SELECT * FROM decisions WHERE unit_id = 'other' ORDER BY decision_key") == others
    counted = {name: done[name] for name in ("decisions", "events", "shadow_comparisons", "judgments", "sticky_assignments")}
    assert counted == {
        "decisions": 4,
        "events": 4,
        "shadow_comparisons": 4,
        "judgments": 5,
        "sticky_assignments": 1,
    }
    assert done["interleavings"] == 1
    # What else a report of a call says is no identifier.
    assert await scalar(router.url, "SELECT count(*) FROM events WHERE details ? 'metadata'") == 4


async def test_nothing_is_left_to_try_guessed_metadata_on(router: Router, forget: Forget) -> None:
    await lived(router)
    ids = await query(
        router.url,
        "SELECT e.event_id FROM events e JOIN decisions d USING (decision_day, decision_key)"
        " WHERE d.unit_id = %s AND e.details ? 'metadata'",
        UNIT,
    )
    result(await forget())
    contents = "SELECT content = '', count(*) FROM events WHERE event_id = ANY(%s) GROUP BY 1"
    assert await query(router.url, contents, [event_id for (event_id,) in ids]) == [(True, 4)]


async def test_metadata_of_decisions_that_never_reached_the_log_is_erased(
    router: Router, forget: Forget, tmp_path: Path
) -> None:
    await lived(router)
    # As after a power cut: nor are they in the spool.
    await query(router.url, "DELETE FROM decisions")
    elsewhere = ("--data-dir", str(tmp_path / "elsewhere"))
    assert result(await forget("--dry-run", *elsewhere))["events"] == 4
    done = result(await forget(*elsewhere))
    assert (done["decisions"], done["events"]) == (0, 4)
    (own,) = await asyncio.to_thread(_hashes, router.url)
    assert await found(router.url, own, own.hex().encode()) == []
    # Those of the other unit, whose decisions are gone too.
    assert await scalar(router.url, "SELECT count(*) FROM events WHERE details ? 'metadata'") == 4
    assert result(await forget(*elsewhere))["events"] == 0
    assert len(await router.transitions(kind="ERASURE")) == 1


async def test_what_it_left_stays_that_of_one_unit_whoever_it_was(router: Router, forget: Forget) -> None:
    await lived(router)
    await router.run(experiment("second"))
    for unit in (UNIT, "other"):
        await router.route("second", unit_id=unit)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 10)
    result(await forget())
    labels = await query(
        router.url, "SELECT unit_id, count(*) FROM decisions WHERE unit_id <> 'other' GROUP BY 1 ORDER BY 2"
    )
    assert [count for _, count in labels] == [1, 4], "experiments cannot be joined by it"
    assert all(is_label(label) for label, _ in labels)
    ((_, _), (label, _)) = labels
    assert await query(router.url, "SELECT unit_id FROM interleavings ORDER BY unit_id = 'other'") == [(label,), ("other",)]
    hashes = "SELECT DISTINCT unit_hash FROM {} WHERE unit_hash <> %s"
    (compared,) = await query(router.url, hashes.format("shadow_comparisons"), b"\1" * 8)
    assert await query(router.url, hashes.format("judgments"), b"\1" * 8) == [compared]

    # Whoever comes back is another unit, and so it stays when it is forgotten too.
    await router.route("second", unit_id=UNIT)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 11)
    assert result(await forget())["decisions"] == 1
    assert await scalar(router.url, "SELECT count(DISTINCT unit_id) FROM decisions WHERE unit_id <> 'other'") == 3


async def test_it_is_recorded_without_a_name_and_once(router: Router, forget: Forget) -> None:
    await lived(router)
    result(await forget())
    again = result(await forget())
    assert {again[name] for name in ("decisions", "events", "shadow_comparisons", "judgments", "interleavings")} == {0}
    (erased,) = await router.transitions(kind="ERASURE")
    assert (erased.actor, erased.reason, erased.to) == ("the data officer", "asked for on paper", "")
    audited = "SELECT actor, source, outcome, detail FROM audit_log WHERE action = 'forget' ORDER BY audit_id"
    first, second = await query(router.url, audited)
    assert first[:3] == second[:3] == ("the data officer", "command", "done")
    assert (first[3]["decisions"] > 0, second[3]["decisions"], first[3]["reason"]) == (True, 0, "asked for on paper")
    refused = await forget("--reason", f"for {UNIT}")
    assert refused.exit_code == 2
    assert "must not name the unit" in refused.output


async def test_a_dry_run_counts_the_same_and_changes_nothing(router: Router, forget: Forget) -> None:
    await lived(router)
    before = sorted(await found(router.url))
    dry = result(await forget("--dry-run"))
    assert sorted(await found(router.url)) == before
    assert await router.transitions(kind="ERASURE") == []
    real = result(await forget())
    assert {**dry, "dry_run": False} == real


async def test_one_experiment_alone(router: Router, forget: Forget) -> None:
    await lived(router)
    await router.run(experiment("second"))
    await router.route("second", unit_id=UNIT)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 9)
    assert result(await forget("--experiment", "second"))["decisions"] == 1
    assert await scalar(router.url, "SELECT count(*) FROM decisions WHERE unit_id = %s", UNIT) == 4
    assert (await forget("--experiment", "nope")).exit_code == 2


async def test_replicas_forget_a_sticky_unit(router: Router, other_router: Router, forget: Forget) -> None:
    await router.run(experiment(assignment="STICKY_STORED"))
    for one in (router, other_router):
        await one.route(unit_id=UNIT)
    result(await forget())

    # Both ask Postgres again: the unit has a row of its own once it comes back, at the first epoch.
    async def back(one: Router) -> bool:
        await one.route(unit_id=UNIT)
        return bool(await query(router.url, "SELECT 1 FROM sticky_assignments WHERE epoch = 1"))

    await until(lambda: back(other_router), "the other replica has stored the unit anew")


async def test_what_waits_in_the_spool_is_waited_for(router: Router, forget: Forget, tmp_path: Path) -> None:
    await router.run(experiment())
    assert router.keeper is not None
    with psycopg.connect(router.url) as blocker:
        # The keeper cannot store it.
        blocker.execute("LOCK TABLE decisions IN SHARE MODE")
        await router.route(unit_id=UNIT)
        refused = await forget("--wait", "0.5")
        assert refused.exit_code == 1
        assert "1 records of the unit in" in refused.output
        assert "nothing was erased" in refused.output
        assert result(await forget("--dry-run"))["spool"]["waiting"] == 1
        waiting = asyncio.create_task(forget("--wait", "30"))
        await asyncio.sleep(0)
        blocker.rollback()
    done = result(await waiting)
    assert done["decisions"] == 1
    assert await scalar(router.url, "SELECT count(*) FROM decisions WHERE unit_id = %s", UNIT) == 0
    # The open segment of the worker holds it until it is replaced.
    assert done["spool"]["files"] == 1
    await router.close()
    spool = tmp_path / "spool"
    await until(lambda: not any(UNIT.encode() in p.read_bytes() for p in spool.rglob("*.journal")), "or it is closed")


async def test_a_keeper_that_starts_over_brings_nothing_back(
    router: Router, start_router: Any, forget: Forget, tmp_path: Path
) -> None:
    await router.run(experiment())
    reply = await router.route(unit_id=UNIT, session_id=SESSION)
    await router.reward(reply.decision_id, 1.0, metadata={"phone": METADATA})
    result(await forget())
    # Another keeper reads the open segment from its beginning, up to what comes after it.
    await start_router(router.url)
    await router.route(unit_id="later")
    await until_scalar(router.url, "SELECT count(*) FROM decisions WHERE unit_id = 'later'", 1)
    assert await found(router.url) == []


async def test_records_that_were_set_aside_come_back_without_it(router: Router, forget: Forget, tmp_path: Path) -> None:
    await lived(router)
    own, other = await router.route(unit_id=UNIT), await router.route(unit_id="other")
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 10)
    (directory,) = (tmp_path / "spool").iterdir()
    # What the router wrote, as if Postgres had refused it then.
    aside = b"".join(path.read_bytes() for path in sorted(directory.glob("*.journal")))
    (directory / "1-a.journal.refused").write_bytes(aside + b"Q" + frame(b"Z", b"of another version"))
    events = [event(own.decision_id, 1.0, metadata={"phone": METADATA}), event(other.decision_id, 0.5, event_id="kept")]
    spooled = FeedbackSpool(tmp_path / "made")
    for request in events:
        spooled.append(request.SerializeToString(), 1)
    spooled.close()
    (segment,) = (tmp_path / "made").glob("*.events")
    segment.rename(directory / "2-b.events.refused")
    (directory / "3-c.17.damaged").write_bytes(b"half a record")

    dry = result(await forget("--dry-run"))
    assert (directory / "1-a.journal.refused").read_bytes().startswith(aside)
    done = result(await forget())
    assert dry["spool"] == done["spool"]
    assert done["spool"]["refused"] == 5 + 1
    assert done["spool"]["may_hold"] == ["1-a.journal.refused", "3-c.17.damaged"]
    for path in directory.glob("*.refused"):
        assert not [trace for trace in TRACES if trace.encode() in path.read_bytes()]
    assert result(await forget())["spool"]["refused"] == 0

    # Renamed back they are stored, and nobody else has lost anything.
    await query(router.url, "DELETE FROM decisions")
    for path in list(directory.glob("*.refused")):
        path.rename(path.with_suffix(""))
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 5)
    await until_scalar(router.url, "SELECT count(*) FROM events WHERE event_id = 'kept'", 1)
    assert await scalar(router.url, "SELECT count(*) FROM decisions WHERE unit_id = 'other'") == 5


async def test_a_closed_day_is_left_to_retention(router: Router, forget: Forget) -> None:
    await lived(router)
    day = await scalar(router.url, "SELECT max(decision_day) FROM decisions")
    name = f"decisions_{day:%Y%m%d}"
    await query(router.url, f"ALTER TABLE {name} ADD CONSTRAINT day_is_closed CHECK (false) NOT VALID")
    done = result(await forget())
    assert done["closed_days"] == [day.isoformat()]
    assert (done["decisions"], done["events"], done["sticky_assignments"]) == (0, 0, 1)


async def test_event_ids_that_hold_it_are_counted_and_stay(router: Router, forget: Forget) -> None:
    await router.run(experiment())
    reply = await router.route(unit_id="kim")
    await router.reward(reply.decision_id, 1.0, event_id="kim-1")
    assert result(await forget(unit="kim"))["event_ids"] == 1
    await assert_replay_agrees(router.url)


async def test_postgres_and_python_agree_on_what_a_label_is(database_url: str) -> None:
    one, two = new_label(), new_label()
    assert one != two
    for name in (one, one[:-1], f"{one}0", f"-{one}"[:-1], "", "user-7"):
        assert await scalar(database_url, "SELECT %s LIKE %s", name, PATTERN) == is_label(name) == (name == one)
