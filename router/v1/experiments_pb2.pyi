import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_DRAFT: _ClassVar[State]
    STATE_SHADOW: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_PAUSED: _ClassVar[State]
    STATE_CONCLUDED: _ClassVar[State]
STATE_UNSPECIFIED: State
STATE_DRAFT: State
STATE_SHADOW: State
STATE_RUNNING: State
STATE_PAUSED: State
STATE_CONCLUDED: State

class Experiment(_message.Message):
    __slots__ = ("experiment_id", "description", "arms", "allocation", "assignment", "reward_rule", "state", "etag", "create_time", "update_time", "policy_version", "ramp", "ramp_status", "shadow")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    REWARD_RULE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    RAMP_FIELD_NUMBER: _ClassVar[int]
    RAMP_STATUS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    description: str
    arms: _containers.RepeatedCompositeFieldContainer[_types_pb2.Arm]
    allocation: AllocationRule
    assignment: AssignmentRule
    reward_rule: RewardRule
    state: State
    etag: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    policy_version: int
    ramp: RampRule
    ramp_status: RampStatus
    shadow: ShadowRule
    def __init__(self, experiment_id: _Optional[str] = ..., description: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[_types_pb2.Arm, _Mapping]]] = ..., allocation: _Optional[_Union[AllocationRule, _Mapping]] = ..., assignment: _Optional[_Union[AssignmentRule, _Mapping]] = ..., reward_rule: _Optional[_Union[RewardRule, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., etag: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., policy_version: _Optional[int] = ..., ramp: _Optional[_Union[RampRule, _Mapping]] = ..., ramp_status: _Optional[_Union[RampStatus, _Mapping]] = ..., shadow: _Optional[_Union[ShadowRule, _Mapping]] = ...) -> None: ...

class ShadowRule(_message.Message):
    __slots__ = ("rate", "daily_budget_usd", "text", "text_limit")
    RATE_FIELD_NUMBER: _ClassVar[int]
    DAILY_BUDGET_USD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    rate: float
    daily_budget_usd: float
    text: _types_pb2.TextMode
    text_limit: int
    def __init__(self, rate: _Optional[float] = ..., daily_budget_usd: _Optional[float] = ..., text: _Optional[_Union[_types_pb2.TextMode, str]] = ..., text_limit: _Optional[int] = ...) -> None: ...

class AllocationRule(_message.Message):
    __slots__ = ("kind", "floor", "weights", "prior", "priors", "leader_share", "discount", "segments", "cost")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[AllocationRule.Kind]
        KIND_THOMPSON: _ClassVar[AllocationRule.Kind]
        KIND_FIXED: _ClassVar[AllocationRule.Kind]
        KIND_UNIFORM: _ClassVar[AllocationRule.Kind]
        KIND_TOP_TWO: _ClassVar[AllocationRule.Kind]
    KIND_UNSPECIFIED: AllocationRule.Kind
    KIND_THOMPSON: AllocationRule.Kind
    KIND_FIXED: AllocationRule.Kind
    KIND_UNIFORM: AllocationRule.Kind
    KIND_TOP_TWO: AllocationRule.Kind
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class PriorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: BetaPrior
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BetaPrior, _Mapping]] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    PRIORS_FIELD_NUMBER: _ClassVar[int]
    LEADER_SHARE_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    kind: AllocationRule.Kind
    floor: float
    weights: _containers.ScalarMap[str, float]
    prior: BetaPrior
    priors: _containers.MessageMap[str, BetaPrior]
    leader_share: float
    discount: DiscountRule
    segments: SegmentRule
    cost: CostRule
    def __init__(self, kind: _Optional[_Union[AllocationRule.Kind, str]] = ..., floor: _Optional[float] = ..., weights: _Optional[_Mapping[str, float]] = ..., prior: _Optional[_Union[BetaPrior, _Mapping]] = ..., priors: _Optional[_Mapping[str, BetaPrior]] = ..., leader_share: _Optional[float] = ..., discount: _Optional[_Union[DiscountRule, _Mapping]] = ..., segments: _Optional[_Union[SegmentRule, _Mapping]] = ..., cost: _Optional[_Union[CostRule, _Mapping]] = ...) -> None: ...

