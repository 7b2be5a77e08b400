"""OpenAI's Chat Completions protocol, from the server's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from router.llm.loopback.asked import Asked, canonical, text_of
from router.llm.loopback.behaviour import Behaviour, tokens
from router.llm.loopback.protocol import Headers, Refused, answer_id, event, pieces, require

_INVALID: Final = "invalid_request_error"
_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_FINISH: Final = {"end_turn": "stop", "max_tokens": "length", "refusal": "stop"}
_KNOWN: Final = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "user",
        "metadata",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "service_tier",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "verbosity",
        "store",
        "safety_identifier",
        "prompt_cache_key",
    }
)


class OpenAIWire:
    """Requests and answers of `POST /v1/chat/completions`."""

    request_id_header = "x-request-id"

    def check_key(self, headers: Headers) -> None:
        """Check that there is a key; any will do. Raises Refused."""
        if not headers.get("authorization", "").startswith("Bearer "):
            raise Refused(401, _INVALID, "You didn't provide an API key.")

    def read(self, headers: Headers, body: Mapping[str, Any]) -> Asked:
        """Check a request as the provider does. Raises Refused."""
        for name in ("model", "messages"):
            require(name in body, _INVALID, f"Missing required parameter: '{name}'.")
        for name in body:
            require(name in _KNOWN, _INVALID, f"Unrecognized request argument supplied: {name}")
        messages = body["messages"]
        require(isinstance(messages, list) and messages, _INVALID, "Invalid 'messages': empty array.")
        for at, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            require(role in _ROLES, _INVALID, f"Invalid value: {role!r} for 'messages[{at}].role'.")
        temperature = body.get("temperature", 1)
        require(
            isinstance(temperature, int | float) and 0 <= temperature <= 2, _INVALID, "Invalid 'temperature': range 0..2."
        )
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        require(limit is None or (isinstance(limit, int) and limit >= 1), _INVALID, "Invalid 'max_tokens': at least 1.")
        texts = [text_of(message.get("content")) for message in messages]
        users = [text for text, message in zip(texts, messages, strict=True) if message["role"] == "user"]
        form = body.get("response_format") or {}
        return Asked(
            model=str(body["model"]),
            whole="\n".join(texts),
            last=users[-1] if users else "",
            schema=(form.get("json_schema") or {}).get("schema"),
            max_tokens=limit,
            stream=body.get("stream") is True,
            stream_usage=(body.get("stream_options") or {}).get("include_usage") is True,
            content=canonical(body),
        )

    def not_found(self, model: str) -> Refused:
        """Return the refusal of a model that does not exist."""
        return Refused(404, _INVALID, f"The model `{model}` does not exist or you do not have access to it.")

    def answer(self, asked: Asked, behaviour: Behaviour) -> dict[str, Any]:
        """Return the body of an answer."""
        refuses = behaviour.stop == "refusal"
        message = {
            "role": "assistant",
            "content": None if refuses else behaviour.text,
            "refusal": behaviour.text if refuses else None,
        }
        choice = {"index": 0, "message": message, "finish_reason": _FINISH[behaviour.stop], "logprobs": None}
        return {**_head(asked, "chat.completion"), "choices": [choice], "usage": _usage(asked, behaviour)}

    def events(self, asked: Asked, behaviour: Behaviour) -> Iterator[bytes]:
        """Return the events of a streamed answer."""
        where = "refusal" if behaviour.stop == "refusal" else "content"
        yield event(_chunk(asked, {"role": "assistant", "content": None}))
        for part in pieces(behaviour.text):
            yield event(_chunk(asked, {where: part}))
        yield event(_chunk(asked, {}, _FINISH[behaviour.stop]))
        if asked.stream_usage:
            yield event({**_head(asked, "chat.completion.chunk"), "choices": [], "usage": _usage(asked, behaviour)})
        yield b"data: [DONE]\n\n"

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        """Return the body of an error."""
        code = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}.get(status)
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def error_event(self) -> bytes:
        """Return the event that ends a stream in an error."""
        return event(self.error(500, "server_error", "The server had an error while processing your request."))

    def kind(self, status: int) -> str:
        """Return the provider's word for a status."""
        return "server_error" if status >= 500 else "rate_limit_error" if status == 429 else _INVALID

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the listing of models."""
        data = [{"id": name, "object": "model", "created": 1735689600, "owned_by": "loopback"} for name in names]
        return {"object": "list", "data": data}


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": answer_id("chatcmpl-", asked), "object": kind, "created": 1735689600, "model": asked.model}


def _chunk(asked: Asked, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {**_head(asked, "chat.completion.chunk"), "choices": [choice]}


def _usage(asked: Asked, behaviour: Behaviour) -> dict[str, int]:
    read, written = tokens(asked.whole), tokens(behaviour.text)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
