import datetime

from router.buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from router.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_A: _ClassVar[Verdict]
    VERDICT_B: _ClassVar[Verdict]
    VERDICT_TIE: _ClassVar[Verdict]
    VERDICT_INVALID: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_A: Verdict
VERDICT_B: Verdict
VERDICT_TIE: Verdict
VERDICT_INVALID: Verdict

class JudgeRun(_message.Message):
    __slots__ = ("run_id", "experiment_id", "arm_id", "other_arm_id", "judge", "judge_family", "allow_same_family", "rubric", "sample", "seed", "method", "repeat_share", "create_time", "pairs", "judgments", "judged", "cost_usd")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        METHOD_UNSPECIFIED: _ClassVar[JudgeRun.Method]
        METHOD_BOTH_ORDERS: _ClassVar[JudgeRun.Method]
        METHOD_RANDOM_ORDER: _ClassVar[JudgeRun.Method]
    METHOD_UNSPECIFIED: JudgeRun.Method
    METHOD_BOTH_ORDERS: JudgeRun.Method
    METHOD_RANDOM_ORDER: JudgeRun.Method
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_ARM_ID_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FAMILY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_SAME_FAMILY_FIELD_NUMBER: _ClassVar[int]
    RUBRIC_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REPEAT_SHARE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    JUDGMENTS_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    experiment_id: str
    arm_id: str
    other_arm_id: str
    judge: str
    judge_family: str
    allow_same_family: bool
    rubric: str
    sample: int
    seed: int
    method: JudgeRun.Method
    repeat_share: float
    create_time: _timestamp_pb2.Timestamp
    pairs: int
    judgments: int
    judged: int
    cost_usd: float
    def __init__(self, run_id: _Optional[str] = ..., experiment_id: _Optional[str] = ..., arm_id: _Optional[str] = ..., other_arm_id: _Optional[str] = ..., judge: _Optional[str] = ..., judge_family: _Optional[str] = ..., allow_same_family: _Optional[bool] = ..., rubric: _Optional[str] = ..., sample: _Optional[int] = ..., seed: _Optional[int] = ..., method: _Optional[_Union[JudgeRun.Method, str]] = ..., repeat_share: _Optional[float] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pairs: _Optional[int] = ..., judgments: _Optional[int] = ..., judged: _Optional[int] = ..., cost_usd: _Optional[float] = ...) -> None: ...

class CreateJudgeRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: JudgeRun
    def __init__(self, run: _Optional[_Union[JudgeRun, _Mapping]] = ...) -> None: ...

class CreateJudgeRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: JudgeRun
    def __init__(self, run: _Optional[_Union[JudgeRun, _Mapping]] = ...) -> None: ...

class ListJudgeRunsRequest(_message.Message):
    __slots__ = ("experiment_id",)
    EXPERIMENT_ID_FIELD_NUMBER: _ClassVar[int]
    experiment_id: str
    def __init__(self, experiment_id: _Optional[str] = ...) -> None: ...

class ListJudgeRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[JudgeRun]
    def __init__(self, runs: _Optional[_Iterable[_Union[JudgeRun, _Mapping]]] = ...) -> None: ...