class DiscountRule(_message.Message):
    __slots__ = ("half_life", "window")
    HALF_LIFE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    half_life: _duration_pb2.Duration
    window: _duration_pb2.Duration
    def __init__(self, half_life: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SegmentRule(_message.Message):
    __slots__ = ("names", "weight", "largest")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    weight: float
    largest: float
    def __init__(self, names: _Optional[_Iterable[str]] = ..., weight: _Optional[float] = ..., largest: _Optional[float] = ...) -> None: ...

class CostRule(_message.Message):
    __slots__ = ("ceiling_usd", "reward_per_usd")
    CEILING_USD_FIELD_NUMBER: _ClassVar[int]
    REWARD_PER_USD_FIELD_NUMBER: _ClassVar[int]
    ceiling_usd: float
    reward_per_usd: float
    def __init__(self, ceiling_usd: _Optional[float] = ..., reward_per_usd: _Optional[float] = ...) -> None: ...

class BetaPrior(_message.Message):
    __slots__ = ("alpha", "beta")
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    beta: float
    def __init__(self, alpha: _Optional[float] = ..., beta: _Optional[float] = ...) -> None: ...

class AssignmentRule(_message.Message):
    __slots__ = ("kind", "ttl", "unit", "holdout")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[AssignmentRule.Kind]
        KIND_PER_REQUEST: _ClassVar[AssignmentRule.Kind]
        KIND_STICKY_HASH: _ClassVar[AssignmentRule.Kind]
        KIND_STICKY_STORED: _ClassVar[AssignmentRule.Kind]
        KIND_INTERLEAVED: _ClassVar[AssignmentRule.Kind]
    KIND_UNSPECIFIED: AssignmentRule.Kind
    KIND_PER_REQUEST: AssignmentRule.Kind
    KIND_STICKY_HASH: AssignmentRule.Kind
    KIND_STICKY_STORED: AssignmentRule.Kind
    KIND_INTERLEAVED: AssignmentRule.Kind
    class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNIT_UNSPECIFIED: _ClassVar[AssignmentRule.Unit]
        UNIT_REQUEST: _ClassVar[AssignmentRule.Unit]
        UNIT_SESSION: _ClassVar[AssignmentRule.Unit]
        UNIT_USER: _ClassVar[AssignmentRule.Unit]
    UNIT_UNSPECIFIED: AssignmentRule.Unit
    UNIT_REQUEST: AssignmentRule.Unit
    UNIT_SESSION: AssignmentRule.Unit
    UNIT_USER: AssignmentRule.Unit
    KIND_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    kind: AssignmentRule.Kind
    ttl: _duration_pb2.Duration
    unit: AssignmentRule.Unit
    holdout: float
    def __init__(self, kind: _Optional[_Union[AssignmentRule.Kind, str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unit: _Optional[_Union[AssignmentRule.Unit, str]] = ..., holdout: _Optional[float] = ...) -> None: ...

class RewardRule(_message.Message):
    __slots__ = ("signals", "attribution_window", "mature_after", "no_feedback", "derived", "evidence_unit", "unit_share")
    class EvidenceUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EVIDENCE_UNIT_UNSPECIFIED: _ClassVar[RewardRule.EvidenceUnit]
        EVIDENCE_UNIT_DECISION: _ClassVar[RewardRule.EvidenceUnit]
        EVIDENCE_UNIT_UNIT: _ClassVar[RewardRule.EvidenceUnit]
    EVIDENCE_UNIT_UNSPECIFIED: RewardRule.EvidenceUnit
    EVIDENCE_UNIT_DECISION: RewardRule.EvidenceUnit
    EVIDENCE_UNIT_UNIT: RewardRule.EvidenceUnit
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MATURE_AFTER_FIELD_NUMBER: _ClassVar[int]
    NO_FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    DERIVED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_UNIT_FIELD_NUMBER: _ClassVar[int]
    UNIT_SHARE_FIELD_NUMBER: _ClassVar[int]
    signals: _containers.RepeatedCompositeFieldContainer[SignalReward]
    attribution_window: _duration_pb2.Duration
    mature_after: _duration_pb2.Duration
    no_feedback: float
    derived: DerivedSignals
    evidence_unit: RewardRule.EvidenceUnit
    unit_share: int
    def __init__(self, signals: _Optional[_Iterable[_Union[SignalReward, _Mapping]]] = ..., attribution_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mature_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., no_feedback: _Optional[float] = ..., derived: _Optional[_Union[DerivedSignals, _Mapping]] = ..., evidence_unit: _Optional[_Union[RewardRule.EvidenceUnit, str]] = ..., unit_share: _Optional[int] = ...) -> None: ...

class DerivedSignals(_message.Message):
    __slots__ = ("retry_within", "abandon_after", "rephrased_similarity", "rephrased_within")
    RETRY_WITHIN_FIELD_NUMBER: _ClassVar[int]
    ABANDON_AFTER_FIELD_NUMBER: _ClassVar[int]
    REPHRASED_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    REPHRASED_WITHIN_FIELD_NUMBER: _ClassVar[int]
    retry_within: _duration_pb2.Duration
    abandon_after: _duration_pb2.Duration
    rephrased_similarity: float
    rephrased_within: _duration_pb2.Duration
    def __init__(self, retry_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., abandon_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rephrased_similarity: _Optional[float] = ..., rephrased_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SignalReward(_message.Message):
    __slots__ = ("signal", "reward")
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    signal: _types_pb2.Signal
    reward: float
    def __init__(self, signal: _Optional[_Union[_types_pb2.Signal, str]] = ..., reward: _Optional[float] = ...) -> None: ...

class RampRule(_message.Message):
    __slots__ = ("challenger_arm_id", "stages", "guardrails", "alpha", "min_coverage", "strict", "approval", "warn_after")
    CHALLENGER_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    MIN_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    WARN_AFTER_FIELD_NUMBER: _ClassVar[int]
    challenger_arm_id: str
    stages: _containers.RepeatedCompositeFieldContainer[RampStage]
    guardrails: _containers.RepeatedCompositeFieldContainer[Guardrail]
    alpha: float
    min_coverage: float
    strict: bool
    approval: bool
    warn_after: _duration_pb2.Duration
    def __init__(self, challenger_arm_id: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[RampStage, _Mapping]]] = ..., guardrails: _Optional[_Iterable[_Union[Guardrail, _Mapping]]] = ..., alpha: _Optional[float] = ..., min_coverage: _Optional[float] = ..., strict: _Optional[bool] = ..., approval: _Optional[bool] = ..., warn_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RampStage(_message.Message):
    __slots__ = ("cap", "duration", "guardrails", "min_decisions")
    CAP_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    MIN_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    cap: float
    duration: _duration_pb2.Duration
    guardrails: _containers.RepeatedCompositeFieldContainer[Guardrail]
    min_decisions: int
    def __init__(self, cap: _Optional[float] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., guardrails: _Optional[_Iterable[_Union[Guardrail, _Mapping]]] = ..., min_decisions: _Optional[int] = ...) -> None: ...

class Guardrail(_message.Message):
    __slots__ = ("metric", "limit", "ratio", "latency_over", "clip_usd")
    class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        METRIC_UNSPECIFIED: _ClassVar[Guardrail.Metric]
        METRIC_RETRY: _ClassVar[Guardrail.Metric]
        METRIC_REPHRASE: _ClassVar[Guardrail.Metric]
        METRIC_ABANDONMENT: _ClassVar[Guardrail.Metric]
        METRIC_ERROR: _ClassVar[Guardrail.Metric]
        METRIC_SLOW: _ClassVar[Guardrail.Metric]
        METRIC_COST: _ClassVar[Guardrail.Metric]
    METRIC_UNSPECIFIED: Guardrail.Metric
    METRIC_RETRY: Guardrail.Metric
    METRIC_REPHRASE: Guardrail.Metric
    METRIC_ABANDONMENT: Guardrail.Metric
    METRIC_ERROR: Guardrail.Metric
    METRIC_SLOW: Guardrail.Metric
    METRIC_COST: Guardrail.Metric
    METRIC_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    LATENCY_OVER_FIELD_NUMBER: _ClassVar[int]
    CLIP_USD_FIELD_NUMBER: _ClassVar[int]
    metric: Guardrail.Metric
    limit: float
    ratio: float
    latency_over: _duration_pb2.Duration
    clip_usd: float
    def __init__(self, metric: _Optional[_Union[Guardrail.Metric, str]] = ..., limit: _Optional[float] = ..., ratio: _Optional[float] = ..., latency_over: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., clip_usd: _Optional[float] = ...) -> None: ...

class RampStatus(_message.Message):
    __slots__ = ("phase", "stage", "stage_since", "approved", "floor", "cap", "assessment", "version")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[RampStatus.Phase]
        PHASE_RAMPING: _ClassVar[RampStatus.Phase]
        PHASE_AWAITING_APPROVAL: _ClassVar[RampStatus.Phase]
        PHASE_PROMOTED: _ClassVar[RampStatus.Phase]
        PHASE_ROLLED_BACK: _ClassVar[RampStatus.Phase]
        PHASE_ABORTED: _ClassVar[RampStatus.Phase]
    PHASE_UNSPECIFIED: RampStatus.Phase
    PHASE_RAMPING: RampStatus.Phase
    PHASE_AWAITING_APPROVAL: RampStatus.Phase
    PHASE_PROMOTED: RampStatus.Phase
    PHASE_ROLLED_BACK: RampStatus.Phase
    PHASE_ABORTED: RampStatus.Phase
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_SINCE_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    ASSESSMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    phase: RampStatus.Phase
    stage: int
    stage_since: _timestamp_pb2.Timestamp
    approved: bool
    floor: float
    cap: float
    assessment: RampAssessment
    version: int
    def __init__(self, phase: _Optional[_Union[RampStatus.Phase, str]] = ..., stage: _Optional[int] = ..., stage_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., approved: _Optional[bool] = ..., floor: _Optional[float] = ..., cap: _Optional[float] = ..., assessment: _Optional[_Union[RampAssessment, _Mapping]] = ..., version: _Optional[int] = ...) -> None: ...

class RampAssessment(_message.Message):
    __slots__ = ("assess_time", "outcome", "verdicts", "missing", "decisions", "coverage", "next_check_time", "warning")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[RampAssessment.Outcome]
        OUTCOME_PASS: _ClassVar[RampAssessment.Outcome]
        OUTCOME_FAIL: _ClassVar[RampAssessment.Outcome]
        OUTCOME_INSUFFICIENT: _ClassVar[RampAssessment.Outcome]
    OUTCOME_UNSPECIFIED: RampAssessment.Outcome
    OUTCOME_PASS: RampAssessment.Outcome
    OUTCOME_FAIL: RampAssessment.Outcome
    OUTCOME_INSUFFICIENT: RampAssessment.Outcome
    ASSESS_TIME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    NEXT_CHECK_TIME_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    assess_time: _timestamp_pb2.Timestamp
    outcome: RampAssessment.Outcome
    verdicts: _containers.RepeatedCompositeFieldContainer[GuardrailVerdict]
    missing: _containers.RepeatedScalarFieldContainer[str]
    decisions: int
    coverage: float
    next_check_time: _timestamp_pb2.Timestamp
    warning: str
    def __init__(self, assess_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., outcome: _Optional[_Union[RampAssessment.Outcome, str]] = ..., verdicts: _Optional[_Iterable[_Union[GuardrailVerdict, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., decisions: _Optional[int] = ..., coverage: _Optional[float] = ..., next_check_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., warning: _Optional[str] = ...) -> None: ...

class GuardrailVerdict(_message.Message):
    __slots__ = ("metric", "outcome", "challenger", "control", "limit", "minimum", "reason")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CHALLENGER_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    metric: Guardrail.Metric
    outcome: RampAssessment.Outcome
    challenger: MetricEstimate
    control: MetricEstimate
    limit: float
    minimum: int
    reason: str
    def __init__(self, metric: _Optional[_Union[Guardrail.Metric, str]] = ..., outcome: _Optional[_Union[RampAssessment.Outcome, str]] = ..., challenger: _Optional[_Union[MetricEstimate, _Mapping]] = ..., control: _Optional[_Union[MetricEstimate, _Mapping]] = ..., limit: _Optional[float] = ..., minimum: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class MetricEstimate(_message.Message):
    __slots__ = ("n", "mean", "lower", "upper")
    N_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    n: int
    mean: float
    lower: float
    upper: float
    def __init__(self, n: _Optional[int] = ..., mean: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("transition_id", "experiment_id", "transition_time", "kind", "to", "actor", "reason", "assessment")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Transition.Kind]
        KIND_DEFINITION: _ClassVar[Transition.Kind]
        KIND_STATE: _ClassVar[Transition.Kind]
        KIND_RAMP: _ClassVar[Transition.Kind]
        KIND_VERDICT: _ClassVar[Transition.Kind]
        KIND_IMPORT: _ClassVar[Transition.Kind]
        KIND_ERASURE: _ClassVar[Transition.Kind]
    KIND_UNSPECIFIED: Transition.Kind
    KIND_DEFINITION: Transition.Kind
    KIND_STATE: Transition.Kind
    KIND_RAMP: Transition.Kind
    KIND_VERDICT: Transition.Kind
    KIND_IMPORT: Transition.Kind
    KIND_ERASURE: Transition.Kind
    TRANSITION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASSESSMENT_FIELD_NUMBER: _ClassVar[int]
    transition_id: int
    experiment_id: str
    transition_time: _timestamp_pb2.Timestamp
    kind: Transition.Kind
    to: str
    actor: str
    reason: str
    assessment: RampAssessment
    def __init__(self, transition_id: _Optional[int] = ..., experiment_id: _Optional[str] = ..., transition_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[Transition.Kind, str]] = ..., to: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., assessment: _Optional[_Union[RampAssessment, _Mapping]] = ..., **kwargs) -> None: ...

class CreateExperimentRequest(_message.Message):
    __slots__ = ("experiment", "actor", "reason")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    actor: str
    reason: str
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CreateExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class GetExperimentRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class GetExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ListExperimentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExperimentsResponse(_message.Message):
    __slots__ = ("experiments", "next_page_token")
    EXPERIMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiments: _containers.RepeatedCompositeFieldContainer[Experiment]
    next_page_token: str
    def __init__(self, experiments: _Optional[_Iterable[_Union[Experiment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateExperimentRequest(_message.Message):
    __slots__ = ("experiment", "actor", "reason")
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    actor: str
    reason: str
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UpdateExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ShadowExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ShadowExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class StartExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StartExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class PauseExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PauseExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ResumeExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ResumeExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ConcludeExperimentRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ConcludeExperimentResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ApproveRampRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ApproveRampResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class AdvanceRampRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AdvanceRampResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class PromoteRampRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PromoteRampResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class RollBackRampRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollBackRampResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class AbortRampRequest(_message.Message):
    __slots__ = ("experiment_id", "etag", "actor", "reason")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    etag: str
    actor: str
    reason: str
    def __init__(self, experiment_id: _Optional[str] = ..., etag: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AbortRampResponse(_message.Message):
    __slots__ = ("experiment",)
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    experiment: Experiment
    def __init__(self, experiment: _Optional[_Union[Experiment, _Mapping]] = ...) -> None: ...

class ListTransitionsRequest(_message.Message):
    __slots__ = ("experiment_id", "page_size", "page_token")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    page_size: int
    page_token: str
    def __init__(self, experiment_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTransitionsResponse(_message.Message):
    __slots__ = ("transitions", "next_page_token")
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transitions: _containers.RepeatedCompositeFieldContainer[Transition]
    next_page_token: str
    def __init__(self, transitions: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
