"""Guardrails: rates of a challenger that must stay under a bound, and what the evidence of a stage says of them.

Model
    An absolute guardrail has the limit L. Its verdict over n observations with sum s is, at every look,

        fail           lower_bound(s, n, alpha) > L
        pass           n >= minimum_sample(L, miss) and s / n <= L, or with `strict` upper_bound(s, n, alpha) <= L
        insufficient   otherwise

    A relative one allows `ratio` times the control's rate, over the same stage. Both rates are uncertain, so each arm gets
    half of the error. With c and k the challenger's and the control's,

        fail           lower_bound(c, alpha / 2) > ratio * upper_bound(k, alpha / 2)
        pass           upper_bound(c, miss / 2) < intolerable(ratio * lower_bound(k, miss / 2)) and
                       mean(c) <= ratio * mean(k), or with `strict` upper_bound(c, alpha / 2) <= ratio * lower_bound(k, ...)

    The first condition of a pass stands where an absolute guardrail has its minimum sample: it refutes a challenger at twice
    what is allowed, without knowing the control's rate beforehand.

    Both errors hold under a look after every observation: a challenger within the limit ever fails with probability at
    most alpha, one at the intolerable rate or worse ever passes with probability at most miss.

Assumes
    What `bandit.inference` assumes. For absolute guardrails the rate may drift: within the limit throughout, or at the
    intolerable rate or worse throughout. For relative ones each arm's rate is constant. A cost counts as
    min(cost, clip_usd): what a call costs beyond that is not seen.

Source
    Chernoff (1952) and Ville (1939) for the minimum sample; `bandit.inference` for the bounds; Bonferroni for two arms.

Shapes
    Limits, estimates and bounds are in the metric's units: a rate in [0, 1], or USD per call. Sums are of observations in
    [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from bandit.inference import lower_bound, upper_bound
from bandit.ramp import Guardrail, Metric

#: Sums of fractions may pass the number of observations by their rounding.
_ROUNDING: Final = 1e-9


class Outcome(Enum):
    """What the evidence says, of one guardrail or of a stage."""

    PASS = "pass"  # noqa: S105, it is no password
    FAIL = "fail"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True)
class Tally:
    """What one arm's matured decisions of one stage have shown, each unit's first decision of the stage only.

    Raises ValueError if the numbers cannot be those of one stage.
    """

    #: How many decisions.
    decisions: int = 0
    #: How many of them have any event, a call report included.
    with_feedback: int = 0
    #: The sum of the observations, for every metric that a guardrail looks at.
    totals: Mapping[Metric, float] = field(default_factory=dict)
    #: For metrics of calls: how many decisions have a report that tells the metric.
    reported: Mapping[Metric, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.with_feedback <= self.decisions:
            rule = f"must be at least 0 and at most decisions, which is {self.decisions}"
            raise ValueError(f"with_feedback is {self.with_feedback}: it {rule}")
        for metric, count in self.reported.items():
            if not (metric.of_calls and 0 <= count <= self.decisions):
                rule = f"only calls are reported, at least 0 and at most {self.decisions} decisions"
                raise ValueError(f"reported[{metric.name}] is {count}: {rule}")
        for metric, total in self.totals.items():
            if not 0.0 <= total <= self.n(metric) * (1.0 + _ROUNDING):
                rule = f"it must be at least 0 and at most the {self.n(metric)} observations"
                raise ValueError(f"totals[{metric.name}] is {total}: {rule}")

    def n(self, metric: Metric) -> int:
        """The number of observations of a metric."""
        return self.reported.get(metric, 0) if metric.of_calls else self.decisions

    def total(self, metric: Metric) -> float:
        """The sum of the observations of a metric; ValueError if there are any and their sum was not given."""
        if self.n(metric) and metric not in self.totals:
            raise ValueError(
                f"totals lacks {metric.name}: a missing sum is not 0, give it for all {self.n(metric)} observations"
            )
        return self.totals.get(metric, 0.0)


@dataclass(frozen=True, slots=True)
class Measures:
    """The evidence of a stage."""

    challenger: Tally
    control: Tally


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric of one arm, in the metric's units."""

    #: Number of observations.
    n: int
    #: Their mean; None if there are none.
    mean: float | None
    #: What the true mean exceeds, and stays below: one-sided, anytime-valid.
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says of one guardrail, with its numbers."""

    metric: Metric
    outcome: Outcome
    challenger: Estimate
    #: Of relative guardrails; None for the others.
    control: Estimate | None
    #: What is allowed: of relative guardrails ratio times the control's mean, None while that is not known.
    limit: float | None
    #: The least observations for a pass; None for relative guardrails, where it depends on both arms.
    minimum: int | None
    #: All that for people.
    reason: str


def intolerable(limit: float) -> float:
    """Return the rate that must not pass: twice the limit or, from 1/3 up, halfway from the limit to 1, which is less."""
    return min(2.0 * limit, 0.5 * (1.0 + limit))


def minimum_sample(limit: float, miss: float = 0.05) -> int:
    """Return the number m of observations from which on a mean at or under `limit` may count as a pass.

    `limit` is a rate, or a cost as a share of its clip, in (0, 1). m is the least with exp(-m KL(limit || bad)) <= miss,
    where bad = intolerable(limit). If every observation has a mean of bad or more given the earlier ones, the mean of the
    first n is at or under the limit for some n >= m with probability at most `miss`: the likelihood ratio of limit against
    bad is a supermartingale, and is then at least exp(n KL).
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    for name, value in (("limit", limit), ("miss", miss)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1")
    bad = intolerable(limit)
    information = limit * math.log(limit / bad)
    if bad < 1.0:
        information += (1.0 - limit) * (math.log1p(-limit) - math.log1p(-bad))
    return max(1, math.ceil(-math.log(miss) / information))


def judge(guardrail: Guardrail, measures: Measures, alpha: float, miss: float, strict: bool = False) -> Verdict:
    """Return the verdict on one guardrail at this look, whatever the earlier looks were.

    `alpha` is the guardrail's own share of the error. The guardrail is one that `bandit.ramp.validate` finds nothing
    wrong with. Raises ValueError if the sum of a metric is missing.
    """
    if guardrail.ratio is not None:
        return _judge_relative(guardrail, guardrail.ratio, measures, alpha, miss, strict)
    if guardrail.limit is None:
        raise ValueError(f"the guardrail on {guardrail.metric.value} has neither limit nor ratio: it must have one")
    found = _estimate(guardrail, measures.challenger, alpha)
    limit, minimum = guardrail.limit, minimum_sample(guardrail.limit / guardrail.scale, miss)
    money = guardrail.metric is Metric.COST
    said, bound = _said(guardrail.metric, found), _number(limit, money)
    if found.lower > limit:
        outcome, reason = Outcome.FAIL, f"{said}: surely over {_number(found.lower, money)}, the limit is {bound}"
    elif found.mean is None or found.n < minimum:
        outcome, reason = Outcome.INSUFFICIENT, f"{said}: a pass takes at least {minimum}"
    elif found.mean > limit:
        outcome, reason = Outcome.INSUFFICIENT, f"{said}: over the limit of {bound}, not yet beyond doubt"
    elif strict and found.upper > limit:
        outcome = Outcome.INSUFFICIENT
        reason = f"{said}: may be as much as {_number(found.upper, money)}, over the limit of {bound}"
    else:
        outcome, reason = Outcome.PASS, f"{said}: within the limit of {bound}"
    return Verdict(guardrail.metric, outcome, found, None, limit, minimum, reason)


def _judge_relative(
    guardrail: Guardrail, ratio: float, measures: Measures, alpha: float, miss: float, strict: bool
) -> Verdict:
    metric, money = guardrail.metric, guardrail.metric is Metric.COST
    found, control = (_estimate(guardrail, tally, 0.5 * alpha) for tally in (measures.challenger, measures.control))
    limit = None if control.mean is None else ratio * control.mean
    said = f"{_said(metric, found)}, the control's {_said(metric, control)}"
    allowed = f"{ratio:g} times the control's"
    # As shares of the greatest observation, where `intolerable` knows that there is nothing above 1.
    ceiling = upper_bound(measures.challenger.total(metric), found.n, 0.5 * miss)
    floor = lower_bound(measures.control.total(metric), control.n, 0.5 * miss)
    if found.lower > ratio * control.upper:
        outcome, reason = Outcome.FAIL, f"{said}: surely over {allowed}"
    elif found.mean is None or limit is None:
        outcome, reason = Outcome.INSUFFICIENT, f"{said}: both arms need evidence"
    elif found.mean > limit:
        outcome, reason = Outcome.INSUFFICIENT, f"{said}: over {allowed}, not yet beyond doubt"
    elif ceiling >= intolerable(ratio * floor):
        outcome = Outcome.INSUFFICIENT
        reason = f"{said}: too few to rule out twice what is allowed, which is {allowed}"
    elif strict and found.upper > ratio * control.lower:
        outcome = Outcome.INSUFFICIENT
        reason = f"{said}: may be as much as {_number(found.upper, money)}, over {allowed}"
    else:
        outcome, reason = Outcome.PASS, f"{said}: within {allowed}"
    return Verdict(metric, outcome, found, control, limit, None, reason)


def _estimate(guardrail: Guardrail, tally: Tally, alpha: float) -> Estimate:
    """Return mean and one-sided bounds at `alpha` each, in the metric's units."""
    n, total, scale = tally.n(guardrail.metric), tally.total(guardrail.metric), guardrail.scale
    mean = scale * total / n if n else None
    return Estimate(n, mean, scale * lower_bound(total, n, alpha), scale * upper_bound(total, n, alpha))


def _said(metric: Metric, found: Estimate) -> str:
    of = "call reports" if metric.of_calls else "decisions"
    if found.mean is None:
        return f"{metric.value} unknown (0 {of})"
    return f"{metric.value} {_number(found.mean, metric is Metric.COST)} of {found.n} {of}"


def _number(value: float, money: bool) -> str:
    return f"${value:.4g}" if money else f"{value:.4g}"
