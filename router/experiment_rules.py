"""What an experiment's definition means where it is silent, and the rules that span its fields.

The rules of single fields (ranges, lengths, charsets) are declared in the proto; these are the others. The server
applies them to each definition it gets, the loader of experiment files to each file: both give the same answer.

Assumes
    Every arm of a definition is active: an arm's `state` and `version` are output only, so they are not read. Arms of role
    shadow do not compete: caps, floors, weights, turns and ramps are of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from router.cost_rules import cost_problems
from router.field_problems import FieldProblem, Steps, did_you_mean
from router.ramp_rules import challenger_of, ramp_problems
from router.shadow_rules import challengers, competing, shadow_problems
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import AllocationRule, AssignmentRule, Experiment, RewardRule

#: The most arms that one allocation is computed for.
MAX_ARMS: Final = 100
#: The same for top_two: every arm that is hardly the best takes an integral of its own, so that 20 take a quarter of a
#: second and 100 several seconds.
MAX_TOP_TWO_ARMS: Final = 20
#: The strategies that look at posteriors.
LEARNING: Final = (AllocationRule.KIND_THOMPSON, AllocationRule.KIND_TOP_TWO)
#: The largest serialized `config` of an arm.
MAX_CONFIG_BYTES: Final = 64 * 1024
#: Decimals such as 0.7 + 0.2 + 0.1 do not add up to 1 in binary; a difference up to this is no mistake.
TOLERANCE: Final = 1e-9

DEFAULT_CAP: Final = 1.0
#: By kind of allocation: weights that somebody wrote down are kept as written.
DEFAULT_FLOOR: Final[Mapping[AllocationRule.Kind, float]] = MappingProxyType(
    {
        AllocationRule.KIND_THOMPSON: 0.01,
        AllocationRule.KIND_FIXED: 0.0,
        AllocationRule.KIND_UNIFORM: 0.0,
        AllocationRule.KIND_TOP_TWO: 0.01,
    }
)
#: As `bandit.top_two` has it, which takes long to import.
DEFAULT_LEADER_SHARE: Final = 0.5
#: Alpha and beta.
DEFAULT_PRIOR: Final = (1.0, 1.0)
DEFAULT_ATTRIBUTION_WINDOW_S: Final = 7 * 86_400
#: Outcomes of one unit that count, of the decisions of a day.
DEFAULT_UNIT_SHARE: Final = 10
#: As `bandit.segments` has them.
DEFAULT_SEGMENT_WEIGHT: Final = 0.2
DEFAULT_SEGMENT_LARGEST: Final = 50.0


def allocation_kind(experiment: Experiment) -> AllocationRule.Kind:
    """The experiment's allocation strategy, never unspecified."""
    return experiment.allocation.kind or AllocationRule.KIND_THOMPSON


def assignment_kind(experiment: Experiment) -> AssignmentRule.Kind:
    """The experiment's assignment method, never unspecified."""
    return experiment.assignment.kind or AssignmentRule.KIND_PER_REQUEST


def floor(experiment: Experiment) -> float:
    """The experiment's floor: its own, or the default of its kind of allocation (0 for a kind this version lacks)."""
    if experiment.allocation.HasField("floor"):
        return experiment.allocation.floor
    return DEFAULT_FLOOR.get(allocation_kind(experiment), 0.0)


def cross_field_problems(experiment: Experiment) -> list[FieldProblem]:
    """Return each rule across fields that the definition breaks; any message will do, also one with invalid fields."""
    return [
        *_arm_problems(experiment),
        *_floor_problems(experiment),
        *_weight_problems(experiment),
        *_prior_problems(experiment),
        *_top_two_problems(experiment),
        *_discount_problems(experiment),
        *_segment_problems(experiment),
        *cost_problems(experiment, allocation_kind(experiment), floor(experiment)),
        *_assignment_problems(experiment),
        *_holdout_problems(experiment),
        *_interleaving_problems(experiment),
        *_reward_problems(experiment),
        *_maturing_problems(experiment.reward_rule),
        *ramp_problems(experiment),
        *_ramp_weight_problems(experiment),
        *shadow_problems(experiment),
    ]


