"""How the drop-in clients speak to Anthropic's SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import anthropic
import httpx2

from router.client import Arm
from router.llm.answers import Answer, anthropic_input_tokens, of_message
from router.llm.arguments import PORTABLE, merged, plain, text_of, with_sampling
from router.llm.failures import MalformedAnswer
from router.llm.models import Prompt

#: By what holds the connections of a client whose caller did not: what makes others of the kind.
_CONNECTIONS: Final[Mapping[str, Callable[[], Any]]] = {
    "SyncHttpxClientWrapper": anthropic.DefaultHttpxClient,
    "AsyncHttpxClientWrapper": anthropic.DefaultAsyncHttpxClient,
}


class AnthropicMalformed(anthropic.APIError, MalformedAnswer):
    """The server's answer is no message."""


class AnthropicDialect:
    """`messages.create`."""

    def arguments(self, parameters: Mapping[str, Any], arm: Arm, *, stream: bool) -> dict[str, Any]:
        """Return what to call the SDK with."""
        arguments = with_sampling(merged(parameters, arm.model, arm.config))
        return {**arguments, "stream": True} if stream else arguments

    def create(self, client: Any) -> Any:
        """Return the method that is called."""
        return client.messages.create

    def answer_of(self, response: Any) -> Answer:
        """Return what a Message says. Raises MalformedAnswer."""
        return of_message(response)

    def malformed(self, client: Any, message: str) -> Exception:
        """Return an error of the SDK's own tree."""
        return AnthropicMalformed(message, httpx2.Request("POST", _url(client, "v1/messages")), body=None)

    def collector(self, stream: Any, parameters: Mapping[str, Any]) -> MessageCollector:
        """Return what reads along with a stream."""
        return MessageCollector(_request_id(stream))

    def mirror_client(self, client: Any, timeout_s: float) -> Callable[[], Any] | None:
        """Return what makes a client for mirrored calls; None if the caller made the client's connections."""
        made_by = type(getattr(client, "_client", None)).__name__
        connections = _CONNECTIONS.get(made_by)
        if connections is None:
            return None
        return lambda: client.with_options(max_retries=0, timeout=timeout_s, http_client=connections())

    def prompt(self, parameters: Mapping[str, Any], arm: Arm) -> Prompt:
        """Return the request as text, with the arm's config."""
        config = dict(arm.config)
        system = text_of(config.pop("system", None) or parameters.get("system"))
        messages = [
            {"role": message["role"], "content": text_of(message.get("content"))}
            for message in plain(parameters.get("messages", []))
        ]
        portable = {name: parameters[name] for name in PORTABLE if name in parameters}
        return Prompt(messages, system, {**portable, **config})

    def asked(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the request's messages, the system's first."""
        system = plain(parameters.get("system"))
        head = [{"role": "system", "content": system}] if system else []
        return head + list(plain(parameters.get("messages", [])))


class MessageCollector:
    """Adds up the events of a streamed Message."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._texts: list[str] = []
        self._model = ""
        self._stop_reason = ""
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._complete = False

    def add(self, event: Any) -> bool:
        """Take an event; the caller sees every one."""
        match getattr(event, "type", None):
            case "message_start":
                self._model = str(getattr(event.message, "model", "") or "")
                self._input_tokens = anthropic_input_tokens(getattr(event.message, "usage", None))
            case "content_block_delta" if getattr(event.delta, "type", None) == "text_delta":
                self._texts.append(str(event.delta.text))
            case "message_delta":
                self._stop_reason = str(getattr(event.delta, "stop_reason", None) or self._stop_reason)
                written = getattr(getattr(event, "usage", None), "output_tokens", None)
                self._output_tokens = written if isinstance(written, int) else self._output_tokens
            case "message_stop":
                self._complete = True
        return True

    def answer(self) -> Answer:
        """Return what the stream has said so far."""
        text = "".join(self._texts)
        return Answer(text, self._model, self._stop_reason, self._input_tokens, self._output_tokens, self._request_id)

    def complete(self) -> bool:
        """Whether the answer has ended."""
        return self._complete


def _request_id(stream: Any) -> str:
    headers = getattr(getattr(stream, "response", None), "headers", {})
    return str(headers.get("request-id", ""))


def _url(client: Any, path: str) -> str:
    return f"{str(client.base_url).rstrip('/')}/{path}"
