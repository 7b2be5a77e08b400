"""gRPC channels whose other end is a function: as much of grpc.Channel as a stub of unary methods needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from router.client._errors import DETAILS_TRAILER
from router.errors import ServiceError

#: Answers one call, given the method's name and the request; raises RpcFailure.
Answer = Callable[[str, Message], Message]


class RpcFailure(grpc.RpcError):
    """How a call fails in either gRPC API, as far as a client looks at it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(code, details)
        self._code, self._details, self._trailers = code, details, trailers

    @classmethod
    def of(cls, error: ServiceError) -> RpcFailure:
        """Return what a client sees of a router's error."""
        return cls(error.code, error.message, ((DETAILS_TRAILER, error.to_status().SerializeToString()),))

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return self._code

    def details(self) -> str:
        """Return the message."""
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:  # type: ignore[override]  # pairs, as gRPC's are
        """Return the trailers, with the rich details if there are any."""
        return self._trailers


class Channel:
    """A channel for threads."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def unary_unary(self, path: str, *_: object, **__: object) -> Callable[..., Message]:
        """Return the method of this path, such as "/router.v1.RouterService/Route"."""
        method = path.rpartition("/")[2]

        def call(request: Message, timeout: float | None = None, **_: Any) -> Message:
            return self._answer(method, request)

        return call


class AioChannel:
    """A channel for asyncio."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def unary_unary(self, path: str, *_: object, **__: object) -> Callable[..., Awaitable[Message]]:
        """Return the method of this path, such as "/router.v1.RouterService/Route"."""
        method = path.rpartition("/")[2]

        async def call(request: Message, timeout: float | None = None, **_: Any) -> Message:  # noqa: ASYNC109
            return self._answer(method, request)

        return call
