"""Limits: the rules of a definition as the state of the experiment, or of its ramp, lets them be."""

from collections.abc import Sequence
from dataclasses import replace

from bandit.allocation import AllocationKind, AllocationRule, limited
from bandit.ramp_state import OPEN, Phase, RampState, challenger_limits
from router.experiment import Arm, Rules


def rules_in_force(rules: Rules, active_arms: Sequence[Arm], state: RampState | None, experiment_state: str) -> Rules:
    """Return the rules as the state of the experiment, or of its ramp, limits them.

    In state shadow the control answers alone, without anything of the unit: all else is put off until the experiment runs.
    """
    if experiment_state == "shadow":
        return _control_alone(rules)
    return limited_rules(rules, active_arms, state)


def _control_alone(rules: Rules) -> Rules:
    control = rules.allocation.control
    alone = tuple(float(i == control) for i in range(len(rules.allocation.caps)))
    only = AllocationRule(AllocationKind.FIXED, 0.0, alone, control, alone)
    return replace(rules, allocation=only, assignment="per_request", holdout=0.0, cost=None)


def limited_rules(rules: Rules, active_arms: Sequence[Arm], state: RampState | None) -> Rules:
    """Return the rules as a ramp in this state limits them; one that has not begun limits as its first stage does.

    While the ramp is open units are hashed, also where their arms are stored: what a unit drew while the challenger had
    1 % would else be kept for ever. Hash and first draw agree, so what is stored after the ramp is what units had in it.
    """
    challenger = next((i for i, arm in enumerate(active_arms) if arm.arm_id == rules.ramp_challenger), None)
    if rules.ramp is None or challenger is None:
        return rules
    if state is None or state.stage >= len(rules.ramp.stages):
        state = RampState(Phase.RAMPING, 0, 0, version=0)
    if state.phase is Phase.PROMOTED:
        return rules
    by_hash = state.phase in OPEN and rules.assignment == "sticky_stored"
    return replace(
        rules,
        allocation=limited(rules.allocation, challenger, *challenger_limits(rules.ramp, state)),
        assignment="sticky_hash" if by_hash else rules.assignment,
    )
