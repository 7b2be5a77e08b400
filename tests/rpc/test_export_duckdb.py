"""examples/duckdb.sql on what a real router exported, against the project's own estimators and posteriors."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from google.protobuf.duration_pb2 import Duration
from running import Router, event, experiment, query, until_scalar
from scipy import stats

from bandit.offpolicy import ips, snips
from router.analysis.parquet import export_experiment
from router.storage.database import DatabaseUrl
from router.v1 import routing_pb2
from router.v1.posteriors_pb2 import ArmPosterior

SCRIPT = Path(__file__).parents[2] / "examples" / "duckdb.sql"


@pytest.fixture
async def believed(router: Router) -> dict[str, ArmPosterior]:
    """What a router believes, now stopped, whose experiment learned, with a segment of its own.

    Some decisions are forced, some for fewer arms, and a tenth is too young for its outcome to count.
    """
    definition = experiment(arms=("a", "b", "c"), floor=0.05)
    definition.allocation.segments.names.append("de")
    await router.run(definition)
    rng = random.Random(7)
    last: list[routing_pb2.RewardRequest] = []
    for i in range(240):
        fields: dict[str, Any] = {"eligible_arm_ids": ["a", "b"]} if i % 5 == 0 else {}
        fields |= {"segment": "de"} if i % 3 == 0 else {}
        fields |= {"force_arm_id": "c"} if i % 11 == 0 and "eligible_arm_ids" not in fields else {}
        reply = await router.route(unit_id=f"u{rng.randrange(40)}" if i % 7 else "", **fields)
        if rng.random() < 0.8:
            mean = {"a": 0.3, "b": 0.6, "c": 0.5}[reply.arm.arm_id]
            earned = event(reply.decision_id, float(rng.random() < mean))
            # The last ones come together: so many are in a snapshot within seconds.
            if i < 180:
                await router.routing.Reward(earned)
            else:
                last.append(earned)
        call = routing_pb2.CallReport(latency=Duration(nanos=1_000_000 * (1 + i % 3)), cost_usd=0.5)
        await router.routing.Reward(event(reply.decision_id, call=call))
    await router.batch_reward(last)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 240)
    await until_scalar(
        router.url, "SELECT max(s.policy_version) = max(v.policy_version) FROM snapshots s, policy_versions v", True
    )
    arms = await router.arms()
    await router.close()
    # As it would be with `mature_after`.
    await query(
        router.url,
        "UPDATE outcomes o SET decided_at = d.decided_at FROM decisions d"
        " WHERE (d.decision_day, d.decision_key) = (o.decision_day, o.decision_key)",
    )
    await query(
        router.url,
        "UPDATE policy_versions SET matured_to ="
        " (SELECT percentile_disc(0.9) WITHIN GROUP (ORDER BY decided_at) FROM decisions)",
    )
    return arms


@pytest.fixture
async def database(
    router: Router, believed: dict[str, ArmPosterior], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[duckdb.DuckDBPyConnection]:
    """The script, run on the exported files."""
    assert believed
    await asyncio.to_thread(export_experiment, DatabaseUrl.parse(router.url), "support", tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        connection.execute(SCRIPT.read_text()).fetchall()
        yield connection


def rows(database: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    # By way of Arrow: for rows of Python, DuckDB wants another package for times with a zone.
    found: list[dict[str, Any]] = pa.table(database.sql(query)).to_pylist()
    return found


async def test_the_values_of_arms_are_those_of_the_estimators(database: duckdb.DuckDBPyConnection) -> None:
    log = rows(database, "SELECT d.*, o.reward, o.waits FROM decisions d JOIN outcomes o USING (decision_key)")
    counted = [row for row in log if not row["waits"]]
    assert 100 < len(counted) < len(log)
    assert {row["reason"] for row in log} == {"sampled"}, "what was forced has no outcome"
    found = {row["arm_id"]: row for row in rows(database, "FROM value_of_arms")}
    assert set(found) == {"a", "b", "c"}
    for arm_id, value in found.items():
        able = [r for r in counted if dict(zip(r["allocation_arm_ids"], r["allocation"], strict=True)).get(arm_id, 0) > 0]
        assert len(able) == value["n"]
        given = (
            [row["reward"] for row in able],
            [row["propensity"] for row in able],
            [float(row["arm_id"] == arm_id) for row in able],
            [row["unit_id"] or row["decision_key"] for row in able],
        )
        assert math.isclose(value["ips"], ips(*given).value, rel_tol=1e-12)
        expected = snips(*given)
        assert math.isclose(value["snips"], expected.value, rel_tol=1e-12)
        assert math.isclose(value["snips_stderr"], expected.stderr, rel_tol=1e-9)
        assert math.isclose(value["ess"], expected.ess, rel_tol=1e-12)
    assert found["c"]["n"] < found["a"]["n"], "some decisions could not have chosen c"


async def test_what_arms_earned_is_of_outcomes_that_count(database: duckdb.DuckDBPyConnection) -> None:
    counted = rows(database, "SELECT d.arm_id, o.reward, o.waits FROM decisions d LEFT JOIN outcomes o USING (decision_key)")
    for row in rows(database, "FROM earned"):
        of_arm = [one for one in counted if one["arm_id"] == row["arm_id"]]
        rewards = [one["reward"] for one in of_arm if one["waits"] is False]
        assert (row["decisions"], row["outcomes"]) == (len(of_arm), len(rewards))
        assert math.isclose(row["mean_reward"], sum(rewards) / len(rewards), rel_tol=1e-12)


async def test_the_posterior_over_time_ends_where_it_stands(
    believed: dict[str, ArmPosterior], database: duckdb.DuckDBPyConnection
) -> None:
    found = rows(database, "FROM posterior_over_time")
    assert len(found) > len(believed)
    assert len({(row["policy_version"], row["arm_id"]) for row in found}) == len(found), "all traffic, not segments too"
    assert rows(database, "SELECT DISTINCT segment FROM snapshots ORDER BY 1") == [{"segment": ""}, {"segment": "de"}]
    for row in found[-3:]:
        arm = believed[row["arm_id"]]
        assert (row["n"], row["mean"], row["allocation"]) == (arm.n, arm.mean, arm.allocation)
        assert math.isclose(row["sd"], stats.beta(arm.alpha, arm.beta).std(), rel_tol=1e-12)


async def test_days_are_columns(database: duckdb.DuckDBPyConnection) -> None:
    (counted,) = rows(database, "SELECT count(*) AS n, min(decided_at::DATE) = min(day::DATE) AS same FROM decisions")
    assert counted == {"n": 240, "same": True}
    ((zone,),) = database.execute("SELECT DISTINCT typeof(decided_at) FROM decisions").fetchall()
    assert zone == "TIMESTAMP WITH TIME ZONE"
