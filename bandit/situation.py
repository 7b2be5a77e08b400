"""The situation that a plan is made for: what is asked, what the experiment's own history knows, and both together.

Model
    What the question says goes before what the history says, and that before a default. Nothing is guessed where it
    matters: without a baseline, a traffic or a feedback delay in either there is no plan.

Assumes
    The history is of the same experiment, or of one whose users behave alike.

Source
    Kish (1965), "Survey Sampling", chapter 5, for the cost of sessions that keep their arm: 1 + (m - 1) icc, where m is the
    size of a session as its outcomes see it, sum m_s^2 / sum m_s.

Shapes
    m_s  outcomes of session s
    Rates are in [0, 1], times in microseconds or days; traffic in decisions a day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

_DAY_US: Final = 86_400_000_000
#: The variance of lengths that are as equal as whole turns can be is f (1 - f) for a mean with the fraction f: at most this.
_WHOLE_TURNS: Final = 0.25
_T = TypeVar("_T")


class Risk(Enum):
    """How much users may bear of an arm that nobody has tried."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know, and under which conditions."""

    #: The smallest difference worth finding, in (0, 1), with baseline + effect < 1.
    effect: float
    #: Mean reward of the control, in (0, 1).
    baseline: float | None = None
    #: Decisions a day.
    traffic_per_day: float | None = None
    #: From a decision until its outcome is known.
    feedback_delay_us: int | None = None
    risk: Risk = Risk.MEDIUM
    #: The control included.
    arms: int = 2
    #: Chance to see a difference that is not there, over all challengers, in (0, .5).
    alpha: float = 0.05
    #: Chance to find the effect, in (.5, 1).
    power: float = 0.8
    #: The longest that anybody waits for an answer.
    horizon_days: float = 60.0
    #: The chance that a judge names the better of two answers that differ, in (.5, 1].
    judge_accuracy: float = 0.8


@dataclass(frozen=True, slots=True)
class History:
    """What an experiment has measured; None is not known."""

    #: Mean reward of the control.
    baseline: float | None = None
    #: Variance of one reward: baseline (1 - baseline) if rewards are 0 or 1, less for fractions.
    variance: float | None = None
    #: Share of that variance that lies between sessions (or units), in [0, 1).
    icc: float | None = None
    #: Decisions of a session, on average.
    turns_per_session: float | None = None
    #: Reward lag: the time by which most outcomes are known, a high quantile rather than the median.
    feedback_delay_us: int | None = None
    #: Decisions a day.
    traffic_per_day: float | None = None
    #: Share of the decisions that get an outcome, in (0, 1].
    coverage: float | None = None
    #: Outcomes of the session that an outcome is of, on average over the outcomes: sum m_s^2 / sum m_s. A session counts as
    #: often as it has outcomes: more than the plain mean where sessions are not equally long.
    weighted_outcomes_per_session: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """A question with every gap filled in; the fields are those of `Question` and `History`."""

    effect: float
    baseline: float
    traffic_per_day: float
    delay_days: float
    risk: Risk
    arms: int
    alpha: float
    power: float
    horizon_days: float
    judge_accuracy: float
    variance: float
    icc: float
    turns_per_session: float
    #: None: not measured, and sessions are taken to be equally long.
    weighted_outcomes_per_session: float | None
    coverage: float

    @property
    def clustering(self) -> float:
        """How many times as many outcomes it takes if sessions keep their arm."""
        if self.weighted_outcomes_per_session is not None:
            return 1.0 + (self.weighted_outcomes_per_session - 1.0) * self.icc
        return 1.0 + self._others * self.icc

    @property
    def geometric_clustering(self) -> float:
        """The same if the lengths of sessions varied as geometric ones do: after each turn as many go on."""
        # With p = 1 / mean, E[T^2] / E[T] = 2 / p - 1: twice as many other turns as in sessions of equal length.
        return 1.0 + 2.0 * self._others * self.icc

    @property
    def lengths_vary(self) -> bool:
        """Whether sessions are known to differ in length by more than whole turns must.

        Outcomes are taken to be missing independently: an outcome then sees coverage times the other turns of its session.
        """
        if self.weighted_outcomes_per_session is None:
            return False
        weighted = 1.0 + (self.weighted_outcomes_per_session - 1.0) / self.coverage
        return self.turns_per_session * (weighted - self.turns_per_session) > _WHOLE_TURNS

    @property
    def lengths_assumed(self) -> bool:
        """Whether sessions are taken to be equally long for want of a measurement."""
        return self.weighted_outcomes_per_session is None and self.turns_per_session > 1.0

    @property
    def _others(self) -> float:
        """The outcomes that an outcome meets in its session if all are equally long and some missing, independently."""
        return (self.turns_per_session - 1.0) * self.coverage


