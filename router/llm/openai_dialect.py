"""How the drop-in clients speak to OpenAI's SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx2
import openai

from router.client import Arm
from router.llm.answers import Answer, of_completion
from router.llm.arguments import PORTABLE, merged, plain, text_of
from router.llm.failures import MalformedAnswer
from router.llm.models import Prompt

#: Two names of one parameter: the arm's must not meet the caller's other one.
_LIMITS: Final = ("max_tokens", "max_completion_tokens")


#: By what holds the connections of a client whose caller did not: what makes others of the kind.
_CONNECTIONS: Final[Mapping[str, Callable[[], Any]]] = {
    "SyncHttpxClientWrapper": openai.DefaultHttpxClient,
    "AsyncHttpxClientWrapper": openai.DefaultAsyncHttpxClient,
}


class OpenAIMalformed(openai.APIError, MalformedAnswer):
    """The server's answer is no chat completion."""


class OpenAIDialect:
    """`chat.completions.create`."""

    def __init__(self, *, stream_usage: bool = True) -> None:
        """`stream_usage`: ask for the usage of streams; the chunk that carries it is kept from callers that did not."""
        self._stream_usage = stream_usage

    def arguments(self, parameters: Mapping[str, Any], arm: Arm, *, stream: bool) -> dict[str, Any]:
        """Return what to call the SDK with."""
        given = dict(parameters)
        if any(name in arm.config for name in _LIMITS):
            given = {name: value for name, value in given.items() if name not in _LIMITS}
        arguments = merged(given, arm.model, arm.config)
        if not stream:
            return arguments
        arguments["stream"] = True
        if self._stream_usage:
            arguments["stream_options"] = {"include_usage": True, **(parameters.get("stream_options") or {})}
        return arguments

    def create(self, client: Any) -> Any:
        """Return the method that is called."""
        return client.chat.completions.create

    def answer_of(self, response: Any) -> Answer:
        """Return what a ChatCompletion says. Raises MalformedAnswer."""
        return of_completion(response)

    def malformed(self, client: Any, message: str) -> Exception:
        """Return an error of the SDK's own tree."""
        return OpenAIMalformed(message, httpx2.Request("POST", _url(client, "chat/completions")), body=None)

    def collector(self, stream: Any, parameters: Mapping[str, Any]) -> ChunkCollector:
        """Return what reads along with a stream."""
        wanted = "include_usage" in (parameters.get("stream_options") or {})
        return ChunkCollector(_request_id(stream), hides_usage=self._stream_usage and not wanted)

    def mirror_client(self, client: Any, timeout_s: float) -> Callable[[], Any] | None:
        """Return what makes a client for mirrored calls; None if the caller made the client's connections."""
        made_by = type(getattr(client, "_client", None)).__name__
        connections = _CONNECTIONS.get(made_by)
        if connections is None:
            return None
        return lambda: client.with_options(max_retries=0, timeout=timeout_s, http_client=connections())

    def prompt(self, parameters: Mapping[str, Any], arm: Arm) -> Prompt:
        """Return the request as text, with the arm's config."""
        asked = list(plain(parameters.get("messages", [])))
        system = "\n".join(text_of(message.get("content")) for message in asked if _is_system(message))
        messages = [_as_text(message) for message in asked if not _is_system(message)]
        portable = {name: parameters[name] for name in PORTABLE if name in parameters}
        if "max_completion_tokens" in parameters:
            portable["max_tokens"] = parameters["max_completion_tokens"]
        config = dict(arm.config)
        system = text_of(config.pop("system", None)) or system
        return Prompt(messages, system, {**portable, **config})

    def asked(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the request's messages."""
        return list(plain(parameters.get("messages", [])))


class ChunkCollector:
    """Adds up the chunks of a streamed ChatCompletion."""

    def __init__(self, request_id: str, *, hides_usage: bool) -> None:
        self._request_id = request_id
        self._hides_usage = hides_usage
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._model = ""
        self._finish = ""
        self._usage: Any = None

    def add(self, event: Any) -> bool:
        """Take a chunk; the caller sees all but a chunk of usage that it did not ask for."""
        self._model = str(getattr(event, "model", None) or self._model)
        usage = getattr(event, "usage", None)
        choices = getattr(event, "choices", None) or ()
        if usage is not None:
            self._usage = usage
        for choice in choices[:1]:
            delta = getattr(choice, "delta", None)
            self._texts.append(str(getattr(delta, "content", None) or ""))
            self._refusals.append(str(getattr(delta, "refusal", None) or ""))
            self._finish = str(getattr(choice, "finish_reason", None) or self._finish)
        return bool(choices) or usage is None or not self._hides_usage

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        refusal = "".join(self._refusals)
        return Answer(
            text="".join(self._texts) or refusal,
            model=self._model,
            stop_reason="refusal" if refusal else self._finish,
            input_tokens=_count(self._usage, "prompt_tokens"),
            output_tokens=_count(self._usage, "completion_tokens"),
            request_id=self._request_id,
        )

    def complete(self) -> bool:
        """Whether the answer has ended."""
        return bool(self._finish)


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")


def _as_text(message: Mapping[str, Any]) -> dict[str, str]:
    """Return a message that any provider takes: tools and functions speak as the user."""
    role = "assistant" if message.get("role") == "assistant" else "user"
    calls = [
        f"[tool call {call.get('function', {}).get('name', '')}: {call.get('function', {}).get('arguments', '')}]"
        for call in message.get("tool_calls") or ()
    ]
    text = text_of(message.get("content"))
    if message.get("role") in ("tool", "function"):
        text = f"[tool result: {text}]"
    return {"role": role, "content": "\n".join(part for part in [text, *calls] if part)}


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and value >= 0 else None


def _request_id(stream: Any) -> str:
    headers = getattr(getattr(stream, "response", None), "headers", {})
    return str(headers.get("x-request-id", ""))


def _url(client: Any, path: str) -> str:
    return f"{str(client.base_url).rstrip('/')}/{path}"
