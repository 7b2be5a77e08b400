"""What callers hold: arms, decisions, and what became of events. No gRPC and no messages in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Any


class Signal(IntEnum):
    """An implicit or explicit sign of how a user took an answer; the numbers are the proto's."""

    REPHRASED_QUERY = 1
    IMMEDIATE_RETRY = 2
    SESSION_ABANDONED = 3
    FOLLOW_UP_QUESTION = 4
    TASK_COMPLETED = 5
    THUMBS_UP = 6
    THUMBS_DOWN = 7

    @classmethod
    def parse(cls, value: Signal | int | str) -> Signal:
        """Return the signal of this number or name, such as 5, "task_completed" or "SIGNAL_TASK_COMPLETED".

        Raises ValueError with the names there are.
        """
        if isinstance(value, str):
            found = cls.__members__.get(value.upper().removeprefix("SIGNAL_"))
        else:
            found = next((signal for signal in cls if signal == value), None)
        if found is None:
            names = ", ".join(signal.name.lower() for signal in cls)
            raise ValueError(f"signal must be one of {names}, not {value!r}")
        return found


class Reason(IntEnum):
    """Why this arm; the numbers are the proto's."""

    #: A reason that this version of the client does not know.
    UNSPECIFIED = 0
    SAMPLED = 1
    STICKY = 2
    FORCED = 3
    FALLBACK = 4
    #: The unit is held out: nothing is learned from it.
    HOLDOUT = 5

    @classmethod
    def _missing_(cls, value: object) -> Reason | None:
        return cls.UNSPECIFIED if isinstance(value, int) else None


class Status(IntEnum):
    """What became of an event; the numbers from 1 on are the proto's."""

    #: Nothing was sent, because the decision was a fallback. Never comes from a router.
    NOT_SENT = -1
    #: Taken, with a status that this version of the client does not know.
    UNSPECIFIED = 0
    APPLIED = 1
    DUPLICATE = 2
    NEUTRAL = 3
    LATE = 4
    SPOOLED = 5
    LIMITED = 6

    @classmethod
    def _missing_(cls, value: object) -> Status | None:
        return cls.UNSPECIFIED if isinstance(value, int) else None


class TextMode(IntEnum):
    """How much text of prompts and answers is recorded; the numbers are the proto's."""

    #: Nothing is mirrored, or in a way that this version of the client does not know: then nothing is recorded.
    UNSPECIFIED = 0
    FULL = 1
    #: The beginning of each text.
    TRUNCATED = 2
    OFF = 3

    @classmethod
    def _missing_(cls, value: object) -> TextMode | None:
        return cls.UNSPECIFIED if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class Arm:
    """What to call. A fallback arm is given in the same form; one without a model is for callers that know it by id."""

    arm_id: str
    #: What the model client is called with.
    model: str = ""
    #: Its parameters. Whole numbers are int again, though they travel as doubles.
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """The router's choice for one request, or the fallback arm that stood in for it."""

    #: The receipt to reward; empty for a fallback.
    decision_id: str
    experiment_id: str
    arm: Arm
    #: The probability with which the arm was drawn, when it was drawn; 1 if forced or a fallback.
    propensity: float
    #: Probability by arm id: what the draw was made from; for a sticky replay, the current one.
    allocation: Mapping[str, float] = field(hash=False)
    #: The policy this was decided with; 0 for a fallback.
    policy_version: int
    reason: Reason
    #: How long the replica had been unable to refresh its policy; zero when fresh.
    stale_for: timedelta = timedelta(0)
    #: Arms to mirror the request to. Their answers must never reach the user.
    shadow_arms: tuple[Arm, ...] = ()
    #: As given to `route`.
    session_id: str = ""
    #: As given to `route`.
    turn_id: str = ""
    #: How much text `record_shadow` is to be given; it gives no more. Set beside shadow_arms.
    shadow_text: TextMode = TextMode.UNSPECIFIED
    #: For TRUNCATED: how many characters of each text.
    shadow_text_limit: int = 0

    @property
    def is_fallback(self) -> bool:
        """Whether the client stood in for a router that could not answer; nothing is learned from such a decision."""
        return not self.decision_id

    def log_fields(self) -> dict[str, str | int | float | bool]:
        """Return flat fields for the caller's own log entries, so that product metrics can be joined to the arm later.

        `session_id` and `turn_id` are there if they were given. The unit is not: it may identify a person.
        """
        fields: dict[str, str | int | float | bool] = {
            "experiment_id": self.experiment_id,
            "arm_id": self.arm.arm_id,
            "model": self.arm.model,
            "decision_id": self.decision_id,
            "policy_version": self.policy_version,
            "propensity": self.propensity,
            "reason": self.reason.name.lower(),
            "is_fallback": self.is_fallback,
        }
        if self.session_id:
            fields["session_id"] = self.session_id
        if self.turn_id:
            fields["turn_id"] = self.turn_id
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """How the call to the arm's model went. Feeds guardrails, never the reward; None means not known."""

    #: From request to the last byte of the answer.
    latency: timedelta | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    #: In US dollars.
    cost_usd: float | None = None
    #: The kind of failure, such as "timeout"; empty when the call succeeded.
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """One answer of a model, for a comparison."""

    #: Empty where none is recorded, and for a call that failed.
    text: str = ""
    call: CallReport = CallReport()
    #: The model as its server named it.
    model: str = ""
    #: Why it ended, in the words of its server, such as "end_turn".
    stop_reason: str = ""
    #: The server's id of the request.
    provider_request_id: str = ""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What became of one event."""

    status: Status
    #: The arm the decision chose; empty when a bare empty decision id was rewarded.
    arm_id: str
    #: The id the event was sent with: send it again to repeat the event, another one to add to it.
    event_id: str


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What one client did without the router, since it was made."""

    #: Decisions answered with a fallback arm.
    fallbacks: int = 0
    #: Events not sent, because they were about such a decision.
    skipped_rewards: int = 0
