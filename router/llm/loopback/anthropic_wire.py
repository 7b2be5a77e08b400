"""Anthropic's Messages protocol, from the server's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from router.llm.loopback.asked import Asked, canonical, text_of
from router.llm.loopback.behaviour import Behaviour, tokens
from router.llm.loopback.protocol import Headers, Refused, answer_id, event, pieces, require

_INVALID: Final = "invalid_request_error"
_KINDS: Final = {400: _INVALID, 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_KNOWN: Final = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "service_tier",
        "container",
        "cache_control",
        "inference_geo",
    }
)


class AnthropicWire:
    """Requests and answers of `POST /v1/messages`."""

    request_id_header = "request-id"

    def check_key(self, headers: Headers) -> None:
        """Check that there is a key; any will do. Raises Refused."""
        if not headers.get("x-api-key") and not headers.get("authorization"):
            raise Refused(401, "authentication_error", "x-api-key header is required")

    def read(self, headers: Headers, body: Mapping[str, Any]) -> Asked:
        """Check a request as the provider does. Raises Refused."""
        require(headers.get("anthropic-version"), _INVALID, "anthropic-version: header is required")
        for name in ("model", "messages", "max_tokens"):
            require(name in body, _INVALID, f"{name}: Field required")
        for name in body:
            require(name in _KNOWN, _INVALID, f"{name}: Extra inputs are not permitted")
        limit, messages = body["max_tokens"], body["messages"]
        require(isinstance(limit, int) and limit >= 1, _INVALID, "max_tokens: Input should be greater than or equal to 1")
        require(isinstance(messages, list) and messages, _INVALID, "messages: at least one message is required")
        for at, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            require(role in ("user", "assistant"), _INVALID, f"messages.{at}.role: Input should be 'user' or 'assistant'")
            require(message.get("content"), _INVALID, f"messages.{at}: text content blocks must be non-empty")
        temperature = body.get("temperature", 0)
        require(isinstance(temperature, int | float) and 0 <= temperature <= 1, _INVALID, "temperature: range: 0..1")
        texts = [text_of(message["content"]) for message in messages]
        users = [text for text, message in zip(texts, messages, strict=True) if message["role"] == "user"]
        form = (body.get("output_config") or {}).get("format") or {}
        return Asked(
            model=str(body["model"]),
            whole="\n".join(text for text in [text_of(body.get("system", "")), *texts] if text),
            last=users[-1] if users else "",
            schema=form.get("schema"),
            max_tokens=limit,
            stream=body.get("stream") is True,
            stream_usage=True,
            content=canonical(body),
        )

    def not_found(self, model: str) -> Refused:
        """Return the refusal of a model that does not exist."""
        return Refused(404, "not_found_error", f"model: {model}")

    def answer(self, asked: Asked, behaviour: Behaviour) -> dict[str, Any]:
        """Return the body of an answer."""
        return {
            **_head(asked),
            # A refusal has no content: the provider stopped the text before it began.
            "content": [] if not _text(behaviour) else [{"type": "text", "text": _text(behaviour)}],
            "stop_reason": behaviour.stop,
            "stop_sequence": None,
            "usage": {"input_tokens": tokens(asked.whole), "output_tokens": tokens(_text(behaviour)) or 1},
        }

    def events(self, asked: Asked, behaviour: Behaviour) -> Iterator[bytes]:
        """Return the events of a streamed answer."""
        usage = {"input_tokens": tokens(asked.whole), "output_tokens": 1}
        start = {**_head(asked), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield event({"type": "message_start", "message": start}, "message_start")
        parts = pieces(_text(behaviour))
        if parts:
            block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            yield event(block, "content_block_start")
            for part in parts:
                delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
                yield event(delta, "content_block_delta")
            yield event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        ended = {"stop_reason": behaviour.stop, "stop_sequence": None}
        spent = {"output_tokens": tokens(_text(behaviour)) or 1}
        yield event({"type": "message_delta", "delta": ended, "usage": spent}, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        """Return the body of an error."""
        return {"type": "error", "error": {"type": kind, "message": message}}

    def error_event(self) -> bytes:
        """Return the event that ends a stream in an error."""
        return event(self.error(529, "overloaded_error", "Overloaded"), "error")

    def kind(self, status: int) -> str:
        """Return the provider's word for a status."""
        return "overloaded_error" if status == 529 else _KINDS.get(status, "api_error")

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the listing of models."""
        data = [{"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"} for name in names]
        return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def _head(asked: Asked) -> dict[str, Any]:
    return {"id": answer_id("msg_", asked), "type": "message", "role": "assistant", "model": asked.model}


def _text(behaviour: Behaviour) -> str:
    return "" if behaviour.stop == "refusal" else behaviour.text
