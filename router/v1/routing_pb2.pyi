import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from router.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_SAMPLED: _ClassVar[Reason]
    REASON_STICKY: _ClassVar[Reason]
    REASON_FORCED: _ClassVar[Reason]
    REASON_FALLBACK: _ClassVar[Reason]
    REASON_HOLDOUT: _ClassVar[Reason]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_APPLIED: _ClassVar[Status]
    STATUS_DUPLICATE: _ClassVar[Status]
    STATUS_NEUTRAL: _ClassVar[Status]
    STATUS_LATE: _ClassVar[Status]
    STATUS_SPOOLED: _ClassVar[Status]
    STATUS_LIMITED: _ClassVar[Status]
REASON_UNSPECIFIED: Reason
REASON_SAMPLED: Reason
REASON_STICKY: Reason
REASON_FORCED: Reason
REASON_FALLBACK: Reason
REASON_HOLDOUT: Reason
STATUS_UNSPECIFIED: Status
STATUS_APPLIED: Status
STATUS_DUPLICATE: Status
STATUS_NEUTRAL: Status
STATUS_LATE: Status
STATUS_SPOOLED: Status
STATUS_LIMITED: Status

class RouteRequest(_message.Message):
    __slots__ = ("experiment_id", "unit_id", "session_id", "turn_id", "request_id", "eligible_arm_ids", "segment", "force_arm_id", "prompt_fingerprint", "prompt_similarity", "force_control")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TURN_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_ARM_IDS_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    FORCE_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    FORCE_CONTROL_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    unit_id: str
    session_id: str
    turn_id: str
    request_id: str
    eligible_arm_ids: _containers.RepeatedScalarFieldContainer[str]
    segment: str
    force_arm_id: str
    prompt_fingerprint: str
    prompt_similarity: float
    force_control: bool
    def __init__(self, experiment_id: _Optional[str] = ..., unit_id: _Optional[str] = ..., session_id: _Optional[str] = ..., turn_id: _Optional[str] = ..., request_id: _Optional[str] = ..., eligible_arm_ids: _Optional[_Iterable[str]] = ..., segment: _Optional[str] = ..., force_arm_id: _Optional[str] = ..., prompt_fingerprint: _Optional[str] = ..., prompt_similarity: _Optional[float] = ..., force_control: _Optional[bool] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("decision_id", "experiment_id", "arm", "propensity", "allocation", "policy_version", "reason", "stale_for", "shadow_arms", "allocation_index", "shadow_text", "shadow_text_limit")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STALE_FOR_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ARMS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_INDEX_FIELD_NUMBER: _ClassVar[int]
    SHADOW_TEXT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_TEXT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    experiment_id: str
    arm: RoutedArm
    propensity: float
    allocation: _containers.RepeatedCompositeFieldContainer[_types_pb2.ArmProbability]
    policy_version: int
    reason: Reason
    stale_for: _duration_pb2.Duration
    shadow_arms: _containers.RepeatedCompositeFieldContainer[RoutedArm]
    allocation_index: int
    shadow_text: _types_pb2.TextMode
    shadow_text_limit: int
    def __init__(self, decision_id: _Optional[str] = ..., experiment_id: _Optional[str] = ..., arm: _Optional[_Union[RoutedArm, _Mapping]] = ..., propensity: _Optional[float] = ..., allocation: _Optional[_Iterable[_Union[_types_pb2.ArmProbability, _Mapping]]] = ..., policy_version: _Optional[int] = ..., reason: _Optional[_Union[Reason, str]] = ..., stale_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., shadow_arms: _Optional[_Iterable[_Union[RoutedArm, _Mapping]]] = ..., allocation_index: _Optional[int] = ..., shadow_text: _Optional[_Union[_types_pb2.TextMode, str]] = ..., shadow_text_limit: _Optional[int] = ...) -> None: ...

class RoutedArm(_message.Message):
    __slots__ = ("arm_id", "model", "config")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    model: str
    config: _struct_pb2.Struct
    def __init__(self, arm_id: _Optional[str] = ..., model: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class BatchRouteRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RouteRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RouteRequest, _Mapping]]] = ...) -> None: ...

class BatchRouteResponse(_message.Message):
    __slots__ = ("results", "allocations")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchRouteResult]
    allocations: _containers.RepeatedCompositeFieldContainer[Allocation]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchRouteResult, _Mapping]]] = ..., allocations: _Optional[_Iterable[_Union[Allocation, _Mapping]]] = ...) -> None: ...

class Allocation(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_types_pb2.ArmProbability]
    def __init__(self, entries: _Optional[_Iterable[_Union[_types_pb2.ArmProbability, _Mapping]]] = ...) -> None: ...

class BatchRouteResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: RouteResponse
    error: _status_pb2.Status
    def __init__(self, response: _Optional[_Union[RouteResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class RewardRequest(_message.Message):
    __slots__ = ("decision_id", "event_id", "occurred_at", "metadata", "signal", "reward", "call")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    event_id: str
    occurred_at: _timestamp_pb2.Timestamp
    metadata: _containers.ScalarMap[str, str]
    signal: _types_pb2.Signal
    reward: float
    call: CallReport
    def __init__(self, decision_id: _Optional[str] = ..., event_id: _Optional[str] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., signal: _Optional[_Union[_types_pb2.Signal, str]] = ..., reward: _Optional[float] = ..., call: _Optional[_Union[CallReport, _Mapping]] = ...) -> None: ...

class CallReport(_message.Message):
    __slots__ = ("latency", "input_tokens", "output_tokens", "cost_usd", "error")
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    latency: _duration_pb2.Duration
    input_tokens: int
    output_tokens: int
    cost_usd: float
    error: str
    def __init__(self, latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cost_usd: _Optional[float] = ..., error: _Optional[str] = ...) -> None: ...

class RewardResponse(_message.Message):
    __slots__ = ("status", "arm_id")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    status: Status
    arm_id: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., arm_id: _Optional[str] = ...) -> None: ...

class BatchRewardRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RewardRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RewardRequest, _Mapping]]] = ...) -> None: ...

class BatchRewardResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchRewardResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchRewardResult, _Mapping]]] = ...) -> None: ...

class BatchRewardResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: RewardResponse
    error: _status_pb2.Status
    def __init__(self, response: _Optional[_Union[RewardResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
