"""The report of the benchmarks: its shape, and that a miss shows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.figures import Figure, at_least, at_most, ratio_at_least, ratio_at_most
from benchmarks.lag import lags
from benchmarks.load import MeasurementError
from benchmarks.report import Report

LOAD = {
    "rates_per_s": [1.0, 2.0, 3.0],
    "latency_ms": {"p50": [1.0, 2.0, 3.0], "p90": [2.0] * 3, "p99": [4.0] * 3, "p99.9": [5.0] * 3},
    "cpu_us_per_call": {"worker": 300.0, "generator": 40.0},
}
FIGURES = [
    ratio_at_least("Route, 32 in flight: rate", 850, "calls/s", 1_000, 0.85, "echo", ours=LOAD),
    ratio_at_most("Route, 32 in flight: p99", 14, "ms", 10, 1.3, "echo"),
    at_least("BatchReward: rate", 40_000, "events/s", 35_000),
    at_most("start", 3.0, "s", 2.5),
]


def report(figures: list[Figure] = FIGURES, failures: dict[str, str] | None = None) -> Report:
    return Report(
        figures=figures,
        failures=failures or {},
        settings={"command": "python -m benchmarks", "seed": 1, "quick": False},
        machine={"cores": 2, "cpu": "a processor"},
        versions={"commit": "0000000"},
        postgres={"fsync": "on"},
        seconds=12.3,
    )


def test_the_file_for_programs_has_exactly_the_promised_shape(tmp_path: Path) -> None:
    report().write(tmp_path)
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [list(row) for row in rows] == [["name", "value", "unit", "baseline", "ratio", "target", "pass"]] * 4
    assert rows[0] == {
        "name": "Route, 32 in flight: rate",
        "value": 850.0,
        "unit": "calls/s",
        "baseline": 1000.0,
        "ratio": 0.85,
        "target": "≥ 0.85 × echo",
        "pass": True,
    }
    assert [row["pass"] for row in rows] == [True, False, True, False]
    assert rows[2]["baseline"] is rows[2]["ratio"] is None
    details = json.loads((tmp_path / "bench-details.json").read_text())
    assert {"method", "machine", "versions", "postgres", "settings", "figures"} <= details.keys()
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_miss_and_a_failure_show() -> None:
    shown = io.StringIO()
    report(failures={"lag": "a call failed"}).show(Console(file=shown, width=140))
    assert "2 reach their target, 2 miss it; 1 measurements failed" in shown.getvalue()
    assert shown.getvalue().count("MISSED") == 2
    assert "NOT MEASURED: lag: a call failed" in shown.getvalue()
    text = report(failures={"lag": "a call failed"}).markdown()
    assert text.count("**missed**") == 2
    assert "**Not measured: lag.** a call failed" in text
    assert "| Route, 32 in flight, ours | 1, 2, 3 | 2 | 2 | 4 | 5 | worker 300, generator 40 |" in text


def test_a_lag_ends_with_the_first_later_route_that_knows() -> None:
    routes = [(10, 1, 11), (20, 1, 21), (30, 2, 33), (40, 2, 41), (50, 5, 52)]
    to_sending, to_reply = lags([(12, 2), (20, 1), (31, 2), (5, 4)], routes).tolist()
    assert to_sending == [18, 0, 9, 45]
    assert to_reply == [21, 1, 10, 47]
    with pytest.raises(MeasurementError, match="version 6"):
        lags([(12, 6)], routes)
