"""What an SDK's answer says, whichever SDK it is of: text, tokens, why it ended.

An SDK builds its objects without checking them, so a body of valid JSON that is no answer arrives as an object with holes.
These functions find the holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.llm.failures import MalformedAnswer


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a provider."""

    text: str
    model: str
    stop_reason: str
    #: None where the server did not say.
    input_tokens: int | None
    output_tokens: int | None
    request_id: str


def of_message(message: Any) -> Answer:
    """Return what a Message of Anthropic's SDK says. Raises MalformedAnswer."""
    content = getattr(message, "content", None)
    if not isinstance(content, list):
        raise MalformedAnswer("the server's answer is not a message: it has no content")
    usage = getattr(message, "usage", None)
    return Answer(
        text="".join(str(block.text) for block in content if getattr(block, "type", None) == "text"),
        model=str(getattr(message, "model", None) or ""),
        stop_reason=str(getattr(message, "stop_reason", None) or ""),
        input_tokens=anthropic_input_tokens(usage),
        output_tokens=_count(usage, "output_tokens"),
        request_id=str(getattr(message, "_request_id", None) or ""),
    )


def of_completion(completion: Any) -> Answer:
    """Return what a ChatCompletion of OpenAI's SDK says. Raises MalformedAnswer."""
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise MalformedAnswer("the server's answer is not a chat completion: it has no choices")
    refusal = getattr(message, "refusal", None)
    usage = getattr(completion, "usage", None)
    return Answer(
        text=str(getattr(message, "content", None) or refusal or ""),
        model=str(getattr(completion, "model", None) or ""),
        stop_reason="refusal" if refusal else str(getattr(choice, "finish_reason", None) or ""),
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        request_id=str(getattr(completion, "_request_id", None) or ""),
    )


def anthropic_input_tokens(usage: Any) -> int | None:
    """Return all tokens read. The API counts those that a cache served apart from the others."""
    read = _count(usage, "input_tokens")
    if read is None:
        return None
    return read + (_count(usage, "cache_creation_input_tokens") or 0) + (_count(usage, "cache_read_input_tokens") or 0)


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else None
