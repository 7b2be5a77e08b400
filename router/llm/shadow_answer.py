"""The two kinds of answers, as types that cannot be mistaken for each other.

What is given back to the caller is made of what the serving arm's call returned. A `ShadowAnswer` has no way there: nothing
that returns to a caller takes one, and what takes a `ServingAnswer` refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from router.client import CallReport
from router.llm.answers import Answer


@dataclass(frozen=True, slots=True)
class ServingAnswer:
    """How the serving arm's call went: what the caller got, or why it got nothing."""

    #: None for a call that failed or was cancelled.
    answer: Answer | None
    call: CallReport


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """How a mirrored call went. For the record only."""

    arm_id: str
    #: None for a call that failed.
    answer: Answer | None
    call: CallReport


def call_report(answer: Answer | None, latency_s: float, cost_usd: float | None, error: str = "") -> CallReport:
    """Return the report of a call."""
    return CallReport(
        latency=timedelta(seconds=max(0.0, latency_s)),
        input_tokens=None if answer is None else answer.input_tokens,
        output_tokens=None if answer is None else answer.output_tokens,
        cost_usd=cost_usd,
        error=error,
    )
