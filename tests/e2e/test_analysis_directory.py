"""Analysis of a data directory: of a running router as its analyst, and of one that was stopped."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from processes import run, serving, wait_until

import router.analysis as analysis
from router.client import RouterClient
from router.embedded import read_record


@pytest.mark.slow
def test_a_data_directory_is_read_whether_its_router_runs_or_not(tmp_path: Path) -> None:
    data = tmp_path / "service" / "data"
    file = tmp_path / "support-model.yaml"
    assert run("init", file).returncode == 0
    with serving(tmp_path / "service", "--workers", "1") as service:
        assert run("apply", "-f", file, "--server", service.target).returncode == 0
        with RouterClient(service.target) as router:
            keys = {router.route("support-model", unit_id=f"u{i}").decision_id for i in range(3)}
        assert len(keys) == 3
        wait_until(lambda: analysis.decisions(data, "support-model").num_rows == 3, "the decisions are in Postgres")
        reader = analysis.decisions_batches(str(data), "support-model")
        running = reader.read_next_batch().to_pylist()
        record = read_record(data)
        assert record is not None
        with psycopg.connect(record.url) as connection:
            users = connection.execute(
                "SELECT DISTINCT usename FROM pg_stat_activity WHERE state = 'idle in transaction'"
            ).fetchall()
        assert ("bandit_analyst",) in users
        reader.close()
        del reader
    stopped = analysis.decisions(data, "support-model").to_pylist()
    assert sorted(stopped, key=str) == sorted(running, key=str)
