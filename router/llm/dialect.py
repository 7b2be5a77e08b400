"""What the drop-in clients must know of a provider's SDK: how to call it, read it and mirror it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from router.client import Arm
from router.llm.answers import Answer
from router.llm.models import Prompt


class Collector(Protocol):
    """Reads along with a stream."""

    def add(self, event: Any) -> bool:
        """Take an event; whether the caller asked for it and must see it."""

    def answer(self) -> Answer:
        """Return what the stream has said so far."""

    def complete(self) -> bool:
        """Whether the provider said that the answer has ended."""


class Dialect(Protocol):
    """One provider's SDK."""

    def arguments(self, parameters: Mapping[str, Any], arm: Arm, *, stream: bool) -> dict[str, Any]:
        """Return what to call the SDK with: the caller's parameters, and over them the arm's model and config."""

    def create(self, client: Any) -> Any:
        """Return the method of a client, sync or async, that is called."""

    def answer_of(self, response: Any) -> Answer:
        """Return what a response says. Raises MalformedAnswer."""

    def malformed(self, client: Any, message: str) -> Exception:
        """Return an error of the SDK's own tree for a response that the SDK let pass although it is none."""

    def collector(self, stream: Any, parameters: Mapping[str, Any]) -> Collector:
        """Return what reads along with a stream that `parameters` asked for."""

    def mirror_client(self, client: Any, timeout_s: float) -> Callable[[], Any] | None:
        """Return what makes a client for mirrored calls, with connections of its own and without retries.

        None if the caller made the client's connections: they may hold proxies and certificates that nobody else knows.
        """

    def prompt(self, parameters: Mapping[str, Any], arm: Arm) -> Prompt:
        """Return the request as text, with the arm's config, for a model of another provider."""

    def asked(self, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the request's messages, the system's first, as JSON has them."""
