import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetPosteriorRequest(_message.Message):
    __slots__ = ("experiment_id", "as_of", "segment", "diagnostics")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    as_of: _timestamp_pb2.Timestamp
    segment: str
    diagnostics: bool
    def __init__(self, experiment_id: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., segment: _Optional[str] = ..., diagnostics: _Optional[bool] = ...) -> None: ...

class GetPosteriorResponse(_message.Message):
    __slots__ = ("experiment_id", "policy_version", "as_of", "arms", "segment", "expected_cost_usd", "reward_per_usd")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COST_USD_FIELD_NUMBER: _ClassVar[int]
    REWARD_PER_USD_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    policy_version: int
    as_of: _timestamp_pb2.Timestamp
    arms: _containers.RepeatedCompositeFieldContainer[ArmPosterior]
    segment: str
    expected_cost_usd: float
    reward_per_usd: float
    def __init__(self, experiment_id: _Optional[str] = ..., policy_version: _Optional[int] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[ArmPosterior, _Mapping]]] = ..., segment: _Optional[str] = ..., expected_cost_usd: _Optional[float] = ..., reward_per_usd: _Optional[float] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("experiment_id", "start_time", "end_time", "page_size", "page_token", "segment")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    segment: str
    def __init__(self, experiment_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots", "next_page_token")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[Snapshot]
    next_page_token: str
    def __init__(self, snapshots: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("policy_version", "snapshot_time", "matured_to", "arms")
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TIME_FIELD_NUMBER: _ClassVar[int]
    MATURED_TO_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    policy_version: int
    snapshot_time: _timestamp_pb2.Timestamp
    matured_to: _timestamp_pb2.Timestamp
    arms: _containers.RepeatedCompositeFieldContainer[ArmPosterior]
    def __init__(self, policy_version: _Optional[int] = ..., snapshot_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., matured_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., arms: _Optional[_Iterable[_Union[ArmPosterior, _Mapping]]] = ...) -> None: ...

class WatchPosteriorRequest(_message.Message):
    __slots__ = ("experiment_id", "segment")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    segment: str
    def __init__(self, experiment_id: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class WatchPosteriorResponse(_message.Message):
    __slots__ = ("posterior",)
    POSTERIOR_FIELD_NUMBER: _ClassVar[int]
    posterior: GetPosteriorResponse
    def __init__(self, posterior: _Optional[_Union[GetPosteriorResponse, _Mapping]] = ...) -> None: ...

class ArmPosterior(_message.Message):
    __slots__ = ("arm_id", "alpha", "beta", "n", "mean", "lower", "upper", "probability_best", "expected_loss", "allocation", "version", "state", "diagnostics")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_BEST_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LOSS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    alpha: float
    beta: float
    n: int
    mean: float
    lower: float
    upper: float
    probability_best: float
    expected_loss: float
    allocation: float
    version: int
    state: _types_pb2.ArmState
    diagnostics: ArmDiagnostics
    def __init__(self, arm_id: _Optional[str] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ..., n: _Optional[int] = ..., mean: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., probability_best: _Optional[float] = ..., expected_loss: _Optional[float] = ..., allocation: _Optional[float] = ..., version: _Optional[int] = ..., state: _Optional[_Union[_types_pb2.ArmState, str]] = ..., diagnostics: _Optional[_Union[ArmDiagnostics, _Mapping]] = ...) -> None: ...

class ArmDiagnostics(_message.Message):
    __slots__ = ("decisions", "pending_decisions", "silent_decisions", "coverage", "drift")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    PENDING_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    SILENT_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    decisions: int
    pending_decisions: int
    silent_decisions: int
    coverage: Rate
    drift: Drift
    def __init__(self, decisions: _Optional[int] = ..., pending_decisions: _Optional[int] = ..., silent_decisions: _Optional[int] = ..., coverage: _Optional[_Union[Rate, _Mapping]] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("alarm", "log_e", "since", "before", "after", "outcomes_before", "outcomes_after")
    ALARM_FIELD_NUMBER: _ClassVar[int]
    LOG_E_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_AFTER_FIELD_NUMBER: _ClassVar[int]
    alarm: bool
    log_e: float
    since: _timestamp_pb2.Timestamp
    before: float
    after: float
    outcomes_before: float
    outcomes_after: float
    def __init__(self, alarm: _Optional[bool] = ..., log_e: _Optional[float] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., before: _Optional[float] = ..., after: _Optional[float] = ..., outcomes_before: _Optional[float] = ..., outcomes_after: _Optional[float] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ("experiment_id", "start_time", "end_time", "period")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    period: _duration_pb2.Duration
    def __init__(self, experiment_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("experiment_id", "as_of", "metrics", "warnings")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    as_of: _timestamp_pb2.Timestamp
    metrics: _containers.RepeatedCompositeFieldContainer[ArmMetrics]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, experiment_id: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metrics: _Optional[_Iterable[_Union[ArmMetrics, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ArmMetrics(_message.Message):
    __slots__ = ("arm_id", "version", "start_time", "end_time", "interactions", "holdout", "coverage", "retry", "rephrase", "abandonment", "follow_up", "completion", "outcomes", "mean_reward")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    INTERACTIONS_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    REPHRASE_FIELD_NUMBER: _ClassVar[int]
    ABANDONMENT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_UP_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    MEAN_REWARD_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    version: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    interactions: int
    holdout: bool
    coverage: Rate
    retry: Rate
    rephrase: Rate
    abandonment: Rate
    follow_up: Rate
    completion: Rate
    outcomes: int
    mean_reward: float
    def __init__(self, arm_id: _Optional[str] = ..., version: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., interactions: _Optional[int] = ..., holdout: _Optional[bool] = ..., coverage: _Optional[_Union[Rate, _Mapping]] = ..., retry: _Optional[_Union[Rate, _Mapping]] = ..., rephrase: _Optional[_Union[Rate, _Mapping]] = ..., abandonment: _Optional[_Union[Rate, _Mapping]] = ..., follow_up: _Optional[_Union[Rate, _Mapping]] = ..., completion: _Optional[_Union[Rate, _Mapping]] = ..., outcomes: _Optional[int] = ..., mean_reward: _Optional[float] = ...) -> None: ...

class Rate(_message.Message):
    __slots__ = ("count", "value", "lower", "upper")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    count: int
    value: float
    lower: float
    upper: float
    def __init__(self, count: _Optional[int] = ..., value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...
