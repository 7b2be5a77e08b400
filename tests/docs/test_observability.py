"""Alerts, dashboard and documentation speak of metrics that exist; Prometheus' own tool says that the alerts work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from metric_table import table

from router.telemetry.catalogue import CATALOGUE, Kind, Metric

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "bandit-router.json"
SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}
#: What Prometheus adds to every series.
ADDED = {"job", "instance"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def alert_expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def panel_expressions() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"][1:]:
        yield variable["name"], variable["definition"].removeprefix("label_values(").rsplit(",", 1)[0]


EXPRESSIONS = [*alert_expressions(), *panel_expressions()]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
SERIES = {f"{metric.name}{suffix}": metric for metric in CATALOGUE.values() for suffix in SUFFIXES.get(metric.kind, ("",))}


def series_of(expression: str) -> list[tuple[str, str]]:
    """Names of series in PromQL, each with what stands in braces behind it."""
    return re.findall(r"\b(bandit_router[:_][a-z0-9_:]+)(?:\{([^}]*)\})?", expression)


def labels_of(matchers: str) -> set[str]:
    return set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers))


def known_labels(name: str, metric: Metric) -> set[str]:
    return {*metric.labels, *ADDED, *(["le"] if name.endswith("_bucket") else [])}


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_every_metric_that_is_asked_for_exists_with_its_labels(where: str, expression: str) -> None:
    found = series_of(expression)
    assert found, expression
    grouped = {
        label for labels in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for label in re.findall(r"\w+", labels)
    }
    existing: set[str] = set()
    for name, matchers in found:
        if name in RECORDED:
            existing |= {"job", "experiment", "arm", "instance", "method"}
            continue
        assert name in SERIES, f"{where}: {name} is not exposed"
        known = known_labels(name, SERIES[name])
        assert labels_of(matchers) <= known, f"{where}: {name} has labels {sorted(known)}"
        existing |= known
    assert grouped <= existing, f"{where}: none of its metrics has {sorted(grouped - existing)}"


def test_codes_states_and_methods_that_are_asked_for_exist() -> None:
    from router.v1 import routing_pb2

    text = "\n".join(expression for _, expression in EXPRESSIONS)
    methods = {method.name for method in routing_pb2.DESCRIPTOR.services_by_name["RouterService"].methods}
    assert set(re.findall(r'method="(\w+)"', text)) <= methods
    assert set(re.findall(r'reason="(\w+)"', text)) <= {
        name.removeprefix("REASON_").lower() for name in routing_pb2.Reason.DESCRIPTOR.values_by_name
    }


def test_alerts_say_what_is_wrong_how_grave_it_is_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["alert"].startswith("BanditRouter")
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        assert re.fullmatch(r"docs/operations\.md#[a-z-]+", alert["annotations"]["runbook_url"]), alert["alert"]


def test_every_alert_is_tested_and_documented() -> None:
    tested: set[str] = set()
    for path in RULES.parent.glob("*_test.yaml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            tested |= {one["alertname"] for one in case.get("alert_rule_test", ()) if one["exp_alerts"]}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert tested == alerts
    document = (ROOT / "docs" / "observability.md").read_text()
    assert set(re.findall(r"\| `(BanditRouter\w+)` \|", document)) == alerts


def test_the_dashboard_is_well_formed() -> None:
    document = dashboard()
    every = document["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        assert panel["type"] in ("row", "stat", "timeseries")
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, f"{panel['title']} covers another panel"
        taken |= cells
    variables = {variable["name"] for variable in document["templating"]["list"]} | {"__rate_interval", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used <= variables
    for panel in panels():
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_metric_is_in_the_documentation_as_the_code_has_it() -> None:
    document = (ROOT / "docs" / "observability.md").read_text()
    assert table() in document, "docs/observability.md: the table should be what tests/support/metric_table.py prints"


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' tool for rules: `scripts/get-promtool` fetches it where there is none."""
    own = ROOT / "build" / "tools" / "promtool"
    found = shutil.which("promtool") or (str(own) if own.exists() else None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no promtool: run scripts/get-promtool")
        pytest.skip("there is no promtool: run scripts/get-promtool (Debian), or install Prometheus")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_alerts(promtool: str) -> None:
    run(promtool, "check", "rules", RULES)


def test_alerts_fire_when_they_should_and_not_else(promtool: str) -> None:
    run(promtool, "test", "rules", *sorted(RULES.parent.glob("*_test.yaml")))


def test_promtool_accepts_what_the_dashboard_asks(promtool: str, tmp_path: Path) -> None:
    asked = [expression.replace("$__rate_interval", "5m") for _, expression in panel_expressions()]
    recorded = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    path = tmp_path / "asked.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    run(promtool, "check", "rules", path)
