"""What a definition must say for shadow arms and for the shadow state: rules across its fields, in the names of the proto.

Assumes
    As `router.experiment_rules`: every arm of a definition is active.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from router.field_problems import FieldProblem
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import Experiment

DEFAULT_RATE: Final = 0.1
DEFAULT_TEXT_LIMIT: Final = 500


def competing(experiment: Experiment) -> list[types.Arm]:
    """Return the arms that may answer: all but those of role shadow."""
    return [arm for arm in experiment.arms if arm.role != types.ROLE_SHADOW]


def challengers(experiment: Experiment) -> list[str]:
    """Return the ids of the arms that compete with the control."""
    return [arm.arm_id for arm in competing(experiment) if arm.role != types.ROLE_CONTROL]


def shadow_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    """Return each rule on shadow arms and on the shadow rule that the definition breaks."""
    rule = experiment.shadow
    shadows = [(i, arm) for i, arm in enumerate(experiment.arms) if arm.role == types.ROLE_SHADOW]
    if shadows and len(shadows) == len(experiment.arms):
        yield FieldProblem(("arms",), "every arm is a shadow arm, and none is left to answer", "give one arm role: control")
    for i, arm in shadows:
        if arm.HasField("cap"):
            yield FieldProblem(("arms", i, "cap"), "a shadow arm gets no traffic that could have a cap", "leave it out")
        if arm.arm_id in experiment.allocation.weights:
            message = "a shadow arm never answers, and so has no weight"
            yield FieldProblem(("allocation", "weights", arm.arm_id), message, "leave it out")
    if shadows and not experiment.HasField("shadow"):
        message = f"{shadows[0][1].arm_id!r} is a shadow arm: shadow must say what is mirrored to it and how much is kept"
        yield FieldProblem(("arms", shadows[0][0], "role"), message, "say shadow: {text: off}, or truncated, or full")
    if rule.HasField("text_limit") and rule.text != types.TEXT_MODE_TRUNCATED:
        yield FieldProblem(("shadow", "text_limit"), "only truncated text has a limit", "use text: truncated")
    yield from _cost_problems(experiment, [i for i, _ in shadows])


def shadow_state_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    """Return what keeps a valid definition from being in state shadow, where every arm but the control is mirrored."""
    if not any(arm.role == types.ROLE_CONTROL for arm in experiment.arms):
        yield FieldProblem(
            ("arms",), "in state shadow the control answers alone, and there is none", "give one role: control"
        )
    if len(experiment.arms) == 1:
        yield FieldProblem(("arms",), "in state shadow the other arms are mirrored, and there is none", "add one")
    if not experiment.HasField("shadow"):
        message = "the shadow state needs it: it says what is mirrored and how much is kept"
        yield FieldProblem(("shadow",), message, "say shadow: {text: off}, or truncated, or full")
    mirrored = [i for i, arm in enumerate(experiment.arms) if arm.role not in (types.ROLE_CONTROL, types.ROLE_SHADOW)]
    yield from _cost_problems(experiment, mirrored)


def _cost_problems(experiment: Experiment, mirrored: Sequence[int]) -> Iterable[FieldProblem]:
    if not experiment.shadow.HasField("daily_budget_usd"):
        return
    for i in mirrored:
        if not experiment.arms[i].HasField("cost_usd"):
            message = "with shadow.daily_budget_usd each arm that is mirrored needs it: for calls recorded without a cost"
            yield FieldProblem(("arms", i, "cost_usd"), message, "say what one call costs")
