"""What a definition must say where its allocation weighs cost: rules across its fields, in the names of the proto.

Assumes
    As `router.experiment_rules`: every arm of a definition is active.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from router.field_problems import FieldProblem
from router.shadow_rules import competing
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import AllocationRule, Experiment

#: The most arms whose cost one allocation weighs: a price is found by looking at a dozen allocations. While little is known
#: these take a third of a second for 20 arms; it grows with the square of their number.
MAX_PRICED_ARMS: Final = 20


def cost_problems(experiment: Experiment, kind: AllocationRule.Kind, floor: float) -> Iterable[FieldProblem]:
    """Return each rule that the experiment's cost rule breaks; none if it has none. `floor` is that of its allocation."""
    if not experiment.allocation.HasField("cost"):
        return
    if kind != AllocationRule.KIND_THOMPSON:
        message = "only a thompson allocation weighs cost against reward"
        yield FieldProblem(("allocation", "cost"), message, "use kind: thompson, or leave it out")
    for i, arm in enumerate(experiment.arms):
        if arm.role != types.ROLE_SHADOW and not arm.HasField("cost_usd"):
            message = "is required of every arm that competes: the allocation weighs cost"
            yield FieldProblem(("arms", i, "cost_usd"), message, "say what a call costs in US dollars, or leave cost out")
    if (count := len(competing(experiment))) > MAX_PRICED_ARMS:
        message = f"an allocation weighs the cost of at most {MAX_PRICED_ARMS} arms, and {count} compete"
        yield FieldProblem(("allocation", "cost"), message, "take out the arms that are behind, or leave it out")
    elif experiment.allocation.cost.HasField("ceiling_usd"):
        yield from _ceiling_problems(experiment, floor)


def _ceiling_problems(experiment: Experiment, floor: float) -> Iterable[FieldProblem]:
    """A ceiling that floor and caps leave no allocation for, whatever is learned; a ramp may do so for a time."""
    arms, ceiling = competing(experiment), experiment.allocation.cost.ceiling_usd
    caps = [arm.cap if arm.HasField("cap") else 1.0 for arm in arms]
    # Other rules name what is missing or out of range; written so that what is not a number is out of range too.
    if not (
        arms
        and all(0 < cap <= 1 for cap in caps)
        and sum(caps) >= 1 - 1e-9
        and 0 <= floor < 0.5 / len(arms)
        and all(arm.HasField("cost_usd") and 0 <= arm.cost_usd < math.inf for arm in arms)
        and 0 <= ceiling < math.inf
    ):
        return
    from bandit.allocation import AllocationKind
    from bandit.allocation import AllocationRule as Limits
    from bandit.cost import ROUNDING, cheapest  # takes long to import, and few definitions have a ceiling

    found = cheapest(Limits(AllocationKind.THOMPSON, floor, tuple(caps)), [arm.cost_usd for arm in arms])
    if found.cost_usd > ceiling * (1 + ROUNDING):
        shares = ", ".join(f"{arm.arm_id} {share:.4g}" for arm, share in zip(arms, found.allocation, strict=True))
        message = (
            f"is {ceiling:g}, and within floor and caps a decision costs at least {found.cost_usd:.6g} USD,"
            f" at the shares {shares}"
        )
        yield FieldProblem(
            ("allocation", "cost", "ceiling_usd"), message, "raise the ceiling, lower the floor, or take out a dear arm"
        )
