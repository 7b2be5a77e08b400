import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import routing_pb2 as _routing_pb2
from router.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordShadowRequest(_message.Message):
    __slots__ = ("decision_id", "arm_id", "request_id", "prompt", "serving", "shadow")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    arm_id: str
    request_id: str
    prompt: str
    serving: ModelAnswer
    shadow: ModelAnswer
    def __init__(self, decision_id: _Optional[str] = ..., arm_id: _Optional[str] = ..., request_id: _Optional[str] = ..., prompt: _Optional[str] = ..., serving: _Optional[_Union[ModelAnswer, _Mapping]] = ..., shadow: _Optional[_Union[ModelAnswer, _Mapping]] = ...) -> None: ...

class ModelAnswer(_message.Message):
    __slots__ = ("text", "call", "model", "stop_reason", "provider_request_id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    call: _routing_pb2.CallReport
    model: str
    stop_reason: str
    provider_request_id: str
    def __init__(self, text: _Optional[str] = ..., call: _Optional[_Union[_routing_pb2.CallReport, _Mapping]] = ..., model: _Optional[str] = ..., stop_reason: _Optional[str] = ..., provider_request_id: _Optional[str] = ...) -> None: ...

class RecordShadowResponse(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: _Optional[bool] = ...) -> None: ...

class ListComparisonsRequest(_message.Message):
    __slots__ = ("experiment_id", "arm_id", "page_size", "page_token")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    arm_id: str
    page_size: int
    page_token: str
    def __init__(self, experiment_id: _Optional[str] = ..., arm_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListComparisonsResponse(_message.Message):
    __slots__ = ("comparisons", "next_page_token")
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    comparisons: _containers.RepeatedCompositeFieldContainer[Comparison]
    next_page_token: str
    def __init__(self, comparisons: _Optional[_Iterable[_Union[Comparison, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("decision_key", "serving_arm_id", "serving_arm_version", "shadow_arm_id", "shadow_arm_version", "decision_time", "record_time", "request_id", "text", "prompt", "serving", "shadow")
    DECISION_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVING_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    SERVING_ARM_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ARM_VERSION_FIELD_NUMBER: _ClassVar[int]
    DECISION_TIME_FIELD_NUMBER: _ClassVar[int]
    RECORD_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    decision_key: str
    serving_arm_id: str
    serving_arm_version: int
    shadow_arm_id: str
    shadow_arm_version: int
    decision_time: _timestamp_pb2.Timestamp
    record_time: _timestamp_pb2.Timestamp
    request_id: str
    text: _types_pb2.TextMode
    prompt: str
    serving: ModelAnswer
    shadow: ModelAnswer
    def __init__(self, decision_key: _Optional[str] = ..., serving_arm_id: _Optional[str] = ..., serving_arm_version: _Optional[int] = ..., shadow_arm_id: _Optional[str] = ..., shadow_arm_version: _Optional[int] = ..., decision_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., text: _Optional[_Union[_types_pb2.TextMode, str]] = ..., prompt: _Optional[str] = ..., serving: _Optional[_Union[ModelAnswer, _Mapping]] = ..., shadow: _Optional[_Union[ModelAnswer, _Mapping]] = ...) -> None: ...