class ListPendingJudgmentsRequest(_message.Message):
    __slots__ = ("run_id", "page_size", "page_token")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    page_size: int
    page_token: str
    def __init__(self, run_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPendingJudgmentsResponse(_message.Message):
    __slots__ = ("judgments", "next_page_token")
    JUDGMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    judgments: _containers.RepeatedCompositeFieldContainer[PendingJudgment]
    next_page_token: str
    def __init__(self, judgments: _Optional[_Iterable[_Union[PendingJudgment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PendingJudgment(_message.Message):
    __slots__ = ("judgment", "prompt", "answer_a", "answer_b")
    JUDGMENT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_A_FIELD_NUMBER: _ClassVar[int]
    ANSWER_B_FIELD_NUMBER: _ClassVar[int]
    judgment: int
    prompt: str
    answer_a: str
    answer_b: str
    def __init__(self, judgment: _Optional[int] = ..., prompt: _Optional[str] = ..., answer_a: _Optional[str] = ..., answer_b: _Optional[str] = ...) -> None: ...

class RecordVerdictRequest(_message.Message):
    __slots__ = ("run_id", "judgment", "verdict", "reason", "call")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JUDGMENT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    judgment: int
    verdict: Verdict
    reason: str
    call: _routing_pb2.CallReport
    def __init__(self, run_id: _Optional[str] = ..., judgment: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ..., call: _Optional[_Union[_routing_pb2.CallReport, _Mapping]] = ...) -> None: ...

class RecordVerdictResponse(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: _Optional[bool] = ...) -> None: ...

class GetJudgeReportRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetJudgeReportResponse(_message.Message):
    __slots__ = ("run", "judged_pairs", "invalid_pairs", "pending_pairs", "arm_wins", "other_wins", "ties", "net", "conclusion", "summary", "first_wins", "position_biased", "order_agreement", "self_agreement", "user_agreement")
    class Conclusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONCLUSION_UNSPECIFIED: _ClassVar[GetJudgeReportResponse.Conclusion]
        CONCLUSION_ARM: _ClassVar[GetJudgeReportResponse.Conclusion]
        CONCLUSION_OTHER: _ClassVar[GetJudgeReportResponse.Conclusion]
        CONCLUSION_UNDECIDED: _ClassVar[GetJudgeReportResponse.Conclusion]
        CONCLUSION_UNUSABLE: _ClassVar[GetJudgeReportResponse.Conclusion]
    CONCLUSION_UNSPECIFIED: GetJudgeReportResponse.Conclusion
    CONCLUSION_ARM: GetJudgeReportResponse.Conclusion
    CONCLUSION_OTHER: GetJudgeReportResponse.Conclusion
    CONCLUSION_UNDECIDED: GetJudgeReportResponse.Conclusion
    CONCLUSION_UNUSABLE: GetJudgeReportResponse.Conclusion
    RUN_FIELD_NUMBER: _ClassVar[int]
    JUDGED_PAIRS_FIELD_NUMBER: _ClassVar[int]
    INVALID_PAIRS_FIELD_NUMBER: _ClassVar[int]
    PENDING_PAIRS_FIELD_NUMBER: _ClassVar[int]
    ARM_WINS_FIELD_NUMBER: _ClassVar[int]
    OTHER_WINS_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    NET_FIELD_NUMBER: _ClassVar[int]
    CONCLUSION_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FIRST_WINS_FIELD_NUMBER: _ClassVar[int]
    POSITION_BIASED_FIELD_NUMBER: _ClassVar[int]
    ORDER_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    SELF_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    USER_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    run: JudgeRun
    judged_pairs: int
    invalid_pairs: int
    pending_pairs: int
    arm_wins: JudgeRate
    other_wins: JudgeRate
    ties: JudgeRate
    net: JudgeRate
    conclusion: GetJudgeReportResponse.Conclusion
    summary: str
    first_wins: JudgeRate
    position_biased: bool
    order_agreement: JudgeRate
    self_agreement: JudgeRate
    user_agreement: JudgeRate
    def __init__(self, run: _Optional[_Union[JudgeRun, _Mapping]] = ..., judged_pairs: _Optional[int] = ..., invalid_pairs: _Optional[int] = ..., pending_pairs: _Optional[int] = ..., arm_wins: _Optional[_Union[JudgeRate, _Mapping]] = ..., other_wins: _Optional[_Union[JudgeRate, _Mapping]] = ..., ties: _Optional[_Union[JudgeRate, _Mapping]] = ..., net: _Optional[_Union[JudgeRate, _Mapping]] = ..., conclusion: _Optional[_Union[GetJudgeReportResponse.Conclusion, str]] = ..., summary: _Optional[str] = ..., first_wins: _Optional[_Union[JudgeRate, _Mapping]] = ..., position_biased: _Optional[bool] = ..., order_agreement: _Optional[_Union[JudgeRate, _Mapping]] = ..., self_agreement: _Optional[_Union[JudgeRate, _Mapping]] = ..., user_agreement: _Optional[_Union[JudgeRate, _Mapping]] = ...) -> None: ...

class JudgeRate(_message.Message):
    __slots__ = ("estimate", "lower", "upper", "n")
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    estimate: float
    lower: float
    upper: float
    n: int
    def __init__(self, estimate: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., n: _Optional[int] = ...) -> None: ...
