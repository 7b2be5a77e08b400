"""What commands draw on a terminal: posteriors, ramps, metrics and transitions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from router.cli.calls import state_name
from router.ramp_rules import challenger_of, ramp_of
from router.shadow_rules import DEFAULT_RATE
from router.v1 import experiments_pb2 as pb
from router.v1 import posteriors_pb2 as posteriors
from router.v1 import types_pb2 as types

_COLOURS = {"pass": "green", "fail": "bold red", "insufficient": "yellow"}
#: Rates of decisions, and their short names.
_RATES = {
    "coverage": "feedback",
    "retry": "retried",
    "rephrase": "rephrased",
    "abandonment": "left",
    "follow_up": "asked on",
    "completion": "done",
}


def posterior_table(experiment: pb.Experiment, reading: posteriors.GetPosteriorResponse) -> Table:
    """Return an experiment's arms, or those of one of its segments, with share, posterior mean, interval and P(best)."""
    state = state_name(experiment.state)
    of = f"{experiment.experiment_id}, segment {reading.segment}" if reading.segment else experiment.experiment_id
    table = _table(
        f"{of}: {state}, policy version {reading.policy_version}",
        ("arm", "share", "outcomes", "mean", "95 % interval", "P(best)", "expected loss"),
    )
    for arm in reading.arms:
        retired = arm.state == types.ARM_STATE_RETIRED
        name = arm_name(arm.arm_id, arm.version)
        table.add_row(
            f"{name} (retired)" if retired else name,
            f"{arm.allocation:.1%}",
            f"{arm.n:,}",
            f"{arm.mean:.3f}",
            f"{arm.lower:.3f} to {arm.upper:.3f}",
            f"{arm.probability_best:.3f}",
            f"{arm.expected_loss:.4f}",
            style="dim" if retired else "",
        )
    return table


def ramp_lines(experiment: pb.Experiment, now: datetime) -> list[RenderableType]:
    """Return where an experiment's ramp stands; nothing if it has none."""
    if not experiment.HasField("ramp"):
        return []
    challengers = [
        arm.arm_id
        for arm in experiment.arms
        if arm.role not in (types.ROLE_CONTROL, types.ROLE_SHADOW) and arm.state != types.ARM_STATE_RETIRED
    ]
    name, stages = challenger_of(experiment.ramp, challengers), ramp_of(experiment.ramp).stages
    if not experiment.HasField("ramp_status"):
        return [Text(f"ramp of {name}: not begun, {len(stages)} stages")]
    status = experiment.ramp_status
    since = status.stage_since.ToDatetime(UTC)
    phase = pb.RampStatus.Phase.Name(status.phase).removeprefix("PHASE_").lower().replace("_", " ")
    first = (
        f"ramp of {name}: {phase}, stage {status.stage + 1} of {len(stages)}, {status.floor:.4g} to {status.cap:.4g} of the"
        f" traffic, since {_time(since)} ({_span(now - since)} ago)" + (", approved" if status.approved else "")
    )
    lines: list[RenderableType] = [Text(first, style="bold")]
    if status.HasField("assessment"):
        lines += _assessment(status.assessment)
    if status.phase == pb.RampStatus.PHASE_AWAITING_APPROVAL:
        command = f"bandit-router ramp approve {experiment.experiment_id} --reason TEXT"
        lines.append(Text(f"  every stage passed; to promote it: {command}", style="green"))
    return lines


def shadow_lines(experiment: pb.Experiment) -> list[RenderableType]:
    """Return what an experiment mirrors; nothing if that is nothing."""
    active = [arm for arm in experiment.arms if arm.state != types.ARM_STATE_RETIRED]
    alone = experiment.state == pb.STATE_SHADOW
    mirrored = [arm for arm in active if arm.role == types.ROLE_SHADOW or (alone and arm.role != types.ROLE_CONTROL)]
    if not mirrored or not experiment.HasField("shadow"):
        return []
    rule = experiment.shadow
    rate = rule.rate if rule.HasField("rate") else DEFAULT_RATE
    text = types.TextMode.Name(rule.text).removeprefix("TEXT_MODE_").lower()
    budget = f", up to ${rule.daily_budget_usd:g} a day" if rule.HasField("daily_budget_usd") else ""
    names = ", ".join(arm.arm_id for arm in mirrored)
    return [Text(f"shadow: {rate:.4g} of the decisions are mirrored to {names}, text {text}{budget}")]


