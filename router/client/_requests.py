"""What callers ask and tell: the arguments of `route` and `reward` as values, checked when they are made.

Only what a message cannot express is checked here; the field rules are the router's, so that they have one home.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypedDict

from router.client._values import Arm, CallReport, Decision, ModelAnswer, Signal, TextMode


class RouteOptions(TypedDict, total=False):
    """The optional arguments of `route`; `RouteRequest` says what they mean."""

    unit_id: str
    session_id: str
    turn_id: str
    request_id: str | None
    eligible_arm_ids: Iterable[str]
    segment: str
    force_arm_id: str
    force_control: bool
    prompt_fingerprint: str
    prompt_similarity: float | None
    fallback: Arm | str | None


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """One request for an arm. Routing the same value again, in one call or several, is the same decision."""

    experiment_id: str
    #: The request, session or user that is randomised. Required where the assignment is sticky.
    unit_id: str = field(default="", kw_only=True)
    session_id: str = field(default="", kw_only=True)
    turn_id: str = field(default="", kw_only=True)
    #: The same id in the same experiment is the same decision. None or empty: a fresh one, so that retries are safe.
    request_id: str | None = field(default=None, kw_only=True)
    #: The arms this request may get; empty means every active arm.
    eligible_arm_ids: Iterable[str] = field(default=(), kw_only=True)
    #: A slice of traffic, such as "mobile".
    segment: str = field(default="", kw_only=True)
    #: Answers with this arm, for debugging; nothing is learned from it.
    force_arm_id: str = field(default="", kw_only=True)
    #: Answers with the control, for a caller whose arm failed; nothing is learned from it. Not together with force_arm_id.
    force_control: bool = field(default=False, kw_only=True)
    #: A hash of the prompt, made by the caller.
    prompt_fingerprint: str = field(default="", kw_only=True)
    #: Similarity to the session's previous prompt, in [0, 1].
    prompt_similarity: float | None = field(default=None, kw_only=True)
    #: The arm that answers if the router cannot; takes precedence over the client's `fallback_arms`.
    fallback: Arm | str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.eligible_arm_ids, str):
            raise TypeError(f"eligible_arm_ids must be several arm ids, not the string {self.eligible_arm_ids!r}")
        object.__setattr__(self, "eligible_arm_ids", tuple(self.eligible_arm_ids))
        if not self.request_id:
            object.__setattr__(self, "request_id", fresh_id())
        if self.fallback is not None and not self.permits(as_arm(self.fallback)):
            raise ValueError(
                f"fallback {as_arm(self.fallback).arm_id!r} is not an arm this request may get: "
                "it must be the forced arm, or among eligible_arm_ids"
            )

    def permits(self, arm: Arm) -> bool:
        """Return whether the caller accepts this arm: the forced one, or else any of the eligible ones."""
        if self.force_arm_id:
            return arm.arm_id == self.force_arm_id
        eligible = tuple(self.eligible_arm_ids)
        return not eligible or arm.arm_id in eligible


class ShadowOptions(TypedDict, total=False):
    """The optional arguments of `record_shadow`; `ShadowRecord` says what they mean."""

    prompt: str
    request_id: str


@dataclass(frozen=True, slots=True)
class ShadowRecord:
    """How a shadow arm answered beside the serving one. Sending the same decision and arm again changes nothing."""

    #: The decision that named the shadow arm, or its id as kept with the answer.
    decision: Decision | str
    #: One of the decision's shadow_arms, or its id.
    arm: Arm | str
    serving: ModelAnswer = field(kw_only=True)
    shadow: ModelAnswer = field(kw_only=True)
    #: What both were asked, as text or as a JSON list of messages.
    prompt: str = field(default="", kw_only=True)
    #: The caller's own id of the request.
    request_id: str = field(default="", kw_only=True)

    @property
    def decision_id(self) -> str:
        """The receipt this is about; empty for a fallback."""
        return self.decision if isinstance(self.decision, str) else self.decision.decision_id

    def kept(self, text: str) -> str:
        """Return what the decision wants of a text; all of it where only the id is known: the router decides too."""
        if isinstance(self.decision, str) or self.decision.shadow_text is TextMode.FULL:
            return text
        truncated = self.decision.shadow_text is TextMode.TRUNCATED
        return text[: self.decision.shadow_text_limit] if truncated else ""


class RewardOptions(TypedDict, total=False):
    """The optional arguments of `reward`; `RewardEvent` says what they mean."""

    event_id: str | None
    signal: Signal | int | str | None
    reward: float | None
    call: CallReport | None
    occurred_at: datetime | None
    metadata: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """One feedback event about a decision: exactly one of signal, reward and call.

    Sending the same value again changes nothing. Raises ValueError when made of none or several of the three, of an
    unknown signal, or of a time without a zone.
    """

    #: The decision, or its id as kept with the answer.
    decision: Decision | str
    #: Idempotency key, scoped to the decision; None: a fresh one. See the module for how to choose it.
    event_id: str | None = field(default=None, kw_only=True)
    #: The signal, its number, or its name such as "task_completed".
    signal: Signal | int | str | None = field(default=None, kw_only=True)
    #: A reward measured by the caller, in [0, 1].
    reward: float | None = field(default=None, kw_only=True)
    call: CallReport | None = field(default=None, kw_only=True)
    #: When it happened; None means when the router receives it.
    occurred_at: datetime | None = field(default=None, kw_only=True)
    #: Free annotations, stored with the event.
    metadata: Mapping[str, str] | None = field(default=None, kw_only=True, hash=False)

    def __post_init__(self) -> None:
        feedback = {"signal": self.signal, "reward": self.reward, "call": self.call}
        given = [name for name, value in feedback.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of signal, reward and call is needed, not {' and '.join(given) or 'none'}")
        if self.signal is not None:
            object.__setattr__(self, "signal", Signal.parse(self.signal))
        if self.occurred_at is not None and self.occurred_at.utcoffset() is None:
            raise ValueError(f"occurred_at needs a time zone, such as datetime.now(UTC): {self.occurred_at!r}")
        if self.event_id is None:
            object.__setattr__(self, "event_id", fresh_id())

    @property
    def decision_id(self) -> str:
        """The receipt this event is about; empty for a fallback."""
        return self.decision if isinstance(self.decision, str) else self.decision.decision_id


def fresh_id() -> str:
    """Return an id that nobody used before."""
    return str(uuid.uuid4())


def as_arm(arm: Arm | str) -> Arm:
    """Return the arm; of a bare id, one without model and config."""
    return Arm(arm) if isinstance(arm, str) else arm
