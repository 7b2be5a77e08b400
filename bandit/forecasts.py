"""Forecasts: for each strategy what it takes to find the best arm: evidence, days, successes lost, and its errors.

Model
    The question is which of K arms is best, if one is better than all others by `effect`. For each strategy the formulas of
    `bandit.planning_formulas` say how much evidence that takes; traffic turns evidence into days.

    Regret counts the successes lost until the answer, against always serving the best arm, which is any of the arms with
    equal chances. Where every decision is shared out beforehand that is effect (K - 1) / K a decision, whoever gets it:
    shadow traffic leaves users with the control, which is as likely to be the worse arm as any. Harm is what is lost if the
    control is the best arm and every other one is worse by `effect`.

    A bandit is ended by `bandit.stopping.decide` with its default rule, and has the default floor until then.

Assumes
    Steady traffic; outcomes independent but for the sessions of a `History`; feedback after one fixed delay. Days are
    fractional and count no weekends: whole weeks are a good habit beyond what the formulas ask.

Source
    `bandit.planning_formulas`; `bandit.guardrails.minimum_sample` over `bandit.ramp.default_stages` for the canary;
    `bandit.crossover` for interleaving, where Chapelle, Joachims, Radlinski & Yue (2012), "Large-scale validation and
    analysis of interleaved search evaluation", found 10 to 100 times fewer queries; Kohavi, Tang & Xu (2020), "Trustworthy
    Online Controlled Experiments", chapters 15 and 17, for ramps and power.

Shapes
    Rates and effects are in [0, 1], times in microseconds or days, regret and harm in successes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from bandit.allocation import DEFAULT_FLOOR, LARGEST_FLOOR_SUM
from bandit.guardrails import minimum_sample
from bandit.planning_formulas import STOP_AT, Ending, Flow, ab_size, pair_size, pairs_a_turn, thompson_flow
from bandit.ramp import HOUR_US, Ramp, default_stages
from bandit.situation import Situation
from bandit.stopping import StoppingRule

_DAY_US: Final = 24 * HOUR_US
#: A bandit learns in time if feedback takes no more than this share of the time that it takes to learn.
_PROMPT: Final = 0.1
#: The value remaining at which a bandit may end, as a share of the effect: with more it often names the wrong arm.
_TOLERABLE: Final = 0.25
#: A bandit that goes on for this many times as long as it takes to be sure is said to.
_RUNS_ON: Final = 1.25


class Strategy(Enum):
    """The ways to compare arms, in the order of their risk to users."""

    OFFLINE = "offline"
    SHADOW = "shadow"
    CANARY = "canary"
    AB = "ab"
    INTERLEAVING = "interleaving"
    BANDIT = "bandit"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a strategy is expected to take until its answer."""

    #: Evidence it needs: outcomes; judged pairs for offline and shadow; the challengers' decisions for canary.
    sample_size: int
    #: The part of it that each arm (each challenger, for pairs and canary) needs; for a bandit the average.
    per_arm: int
    #: Live decisions made until the answer, by all arms.
    decisions: int
    #: Until the answer, feedback of the last decision included.
    days: float
    #: Until decisions enough have been made; the rest of `days` is waiting, for feedback or for a bandit's stopping rule.
    learning_days: float
    #: Successes lost until the answer if any arm may be the best one.
    expected_regret: float
    #: Successes lost until the answer if the control is the best one.
    harm: float
    #: The chance to see a difference that is not there; None where the strategy does not bound it.
    false_positive: float | None
    #: The chance to miss the effect, or to name the wrong arm.
    miss: float


@dataclass(frozen=True, slots=True)
class StrategyPlan:
    """One strategy for the question at hand."""

    strategy: Strategy
    #: What its answer says.
    answers: str
    #: None if the strategy is not possible here; the reasons say why.
    forecast: Forecast | None
    #: What speaks for it and against it, with the numbers.
    reasons: tuple[str, ...]


def forecast_all(s: Situation) -> tuple[StrategyPlan, ...]:
    """Return every strategy for a situation, in the order of their risk to users."""
    ab = _ab(s)
    return _offline(s), _shadow(s), _canary(s), ab, _interleaving(s), _bandit(s, ab)


def _offline(s: Situation) -> StrategyPlan:
    each = math.ceil(_pairs(s))
    forecast = Forecast(each * (s.arms - 1), each, 0, 0.0, 0.0, 0.0, 0.0, s.alpha, 1.0 - s.power)
    return StrategyPlan(
        Strategy.OFFLINE,
        "which arm a judge prefers, on recorded prompts",
        forecast,
        (
            "no user is affected and no traffic is needed",
            f"{each} recorded prompts, answered by both arms and judged; a judge screens, and does not stand for users",
        ),
    )


