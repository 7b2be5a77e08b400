"""Arrow tables of what real routers logged, against the views of the database, read as the analyst."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import psycopg
import pyarrow as pa
import pytest
from google.protobuf.duration_pb2 import Duration
from postgres import TestCluster
from psycopg.rows import dict_row
from running import Router, event, experiment, query, until_scalar

import router.analysis as analysis
from router.storage.errors import StorageError
from router.v1 import routing_pb2, types_pb2

ODD = ["u", "grüße 🦊", "日本", "a,b\"c'd", "\\N", "NULL", ""]


@pytest.fixture
def analyst_url(cluster: TestCluster, database_url: str) -> str:
    return cluster.analyst_url_of(urlsplit(database_url).path.removeprefix("/"))


def rows(url: str, statement: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, options="-c timezone=UTC", row_factory=dict_row) as connection:
        return connection.execute(statement).fetchall()


async def logged(router: Router, n: int = 60) -> list[str]:
    """Decisions of two experiments, with everything that a decision and its feedback may carry."""
    await router.run(experiment(floor=0.05))
    await router.run(experiment("other"))
    rng = random.Random(1)
    ids = []
    for i in range(n):
        fields: dict[str, Any] = {"prompt_similarity": rng.random()} if i % 3 else {}
        if i % 7 == 0:
            fields["eligible_arm_ids"] = ["b"]
        reply = await router.route(
            unit_id=rng.choice(ODD),
            session_id=rng.choice(ODD),
            turn_id=f"t{i}",
            request_id=f"r{i}" if i % 2 else "",
            segment=rng.choice(["", "en", "team:a@x"]),
            prompt_fingerprint=rng.choice(["", "b2:0a", "b2:ff="]),
            **fields,
        )
        ids.append(reply.decision_id)
        if i % 4 == 0:
            await router.reward(reply.decision_id, rng.random(), metadata={"who": rng.choice(ODD)})
        if i % 5 == 0:
            await router.routing.Reward(event(reply.decision_id, signal=types_pb2.SIGNAL_THUMBS_UP))
        if i % 6 == 0:
            call = routing_pb2.CallReport(latency=Duration(nanos=1_500_000), cost_usd=0.25)
            await router.routing.Reward(event(reply.decision_id, call=call))
    await router.route("other", unit_id="u")
    await until_scalar(router.url, "SELECT count(*) FROM decisions", n + 1)
    return ids


async def test_decisions_are_those_of_the_decision_log(router: Router, analyst_url: str) -> None:
    await logged(router)
    expected = rows(
        router.url, "SELECT * FROM decision_log WHERE experiment_id = 'support' ORDER BY decided_at, decision_key"
    )
    table = analysis.decisions(analyst_url, "support")
    table.validate(full=True)
    assert len(expected) == table.num_rows == 60
    assert len({tuple(row["allocation"]) for row in expected}) > 2
    for row, want in zip(table.to_pylist(), expected, strict=True):
        assert row.pop("decision_key") == str(want["decision_key"])
        assert row == {name: want[name] for name in row}
        assert row["allocation"][row["allocation_arm_ids"].index(row["arm_id"])] == row["propensity"]


async def test_columns_have_types_that_say_what_they_are(router: Router, analyst_url: str) -> None:
    await logged(router, 3)
    schema = analysis.decisions(analyst_url, "support").schema
    assert schema.field("decided_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("arm_id").type == pa.dictionary(pa.int32(), pa.string())
    assert schema.field("propensity").type == pa.float64()
    assert schema.field("allocation").type == pa.list_(pa.float64())


async def test_a_vector_that_is_missing_is_null(router: Router, analyst_url: str) -> None:
    await logged(router, 3)
    await query(router.url, "DELETE FROM allocations")
    for row in analysis.decisions(analyst_url, "support").to_pylist():
        assert (row["allocation"], row["allocation_arm_ids"]) == (None, None)
        assert row["propensity"] > 0


async def test_events_are_those_of_the_table(router: Router, analyst_url: str) -> None:
    await logged(router)
    expected = rows(
        router.url,
        "SELECT e.*, a.arm_id, a.version AS arm_version FROM events e JOIN arms a USING (incarnation, arm)"
        " JOIN experiments x USING (incarnation) WHERE experiment_id = 'support' ORDER BY decided_at, received_at, event_id",
    )
    table = analysis.events(analyst_url, "support")
    assert len(expected) == table.num_rows > 30
    for row, want in zip(table.to_pylist(), expected, strict=True):
        assert row.pop("decision_key") == str(want["decision_key"])
        micros, details = want["reward_micros"], row.pop("details")
        assert row.pop("reward") == (None if micros is None else micros / 1e6)
        assert (None if details is None else json.loads(details)) == want["details"]
        assert row == {name: want[name] for name in row}


async def test_outcomes_are_the_folds_of_the_events(router: Router, analyst_url: str) -> None:
    await logged(router)
    # By another program: the greatest candidate of each decision, out of the table of events.
    events = pl.from_arrow(analysis.events(analyst_url, "support"))
    counted = events.filter(pl.col("reward").is_not_null()).sort("rank", "occurred_at", "event_id")
    same = ["reward", "decided_at", "occurred_at", "event_id"]
    winners = counted.group_by("decision_key").agg(pl.col(same).last()).sort("decision_key")
    outcomes = pl.from_arrow(analysis.outcomes(analyst_url, "support")).sort("decision_key")
    assert outcomes.select("decision_key", *same).rows() == winners.rows()
    assert outcomes["waits"].to_list() == [False] * len(outcomes)
    sums = await query(router.url, "SELECT sum(success_micros)::int8, sum(n)::int8 FROM evidence")
    assert sums == [(round(outcomes["reward"].sum() * 1e6), len(outcomes))]


async def test_outcomes_say_whether_they_wait(router: Router, analyst_url: str) -> None:
    await logged(router, 9)
    await query(router.url, "UPDATE policy_versions SET matured_to = now()")
    reply = await router.route(unit_id="young")
    await router.reward(reply.decision_id, 1.0)
    outcomes = analysis.outcomes(analyst_url, "support").to_pylist()
    assert [row["waits"] for row in outcomes] == [False] * (len(outcomes) - 1) + [True]


async def test_a_range_holds_its_start_and_not_its_end(router: Router, analyst_url: str) -> None:
    await logged(router)
    everything = analysis.decisions(analyst_url, "support").column("decided_at").to_pylist()
    start, end = everything[10], everything[40]
    found = analysis.decisions(analyst_url, "support", start, end).column("decided_at").to_pylist()
    assert found == everything[10:40]
    kiritimati = timezone(timedelta(hours=14))
    elsewhere = analysis.decisions(analyst_url, "support", start.astimezone(kiritimati), end.astimezone(kiritimati))
    assert elsewhere.column("decided_at").to_pylist() == found
    for read in (analysis.events, analysis.outcomes):
        times = read(analyst_url, "support").column("decided_at").to_pylist()
        part = read(analyst_url, "support", start, end).column("decided_at").to_pylist()
        assert part == [time for time in times if start <= time < end]
        assert 0 < len(part) < len(times)


async def test_days_that_hold_nothing_give_a_table_without_rows(router: Router, analyst_url: str) -> None:
    await logged(router, 3)
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    for read in (analysis.decisions, analysis.events, analysis.outcomes, analysis.snapshots, analysis.comparisons):
        full, empty = read(analyst_url, "support"), read(analyst_url, "support", end=long_ago)
        assert empty.num_rows == 0
        assert empty.schema == full.schema


async def test_the_days_of_a_range_are_read_across_midnight(router: Router, analyst_url: str) -> None:
    await logged(router, 6)
    # As if three of them had been made tomorrow, at midnight.
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = today + timedelta(days=1)
    await query(
        router.url,
        "UPDATE decisions SET decision_day = %s, decided_at = %s WHERE decision_key IN"
        " (SELECT decision_key FROM decision_log WHERE experiment_id = 'support' ORDER BY decided_at LIMIT 3)",
        midnight.date(),
        midnight,
    )
    assert analysis.decisions(analyst_url, "support").num_rows == 6
    assert analysis.decisions(analyst_url, "support", end=midnight).num_rows == 3
    assert analysis.decisions(analyst_url, "support", start=midnight).num_rows == 3
    assert analysis.decisions(analyst_url, "support", start=midnight + timedelta(microseconds=1)).num_rows == 0


async def test_snapshots_are_the_history_of_the_posterior(router: Router, analyst_url: str) -> None:
    await logged(router)
    await until_scalar(router.url, "SELECT max(s.policy_version) = max(v.policy_version) FROM snapshots s"
                       " JOIN policy_versions v USING (incarnation) JOIN experiments x USING (incarnation)"
                       " WHERE x.experiment_id = 'support'", True)  # fmt: skip
    table = analysis.snapshots(analyst_url, "support")
    expected = rows(
        router.url,
        "SELECT '' AS segment, * FROM posterior_history WHERE experiment_id = 'support'"
        " ORDER BY taken_at, policy_version, arm_id",
    )
    assert table.to_pylist() == [{name: row[name] for name in table.column_names} for row in expected]
    arms = await router.arms()
    latest = {row["arm_id"]: row for row in table.to_pylist()}
    assert {arm_id: row["alpha"] for arm_id, row in latest.items()} == {name: arm.alpha for name, arm in arms.items()}


async def test_metrics_are_those_of_the_view(router: Router, analyst_url: str) -> None:
    await logged(router)
    table = analysis.metrics(analyst_url, "support")
    expected = rows(router.url, "SELECT * FROM arm_metrics WHERE experiment_id = 'support' ORDER BY day, arm_id")
    assert table.to_pylist() == [{name: row[name] for name in table.column_names} for row in expected]
    assert analysis.metrics(analyst_url, "support", last=date(2001, 1, 1)).num_rows == 0
    assert analysis.metrics(analyst_url, "support", first=expected[0]["day"]).num_rows == len(expected)


async def test_comparisons_have_texts_only_if_asked(router: Router, analyst_url: str) -> None:
    await logged(router, 1)
    await query(
        router.url,
        "INSERT INTO shadow_comparisons SELECT decision_key, 1, incarnation, arm, decision_day, decided_at, now(), NULL,"
        " '', 'full',"
        " 'asked', 'served', 'm', 'end', '', 1500, 3, 4, 0.5, '', 'mirrored', 'n', 'end', '', NULL, NULL, NULL, NULL,"
        " 'timeout' FROM decisions d JOIN experiments x USING (incarnation) WHERE x.experiment_id = 'support'",
    )
    (row,) = analysis.comparisons(analyst_url, "support").to_pylist()
    assert (row["prompt"], row["serving_text"], row["shadow_text"]) == (None, None, None)
    assert (row["serving_latency_ms"], row["serving_cost_usd"], row["shadow_latency_ms"]) == (1.5, 0.5, None)
    assert (row["shadow_arm_id"], row["shadow_error"]) == ("b", "timeout")
    (row,) = analysis.comparisons(analyst_url, "support", text=True).to_pylist()
    assert (row["prompt"], row["serving_text"], row["shadow_text"]) == ("asked", "served", "mirrored")


async def test_batches_hold_what_the_table_holds(router: Router, analyst_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from router.storage import analysis as storage

    await logged(router)
    await query(router.url, "INSERT INTO decisions SELECT decision_day, gen_random_uuid(), incarnation, arm, decided_at,"
                " propensity, policy_version, allocation_id, reason, unit_id, session_id, turn_id, request_id, segment,"
                " prompt_fingerprint, prompt_similarity FROM decisions, generate_series(1, 20)")  # fmt: skip
    monkeypatch.setitem(storage.LOGS, "decisions", replace(storage.LOGS["decisions"], pages=1))  # type: ignore[index]
    with analysis.decisions_batches(analyst_url, "support") as reader:
        batches = list(reader)
    assert len(batches) > 5
    together = (
        pa.Table.from_batches(batches)
        .unify_dictionaries()
        .sort_by([("decided_at", "ascending"), ("decision_key", "ascending")])
    )
    assert together.to_pylist() == analysis.decisions(analyst_url, "support").to_pylist()
    assert together.num_rows == 60 * 21


async def test_a_reader_that_is_left_holds_no_connection(router: Router, analyst_url: str) -> None:
    await logged(router, 3)
    mine = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'bandit_analyst' AND datname = current_database()"
    unread = analysis.decisions_batches(analyst_url, "support")
    await until_scalar(router.url, mine, 0)
    reader = analysis.decisions_batches(analyst_url, "support")
    reader.read_next_batch()
    await until_scalar(router.url, mine, 1)
    reader.close()
    del unread, reader
    await until_scalar(router.url, mine, 0)


REFUSALS: list[tuple[Callable[[str], Any], str]] = [
    (lambda url: analysis.decisions(url, "nope"), "experiment 'nope': there is no such experiment in this database"),
    (lambda url: analysis.decisions_batches(url, "nope"), "which has 'other', 'support'"),
    (lambda url: analysis.metrics(url, "nope"), "no such experiment"),
    (
        lambda url: analysis.events(url, "support", datetime(2026, 11, 22)),
        r"start 2026-11-22 00:00:00: must be a datetime with a time zone, as in .*tzinfo=timezone\.utc",
    ),
    (lambda url: analysis.snapshots(url, "support", end=date(2026, 11, 22)), "end 2026-11-22: must be a datetime"),
    (
        lambda url: analysis.outcomes(url, "support", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        "start 2026-01-02.*: must be before end 2026-01-02",
    ),
    (lambda url: analysis.metrics(url, "support", first=datetime(2026, 1, 2, tzinfo=UTC)), "first .*: must be a date"),
    (lambda url: analysis.metrics(url, "support", date(2026, 1, 2), date(2026, 1, 1)), "first 2026-01-02"),
    (lambda url: analysis.decisions("/nowhere", "support"), "url '/nowhere': is neither a postgresql:// URL nor"),
]


async def test_what_cannot_be_given_is_refused_by_name(router: Router, analyst_url: str) -> None:
    await router.run(experiment())
    await router.run(experiment("other"))
    for call, says in REFUSALS:
        with pytest.raises(analysis.AnalysisError, match=says):
            call(analyst_url)


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(StorageError, match=r"database 127\.0\.0\.1:1/x: cannot connect") as raised:
        analysis.decisions("postgresql://somebody:secret@127.0.0.1:1/x", "support")
    assert "secret" not in str(raised.value)


def test_another_kind_of_url_is_refused_and_not_shown() -> None:
    with pytest.raises(analysis.AnalysisError, match=r"url: must begin with postgresql://") as raised:
        analysis.decisions("mysql://somebody:secret@127.0.0.1/x", "support")
    assert "secret" not in str(raised.value)


def test_without_arrow_the_extra_is_named() -> None:
    code = "import sys; sys.modules['pyarrow'] = None; import router.analysis"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ModuleNotFoundError: router.analysis needs pyarrow" in done.stderr
    assert "pip install 'bandit-router[analysis]'" in done.stderr
