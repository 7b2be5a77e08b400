"""What a request asks of an experiment: its arms, its unit, its turn; and what is wrong with it, as the Route RPC says."""

import re
from collections.abc import Sequence

from bandit.allocation import NoEligibleArmError
from bandit.assignment import held_out
from bandit.turns import LARGEST_TURN
from router.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from router.experiment import SERVING
from router.known import Entry
from router.policy import Choice, Policy
from router.v1 import routing_pb2

#: A turn has one number only, so that a retry of it is the same turn.
_TURN = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII).fullmatch


def serving(entry: Entry) -> Policy:
    """Return the policy of an experiment that runs or is in state shadow; FailedPreconditionError of any other."""
    # Whatever has a policy serves.
    return entry.policy or _policy_in(entry, SERVING)


def running(entry: Entry) -> Policy:
    """Return the policy of an experiment; FailedPreconditionError if it is not running: in state shadow no arms compete."""
    return _policy_in(entry, ("running",))


def _policy_in(entry: Entry, states: Sequence[str]) -> Policy:
    if entry.policy is None or entry.policy.definition.state not in states:
        state, experiment_id = entry.definition.state, entry.definition.experiment_id
        raise FailedPreconditionError(
            f"experiment {experiment_id!r} is {state}, not running",
            reason="EXPERIMENT_NOT_RUNNING",
            metadata={"experiment_id": experiment_id, "state": state},
        )
    return entry.policy


def position_of(policy: Policy, arm_id: str, field: str) -> int:
    """Return the position of an active arm; InvalidArgumentError naming `field` if there is none of this id."""
    position = policy.position.get(arm_id)
    if position is None:
        of = f"of experiment {policy.definition.experiment_id!r}"
        why = (
            f"{arm_id!r} is not an active arm {of}; active are {', '.join(sorted(policy.position)[:10])}"
            f"{' and others' if len(policy.position) > 10 else ''}"
        )
        if any(arm.arm_id == arm_id and arm.active for arm in policy.definition.arms):
            why = f"{arm_id!r} is a shadow arm {of}: it is called beside the arm that answers, and never answers itself"
        raise InvalidArgumentError(f"{field}: {why}", reason="ARM_NOT_FOUND", metadata={"arm_id": arm_id})
    return position


def forced_position(policy: Policy, request: routing_pb2.RouteRequest) -> int:
    """Return the position of the arm that a request forces, one way or the other.

    Raises InvalidArgumentError of an arm that is not active, or of two ways to force one; FailedPreconditionError if the
    control is forced and there is none.
    """
    if request.force_control:
        if request.force_arm_id:
            rule = "is true, and force_arm_id names an arm too: only one of them can answer"
            raise InvalidArgumentError.of_field("force_control", rule)
        control = policy.definition.rules.allocation.control
        if control is None:
            raise FailedPreconditionError(
                f"force_control: experiment {request.experiment_id!r} has no control", reason="NO_ELIGIBLE_ARM"
            )
        return control
    return position_of(policy, request.force_arm_id, "force_arm_id")


def choice_for(policy: Policy, request: routing_pb2.RouteRequest) -> Choice:
    """Return the allocation over the arms that a request permits; FailedPreconditionError if none of them can be served."""
    try:
        part = policy.segments.get(request.segment, policy.pooled) if policy.segments else policy.pooled
        return part.choice(eligible_positions(policy, request) if request.eligible_arm_ids else None)
    except NoEligibleArmError as error:
        raise FailedPreconditionError(
            f"eligible_arm_ids: {error} in experiment {request.experiment_id!r}", reason="NO_ELIGIBLE_ARM"
        ) from error


def eligible_positions(policy: Policy, request: routing_pb2.RouteRequest) -> tuple[int, ...]:
    """Return the positions of the arms that a request names, sorted; InvalidArgumentError if one is no active arm."""
    return tuple(
        sorted(position_of(policy, arm_id, f"eligible_arm_ids[{i}]") for i, arm_id in enumerate(request.eligible_arm_ids))
    )


def is_held_out(policy: Policy, request: routing_pb2.RouteRequest) -> bool:
    """Whether the unit of a request is held out; for experiments that hold units out, whose requests must name a unit."""
    if request.force_arm_id or request.force_control:
        return False
    if not request.unit_id:
        raise InvalidArgumentError.of_field(
            "unit_id", f"is required: experiment {request.experiment_id!r} holds out a share of its units"
        )
    return held_out(policy.definition.experiment_id, request.unit_id, policy.definition.rules.holdout)


def turn_number(request: routing_pb2.RouteRequest) -> int:
    """Return the number of the turn; InvalidArgumentError naming what a draft of turns lacks."""
    why = f"experiment {request.experiment_id!r} assigns arms turn by turn"
    violations = []
    if not request.session_id:
        violations.append(FieldViolation("session_id", f"is required: {why}"))
    if not _TURN(request.turn_id) or int(request.turn_id) > LARGEST_TURN:
        rule = f"must be the number of the turn in its session, from 0 to {LARGEST_TURN}, without leading zeros: {why}"
        violations.append(FieldViolation("turn_id", rule))
    if violations:
        raise InvalidArgumentError("; ".join(f"{v.field}: {v.description}" for v in violations), violations=violations)
    return int(request.turn_id)
