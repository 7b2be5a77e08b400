"""What `status` says of an allocation's cost, of feedback that is missing, and of arms that changed, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC

from rich.text import Text

from router.cli.pictures import arm_name
from router.v1 import experiments_pb2 as pb
from router.v1 import posteriors_pb2 as posteriors

_WARNING = "yellow"


def cost_lines(experiment: pb.Experiment, reading: posteriors.GetPosteriorResponse) -> list[Text]:
    """Return what a decision costs in expectation, and at what price; nothing where costs are not known."""
    if not reading.HasField("expected_cost_usd"):
        return []
    cost = f"cost: ${reading.expected_cost_usd:.4g} a decision in expectation"
    if not reading.HasField("reward_per_usd"):
        return [Text(cost)]
    rule, price = experiment.allocation.cost, reading.reward_per_usd
    if not rule.HasField("ceiling_usd"):
        return [Text(f"{cost}; a dollar is worth {price:.4g} of reward")]
    ceiling = f"the ceiling is ${rule.ceiling_usd:.4g}"
    if reading.expected_cost_usd > rule.ceiling_usd * (1 + 1e-6):
        why = "which floor, caps or the ramp's stage do not allow: traffic goes where it costs the least"
        return [Text(f"{cost}; {ceiling}, {why}", style=_WARNING)]
    if price == 0.0:
        return [Text(f"{cost}; {ceiling} and does not bind")]
    worth = "cost alone decides" if math.isinf(price) else f"a dollar is worth {price:.4g} of reward"
    return [Text(f"{cost}; {ceiling}, so that {worth}")]


def feedback_lines(arms: Iterable[posteriors.ArmPosterior]) -> list[Text]:
    """Return how much feedback each arm's decisions have, and may still get; nothing of arms without a decision."""
    return [Text(f"feedback: {_feedback(arm)}") for arm in arms if arm.diagnostics.decisions]


def _feedback(arm: posteriors.ArmPosterior) -> str:
    found = arm.diagnostics
    counted = f"{arm_name(arm.arm_id, arm.version)} has {found.decisions:,} decisions, {found.pending_decisions:,} pending"
    if not found.HasField("coverage"):
        return f"{counted}; none is past the attribution window yet"
    rate = found.coverage
    share = f"{rate.value:.1%} with feedback (95 % interval {rate.lower:.1%} to {rate.upper:.1%})"
    return f"{counted}; of those past the attribution window {share}, {found.silent_decisions:,} silent"


def drift_lines(arms: Iterable[posteriors.ArmPosterior]) -> list[Text]:
    """Return which arms have changed; one line where evidence says of none that it has, none without evidence."""
    watched = [arm for arm in arms if arm.diagnostics.drift.HasField("since")]
    alarms = [arm for arm in watched if arm.diagnostics.drift.alarm]
    if watched and not alarms:
        return [Text("drift: no arm's mean reward has changed as far as the evidence says")]
    return [Text(f"drift: {_drift(arm)}", style="bold yellow") for arm in alarms]


def _drift(arm: posteriors.ArmPosterior) -> str:
    found = arm.diagnostics.drift
    since = f"{found.since.ToDatetime(UTC):%Y-%m-%d %H:%M}Z"
    return (
        f"{arm_name(arm.arm_id, arm.version)} has changed: its mean reward was {found.before:.3f}"
        f" ({found.outcomes_before:,.0f} outcomes) and is {found.after:.3f} since {since} or so"
        f" ({found.outcomes_after:,.0f} outcomes)"
    )
