"""What the two protocols have in common: how a request is checked and what an answer travels as."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router.llm.loopback.asked import Asked
from router.llm.loopback.behaviour import Behaviour

Headers = Mapping[str, str]

#: Into how many pieces a stream breaks its text.
PIECES = 6


@dataclass(frozen=True, slots=True)
class Refused(Exception):  # noqa: N818  # a status of its own, not ours
    """A request that the real server would refuse."""

    status: int
    #: The provider's word for it.
    kind: str
    message: str


class Wire(Protocol):
    """One provider's protocol."""

    #: The header in which it gives the id of a request.
    request_id_header: str

    def read(self, headers: Headers, body: Mapping[str, Any]) -> Asked:
        """Check a request as the provider does. Raises Refused."""

    def check_key(self, headers: Headers) -> None:
        """Check that there is a key; any will do. Raises Refused."""

    def not_found(self, model: str) -> Refused:
        """Return the refusal of a model that does not exist."""

    def answer(self, asked: Asked, behaviour: Behaviour) -> dict[str, Any]:
        """Return the body of an answer."""

    def events(self, asked: Asked, behaviour: Behaviour) -> Iterator[bytes]:
        """Return the events of a streamed answer."""

    def error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        """Return the body of an error."""

    def error_event(self) -> bytes:
        """Return the event that ends a stream in an error."""

    def kind(self, status: int) -> str:
        """Return the provider's word for a status."""

    def models(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the listing of models."""


def answer_id(prefix: str, asked: Asked) -> str:
    """Return an id, the same for the same model and request."""
    return prefix + hashlib.blake2b(asked.content.encode(), digest_size=12).hexdigest()


def pieces(text: str) -> list[str]:
    """Return a text in at most PIECES parts; an empty one has none."""
    size = max(1, -(-len(text) // PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def require(condition: object, kind: str, message: str) -> None:
    """Refuse a request with 400 unless the condition holds."""
    if not condition:
        raise Refused(400, kind, message)
