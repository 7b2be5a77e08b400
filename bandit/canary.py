"""The canary: a state machine that lets a challenger in, stage by stage, and takes it out when a guardrail fails.

Model
    A stage passes if its time has passed, the feedback covers enough of its decisions, they are as many as it asks for, and
    every guardrail passes: the ramp goes on to the next stage, and after the last one promotes the challenger, or awaits
    approval. A stage fails as soon as one guardrail fails, whatever else is missing: the challenger is rolled back, also
    while approval is awaited. Otherwise it is insufficient, which neither promotes nor rolls back: silence holds, and past
    duration + warn_after_us with a warning.

Assumes
    The measures are those of the state's stage alone, since `stage_since_us`. Looks may come at any times. If the clock
    stands before the start of the stage, nothing passes; what fails still fails.

Source
    `bandit.guardrails` for the verdicts and their errors; Bonferroni over the guardrails of all stages.

Shapes
    Times are integer microseconds since the epoch. `bandit.ramp_state` draws the states and their transitions.
"""

from __future__ import annotations

from dataclasses import dataclass

from bandit.guardrails import Measures, Outcome, Verdict, judge
from bandit.ramp import Ramp, Stage, validate
from bandit.ramp_state import AUTOMATIC, OPEN, Phase, RampState, Transition, apply, move


@dataclass(frozen=True, slots=True)
class Assessment:
    """What one look at the evidence says."""

    #: Of the stage; None in phases that have ended, where nothing is judged.
    outcome: Outcome | None
    #: One for each guardrail of the stage, in its order.
    verdicts: tuple[Verdict, ...]
    #: What a pass lacks, a sentence each.
    missing: tuple[str, ...]
    #: Time in the stage, at least 0.
    elapsed_us: int
    #: Share of the challenger's matured decisions with any event; None if there are no decisions.
    coverage: float | None
    #: The change that follows; the caller stores it, or finds that another did.
    transition: Transition | None
    #: When the clock alone may change the assessment next; None if only evidence or an operator can.
    next_check_us: int | None
    #: What an operator should know; empty if nothing.
    warning: str


def start(ramp: Ramp, now_us: int) -> RampState:
    """Return the state of a ramp that begins now; ValueError if `validate` finds a problem."""
    _checked(ramp)
    return RampState(Phase.RAMPING, 0, now_us, version=1)


def step(ramp: Ramp, state: RampState, measures: Measures, now_us: int) -> Assessment:
    """Look at the evidence of the state's stage; the transition, if any, is for `apply`.

    Raises ValueError if the ramp is not valid, the state is not one of this ramp, or a sum is missing from the measures.
    """
    _checked(ramp)
    if not 0 <= state.stage < len(ramp.stages):
        raise ValueError(f"state.stage is {state.stage}: it must be one of the ramp's {len(ramp.stages)} stages, from 0")
    elapsed = max(0, now_us - state.stage_since_us)
    decisions = measures.challenger.decisions
    coverage = measures.challenger.with_feedback / decisions if decisions else None
    if state.phase not in OPEN:
        return Assessment(None, (), (), elapsed, coverage, None, None, "")
    stage = ramp.stages[state.stage]
    verdicts = tuple(judge(rail, measures, ramp.alpha_each, ramp.miss, ramp.strict) for rail in stage.guardrails)
    missing = _missing(ramp, state, measures, coverage, now_us)
    missing += tuple(verdict.reason for verdict in verdicts if verdict.outcome is not Outcome.PASS)
    outcome = Outcome.INSUFFICIENT if missing else Outcome.PASS
    if any(verdict.outcome is Outcome.FAIL for verdict in verdicts):
        outcome = Outcome.FAIL
    transition = _follows(ramp, state, outcome, verdicts, now_us)
    after = state if transition is None else apply(state, transition)
    warning = "" if transition else _warning(ramp, state, missing, now_us)
    return Assessment(outcome, verdicts, missing, elapsed, coverage, transition, _next_check(ramp, after, now_us), warning)


def _follows(
    ramp: Ramp, state: RampState, outcome: Outcome, verdicts: tuple[Verdict, ...], now_us: int
) -> Transition | None:
    """Return the transition that the outcome of a stage asks for."""
    here = _name(ramp, state)
    if outcome is Outcome.FAIL:
        failed = "; ".join(verdict.reason for verdict in verdicts if verdict.outcome is Outcome.FAIL)
        return move(state, Phase.ROLLED_BACK, state.stage, AUTOMATIC, now_us, f"{here} failed: {failed}", verdicts)
    if outcome is Outcome.INSUFFICIENT or state.phase is Phase.AWAITING_APPROVAL:
        return None
    reason = f"{here} passed: " + "; ".join(verdict.reason for verdict in verdicts)
    if state.stage + 1 < len(ramp.stages):
        return move(state, Phase.RAMPING, state.stage + 1, AUTOMATIC, now_us, reason, verdicts)
    waits = ramp.approval and not state.approved
    to_phase = Phase.AWAITING_APPROVAL if waits else Phase.PROMOTED
    return move(state, to_phase, state.stage, AUTOMATIC, now_us, reason, verdicts)


def _missing(ramp: Ramp, state: RampState, measures: Measures, coverage: float | None, now_us: int) -> tuple[str, ...]:
    """Return what a pass lacks beside its guardrails."""
    stage, decisions = ramp.stages[state.stage], measures.challenger.decisions
    missing = []
    if now_us < state.stage_since_us:
        missing.append("the clock stands before the start of the stage")
    elif now_us < _end(state, stage):
        missing.append(f"{_span(now_us - state.stage_since_us)} of at least {_span(stage.duration_us)} have passed")
    if stage.min_decisions is not None and decisions < stage.min_decisions:
        missing.append(f"{decisions} of at least {stage.min_decisions} decisions have matured")
    if coverage is None:
        missing.append("no decision has matured")
    elif coverage < ramp.min_coverage:
        missing.append(f"{coverage:.2%} of {decisions} decisions have feedback, at least {ramp.min_coverage:.2%} must")
    return tuple(missing)


def _warning(ramp: Ramp, state: RampState, missing: tuple[str, ...], now_us: int) -> str:
    overdue = now_us - _end(state, ramp.stages[state.stage])
    if state.phase is not Phase.RAMPING or overdue < ramp.warn_after_us:
        return ""
    return f"{_name(ramp, state)} has no verdict {_span(overdue)} after its time: " + "; ".join(missing)


def _next_check(ramp: Ramp, state: RampState, now_us: int) -> int | None:
    if state.phase is not Phase.RAMPING:
        return None
    end = _end(state, ramp.stages[state.stage])
    return min((time for time in (end, end + ramp.warn_after_us) if time > now_us), default=None)


def _checked(ramp: Ramp) -> None:
    problems = validate(ramp)
    if problems:
        where = ".".join(str(step) for step in problems[0].steps)
        raise ValueError(f"ramp.{where}: {problems[0].message}")


def _end(state: RampState, stage: Stage) -> int:
    return state.stage_since_us + stage.duration_us


def _name(ramp: Ramp, state: RampState) -> str:
    return f"stage {state.stage + 1} of {len(ramp.stages)} (up to {ramp.stages[state.stage].cap:.4g} of the traffic)"


def _span(us: int) -> str:
    return f"{us / 3.6e9:.1f} h" if us >= 3_600_000_000 else f"{us / 6e7:.1f} min"
