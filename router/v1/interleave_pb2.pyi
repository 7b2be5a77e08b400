import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InterleaveRequest(_message.Message):
    __slots__ = ("experiment_id", "unit_id", "request_id", "rankings", "length")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RANKINGS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    unit_id: str
    request_id: str
    rankings: _containers.RepeatedCompositeFieldContainer[Ranking]
    length: int
    def __init__(self, experiment_id: _Optional[str] = ..., unit_id: _Optional[str] = ..., request_id: _Optional[str] = ..., rankings: _Optional[_Iterable[_Union[Ranking, _Mapping]]] = ..., length: _Optional[int] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("arm_id", "item_ids")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, arm_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class InterleaveResponse(_message.Message):
    __slots__ = ("interleaving_id", "items")
    INTERLEAVING_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    interleaving_id: str
    items: _containers.RepeatedCompositeFieldContainer[InterleavedItem]
    def __init__(self, interleaving_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[InterleavedItem, _Mapping]]] = ...) -> None: ...

class InterleavedItem(_message.Message):
    __slots__ = ("item_id", "arm_id")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    arm_id: str
    def __init__(self, item_id: _Optional[str] = ..., arm_id: _Optional[str] = ...) -> None: ...

class CreditRequest(_message.Message):
    __slots__ = ("interleaving_id", "positions", "occurred_at")
    INTERLEAVING_ID_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    interleaving_id: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    occurred_at: _timestamp_pb2.Timestamp
    def __init__(self, interleaving_id: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreditResponse(_message.Message):
    __slots__ = ("credits",)
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    credits: _containers.RepeatedCompositeFieldContainer[ArmCredit]
    def __init__(self, credits: _Optional[_Iterable[_Union[ArmCredit, _Mapping]]] = ...) -> None: ...

class ArmCredit(_message.Message):
    __slots__ = ("arm_id", "credit")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    credit: int
    def __init__(self, arm_id: _Optional[str] = ..., credit: _Optional[int] = ...) -> None: ...

class GetPreferencesRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class GetPreferencesResponse(_message.Message):
    __slots__ = ("experiment_id", "interleavings", "credited", "preferences")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    INTERLEAVINGS_FIELD_NUMBER: _ClassVar[int]
    CREDITED_FIELD_NUMBER: _ClassVar[int]
    PREFERENCES_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    interleavings: int
    credited: int
    preferences: _containers.RepeatedCompositeFieldContainer[Preference]
    def __init__(self, experiment_id: _Optional[str] = ..., interleavings: _Optional[int] = ..., credited: _Optional[int] = ..., preferences: _Optional[_Iterable[_Union[Preference, _Mapping]]] = ...) -> None: ...

class Preference(_message.Message):
    __slots__ = ("arm_id", "other_arm_id", "wins", "losses", "ties", "win_rate", "lower", "upper", "p_value", "version", "other_version")
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    WINS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    WIN_RATE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OTHER_VERSION_FIELD_NUMBER: _ClassVar[int]
    arm_id: str
    other_arm_id: str
    wins: int
    losses: int
    ties: int
    win_rate: float
    lower: float
    upper: float
    p_value: float
    version: int
    other_version: int
    def __init__(self, arm_id: _Optional[str] = ..., other_arm_id: _Optional[str] = ..., wins: _Optional[int] = ..., losses: _Optional[int] = ..., ties: _Optional[int] = ..., win_rate: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., p_value: _Optional[float] = ..., version: _Optional[int] = ..., other_version: _Optional[int] = ...) -> None: ...

class CompareTurnsRequest(_message.Message):
    __slots__ = ("experiment_id", "arm_id", "other_arm_id")
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    arm_id: str
    other_arm_id: str
    def __init__(self, experiment_id: _Optional[str] = ..., arm_id: _Optional[str] = ..., other_arm_id: _Optional[str] = ...) -> None: ...

class CompareTurnsResponse(_message.Message):
    __slots__ = ("paired", "first_turn", "p_value", "excluded_turns")
    PAIRED_FIELD_NUMBER: _ClassVar[int]
    FIRST_TURN_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_TURNS_FIELD_NUMBER: _ClassVar[int]
    paired: TurnDifference
    first_turn: TurnDifference
    p_value: float
    excluded_turns: int
    def __init__(self, paired: _Optional[_Union[TurnDifference, _Mapping]] = ..., first_turn: _Optional[_Union[TurnDifference, _Mapping]] = ..., p_value: _Optional[float] = ..., excluded_turns: _Optional[int] = ...) -> None: ...

class TurnDifference(_message.Message):
    __slots__ = ("estimate", "stderr", "lower", "upper", "sessions")
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    estimate: float
    stderr: float
    lower: float
    upper: float
    sessions: int
    def __init__(self, estimate: _Optional[float] = ..., stderr: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., sessions: _Optional[int] = ...) -> None: ...
