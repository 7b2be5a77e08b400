"""Planning: which strategy answers a question, how long it takes, what it costs, and why.

Model
    The question is always the same: which of K arms is best, if one is better than all others by `effect`?
    `bandit.forecasts` says what each strategy takes to answer it. From these a few rules recommend, in `_learner` and
    `_recommended`; each rule that fires leaves its reason.

Assumes
    What `bandit.forecasts` does.

Source
    The rules are this project's own: docs/planning.md states them.

Shapes
    Those of `bandit.forecasts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bandit.forecasts import Forecast, Strategy, StrategyPlan, equal_lengths, forecast_all, lateness, waiting
from bandit.situation import History, Question, Risk, Situation, resolve

__all__ = ["Forecast", "History", "Plan", "Question", "Risk", "Strategy", "StrategyPlan", "plan"]

#: A bandit is worth it if it loses no more than this share of what the A/B test loses.
_WORTH: Final = 0.5
#: Interleaving is worth its design if it takes no more than this share of the A/B test's time.
_SOONER: Final = 0.5
_DOING: Final = {
    Strategy.OFFLINE: "an offline evaluation",
    Strategy.SHADOW: "shadow traffic",
    Strategy.CANARY: "a canary",
    Strategy.AB: "an A/B test",
    Strategy.INTERLEAVING: "interleaving",
    Strategy.BANDIT: "a bandit",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what each alternative would take."""

    #: The question with every gap filled in.
    situation: Situation
    #: What to begin with.
    recommended: Strategy
    #: What answers the question after that; None if `recommended` does.
    then: Strategy | None
    reasons: tuple[str, ...]
    #: One for each strategy, in the order of their risk to users.
    strategies: tuple[StrategyPlan, ...]

    @property
    def advice(self) -> str:
        """What to do, as a sentence."""
        first = _DOING[self.recommended]
        return f"Begin with {first}, then run {_DOING[self.then]}" if self.then is not None else f"Run {first}"

    def of(self, strategy: Strategy) -> StrategyPlan:
        """Return the plan of one strategy."""
        return next(one for one in self.strategies if one.strategy is strategy)


def plan(question: Question, history: History | None = None) -> Plan:
    """Return the recommended strategy and the forecast of every one.

    What the question leaves open is taken from the history of the experiment, if there is one.
    Raises ValueError naming the field, its value and the rule it breaks, also where a field is in neither.
    """
    situation = resolve(question, history)
    strategies = forecast_all(situation)
    forecasts = {one.strategy: one.forecast for one in strategies if one.forecast is not None}
    learner, why = _learner(situation, forecasts)
    recommended, then, first = _recommended(situation, forecasts, learner)
    return Plan(situation, recommended, then, (*first, *why, *equal_lengths(situation)), strategies)


def _learner(s: Situation, forecasts: dict[Strategy, Forecast]) -> tuple[Strategy | None, tuple[str, ...]]:
    """Return what finds the best arm on live traffic within the horizon, and why; None if nothing does."""
    ab, bandit = forecasts[Strategy.AB], forecasts[Strategy.BANDIT]
    drafts = forecasts.get(Strategy.INTERLEAVING)
    if drafts is not None and drafts.days <= min(s.horizon_days, _SOONER * ab.days):
        return Strategy.INTERLEAVING, (f"interleaving answers in {drafts.days:.3g} days, an A/B test in {ab.days:.3g}",)
    saved = f"a bandit loses {bandit.expected_regret:.3g} successes on the way, an A/B test {ab.expected_regret:.3g}"
    late = tuple(f"no bandit: {reason}" for reason in lateness(s, bandit))
    # Who minds little about users minds about the answer: at high tolerance any saving of regret decides.
    worth = 1.0 if s.risk is Risk.HIGH else _WORTH
    if not late and bandit.days <= s.horizon_days and bandit.expected_regret <= worth * ab.expected_regret:
        return Strategy.BANDIT, (saved, *waiting(bandit))
    if ab.days <= s.horizon_days:
        return Strategy.AB, (*late, f"an A/B test answers in {ab.days:.3g} days, with an estimate of the difference")
    if not late and bandit.days <= s.horizon_days:
        return Strategy.BANDIT, (f"an A/B test would take {ab.days:.3g} days, a bandit {bandit.days:.3g}",)
    shortest = min(one.days for one in (ab, bandit, drafts) if one is not None)
    return None, (*late, f"no live comparison answers within {s.horizon_days:g} days: the shortest takes {shortest:.3g}")


def _recommended(
    s: Situation, forecasts: dict[Strategy, Forecast], learner: Strategy | None
) -> tuple[Strategy, Strategy | None, tuple[str, ...]]:
    """Return what to begin with, what comes after it, and why."""
    shadow, canary = forecasts[Strategy.SHADOW], forecasts[Strategy.CANARY]
    if learner is None:
        if shadow.days <= s.horizon_days:
            return Strategy.SHADOW, None, (f"shadow traffic compares judged pairs in {shadow.days:.3g} days",)
        return Strategy.OFFLINE, None, ("traffic is too thin to learn from: compare on recorded prompts",)
    if s.risk is not Risk.LOW:
        return learner, None, ()
    if canary.days <= s.horizon_days:
        return Strategy.CANARY, learner, ("at low risk tolerance a challenger is first let in by steps, under guardrails",)
    reason = f"at low risk tolerance a challenger is not served unseen, and a canary would take {canary.days:.3g} days"
    return (Strategy.SHADOW if shadow.days <= s.horizon_days else Strategy.OFFLINE), learner, (reason,)