def _shadow(s: Situation) -> StrategyPlan:
    each = math.ceil(_pairs(s))
    days = each / s.traffic_per_day
    forecast = Forecast(each * (s.arms - 1), each, each, days, days, each * _regret_rate(s), 0.0, s.alpha, 1.0 - s.power)
    return StrategyPlan(
        Strategy.SHADOW,
        "which arm a judge prefers, on the traffic of today",
        forecast,
        (
            "every user gets the control's answer",
            f"each request is answered {s.arms} times, and paid for; a judge does not stand for users",
        ),
    )


def _canary(s: Situation) -> StrategyPlan:
    """One ramp a challenger, one after the other: each stage takes its duration, and its sample once it has matured."""
    ramp = Ramp(default_stages())
    sample, days, exposed = 0, 0.0, 0.0
    for stage in ramp.stages:
        needed = max(minimum_sample(guard.limit, ramp.miss) for guard in stage.guardrails if guard.limit is not None)
        lasts = max(stage.duration_us / _DAY_US, needed / (stage.cap * s.traffic_per_day)) + s.delay_days
        sample += needed
        days += lasts
        exposed += lasts * s.traffic_per_day * stage.cap
    challengers = s.arms - 1
    decisions = math.ceil(days * challengers * s.traffic_per_day)
    forecast = Forecast(
        sample * challengers,
        sample,
        decisions,
        days * challengers,
        days * challengers,
        decisions * _regret_rate(s),
        exposed * challengers * s.effect,
        ramp.alpha,
        ramp.miss,
    )
    first = ramp.stages[0]
    return StrategyPlan(
        Strategy.CANARY,
        "whether a challenger keeps the guardrails, not whether it is better",
        forecast,
        (
            f"begins with {first.cap:.0%} of the decisions, and rolls back by itself",
            f"its errors are those of the guardrails: {ramp.alpha:.0%} to roll back a challenger within its limits, "
            f"{ramp.miss:.0%} to pass one at twice a limit",
        ),
    )


def _ab(s: Situation) -> StrategyPlan:
    each = math.ceil(_ab_each(s))
    reasons = ["an unbiased estimate of the difference, with an interval", f"every arm keeps 1/{s.arms} of the traffic"]
    if s.clustering > 1.0:
        reasons.append(f"sessions keep their arm, which takes {s.clustering:.3g} times as many outcomes")
        reasons += equal_lengths(s)
    return StrategyPlan(
        Strategy.AB,
        "how much better an arm is",
        _shared_out(s, each, s.arms * each, s.arms * each / s.coverage),
        tuple(reasons),
    )


def _interleaving(s: Situation) -> StrategyPlan:
    answers = "which arm is better within a session"
    if s.turns_per_session < s.arms:
        reason = f"sessions have {s.turns_per_session:g} turns: to try all arms within one takes {s.arms} or more"
        return StrategyPlan(Strategy.INTERLEAVING, answers, None, (reason,))
    # What a session's outcomes have in common cancels within a pair of them.
    pairs = math.ceil(_ab_size(s) * (1.0 - s.icc))
    dealt = pairs_a_turn(s.turns_per_session, s.arms, s.lengths_vary)
    decisions = pairs / (dealt * s.coverage**2)
    gain = s.arms * _ab_each(s) / s.coverage / decisions
    known = (
        f"{s.icc:.2g} of the variance lies between sessions" if s.icc else "how much varies between sessions is not known"
    )
    reasons = [
        f"{gain:.3g} times as sensitive as an A/B test by session, since {known}",
        "the mean of one turn must not depend on the arm of the turn before",
        _both_known(s),
    ]
    if s.lengths_vary:
        reasons.append("sessions differ in length: as many turns as they may have left over are taken to have no pair")
    forecast = _shared_out(s, pairs, s.arms * pairs, decisions)
    return StrategyPlan(Strategy.INTERLEAVING, answers, forecast, (*reasons, *equal_lengths(s)))


def _both_known(s: Situation) -> str:
    if s.coverage == 1.0:
        return "every turn is taken to have an outcome, the last one of a session too"
    return (
        f"two outcomes of a block are compared: {s.coverage**2:.2g} of such pairs have both, if outcomes are missing "
        f"independently and the last turn of a session has one as often as the others"
    )