def _arm_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    arms = experiment.arms
    if not arms:
        yield FieldProblem(("arms",), "no arm is left to serve", "keep one, or conclude the experiment")
    if len(arms) > MAX_ARMS:
        yield FieldProblem(("arms",), f"there are {len(arms)} arms, at most {MAX_ARMS} can compete")
    caps = [arm.cap if arm.HasField("cap") else DEFAULT_CAP for arm in competing(experiment)]
    total = sum(caps)
    if caps and total < 1 - TOLERANCE:
        message = f"the caps add up to {total:.6g}, which leaves some traffic without an arm"
        yield FieldProblem(("arms",), message, "raise a cap, or leave one out: it is then 1")
    seen: set[str] = set()
    controls = [arm.arm_id for arm in arms if arm.role == types.ROLE_CONTROL]
    for i, arm in enumerate(arms):
        if arm.arm_id in seen:
            yield FieldProblem(("arms", i, "arm_id"), f"another arm is already called {arm.arm_id!r}")
        elif arm.role == types.ROLE_CONTROL and arm.arm_id != controls[0]:
            message = f"{controls[0]!r} is already the control, and there is one at most"
            yield FieldProblem(("arms", i, "role"), message, "use challenger")
        seen.add(arm.arm_id)
        if (size := arm.config.ByteSize()) > MAX_CONFIG_BYTES:
            yield FieldProblem(("arms", i, "config"), f"takes {size:,} bytes, the limit is {MAX_CONFIG_BYTES:,}")


def _floor_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    count, least = len(competing(experiment)), floor(experiment)
    # With half of all traffic spread evenly, what was learned would decide less than chance does.
    if count * least >= 0.5 - TOLERANCE:
        message = f"{count} arms with a floor of {least:g} take {count * least:.6g} of all traffic, the limit is 0.5"
        yield FieldProblem(("allocation", "floor"), message, f"use a floor below {0.5 / count:.4g}")


def _weight_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    path: Steps = ("allocation", "weights")
    weights = experiment.allocation.weights
    if allocation_kind(experiment) != AllocationRule.KIND_FIXED:
        if weights:
            yield FieldProblem(path, "only a fixed allocation has weights", "use kind: fixed")
        return
    if not weights:
        yield FieldProblem(path, "a fixed allocation needs the weight of each arm")
        return
    yield from _unknown(experiment, path, weights)
    total = sum(weights.values())
    # Written so that a total that is not a number is refused too.
    if not abs(total - 1) <= TOLERANCE:
        yield FieldProblem(path, f"the weights add up to {total:.12g}, they must add up to 1")


def _prior_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    path: Steps = ("allocation", "priors")
    priors = experiment.allocation.priors
    if priors and allocation_kind(experiment) not in LEARNING:
        message = "only a thompson or top_two allocation looks at priors"
        yield FieldProblem(path, message, "use kind: thompson, or leave them out")
        return
    yield from _unknown(experiment, path, priors)
    arms = {arm.arm_id: arm for arm in experiment.arms}
    for arm_id in sorted(priors):
        if arm_id in arms and arms[arm_id].role == types.ROLE_SHADOW:
            message = "a shadow arm is not learned about, and so has no prior"
            yield FieldProblem((*path, arm_id), message, "give it one when it is a challenger")


def _top_two_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    if allocation_kind(experiment) != AllocationRule.KIND_TOP_TWO:
        if experiment.allocation.HasField("leader_share"):
            message = "only a top_two allocation has a leader"
            yield FieldProblem(("allocation", "leader_share"), message, "use kind: top_two, or leave it out")
    elif (count := len(competing(experiment))) > MAX_TOP_TWO_ARMS:
        message = f"top_two is computed for at most {MAX_TOP_TWO_ARMS} arms, and {count} compete"
        yield FieldProblem(("allocation", "kind"), message, "use kind: thompson, or take out the arms that are behind")


def _discount_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    if experiment.allocation.HasField("discount") and allocation_kind(experiment) not in LEARNING:
        message = "only a thompson or top_two allocation looks at evidence, which could be discounted"
        yield FieldProblem(("allocation", "discount"), message, "use kind: thompson, or leave it out")


def _segment_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    if experiment.allocation.HasField("segments") and allocation_kind(experiment) not in LEARNING:
        message = "only a thompson or top_two allocation looks at evidence, which segments divide"
        yield FieldProblem(("allocation", "segments"), message, "use kind: thompson, or leave them out")


def _unknown(experiment: Experiment, path: Steps, given: Iterable[str]) -> Iterable[FieldProblem]:
    """Ids that no arm has; what a shadow arm may not have is another rule's."""
    every = {arm.arm_id for arm in experiment.arms}
    known = [arm.arm_id for arm in competing(experiment)]
    for arm_id in sorted(set(given) - every):
        yield FieldProblem((*path, arm_id), "no arm has this id", did_you_mean(arm_id, known))


