"""Reports of journals, with figures that are worked out by hand or by scipy."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import binomtest, t

from bandit.inference import rate_interval
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.findings import Record, read_record
from router.llm.evaluate.journal import Journal, Result
from router.llm.evaluate.summary import Reading, summarise
from router.llm.report import Report, Table
from router.llm.reports import render_html, render_json, render_terminal


def settings(items: int, *, arms: str = "small large", checks: str = "exact_match", samples: int = 1) -> dict[str, Any]:
    return {
        "experiment": "support",
        "dataset": {"name": "golden.jsonl", "items": items, "sha256": ""},
        "arms": {
            arm: {"role": "control" if arm == "small" else "challenger", "provider": "openai", "model": arm, "family": arm}
            for arm in arms.split()
        },
        "checks": checks.split(),
        "judges": {},
        "samples": samples,
        "prices": {},
    }


def result(item: int, arm: str, score: float | None, sample: int = 0, **changes: Any) -> Result:
    """One answer; with no score, an error."""
    known = Result(
        item=f"q{item:03}",
        line=item + 1,
        arm=arm,
        sample=sample,
        prompt=f"question {item}",
        answer=None if score is None else f"answer of {arm} to {item}",
        error="timeout: slow" if score is None else None,
        stop_reason="end_turn" if score is not None else "",
        model=arm,
        input_tokens=10,
        output_tokens=20,
        latency_s=None if score is None else 1.0,
        cost_usd=0.002,
        charged_usd=0.003,
        checks=["exact_match"],
        scores={} if score is None else {"exact_match": score},
    )
    return replace(known, **changes)


def record(results: list[Result], about: dict[str, Any] | None = None) -> Record:
    items = len({one.item for one in results})
    ordered = sorted(results, key=lambda one: (one.line, one.arm, one.sample))
    return Record(about or settings(items), ordered, sum(one.charged_usd for one in results))


def binary(wins: int, losses: int, ties: int) -> list[Result]:
    """The large arm wins and loses so many items; half of the ties are right."""
    rows = [(1.0, 0.0)] * wins + [(0.0, 1.0)] * losses + [(float(n % 2), float(n % 2)) for n in range(ties)]
    return [
        result(number, arm, score)
        for number, (large, small) in enumerate(rows)
        for arm, score in (("large", large), ("small", small))
    ]


def table(report: Report, title: str) -> Table:
    return next(one for one in report.tables if one.title.startswith(title))


def test_a_challenger_that_wins() -> None:
    report = summarise(record(binary(30, 6, 44)), Reading())
    p = binomtest(6, 36).pvalue
    assert report.summary.startswith("large is better than small on exact_match: +0.300 (")
    (row,) = table(report, "Differences").rows
    assert row[0:3] == ["large", "exact_match", "+0.300"]
    assert row[4:9] == ["< 0.001" if p < 0.001 else f"{p:.3f}", "better", "30", "6", "80"]
    means, against = report.plots
    assert (means.rows[0].label, means.rows[0].estimate) == ("small", 28 / 80)
    assert (means.rows[1].lower, means.rows[1].upper) == pytest.approx(rate_interval(52, 80))
    assert against.reference == 0.0
    assert against.rows[0].estimate == pytest.approx(0.3)
    assert report.warnings == []


def test_a_difference_that_is_not_shown() -> None:
    report = summarise(record(binary(8, 6, 66)), Reading(effect=0.1))
    assert report.summary.startswith("No difference is shown between large and small on exact_match: +0.025 (")
    (row,) = table(report, "Differences").rows
    # The deviation with one win and one loss more is sqrt(16/82 - (2/82)^2) = .44104; (2.801585 * .44104 / .1)^2 = 152.7
    assert (row[5], row[9]) == ("no difference shown", "153")


def test_comparisons_with_several_arms_and_checks_share_the_risk() -> None:
    results = [
        result(n, arm, 1.0, scores={"a": float(n < k), "b": 1.0}, checks=["a", "b"])
        for n in range(40)
        for arm, k in (("small", 10), ("large", 16), ("huge", 17))
    ]
    report = summarise(record(results, settings(40, arms="small large huge", checks="a b")), Reading())
    found = {(one["arm"], one["check"]): one for one in report.data["differences"]}
    assert found["large", "a"]["comparison"]["p"] == pytest.approx(2 / 2**6)
    assert found["huge", "a"]["comparison"]["p"] == pytest.approx(2 / 2**7)
    # Four comparisons: the smallest p counts four times, the next three times.
    assert found["huge", "a"]["p"] == pytest.approx(4 * 2 / 2**7)
    assert found["large", "a"]["p"] == pytest.approx(3 * 2 / 2**6)
    assert found["huge", "a"]["verdict"] == found["large", "a"]["verdict"] == "no difference shown"
    assert found["large", "b"]["p"] == 1.0
    # Four intervals that hold at once with 95 % hold with 98.75 % each: 6 won, none lost, 40 items and one more each way.
    p, q = 7 / 42, 1 / 42
    half = t.ppf(1 - 0.0125 / 2, 39) * ((p + q - (p - q) ** 2) / 42) ** 0.5
    comparison = found["large", "a"]["comparison"]
    assert (comparison["lower"], comparison["upper"]) == pytest.approx((p - q - half, p - q + half))


def test_errors_are_left_out_or_count() -> None:
    results = [result(n, arm, None if arm == "large" and n < 10 else 1.0) for n in range(40) for arm in ("small", "large")]
    out = summarise(record(results), Reading())
    assert out.data["arms"]["large"]["means"]["exact_match"]["items"] == 30
    assert out.plots[0].rows[1].estimate == 1.0
    assert out.plots[0].rows[1].note == "25.0% errors"
    assert table(out, "Arms").rows[1][1:3] == ["30", "25.0% (10 timeout)"]
    assert any("25.0% of the calls failed" in warning for warning in out.warnings)
    assert out.facts["errors"] == "left out"
    counted = summarise(record(results), Reading(errors_score=0.0))
    assert counted.plots[0].rows[1].estimate == pytest.approx(0.75)
    assert counted.facts["errors"] == "counted as 0"
    assert "large is worse than small" in counted.summary
    worst = table(counted, "Where large loses most")
    assert worst.rows[0] == ["q000", "question 0", "0.000", "1.000", "(timeout: slow)", "answer of small to 0"]
    assert len(worst.rows) == 10


def test_samples_of_an_item_count_as_one() -> None:
    results = [
        result(n, arm, float(sample < k), sample)
        for n in range(5)
        for sample in range(4)
        for arm, k in (("small", 1), ("large", 3))
    ]
    report = summarise(record(results, settings(5, samples=4)), Reading())
    assert report.plots[0].rows[1].n == 5
    assert report.plots[0].rows[1].estimate == pytest.approx(0.75)
    assert report.plots[1].rows[0].n == 5
    assert report.data["differences"][0]["comparison"]["p"] == pytest.approx(2 / 2**5)


def test_latencies_tokens_and_costs() -> None:
    results = [
        result(
            n, arm, 1.0, latency_s=float(n + 1), input_tokens=n if n else None, cost_usd=None if arm == "small" else 0.002
        )
        for n in range(21)
        for arm in ("small", "large")
    ]
    rows = table(summarise(record(results), Reading()), "Arms").rows
    assert rows[1] == ["large", "21", "0.0%", "11.000 s", "20.000 s", "10.5", "20.0", "$0.002000"]
    assert rows[0][-1] == "unknown"


def test_what_makes_a_finding_worth_less() -> None:
    about = settings(20)
    about["judges"] = {"judge:openai:x": "LARGE"}
    results = [result(n, arm, 1.0) for n in range(10) for arm in ("small", "large")]
    results[0] = replace(results[0], check_errors={"exact_match": "KeyError: 'x'"}, scores={})
    results[2] = replace(results[2], stop_reason="max_tokens")
    results[3] = replace(results[3], stop_reason="refusal")
    report = summarise(record(results, about), Reading())
    said = "\n".join(report.warnings)
    for warning in (
        "20 of 40 answers are missing",
        "few items: 9 in a comparison",
        "1 checks came to no score",
        "small: 1 of 10 answers were cut at max_tokens",
        "large: 1 of 10 answers were refusals",
        "judge:openai:x is of the family of large (LARGE)",
    ):
        assert warning in said
    assert table(report, "Checks that came to no score").rows == [["q000", "small", "exact_match", "KeyError: 'x'"]]


def test_a_journal_with_nothing_in_it() -> None:
    report = summarise(Record(settings(3), [], 0.0), Reading())
    assert report.summary == "No answers yet."
    assert all(row.estimate is None for plot in report.plots for row in plot.rows)
    for text in (render_html(report), render_json(report)):
        assert "NaN" not in text
    render_terminal(report, Console(file=io.StringIO(), width=80))


def test_one_arm_alone() -> None:
    about = settings(3, arms="large")
    report = summarise(record([result(n, "large", 0.5) for n in range(3)], about), Reading())
    assert report.summary == "large scores 0.500 on exact_match; there is no other arm to compare it with."


def test_arms_without_a_common_item() -> None:
    results = [result(0, "small", 1.0), result(0, "large", None), result(1, "large", 1.0), result(1, "small", None)]
    report = summarise(record(results), Reading())
    assert report.summary == "large and small have no items in common on exact_match."
    assert report.plots[1].rows[0].estimate is None
    assert table(report, "Differences").rows[0][2] == "unknown"


def test_another_control() -> None:
    report = summarise(record(binary(30, 6, 44)), Reading(control="large"))
    assert report.summary.startswith("small is worse than large on exact_match: -0.300 (")
    with pytest.raises(EvaluationError, match="--control: 'medium' was not evaluated: small, large"):
        summarise(record(binary(1, 1, 1)), Reading(control="medium"))


def test_the_order_of_answers_does_not_matter(tmp_path: Path) -> None:
    reports = []
    for name, results in (("one", binary(12, 5, 13)), ("other", binary(12, 5, 13)[::-1])):
        journal = Journal.open(tmp_path / name, settings(30))
        for one in results:
            journal.append(one)
        journal.close()
        reports.append(render_json(summarise(read_record(tmp_path / name), Reading())))
    assert reports[0] == reports[1]


def test_every_form_holds_the_finding() -> None:
    hostile = [replace(one, answer="<script>alert(1)</script>\x1b[2J" * 20) for one in binary(6, 20, 44)]
    report = summarise(record(hostile), Reading())
    page, text = render_html(report), render_json(report)
    assert "large is worse than small" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["data"]["differences"][0]["verdict"] == "worse"
    assert found["data"]["differences"][0]["comparison"]["estimate"] == pytest.approx(-0.2)
    out = io.StringIO()
    render_terminal(report, Console(file=out, width=60))
    assert "\x1b" not in out.getvalue()
