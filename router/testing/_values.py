"""What tests set up and look at: the fake's experiments and the events it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from router.client._requests import ShadowRecord, as_arm
from router.client._values import Arm, CallReport, Decision, ModelAnswer, Signal, Status, TextMode
from router.v1 import routing_pb2, shadow_pb2


@dataclass
class FakeExperiment:
    """An experiment of the fake. Change it during a test to change what is decided from then on.

    Raises ValueError when `choose` or `control` names an arm that there is not, or a shadow arm is one that answers.
    """

    #: Ids, or arms with the model and config that the code under test reads.
    arms: Iterable[Arm | str]
    #: An arm id: always this arm. Several: these in turn, over and over. None: drawn from the seed.
    choose: str | Sequence[str] | None = None
    #: Whether a unit keeps its arm, and so every request needs a `unit_id`.
    sticky: bool = False
    #: False: refuses to route, as a paused experiment does.
    running: bool = True
    #: Ids, or arms, that every decision is mirrored to, but for forced ones. None of them answers.
    shadow_arms: Iterable[Arm | str] = ()
    #: How much text is recorded of them, and for TRUNCATED how many characters of each text.
    shadow_text: TextMode = TextMode.FULL
    shadow_text_limit: int = 500
    #: What `force_control` answers with; empty: the first arm.
    control: str = ""
    #: Outcomes of one unit that count; events beyond are LIMITED, as a router does it by the day. 0 is no limit.
    unit_share: int = 10

    def __post_init__(self) -> None:
        self.arms = tuple(as_arm(arm) for arm in self.arms)
        chosen = (self.choose,) if isinstance(self.choose, str) else tuple(self.choose or ())
        unknown = [arm_id for arm_id in chosen if arm_id not in self.arms_by_id()]
        if unknown:
            raise ValueError(f"choose names {unknown[0]!r}, which is not among the arms {list(self.arms_by_id())}")
        if self.control and self.control not in self.arms_by_id():
            raise ValueError(f"control is {self.control!r}, which is not among the arms {list(self.arms_by_id())}")
        self.shadow_arms = tuple(as_arm(arm) for arm in self.shadow_arms)
        answering = [arm.arm_id for arm in map(as_arm, self.shadow_arms) if arm.arm_id in self.arms_by_id()]
        if answering:
            raise ValueError(f"shadow_arms has {answering[0]!r}, which is among the arms: a shadow arm never answers")

    def arms_by_id(self) -> dict[str, Arm]:
        """Return the arms, in the order given."""
        return {arm.arm_id: arm for arm in map(as_arm, self.arms)}


@dataclass(frozen=True, slots=True)
class FakeReward:
    """One event that the fake took, with what became of it: a duplicate is here too, with status DUPLICATE."""

    decision: Decision
    event_id: str
    status: Status
    signal: Signal | None
    reward: float | None
    call: CallReport | None
    #: None if the producer gave none.
    occurred_at: datetime | None
    metadata: Mapping[str, str] = field(hash=False)

    @classmethod
    def of(cls, request: routing_pb2.RewardRequest, decision: Decision, status: Status) -> FakeReward:
        """Return the event of a request."""
        feedback = request.WhichOneof("feedback")
        return cls(
            decision=decision,
            event_id=request.event_id,
            status=status,
            signal=Signal(request.signal) if feedback == "signal" else None,
            reward=request.reward if feedback == "reward" else None,
            call=_call_report(request.call) if feedback == "call" else None,
            occurred_at=request.occurred_at.ToDatetime(UTC) if request.HasField("occurred_at") else None,
            metadata=dict(request.metadata),
        )


@dataclass(frozen=True, slots=True)
class FakeComparison:
    """What the fake was told of a shadow arm, with no more text than the experiment lets it keep."""

    decision: Decision
    arm_id: str
    request_id: str
    prompt: str
    serving: ModelAnswer
    shadow: ModelAnswer

    @classmethod
    def of(cls, request: shadow_pb2.RecordShadowRequest, decision: Decision) -> FakeComparison:
        """Return the comparison of a request."""
        rule = ShadowRecord(decision, "", serving=ModelAnswer(), shadow=ModelAnswer())
        return cls(
            decision=decision,
            arm_id=request.arm_id,
            request_id=request.request_id,
            prompt=rule.kept(request.prompt),
            serving=_answer(request.serving, rule),
            shadow=_answer(request.shadow, rule),
        )


def _answer(answer: shadow_pb2.ModelAnswer, rule: ShadowRecord) -> ModelAnswer:
    return ModelAnswer(
        text=rule.kept(answer.text),
        call=_call_report(answer.call),
        model=answer.model,
        stop_reason=answer.stop_reason,
        provider_request_id=answer.provider_request_id,
    )


def _call_report(call: routing_pb2.CallReport) -> CallReport:
    return CallReport(
        latency=call.latency.ToTimedelta() if call.HasField("latency") else None,
        input_tokens=call.input_tokens if call.HasField("input_tokens") else None,
        output_tokens=call.output_tokens if call.HasField("output_tokens") else None,
        cost_usd=call.cost_usd if call.HasField("cost_usd") else None,
        error=call.error,
    )
