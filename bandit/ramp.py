"""Ramps: the stages by which a challenger earns its traffic, and the rules that a definition must keep.

Model
    A ramp is a sequence of stages. Each caps the challenger's propensity, lasts at least its duration, and has guardrails
    of its own, which `bandit.guardrails` judges on the evidence of that stage alone; `bandit.canary` moves from stage to
    stage. The chance of rolling back a challenger that keeps every guardrail is at most `alpha` over the whole ramp: each
    guardrail of each stage gets an equal share of it.

Assumes
    Nothing: definitions are data, and `validate` says what is wrong with one.

Source
    Bonferroni for the shares of alpha; the default stages are those usual for a new model: 1, 5, 20, 50 and 100 %.

Shapes
    Times are integer microseconds, rates are in [0, 1], costs in USD per call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

HOUR_US: Final = 3_600_000_000

#: Field names and positions that lead to a value: ("stages", 2, "cap").
Steps = tuple[str | int, ...]


class Metric(Enum):
    """What is observed of a decision: 1 if it happened and 0 if not, or for COST a share of the clip."""

    #: The answer was asked for again at once.
    RETRY = "retry"
    #: The question was put in other words at once.
    REPHRASE = "rephrase"
    #: The session ended there.
    ABANDONMENT = "abandonment"
    #: The call failed.
    ERROR = "error"
    #: The call took longer than `latency_over_us`.
    SLOW = "slow"
    #: min(cost, clip_usd) / clip_usd of the call.
    COST = "cost"

    @property
    def of_calls(self) -> bool:
        """Whether it is known of decisions with a call report only; the others are 0 where nothing was heard."""
        return self in (Metric.ERROR, Metric.SLOW, Metric.COST)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A bound on one metric: `limit` or `ratio`, never both."""

    metric: Metric
    #: The greatest rate allowed, or USD per call.
    limit: float | None = None
    #: The greatest multiple of the control's rate allowed, >= 1.
    ratio: float | None = None
    #: For SLOW: a call that takes longer is slow.
    latency_over_us: int | None = None
    #: For COST: the most that one call can count. Several times the limit; much more only makes the verdict slower.
    clip_usd: float | None = None

    @property
    def scale(self) -> float:
        """What an observation of 1 stands for, in the metric's units."""
        return self.clip_usd if self.clip_usd is not None else 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a ramp."""

    #: The greatest propensity of the challenger, in (0, 1].
    cap: float
    #: The least time, microseconds.
    duration_us: int
    #: What must hold here; at least one, no metric twice.
    guardrails: tuple[Guardrail, ...]
    #: The least matured decisions of the challenger, beside what each guardrail needs; None asks for no more than that.
    min_decisions: int | None = None


def default_stages() -> tuple[Stage, ...]:
    """Return the five default stages: caps .01, .05, .2, .5 and 1 with limits on the retry rate."""
    plan = ((0.01, 2, 0.15), (0.05, 6, 0.12), (0.20, 24, 0.10), (0.50, 48, 0.10), (1.0, 0, 0.10))
    return tuple(Stage(cap, hours * HOUR_US, (Guardrail(Metric.RETRY, limit=limit),)) for cap, hours, limit in plan)


@dataclass(frozen=True, slots=True)
class Ramp:
    """How a challenger is let in; the defaults are those of the default stages."""

    stages: tuple[Stage, ...]
    #: The chance of rolling back a challenger that keeps every guardrail, over the whole ramp, in (0, .5).
    alpha: float = 0.05
    #: The chance that a guardrail passes at twice its limit, in (0, .5).
    miss: float = 0.05
    #: The least share of the challenger's matured decisions with any event; silence is not health.
    min_coverage: float = 0.1
    #: Whether a pass takes an upper bound within the limit, not only an estimate.
    strict: bool = False
    #: Whether the last stage waits for a human before the challenger is promoted.
    approval: bool = False
    #: A stage without a verdict this long after its duration is worth a warning, microseconds.
    warn_after_us: int = 24 * HOUR_US

    @property
    def alpha_each(self) -> float:
        """The share of alpha of one guardrail."""
        return self.alpha / sum(len(stage.guardrails) for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that a ramp breaks."""

    #: The way to the field.
    steps: Steps
    #: The value and the rule.
    message: str