def _assessment(found: pb.RampAssessment) -> list[RenderableType]:
    outcome = _outcome(found.outcome)
    covered = f", {found.coverage:.1%} of them with feedback" if found.HasField("coverage") else ""
    due = f"; next look due {_time(found.next_check_time.ToDatetime(UTC))}" if found.HasField("next_check_time") else ""
    looked = f"  {_time(found.assess_time.ToDatetime(UTC))}: {outcome} after {found.decisions:,} decisions{covered}{due}"
    lines: list[RenderableType] = [Text(looked, style=_COLOURS.get(outcome, ""))]
    if found.verdicts:
        table = _table("", ("guardrail", "verdict", "challenger", "control", "limit", "least n"))
        for verdict in found.verdicts:
            said = _outcome(verdict.outcome)
            table.add_row(
                pb.Guardrail.Metric.Name(verdict.metric).removeprefix("METRIC_").lower(),
                Text(said, style=_COLOURS.get(said, "")),
                _estimate(verdict.challenger),
                _estimate(verdict.control) if verdict.HasField("control") else "",
                f"{verdict.limit:.4g}" if verdict.HasField("limit") else "",
                f"{verdict.minimum:,}" if verdict.HasField("minimum") else "",
            )
        lines.append(table)
    lines += [Text(f"  missing: {sentence}") for sentence in found.missing]
    if found.warning:
        lines.append(Text(f"  {found.warning}", style="yellow"))
    return lines


def metrics_table(reading: posteriors.GetMetricsResponse, since: str) -> Table:
    """Return what users did, arm by arm, in per cent with 95 % intervals for one look."""
    table = _table(f"the last {since}, in per cent", ("arm", "routed", *_RATES.values(), "reward"))
    table.box, table.show_edge, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    for arm in reading.metrics:
        name = arm_name(arm.arm_id, arm.version) + (" (held out)" if arm.holdout else "")
        rates = [getattr(arm, rate) for rate in _RATES]
        reward = f"{arm.mean_reward:.3f}\n{arm.outcomes:,}" if arm.HasField("mean_reward") else ""
        table.add_row(name, f"{arm.interactions:,}", *map(_rate, rates), reward)
    return table


def transition_lines(transitions: Iterable[pb.Transition]) -> list[Text]:
    """Return what changed, a line each, in the order given."""
    return [
        Text.assemble(
            (f"{_time(one.transition_time.ToDatetime(UTC))}  ", "dim"),
            f"{pb.Transition.Kind.Name(one.kind).removeprefix('KIND_').lower():<10}  ",
            f"{getattr(one, 'from') or '·'} → {one.to}",
            (f"  {one.actor or 'somebody'}" + (f": {' '.join(one.reason.split())}" if one.reason else ""), "cyan"),
        )
        for one in transitions
    ]


def _table(title: str, columns: Iterable[str], left: int = 1) -> Table:
    table = Table(title=title or None, title_justify="left")
    for i, name in enumerate(columns):
        justify: Any = "left" if i < left else "right"
        table.add_column(name, justify=justify)
    return table


def arm_name(arm_id: str, version: int) -> str:
    """Return what an arm is called: its id, and its version from the second on."""
    return arm_id if version <= 1 else f"{arm_id} v{version}"


def _rate(rate: posteriors.Rate) -> str:
    return f"{100 * rate.value:.1f}\n{_short(100 * rate.lower)}–{_short(100 * rate.upper)}"


def _short(per_cent: float) -> str:
    return f"{per_cent:.1f}" if per_cent < 10 else f"{per_cent:.0f}"


def _estimate(found: pb.MetricEstimate) -> str:
    if not found.HasField("mean"):
        return f"unknown ({found.n:,})"
    return f"{found.mean:.4g} [{found.lower:.4g}, {found.upper:.4g}] ({found.n:,})"


def _outcome(outcome: pb.RampAssessment.Outcome) -> str:
    return pb.RampAssessment.Outcome.Name(outcome).removeprefix("OUTCOME_").lower()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _span(duration: timedelta) -> str:
    seconds = max(0, int(duration.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds} s"
