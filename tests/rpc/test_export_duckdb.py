"""examples/duckdb.sql on what a real router exported, against the project's own estimators and posteriors."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from google.protobuf.duration_pb2 import Duration
from running import Router, event, experiment, until_scalar
from scipy import stats

from bandit.offpolicy import ips, snips
from router.analysis.parquet import export_experiment
from router.storage.database import DatabaseUrl
from router.v1 import routing_pb2

SCRIPT = Path(__file__).parents[2] / "examples" / "duckdb.sql"


@pytest.fixture
async def database(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, run on the files of an experiment that learned, with some decisions forced and some for fewer arms."""
    await router.run(experiment(arms=("a", "b", "c"), floor=0.05))
    rng = random.Random(7)
    for i in range(240):
        fields: dict[str, Any] = {"eligible_arm_ids": ["a", "b"]} if i % 5 == 0 else {}
        fields |= {"force_arm_id": "c"} if i % 11 == 0 and "eligible_arm_ids" not in fields else {}
        reply = await router.route(unit_id=f"u{rng.randrange(40)}" if i % 7 else "", **fields)
        if rng.random() < 0.8:
            mean = {"a": 0.3, "b": 0.6, "c": 0.5}[reply.arm.arm_id]
            await router.reward(reply.decision_id, float(rng.random() < mean))
        call = routing_pb2.CallReport(latency=Duration(nanos=1_000_000 * (1 + i % 3)), cost_usd=0.5)
        await router.routing.Reward(event(reply.decision_id, call=call))
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 240)
    await until_scalar(
        router.url, "SELECT max(s.policy_version) = max(v.policy_version) FROM snapshots s, policy_versions v", True
    )
    export_experiment(DatabaseUrl.parse(router.url), "support", tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        connection.execute(SCRIPT.read_text()).fetchall()
        yield connection


def rows(database: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    # By way of Arrow: for rows of Python, DuckDB wants another package for times with a zone.
    found: list[dict[str, Any]] = pa.table(database.sql(query)).to_pylist()
    return found


async def test_the_values_of_arms_are_those_of_the_estimators(database: duckdb.DuckDBPyConnection) -> None:
    log = rows(database, "SELECT d.*, o.reward FROM decisions d JOIN outcomes o USING (decision_key)")
    assert {row["reason"] for row in log} == {"sampled"}, "what was forced has no outcome"
    found = {row["arm_id"]: row for row in rows(database, "FROM value_of_arms")}
    assert set(found) == {"a", "b", "c"}
    for arm_id, value in found.items():
        able = [r for r in log if dict(zip(r["allocation_arm_ids"], r["allocation"], strict=True)).get(arm_id, 0) > 0]
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


async def test_the_posterior_over_time_ends_where_it_stands(router: Router, database: duckdb.DuckDBPyConnection) -> None:
    arms = await router.arms()
    found = rows(database, "FROM posterior_over_time")
    assert len(found) > len(arms)
    for row in found[-3:]:
        arm = arms[row["arm_id"]]
        assert (row["n"], row["mean"], row["allocation"]) == (arm.n, arm.mean, arm.allocation)
        assert math.isclose(row["sd"], stats.beta(arm.alpha, arm.beta).std(), rel_tol=1e-12)


async def test_days_are_columns(database: duckdb.DuckDBPyConnection) -> None:
    (counted,) = rows(database, "SELECT count(*) AS n, min(decided_at::DATE) = min(day::DATE) AS same FROM decisions")
    assert counted == {"n": 240, "same": True}
    ((zone,),) = database.execute("SELECT DISTINCT typeof(decided_at) FROM decisions").fetchall()
    assert zone == "TIMESTAMP WITH TIME ZONE"