def validate(ramp: Ramp) -> list[Problem]:
    """Return what is wrong with a ramp, in the order of its fields; empty if nothing is."""
    # Every comparison is written so that NaN fails it.
    problems: list[Problem] = []
    if not ramp.stages:
        problems.append(Problem(("stages",), "it is empty: a ramp has at least one stage"))
    for index, stage in enumerate(ramp.stages):
        problems += _stage_problems(stage, ("stages", index))
    for index, (before, after) in enumerate(pairwise(ramp.stages), start=1):
        if not after.cap > before.cap:
            rule = f"{after.cap} must be greater than {before.cap}, the cap of the stage before"
            problems.append(Problem(("stages", index, "cap"), rule))
    if ramp.stages and ramp.stages[-1].cap != 1.0:
        last = len(ramp.stages) - 1
        problems.append(Problem(("stages", last, "cap"), f"{ramp.stages[last].cap} must be 1: the last stage has no cap"))
    for name, value in (("alpha", ramp.alpha), ("miss", ramp.miss)):
        if not 0.0 < value < 0.5:
            problems.append(Problem((name,), f"{value} must be greater than 0 and less than 0.5"))
    if not 0.0 <= ramp.min_coverage <= 1.0:
        problems.append(Problem(("min_coverage",), f"{ramp.min_coverage} must be in [0, 1]"))
    if not ramp.warn_after_us >= 0:
        problems.append(Problem(("warn_after_us",), f"{ramp.warn_after_us} must be at least 0"))
    return problems


def _stage_problems(stage: Stage, at: Steps) -> list[Problem]:
    problems: list[Problem] = []
    if not 0.0 < stage.cap <= 1.0:
        problems.append(Problem((*at, "cap"), f"{stage.cap} must be greater than 0 and at most 1"))
    if not stage.duration_us >= 0:
        problems.append(Problem((*at, "duration_us"), f"{stage.duration_us} must be at least 0"))
    if not stage.guardrails:
        rule = "it is empty: without a guardrail a stage would pass by the clock alone"
        problems.append(Problem((*at, "guardrails"), rule))
    seen: set[Metric] = set()
    for index, guardrail in enumerate(stage.guardrails):
        path = (*at, "guardrails", index)
        if guardrail.metric in seen:
            problems.append(Problem((*path, "metric"), f"{guardrail.metric.value} stands in this stage already"))
        seen.add(guardrail.metric)
        problems += _guardrail_problems(guardrail, path)
    if stage.min_decisions is not None and not stage.min_decisions >= 1:
        problems.append(Problem((*at, "min_decisions"), f"{stage.min_decisions} must be at least 1, or left out"))
    return problems


def _guardrail_problems(guardrail: Guardrail, at: Steps) -> list[Problem]:
    problems = _settings_problems(guardrail, at)
    limit, ratio = guardrail.limit, guardrail.ratio
    if (limit is None) == (ratio is None):
        problems.append(Problem(at, "it must have exactly one of limit and ratio"))
    if ratio is not None and not 1.0 <= ratio < math.inf:
        problems.append(Problem((*at, "ratio"), f"{ratio} must be at least 1, and finite"))
    if limit is not None and guardrail.metric is not Metric.COST and not 0.0 < limit < 1.0:
        problems.append(Problem((*at, "limit"), f"{limit} must be greater than 0 and less than 1: it is a rate"))
    if limit is not None and guardrail.metric is Metric.COST:
        if not 0.0 < limit < math.inf:
            problems.append(Problem((*at, "limit"), f"{limit} must be greater than 0, in USD per call"))
        elif guardrail.clip_usd is not None and not limit < guardrail.clip_usd:
            rule = f"{guardrail.clip_usd} must be greater than the limit, {limit}: no clipped cost could exceed it"
            problems.append(Problem((*at, "clip_usd"), rule))
    return problems


def _settings_problems(guardrail: Guardrail, at: Steps) -> list[Problem]:
    """What is wrong with the fields that belong to one metric only."""
    problems: list[Problem] = []
    for name, value, owner in (
        ("latency_over_us", guardrail.latency_over_us, Metric.SLOW),
        ("clip_usd", guardrail.clip_usd, Metric.COST),
    ):
        if guardrail.metric is owner and value is None:
            problems.append(Problem((*at, name), f"a guardrail on {owner.value} must have one"))
        elif guardrail.metric is not owner and value is not None:
            problems.append(Problem((*at, name), f"{value} belongs to {owner.value}, not to {guardrail.metric.value}"))
        elif value is not None and not 0 < value < math.inf:
            problems.append(Problem((*at, name), f"{value} must be greater than 0, and finite"))
    return problems