def resolve(question: Question, history: History | None = None) -> Situation:
    """Return the question with what it leaves open taken from the history, or from the defaults.

    Defaults are independent rewards of 0 or 1, one decision a session, and an outcome for each. A baseline that takes the
    place of the history's keeps the variance as a share of b (1 - b), the most that a mean of b leaves room for.
    Raises ValueError naming the field, its value and the rule it breaks.
    """
    known = history or History()
    baseline = _given("baseline", question.baseline, known.baseline)
    _between("baseline", baseline, 0.0, 1.0)
    _between("effect", question.effect, 0.0, 1.0)
    if not baseline + question.effect < 1.0:
        raise ValueError(
            f"effect is {question.effect}: baseline + effect must be less than 1, and the baseline is {baseline}"
        )
    traffic = _given("traffic_per_day", question.traffic_per_day, known.traffic_per_day)
    _between("traffic_per_day", traffic, 0.0, math.inf)
    delay_us = _given("feedback_delay_us", question.feedback_delay_us, known.feedback_delay_us)
    if not 0 <= delay_us < math.inf:
        raise ValueError(f"feedback_delay_us is {delay_us}: it must be at least 0, and finite")
    if not (isinstance(question.arms, int) and 2 <= question.arms <= 100):
        raise ValueError(f"arms is {question.arms}: it must be a whole number from 2 to 100, the control included")
    _between("alpha", question.alpha, 0.0, 0.5)
    _between("power", question.power, 0.5, 1.0)
    _between("horizon_days", question.horizon_days, 0.0, math.inf)
    if not 0.5 < question.judge_accuracy <= 1.0:
        raise ValueError(f"judge_accuracy is {question.judge_accuracy}: it must be greater than 0.5 and at most 1")
    icc, turns, weighted, coverage = _measured(known)
    return Situation(
        question.effect,
        baseline,
        traffic,
        delay_us / _DAY_US,
        question.risk,
        question.arms,
        question.alpha,
        question.power,
        question.horizon_days,
        question.judge_accuracy,
        _variance(baseline, known),
        icc,
        turns,
        weighted,
        coverage,
    )


def _variance(baseline: float, known: History) -> float:
    most = baseline * (1.0 - baseline)
    if known.variance is None:
        return most
    # A sample's variance may exceed the binomial one by its own n / (n - 1).
    if not 0.0 < known.variance <= 0.25 * (1.0 + 1e-2):
        raise ValueError(
            f"variance is {known.variance}: it must be greater than 0 and at most 0.25, as for rewards in [0, 1]"
        )
    if known.baseline is None or known.baseline == baseline:
        return known.variance
    if not 0.0 < known.baseline < 1.0:
        raise ValueError(f"variance is {known.variance}: a history whose baseline is {known.baseline} leaves room for none")
    return known.variance / (known.baseline * (1.0 - known.baseline)) * most


def _measured(known: History) -> tuple[float, float, float | None, float]:
    """Return icc, turns a session, outcomes a session as its outcomes see it, and coverage."""
    icc = 0.0 if known.icc is None else known.icc
    if not 0.0 <= icc < 1.0:
        raise ValueError(f"icc is {icc}: it must be at least 0 and below 1")
    turns = 1.0 if known.turns_per_session is None else known.turns_per_session
    weighted = known.weighted_outcomes_per_session
    for name, value in (("turns_per_session", turns), ("weighted_outcomes_per_session", weighted)):
        if value is not None and not 1.0 <= value < math.inf:
            raise ValueError(f"{name} is {value}: it must be at least 1, and finite")
    coverage = 1.0 if known.coverage is None else known.coverage
    if not 0.0 < coverage <= 1.0:
        raise ValueError(f"coverage is {coverage}: it must be greater than 0 and at most 1")
    return icc, turns, weighted, coverage


def _given(name: str, asked: _T | None, known: _T | None) -> _T:
    value = known if asked is None else asked
    if value is None:
        raise ValueError(f"{name} is missing: give it, or a history that has it")
    return value


def _between(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails it too.
    if not low < value < high:
        rule = f"greater than {low:g} and less than {high:g}" if high < math.inf else f"greater than {low:g}, and finite"
        raise ValueError(f"{name} is {value}: it must be {rule}")
