"""What `estimate` finds as a document: the fields are those of the values of `bandit`, with ids instead of indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

from bandit.arm_intervals import ArmIntervals, Interval
from bandit.estimate import Estimate
from bandit.split import Split
from router.cli.estimate_report import Report, Splits, named


def document_of(report: Report) -> dict[str, Any]:
    """Return the report as JSON has it."""
    names = report.logged.arm_ids
    return {
        "experiment": report.experiment_id,
        "decisions": int(report.logged.arms.size),
        "units": report.units,
        "left_out": report.logged.left_out.total,
        "left_out_because": asdict(report.logged.left_out),
        "control": None if report.control is None else names[report.control],
        "split": {
            "repeated": report.splits.drawn.repeated,
            "unknown": report.splits.drawn.unknown,
            "every": _split(report.splits, report.splits.every),
            "with_feedback": _split(report.splits, report.splits.with_feedback),
        },
        "arms": [
            {
                "arm_id": names[one.arm],
                "decisions": one.decisions,
                "insufficient": named(one.insufficient, names),
                "estimates": _estimates((one.raw, one.ips, one.snips, one.dr, one.adaptive), names),
                "at_every_look": _looks(looks, names),
            }
            for one, looks in zip(report.arms, report.intervals, strict=True)
        ],
        "as_run": None if report.as_run is None else asdict(report.as_run),
        "policies": [
            {
                "policy": asked.text,
                "insufficient": named(value.insufficient, names),
                "estimates": _estimates((value.ips, value.snips, value.dr, value.adaptive), names),
            }
            for asked, value in report.policies
        ],
        "replays": [
            {
                "learner": one.asked.text,
                "insufficient": named(one.insufficient, names),
                "runs": [{**asdict(run), "warnings": [named(text, names) for text in run.warnings]} for run in one.runs],
            }
            for one in report.replays
        ],
        "stopping": _stopping(report, names),
    }


def _estimates(found: Sequence[Estimate | None], names: Sequence[str]) -> dict[str, Any]:
    return {
        one.method: {**asdict(one), "warnings": [named(text, names) for text in one.warnings]}
        for one in found
        if one is not None
    }


def _looks(found: ArmIntervals, names: Sequence[str]) -> dict[str, Any]:
    kinds = {"exact": found.exact, "average": found.average, "less_control": found.less_control}
    return {kind: None if one is None else _interval(one, names) for kind, one in kinds.items()}


def _interval(one: Interval, names: Sequence[str]) -> dict[str, Any]:
    if one.insufficient:
        return {"insufficient": named(one.insufficient, names)}
    return asdict(one)


def _split(splits: Splits, split: Split | None) -> dict[str, Any] | None:
    if split is None:
        return None
    columns = zip(splits.drawn.arm_ids, split.observed, split.expected, split.deviations, strict=True)
    return {
        "n": split.n,
        "mismatch": split.mismatch,
        "found_at": splits.found_at(split).isoformat() if split.mismatch else None,
        "e_value": split.e_value,
        "largest": split.largest,
        "alpha": split.alpha,
        "arms": [
            {"arm_id": name, "observed": observed, "expected": expected, "deviations": deviations}
            for name, observed, expected, deviations in columns
        ],
    }


def _stopping(report: Report, names: Sequence[str]) -> dict[str, Any] | None:
    found = report.stopping
    if found is None:
        return None
    fields = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(found).items()}
    started = report.present.started_at.isoformat()
    names_of = {"reason": named(found.reason, names), "leader": names[found.leader], "arm_ids": list(names)}
    return {**fields, **names_of, "started": started}
