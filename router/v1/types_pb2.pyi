from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_CONTROL: _ClassVar[Role]
    ROLE_CHALLENGER: _ClassVar[Role]
    ROLE_SHADOW: _ClassVar[Role]

class TextMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_MODE_UNSPECIFIED: _ClassVar[TextMode]
    TEXT_MODE_FULL: _ClassVar[TextMode]
    TEXT_MODE_TRUNCATED: _ClassVar[TextMode]
    TEXT_MODE_OFF: _ClassVar[TextMode]

class ArmState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARM_STATE_UNSPECIFIED: _ClassVar[ArmState]
    ARM_STATE_ACTIVE: _ClassVar[ArmState]
    ARM_STATE_RETIRED: _ClassVar[ArmState]

class Signal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIGNAL_UNSPECIFIED: _ClassVar[Signal]
    SIGNAL_REPHRASED_QUERY: _ClassVar[Signal]
    SIGNAL_IMMEDIATE_RETRY: _ClassVar[Signal]
    SIGNAL_SESSION_ABANDONED: _ClassVar[Signal]
    SIGNAL_FOLLOW_UP_QUESTION: _ClassVar[Signal]
    SIGNAL_TASK_COMPLETED: _ClassVar[Signal]
    SIGNAL_THUMBS_UP: _ClassVar[Signal]
    SIGNAL_THUMBS_DOWN: _ClassVar[Signal]
ROLE_UNSPECIFIED: Role
ROLE_CONTROL: Role
ROLE_CHALLENGER: Role
ROLE_SHADOW: Role
TEXT_MODE_UNSPECIFIED: TextMode
TEXT_MODE_FULL: TextMode
TEXT_MODE_TRUNCATED: TextMode
TEXT_MODE_OFF: TextMode
ARM_STATE_UNSPECIFIED: ArmState
ARM_STATE_ACTIVE: ArmState
ARM_STATE_RETIRED: ArmState
SIGNAL_UNSPECIFIED: Signal
SIGNAL_REPHRASED_QUERY: Signal
SIGNAL_IMMEDIATE_RETRY: Signal
SIGNAL_SESSION_ABANDONED: Signal
SIGNAL_FOLLOW_UP_QUESTION: Signal
SIGNAL_TASK_COMPLETED: Signal
SIGNAL_THUMBS_UP: Signal
SIGNAL_THUMBS_DOWN: Signal

class Arm(_message.Message):
    __slots__ = ("arm_id", "model", "config", "role", "family", "cap", "cost_usd", "version", "state")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    model: str
    config: _struct_pb2.Struct
    role: Role
    family: str
    cap: float
    cost_usd: float
    version: int
    state: ArmState
    def __init__(self, arm_id: _Optional[str] = ..., model: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., role: _Optional[_Union[Role, str]] = ..., family: _Optional[str] = ..., cap: _Optional[float] = ..., cost_usd: _Optional[float] = ..., version: _Optional[int] = ..., state: _Optional[_Union[ArmState, str]] = ...) -> None: ...

class ArmProbability(_message.Message):
    __slots__ = ("arm_id", "probability")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    probability: float
    def __init__(self, arm_id: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...