def _assignment_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    kind, assignment = assignment_kind(experiment), experiment.assignment
    if assignment.HasField("ttl") and kind != AssignmentRule.KIND_STICKY_STORED:
        yield FieldProblem(("assignment", "ttl"), "only a sticky_stored assignment expires", "use kind: sticky_stored")
    fixed = allocation_kind(experiment) == AllocationRule.KIND_FIXED
    by_request = assignment.unit == AssignmentRule.UNIT_REQUEST
    if fixed and kind == AssignmentRule.KIND_PER_REQUEST and not by_request:
        # Where no assignment is stated, the statement to point at is the allocation's.
        place = "assignment" if experiment.HasField("assignment") else "allocation"
        message = "a fixed allocation is an A/B test: its assignment is a stable hash, per_request would mix a unit's arms"
        hint = "use assignment kind: sticky_hash, or unit: request if single requests are compared"
        yield FieldProblem((place, "kind"), message, hint)


def _holdout_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    # Written so that a share that is not a number needs a control too.
    if experiment.assignment.holdout != 0 and not any(arm.role == types.ROLE_CONTROL for arm in experiment.arms):
        message = "units that are held out stay on the control, and there is none"
        yield FieldProblem(("assignment", "holdout"), message, "give one arm role: control")


def _interleaving_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    if assignment_kind(experiment) != AssignmentRule.KIND_INTERLEAVED:
        return
    at: Steps = ("assignment", "kind")
    if allocation_kind(experiment) != AllocationRule.KIND_UNIFORM:
        message = "an interleaved assignment gives every arm the same share: its allocation must be uniform"
        place: Steps = ("allocation", "kind") if experiment.HasField("allocation") else at
        yield FieldProblem(place, message, "use allocation kind: uniform")
    if experiment.assignment.holdout != 0:
        message = "an interleaved assignment compares arms within each session: a unit that is held out has one arm only"
        yield FieldProblem(("assignment", "holdout"), message, "leave it out, or use another kind of assignment")
    if experiment.HasField("ramp"):
        message = "a ramp limits the challenger's share, an interleaved assignment gives every arm the same"
        yield FieldProblem(("ramp",), message, "let the challenger in first, then interleave")
    count = len(competing(experiment))
    if count == 1:
        yield FieldProblem(at, "an interleaved assignment compares arms, and there is only one")
    for i, arm in enumerate(experiment.arms):
        if count and arm.HasField("cap") and arm.cap < 1 / count - TOLERANCE:
            message = f"an interleaved assignment gives each of {count} arms {1 / count:.4g} of the turns"
            yield FieldProblem(("arms", i, "cap"), message, "leave the cap out")


def _reward_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    seen: set[int] = set()
    for i, entry in enumerate(experiment.reward_rule.signals):
        if entry.signal in seen:
            yield FieldProblem(("reward_rule", "signals", i, "signal"), "this signal is already listed")
        seen.add(entry.signal)


def _maturing_problems(rule: RewardRule) -> Iterable[FieldProblem]:
    derived = rule.derived
    window_us = DEFAULT_ATTRIBUTION_WINDOW_S * 1_000_000
    if rule.HasField("attribution_window"):
        window_us = rule.attribution_window.ToMicroseconds()
    within = f"the attribution window, {window_us / 1e6:g}s: what happens later never counts"
    if rule.mature_after.ToMicroseconds() > window_us:
        yield FieldProblem(("reward_rule", "mature_after"), f"must be at most {within}")
    if derived.abandon_after.ToMicroseconds() > window_us:
        yield FieldProblem(("reward_rule", "derived", "abandon_after"), f"must be at most {within}")
    matures = rule.mature_after if rule.HasField("mature_after") else derived.abandon_after
    if rule.HasField("no_feedback") and matures.ToMicroseconds() <= 0:
        message = "silence counts only once a decision has matured, and this one matures at once"
        yield FieldProblem(("reward_rule", "no_feedback"), message, "say mature_after")
    if derived.HasField("rephrased_within") and not derived.HasField("rephrased_similarity"):
        message = "without rephrased_similarity no rephrased_query is derived"
        yield FieldProblem(("reward_rule", "derived", "rephrased_within"), message, "say rephrased_similarity")


def _ramp_weight_problems(experiment: Experiment) -> Iterable[FieldProblem]:
    if not experiment.HasField("ramp") or allocation_kind(experiment) != AllocationRule.KIND_FIXED:
        return
    challenger = challenger_of(experiment.ramp, challengers(experiment))
    known = any(arm.arm_id == challenger for arm in competing(experiment))
    if known and experiment.allocation.weights and not experiment.allocation.weights.get(challenger, 0.0):
        message = f"{challenger!r} is what the ramp lets in, and it would get nothing: its weight is 0"
        yield FieldProblem(("allocation", "weights"), message, "give it the weight that it has once it is promoted")
