"""The parts of an experiment file about rollouts: ramps with their guardrails, shadow traffic, and derived signals."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from bandit.ramp import Ramp
from router.config.keys import DurationText, Optional, Shape, key
from router.shadow_rules import DEFAULT_RATE, DEFAULT_TEXT_LIMIT
from router.v1.experiments_pb2 import DerivedSignals, Guardrail, RampRule, RampStage, ShadowRule

_DEFAULTS: Final = Ramp(())


class GuardrailShape(Shape):
    """A bound on one metric of the challenger: a limit, or a ratio to the control's."""

    metric: Literal["retry", "rephrase", "abandonment", "error", "slow", "cost"] = key(
        Guardrail, "metric", "What is watched: a share of decisions, of reported calls, or their mean cost.", required=True
    )
    limit: Optional[float] = key(Guardrail, "limit", "The greatest rate, below 1; for cost: US dollars per call.")
    ratio: Optional[float] = key(Guardrail, "ratio", "The greatest multiple of the control's rate over the same time.")
    latency_over: Optional[DurationText] = key(Guardrail, "latency_over", "For slow: a call that takes longer is slow.")
    clip_usd: Optional[float] = key(Guardrail, "clip_usd", "For cost: the most that one call counts, above the limit.")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        # protobuf refuses two members of a oneof without saying where.
        if self.limit is not None and self.ratio is not None:
            raise PydanticCustomError("two_of_one", "has limit and ratio")
        return self


class StageShape(Shape):
    """One step of a ramp."""

    cap: float = key(
        RampStage, "cap", "The challenger's greatest share; its least is half of that. The last one is 1.", required=True
    )
    duration: Optional[DurationText] = key(RampStage, "duration", "The least time in this stage.", default="0s")
    guardrails: Optional[list[GuardrailShape]] = key(RampStage, "guardrails", "What must hold in this stage.")
    min_decisions: Optional[int] = key(
        RampStage, "min_decisions", "The least matured decisions of the challenger, beside what each guardrail needs."
    )


class RampShape(Shape):
    """How a challenger is let in: stage by stage, as long as its guardrails hold."""

    challenger: Optional[str] = key(RampRule, "challenger_arm_id", "The arm that is let in: by default the only challenger.")
    stages: Optional[Annotated[list[StageShape], Field(min_length=1)]] = key(
        RampRule, "stages", "By default five, 1 % for 2h to 100 %, with limits on the retry rate."
    )
    guardrails: Optional[list[GuardrailShape]] = key(
        RampRule, "guardrails", "What holds in each stage that has no guardrail of its own on the same metric."
    )
    alpha: Optional[float] = key(
        RampRule,
        "alpha",
        "The chance of rolling back a challenger that keeps every guardrail, over the whole ramp.",
        default=_DEFAULTS.alpha,
    )
    min_coverage: Optional[float] = key(
        RampRule,
        "min_coverage",
        "The least share of the challenger's matured decisions with any event.",
        default=_DEFAULTS.min_coverage,
    )
    strict: Optional[bool] = key(
        RampRule, "strict", "Whether a pass takes an upper bound within the limit, not only an estimate.", default=False
    )
    approval: Optional[bool] = key(
        RampRule, "approval", "Whether the promotion waits for `bandit-router ramp approve`.", default=False
    )
    warn_after: Optional[DurationText] = key(
        RampRule, "warn_after", "A stage without a verdict this long after its duration is worth a warning.", default="1d"
    )


class ShadowShape(Shape):
    """Which decisions are mirrored to shadow arms, and what of them is kept."""

    rate: Optional[float] = key(ShadowRule, "rate", "The share of decisions that is mirrored.", default=DEFAULT_RATE)
    daily_budget_usd: Optional[float] = key(
        ShadowRule, "daily_budget_usd", "US dollars a day, in UTC, that shadow calls may cost: by default no limit."
    )
    text: Literal["full", "truncated", "off"] = key(
        ShadowRule, "text", "How much of prompts and answers is recorded: a choice without a default.", required=True
    )
    text_limit: Optional[int] = key(
        ShadowRule, "text_limit", "For truncated: how many characters of each text.", default=DEFAULT_TEXT_LIMIT
    )


class DerivedShape(Shape):
    """Signals that the router derives from decisions; each only if its first key is there."""

    retry_within: Optional[DurationText] = key(
        DerivedSignals, "retry_within", "immediate_retry: the same session and turn is routed again within this time."
    )
    abandon_after: Optional[DurationText] = key(
        DerivedSignals, "abandon_after", "session_abandoned: nothing in the session for this long."
    )
    rephrased_similarity: Optional[float] = key(
        DerivedSignals, "rephrased_similarity", "rephrased_query: the next turn's prompt_similarity is at least this."
    )
    rephrased_within: Optional[DurationText] = key(
        DerivedSignals, "rephrased_within", "rephrased_query: the next turn follows within this time.", default="5m"
    )
