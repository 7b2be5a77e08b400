"""A model behind one small interface: what judges, evaluations and mirrored calls need of any provider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a model."""

    text: str
    #: The model as its server named it.
    model: str
    #: Why it ended, in the words of its server, for example "end_turn" or "refusal".
    stop_reason: str
    #: None where the server did not say.
    input_tokens: int | None
    output_tokens: int | None
    #: The server's id of the request; empty where it gave none.
    request_id: str
    #: From request to the last byte.
    latency_s: float


class ModelError(Exception):
    """A call that gave no answer."""

    def __init__(self, kind: str, message: str, *, retry_after_s: float | None = None, retryable: bool = False) -> None:
        """`kind` is a short word for metrics, for example "timeout", "rate_limit", "overloaded" or "malformed"."""
        super().__init__(message)
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float
    output_usd: float

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return what a call costs."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked."""

    #: {"role": "user" or "assistant", "content": text}, the last one from the user.
    messages: Sequence[Mapping[str, Any]]
    system: str = ""
    #: Parameters of the provider's call, for example max_tokens and temperature.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: A JSON Schema that the answer must follow; None for free text.
    schema: Mapping[str, Any] | None = None


class Model(Protocol):
    """A model that can be asked."""

    #: As in "openai:gpt-5-mini".
    name: str

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once, without retries. Raises ModelError."""

    async def close(self) -> None:
        """Let go of connections."""
