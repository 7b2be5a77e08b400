"""Between the messages of the experiments API and the values that are stored."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct, Value

from bandit.canary import Assessment
from bandit.guardrails import Estimate, Outcome, Verdict
from bandit.ramp_state import OPEN
from router.errors import FieldViolation, InvalidArgumentError
from router.experiment import Arm, Definition, NewArm, NewDefinition
from router.experiment_rules import cross_field_problems
from router.shadow_rules import challengers
from router.v1 import experiments_pb2, types_pb2

_NO_DURATION = "must have nanos below 1,000,000,000, of the same sign as seconds"
#: Parsers stop at a hundred messages within one another, and each level of a config takes three.
_DEEPEST_CONFIG = 16
#: A reply holds this many retired arms at most: experiments live long, and messages have a limit.
_RETIRED_SHOWN = 100
_NUL = "holds a NUL character, which Postgres cannot store"
_STATES = {
    "draft": experiments_pb2.STATE_DRAFT,
    "shadow": experiments_pb2.STATE_SHADOW,
    "running": experiments_pb2.STATE_RUNNING,
    "paused": experiments_pb2.STATE_PAUSED,
    "concluded": experiments_pb2.STATE_CONCLUDED,
}


def new_definition(experiment: experiments_pb2.Experiment) -> NewDefinition:
    """Check the rules that span fields and return what is to be stored.

    Retired arms are left out: a definition that was read, changed and sent back must not bring them back to life.

    Raises InvalidArgumentError with reason INVALID_EXPERIMENT naming each field and rule.
    """
    experiment = without_retired_arms(experiment)
    violations = [
        FieldViolation(f"experiment.{problem.path}", f"{problem.message}{f' ({problem.hint})' if problem.hint else ''}")
        for problem in cross_field_problems(experiment)
    ]
    for path, duration in (
        ("assignment.ttl", experiment.assignment.ttl),
        ("reward_rule.attribution_window", experiment.reward_rule.attribution_window),
    ):
        if not is_duration(duration):
            violations.append(FieldViolation(f"experiment.{path}", _NO_DURATION))
    for i, arm in enumerate(experiment.arms):
        fault = _config_fault(arm.config)
        if fault:
            violations.append(FieldViolation(f"experiment.arms[{i}].config", fault))
    if violations:
        raise InvalidArgumentError(
            "; ".join(f"{v.field}: {v.description}" for v in violations),
            reason="INVALID_EXPERIMENT",
            violations=violations,
        )
    return NewDefinition(
        experiment_id=experiment.experiment_id,
        description=experiment.description,
        arms=tuple(
            NewArm(
                arm_id=arm.arm_id,
                model=arm.model,
                family=arm.family,
                is_control=arm.role == types_pb2.ROLE_CONTROL,
                config=MessageToDict(arm.config),
                cap=arm.cap if arm.HasField("cap") else None,
                cost_usd=arm.cost_usd if arm.HasField("cost_usd") else None,
                is_shadow=arm.role == types_pb2.ROLE_SHADOW,
            )
            for arm in experiment.arms
        ),
        allocation=_stored(experiment.allocation),
        assignment=_stored(experiment.assignment),
        reward_rule=_stored(experiment.reward_rule),
        ramp=_stored(_named(experiment)),
        shadow=_stored(experiment.shadow),
    )


def _named(experiment: experiments_pb2.Experiment) -> experiments_pb2.RampRule:
    """Return the ramp; one that is all defaults names its challenger, since as stored it must differ from no ramp."""
    if not experiment.HasField("ramp") or experiment.ramp.ByteSize():
        return experiment.ramp
    (challenger,) = challengers(experiment)
    return experiments_pb2.RampRule(challenger_arm_id=challenger)


def without_retired_arms(experiment: experiments_pb2.Experiment) -> experiments_pb2.Experiment:
    """Return an experiment with those of its arms that its owner defines now."""
    if all(arm.state != types_pb2.ARM_STATE_RETIRED for arm in experiment.arms):
        return experiment
    kept = experiments_pb2.Experiment()
    kept.CopyFrom(experiment)
    del kept.arms[:]
    kept.arms.extend(arm for arm in experiment.arms if arm.state != types_pb2.ARM_STATE_RETIRED)
    return kept


def experiment_message(definition: Definition, policy_version: int) -> experiments_pb2.Experiment:
    """Return an experiment as the API shows it."""
    message = experiments_pb2.Experiment(
        experiment_id=definition.experiment_id,
        description=definition.description,
        arms=[_arm_message(arm) for arm in _shown(definition)],
        state=_STATES[definition.state],
        etag=definition.etag,
        policy_version=policy_version,
    )
    if definition.allocation:
        ParseDict(dict(definition.allocation), message.allocation)
    if definition.assignment:
        ParseDict(dict(definition.assignment), message.assignment)
    if definition.reward_rule:
        ParseDict(dict(definition.reward_rule), message.reward_rule)
    if definition.ramp:
        ParseDict(dict(definition.ramp), message.ramp)
    if definition.shadow:
        ParseDict(dict(definition.shadow), message.shadow)
    if definition.ramp_state is not None:
        message.ramp_status.CopyFrom(_ramp_status(definition))
    message.create_time.FromDatetime(definition.created_at)
    message.update_time.FromDatetime(definition.updated_at)
    return message


def _shown(definition: Definition) -> list[Arm]:
    retired = sorted((arm for arm in definition.arms if not arm.active), key=lambda arm: arm.number)
    return [*(arm for arm in definition.arms if arm.active), *retired[-_RETIRED_SHOWN:]]


def _arm_message(arm: Arm) -> types_pb2.Arm:
    message = types_pb2.Arm(
        arm_id=arm.arm_id,
        model=arm.model,
        role=_role(arm),
        family=arm.family,
        cap=arm.cap,
        cost_usd=arm.cost_usd,
        version=arm.version,
        state=types_pb2.ARM_STATE_ACTIVE if arm.active else types_pb2.ARM_STATE_RETIRED,
    )
    if arm.config:
        message.config.update(dict(arm.config))
    return message


def _role(arm: Arm) -> types_pb2.Role:
    if arm.is_shadow:
        return types_pb2.ROLE_SHADOW
    return types_pb2.ROLE_CONTROL if arm.is_control else types_pb2.ROLE_CHALLENGER


def _ramp_status(definition: Definition) -> experiments_pb2.RampStatus:
    state = definition.ramp_state
    assert state is not None  # noqa: S101 - asked before
    status = experiments_pb2.RampStatus(
        phase=f"PHASE_{state.phase.name}",
        stage=state.stage,
        approved=state.approved,
        version=state.version,
    )
    status.stage_since.FromMicroseconds(state.stage_since_us)
    arm_ids = [arm.arm_id for arm in definition.active_arms]
    if definition.rules.ramp_challenger in arm_ids:
        position = arm_ids.index(definition.rules.ramp_challenger)
        allocation = definition.rules.allocation
        status.floor, status.cap = float(allocation.least()[position]), allocation.caps[position]
    if definition.ramp_assessment is not None:
        status.assessment.CopyFrom(assessment_message(definition.ramp_assessment))
        if state.phase not in OPEN:
            status.assessment.ClearField("next_check_time")
            status.assessment.ClearField("warning")
    return status


def transition_message(
    experiment_id: str,
    transition_id: int,
    at: datetime,
    kind: str,
    from_value: str,
    to_value: str,
    actor: str,
    reason: str,
    assessment: Mapping[str, Any] | None,
) -> experiments_pb2.Transition:
    """Return a change of an experiment as the API shows it."""
    message = experiments_pb2.Transition(
        transition_id=transition_id,
        experiment_id=experiment_id,
        kind=f"KIND_{kind.upper()}",
        to=to_value,
        actor=actor,
        reason=reason,
        assessment=None if assessment is None else assessment_message(assessment),
    )
    setattr(message, "from", from_value)  # a word of the language
    message.transition_time.FromDatetime(at)
    return message


def assessment_message(document: Mapping[str, Any]) -> experiments_pb2.RampAssessment:
    """Return an assessment that was stored."""
    return ParseDict(dict(document), experiments_pb2.RampAssessment(), ignore_unknown_fields=True)


def assessment_document(assessment: Assessment, decisions: int, now_us: int, next_check_us: int | None) -> Mapping[str, Any]:
    """Return a look at a ramp as it is stored: RampAssessment in protobuf JSON.

    `decisions` are the challenger's that it rests on.
    """
    message = experiments_pb2.RampAssessment(
        outcome=None if assessment.outcome is None else _outcome(assessment.outcome),
        verdicts=[_verdict(verdict) for verdict in assessment.verdicts],
        missing=assessment.missing,
        decisions=decisions,
        coverage=assessment.coverage,
        warning=assessment.warning,
    )
    message.assess_time.FromMicroseconds(now_us)
    if next_check_us is not None:
        message.next_check_time.FromMicroseconds(next_check_us)
    return _stored(message)


def _verdict(verdict: Verdict) -> experiments_pb2.GuardrailVerdict:
    return experiments_pb2.GuardrailVerdict(
        metric=f"METRIC_{verdict.metric.name}",
        outcome=_outcome(verdict.outcome),
        challenger=_estimate(verdict.challenger),
        control=None if verdict.control is None else _estimate(verdict.control),
        limit=verdict.limit,
        minimum=verdict.minimum,
        reason=verdict.reason,
    )


def _estimate(estimate: Estimate) -> experiments_pb2.MetricEstimate:
    return experiments_pb2.MetricEstimate(n=estimate.n, mean=estimate.mean, lower=estimate.lower, upper=estimate.upper)


def _outcome(outcome: Outcome) -> str:
    return f"OUTCOME_{outcome.name}"


def _stored(
    message: experiments_pb2.AllocationRule
    | experiments_pb2.AssignmentRule
    | experiments_pb2.RewardRule
    | experiments_pb2.RampRule
    | experiments_pb2.ShadowRule
    | experiments_pb2.RampAssessment,
) -> dict[str, Any]:
    # Through JSON, so that what is compared with the stored document has its types.
    stored: dict[str, Any] = json.loads(json.dumps(MessageToDict(message)))
    return stored


def is_duration(duration: Duration) -> bool:
    """Whether a Duration is within its own definition: nanos below a second, and of the same sign as seconds."""
    return abs(duration.nanos) < 1_000_000_000 and duration.seconds * duration.nanos >= 0


def _config_fault(config: Struct, depth: int = 1) -> str:
    """Return why this config cannot be stored and sent, or nothing."""
    if depth > _DEEPEST_CONFIG:
        return f"is nested deeper than {_DEEPEST_CONFIG} levels"
    for key, value in config.fields.items():
        fault = _NUL if "\x00" in key else _value_fault(value, depth)
        if fault:
            return fault
    return ""


def _value_fault(value: Value, depth: int) -> str:
    match value.WhichOneof("kind"):
        case "string_value":
            return _NUL if "\x00" in value.string_value else ""
        case "number_value":
            return "" if math.isfinite(value.number_value) else "holds NaN or an infinity, which JSON cannot express"
        case "struct_value":
            return _config_fault(value.struct_value, depth + 1)
        case "list_value":
            if depth >= _DEEPEST_CONFIG:
                return f"is nested deeper than {_DEEPEST_CONFIG} levels"
            return next((fault for part in value.list_value.values if (fault := _value_fault(part, depth + 1))), "")
        case None:
            return "holds a value without a kind"
        case _:
            return ""