def _bandit(s: Situation, ab: StrategyPlan) -> StrategyPlan:
    flow = _flow(s)
    # Decisions without feedback are shared out like the others, and lose as much.
    decisions = math.ceil(flow.outcomes / s.coverage)
    regret = flow.regret / s.coverage
    days = decisions / s.traffic_per_day
    forecast = Forecast(
        math.ceil(flow.outcomes),
        math.ceil(flow.outcomes / s.arms),
        decisions,
        days,
        flow.sure / s.coverage / s.traffic_per_day,
        regret,
        regret,
        None,
        1.0 - STOP_AT,
    )
    rule = stopping_rule(s)
    reasons = [
        f"stops at P(best) >= {rule.probability_best:g} or a value remaining below {rule.value_remaining:.2%}: a rule for "
        f"decisions, no test of significance; equal arms reach it too",
        f"the stopping rule waits for {rule.least_us / _DAY_US:g} days and {rule.least_outcomes:g} outcomes of every arm; "
        f"meanwhile each keeps {_floor(s):.2g} of the decisions at least",
    ]
    if rule.value_remaining < StoppingRule().value_remaining:
        reasons.append(
            f"give the rule value_remaining {rule.value_remaining:.2g}: the default, {StoppingRule().value_remaining:g}, is "
            f"more than {_TOLERABLE:.0%} of the effect, and would name the wrong arm more often"
        )
    if ab.forecast is not None:
        share = regret / ab.forecast.expected_regret
        reasons.append(f"loses {share:.0%} of what the A/B test loses on the way")
    reasons += [*waiting(forecast), *lateness(s, forecast)]
    return StrategyPlan(Strategy.BANDIT, "which arm to serve, while it is served", forecast, tuple(reasons))


def stopping_rule(s: Situation) -> StoppingRule:
    """Return the rule that ends a bandit: the default, with a value remaining that leaves the effect to be found."""
    default = StoppingRule()
    most = _TOLERABLE * s.effect / (s.baseline + s.effect)
    return default if default.value_remaining <= most else replace(default, value_remaining=most)


def waiting(bandit: Forecast) -> list[str]:
    """Return for how long a bandit runs on after it is sure; nothing if it hardly does."""
    if bandit.days < _RUNS_ON * bandit.learning_days:
        return []
    return [f"it is sure after {bandit.learning_days:.2g} days; the stopping rule ends it after {bandit.days:.3g}"]


def lateness(s: Situation, bandit: Forecast) -> list[str]:
    """Return why feedback is too slow for a bandit; nothing if it is not."""
    if s.delay_days <= _PROMPT * bandit.learning_days:
        return []
    return [
        f"feedback takes {s.delay_days:.2g} days of the {bandit.learning_days:.2g} that it takes to learn: until then "
        f"it shares out decisions without having learned from them, and arms that are slower to succeed look worse than "
        f"they are"
    ]


def _flow(s: Situation) -> Flow:
    rule = stopping_rule(s)
    outcomes_a_day = s.traffic_per_day * s.coverage
    ending = Ending(
        rule.value_remaining * (s.baseline + s.effect),
        rule.least_us / _DAY_US * outcomes_a_day,
        rule.least_outcomes,
        rule.check_every_us / _DAY_US * outcomes_a_day,
    )
    return thompson_flow(s.arms, s.effect, s.variance, s.delay_days * outcomes_a_day, _floor(s), ending)


def _floor(s: Situation) -> float:
    """Return the floor that an experiment has by default; with very many arms half of the most that it may have."""
    return DEFAULT_FLOOR if s.arms * DEFAULT_FLOOR < LARGEST_FLOOR_SUM else 0.5 * LARGEST_FLOOR_SUM / s.arms


def equal_lengths(s: Situation) -> list[str]:
    """Return what is taken for granted of the lengths of sessions; nothing if they were measured, or are 1."""
    if not s.lengths_assumed:
        return []
    said = f"sessions are taken to be equally long, {s.turns_per_session:g} turns each"
    if s.icc > 0.0:
        more = s.geometric_clustering / s.clustering
        said += f": with lengths that vary as geometric ones an A/B test takes {more:.3g} times as many outcomes"
    return [said]


def _shared_out(s: Situation, each: int, total: int, needed: float) -> Forecast:
    """Return the forecast of a test that gives every arm the same share of the decisions, of which it needs so many."""
    # The shares stay as they are while the last feedback is on its way.
    learning = needed / s.traffic_per_day
    days = learning + s.delay_days
    decisions = math.ceil(days * s.traffic_per_day)
    lost = decisions * _regret_rate(s)
    return Forecast(total, each, decisions, days, learning, lost, lost, s.alpha, 1.0 - s.power)


def _regret_rate(s: Situation) -> float:
    """Return the successes lost a decision while every arm is as likely to be the best one as to be served."""
    return s.effect * (s.arms - 1) / s.arms


def _pairs(s: Situation) -> float:
    # One prompt's answers resemble each other at least as much as those of one session.
    return pair_size(s.baseline, s.effect, s.alpha / (s.arms - 1), s.power, s.icc, s.judge_accuracy)


def _ab_size(s: Situation) -> float:
    """Return the outcomes an arm needs if all are independent; each challenger gets its share of alpha."""
    binary = ab_size(s.baseline, s.effect, s.alpha / (s.arms - 1), s.power)
    return binary * s.variance / (s.baseline * (1.0 - s.baseline))


def _ab_each(s: Situation) -> float:
    return _ab_size(s) * s.clustering
