"""The state of a ramp, and what may change it: transitions, made by the machine or by an operator.

Model
    ramping, stage k  -- pass -->                ramping, stage k + 1
    ramping, last     -- pass -->                promoted, or awaiting approval if the ramp wants one not yet given
    ramping, awaiting -- fail -->                rolled back
    ramping, awaiting -- promote -->             promoted
    awaiting          -- approve -->             promoted
    ramping           -- approve -->             noted, for when the last stage passes
    ramping           -- advance -->             the next stage, by hand
    ramping, awaiting -- roll back -->           rolled back
    all but aborted   -- abort -->               aborted

    Every change is a Transition of one version of the state to the next, so that of two writers one is refused. The verbs of
    an operator return one, for `apply`, as `bandit.canary.step` does.

Assumes
    The state and the ramp belong together.

Source
    Compare-and-set by version.

Shapes
    Times are integer microseconds since the epoch. Stages count from 0 in values and from 1 in sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from bandit.guardrails import Verdict
from bandit.ramp import Ramp

#: The actor of transitions that nobody asked for.
AUTOMATIC: Final = "ramp"


class Phase(Enum):
    """Where a ramp stands."""

    RAMPING = "ramping"
    AWAITING_APPROVAL = "awaiting approval"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"


#: The phases in which the challenger is on trial.
OPEN: Final = (Phase.RAMPING, Phase.AWAITING_APPROVAL)


@dataclass(frozen=True, slots=True)
class RampState:
    """What is remembered of a ramp between looks."""

    phase: Phase
    #: Index of the stage; in phases that have ended, of the last one.
    stage: int
    #: When that stage began.
    stage_since_us: int
    #: One more with each transition.
    version: int
    #: Whether a human has approved the promotion.
    approved: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of the state, and why."""

    #: The version of the state that it changes.
    version: int
    from_phase: Phase
    from_stage: int
    to_phase: Phase
    to_stage: int
    #: Whether the promotion is approved after it.
    approved: bool
    #: When; never before the start of the stage.
    at_us: int
    #: Who: AUTOMATIC, or the operator.
    actor: str
    #: Why, for people.
    reason: str
    #: The numbers behind it; none if an operator asked for it.
    verdicts: tuple[Verdict, ...] = ()


def apply(state: RampState, transition: Transition) -> RampState:
    """Return the state after a transition; ValueError if it was made for another version of the state."""
    if transition.version != state.version:
        raise ValueError(f"transition.version is {transition.version}: the state is at version {state.version}")
    moved = transition.to_stage != state.stage
    since = transition.at_us if moved else state.stage_since_us
    return RampState(transition.to_phase, transition.to_stage, since, state.version + 1, transition.approved)


def move(
    state: RampState,
    to_phase: Phase,
    to_stage: int,
    actor: str,
    now_us: int,
    reason: str,
    verdicts: tuple[Verdict, ...] = (),
    *,
    approved: bool = False,
) -> Transition:
    """Return the transition of `state` to a phase and stage; approval, once given, stays."""
    at_us = max(now_us, state.stage_since_us)
    approved = approved or state.approved
    return Transition(state.version, state.phase, state.stage, to_phase, to_stage, approved, at_us, actor, reason, verdicts)


def approve(ramp: Ramp, state: RampState, actor: str, now_us: int, reason: str = "") -> Transition:
    """Approve the promotion: at once if the ramp awaits it, otherwise noted for when its last stage passes.

    Raises ValueError if the ramp wants no approval, has it already, or has ended.
    """
    _require(state, "approve", OPEN)
    if not ramp.approval:
        raise ValueError("approve: this ramp is promoted without approval")
    if state.approved:
        raise ValueError("approve: it is approved already")
    to_phase = Phase.PROMOTED if state.phase is Phase.AWAITING_APPROVAL else state.phase
    return move(state, to_phase, state.stage, actor, now_us, reason or "approved", approved=True)


def advance(ramp: Ramp, state: RampState, actor: str, now_us: int, reason: str = "") -> Transition:
    """Go on to the next stage by hand; ValueError unless the ramp is in a stage before its last."""
    _require(state, "advance", (Phase.RAMPING,))
    if state.stage + 1 >= len(ramp.stages):
        raise ValueError(f"advance: stage {state.stage + 1} is the last one, promote instead")
    return move(state, Phase.RAMPING, state.stage + 1, actor, now_us, reason or "advanced by hand")


def promote(state: RampState, actor: str, now_us: int, reason: str = "") -> Transition:
    """Promote the challenger at once, whatever the stage; this is an approval too. ValueError if the ramp has ended."""
    _require(state, "promote", OPEN)
    return move(state, Phase.PROMOTED, state.stage, actor, now_us, reason or "promoted by hand", approved=True)


def roll_back(state: RampState, actor: str, now_us: int, reason: str = "") -> Transition:
    """Take the challenger out by hand; ValueError if the ramp has ended (then `abort` does)."""
    _require(state, "roll back", OPEN)
    return move(state, Phase.ROLLED_BACK, state.stage, actor, now_us, reason or "rolled back by hand")


def abort(state: RampState, actor: str, now_us: int, reason: str = "") -> Transition:
    """Take the challenger out for good, from every phase, also when promoted; ValueError only if aborted already."""
    _require(state, "abort", tuple(phase for phase in Phase if phase is not Phase.ABORTED))
    return move(state, Phase.ABORTED, state.stage, actor, now_us, reason or "aborted")


def challenger_limits(ramp: Ramp, state: RampState) -> tuple[float, float]:
    """Return (floor, cap) of the challenger's propensity.

    The stage's cap with half of it as floor, so that evidence comes in whatever the allocation thinks of the challenger;
    (0, 1), no limits of the ramp's, once promoted; (0, 0) once rolled back or aborted.
    """
    if state.phase is Phase.PROMOTED:
        return 0.0, 1.0
    if state.phase not in OPEN:
        return 0.0, 0.0
    cap = ramp.stages[state.stage].cap
    return 0.5 * cap, cap


def _require(state: RampState, verb: str, phases: tuple[Phase, ...]) -> None:
    if state.phase not in phases:
        allowed = " or ".join(phase.value for phase in phases)
        raise ValueError(f"{verb}: the ramp is {state.phase.value}, it must be {allowed}")
