"""A judge's report as the neutral one that is shown on terminals, as JSON and as pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router.llm.report import Interval, IntervalPlot, Report
from router.v1 import judge_pb2 as pb

_RATES: Final = (
    "arm_wins",
    "other_wins",
    "ties",
    "net",
    "first_wins",
    "order_agreement",
    "self_agreement",
    "user_agreement",
)


def report_of(message: pb.GetJudgeReportResponse) -> Report:
    """Return what a run found."""
    run = message.run
    return Report(
        title=f"{run.arm_id} against {run.other_arm_id}, judged by {run.judge}",
        summary=message.summary,
        facts=_facts(message),
        plots=_plots(message),
        warnings=_warnings(message),
        data=_data(message),
    )


def _facts(message: pb.GetJudgeReportResponse) -> Mapping[str, str]:
    run = message.run
    facts = {
        "run": run.run_id,
        "experiment": run.experiment_id,
        "arm in question": run.arm_id,
        "served": run.other_arm_id,
        "judge": f"{run.judge} (family {run.judge_family})",
        "method": _name(pb.JudgeRun.Method.Name(run.method), "METHOD_"),
        "sample": f"{run.pairs:,} pairs, seed {run.seed}",
        "judgments": f"{run.judged:,} of {run.judgments:,}",
        "pairs": f"{message.judged_pairs:,} valid, {message.invalid_pairs:,} invalid, {message.pending_pairs:,} pending",
    }
    if run.cost_usd:
        facts["cost"] = f"${run.cost_usd:,.4f}"
    return facts


def _plots(message: pb.GetJudgeReportResponse) -> list[IntervalPlot]:
    run = message.run
    consistency = []
    for name, label, note in (
        ("order_agreement", "both orders agree", "of pairs"),
        ("self_agreement", "repeats agree", "of judgments made twice"),
    ):
        if message.HasField(name):
            consistency.append(_row(label, getattr(message, name), note))
    plots = [
        IntervalPlot(
            "Preferred answers",
            [
                _row(f"{run.arm_id} wins", message.arm_wins),
                _row(f"{run.other_arm_id} wins", message.other_wins),
                _row("tie", message.ties),
            ],
            axis="share of pairs",
        ),
        IntervalPlot(
            "Net win rate",
            [_row(f"{run.arm_id} less {run.other_arm_id}", message.net)],
            0.0,
            "wins less losses, share of pairs",
        ),
        IntervalPlot("Position", [_row("first place wins", message.first_wins)], 0.5, "share of judgments without ties"),
    ]
    if consistency:
        plots.append(IntervalPlot("Agreement with itself", consistency, axis="share"))
    if message.HasField("user_agreement"):
        row = _row("preferred less rejected", message.user_agreement, "above 0 where the judge agrees with users")
        plots.append(IntervalPlot("Users' rewards of served answers", [row], 0.0, "difference of mean rewards"))
    return plots


def _warnings(message: pb.GetJudgeReportResponse) -> list[str]:
    found = []
    if message.pending_pairs:
        found.append(
            f"{message.pending_pairs:,} pairs are still to be judged: the intervals hold for one look, at the end that was"
            " planned"
        )
    if message.position_biased:
        found.append(
            f"the judge looks at positions: the answer shown first wins {_percent(message.first_wins.estimate)}, so that one"
            " order alone would be worth little"
        )
    if message.HasField("user_agreement") and message.user_agreement.upper < 0:
        found.append("the judge prefers what users reward less: its verdicts should not stand in for theirs")
    if message.run.allow_same_family:
        found.append("same-family judging was allowed: a judge may favour answers of its own kind")
    return found


def _data(message: pb.GetJudgeReportResponse) -> Mapping[str, Any]:
    run = message.run
    settings = {field.name: getattr(run, field.name) for field in run.DESCRIPTOR.fields if field.name != "create_time"}
    return {
        "run": {
            **settings,
            "method": _name(pb.JudgeRun.Method.Name(run.method), "METHOD_"),
            "create_time": run.create_time.ToJsonString(),
        },
        "judged_pairs": message.judged_pairs,
        "invalid_pairs": message.invalid_pairs,
        "pending_pairs": message.pending_pairs,
        "conclusion": _name(pb.GetJudgeReportResponse.Conclusion.Name(message.conclusion), "CONCLUSION_"),
        "position_biased": message.position_biased,
        **{name: _rate(getattr(message, name)) if message.HasField(name) else None for name in _RATES},
    }


def _row(label: str, rate: pb.JudgeRate, note: str = "") -> Interval:
    return Interval(label, _estimate(rate), rate.lower, rate.upper, rate.n, note)


def _rate(rate: pb.JudgeRate) -> Mapping[str, Any]:
    return {"estimate": _estimate(rate), "lower": rate.lower, "upper": rate.upper, "n": rate.n}


def _estimate(rate: pb.JudgeRate) -> float | None:
    return rate.estimate if rate.HasField("estimate") else None


def _name(value: str, prefix: str) -> str:
    return value.removeprefix(prefix).lower()


def _percent(share: float) -> str:
    return f"{share:.0%}"
