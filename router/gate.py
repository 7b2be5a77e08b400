"""A gate before the handlers of a server, so that it can stop without refusing calls that are on their way.

gRPC refuses every call that has arrived when a server stops and has not been given to a handler. The asyncio server takes
one call in each turn of its loop, so under load most of those that a client has sent are of that kind. So before it
stops, the gate is closed: calls are still taken and then wait. As no reply leaves, clients soon send nothing new. Then the
server stops, which tells its clients to connect again, and the gate is opened: those who waited are answered, and their
next call goes elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from typing import Any

import grpc

#: Where Linux lists the open files of a process.
_OPEN_FILES = "/proc/self/fd"
_INTERNET = (socket.AF_INET, socket.AF_INET6)


class Gate:
    """What services register with in place of a server. It costs nothing until it is closed."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._services: list[_Service] = []
        self._opened: asyncio.Event | None = None
        #: Calls that came to the closed gate.
        self.waiting = 0

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Nothing: the same handlers come generically.

        With methods that the library waits for one by one, it loses a call in about one of twenty stops under load: the
        call is taken, never given to a handler, and holds up the stop until its client gives up.
        """

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Register handlers behind the gate."""
        services = [_Service(handler) for handler in handlers]
        self._services += services
        self._server.add_generic_rpc_handlers(services)

    async def close(self, quiet_s: float, at_most_s: float) -> None:
        """Have calls wait from now on; returns once none has come for `quiet_s`, or after `at_most_s`."""
        opened = self._opened = asyncio.Event()

        async def wait() -> None:
            self.waiting += 1
            await opened.wait()

        for service in self._services:
            service.close(wait)
        loop = asyncio.get_running_loop()
        until, seen = loop.time() + at_most_s, -1
        while self.waiting != seen and loop.time() < until:
            seen = self.waiting
            await asyncio.sleep(quiet_s)

    def open(self) -> None:
        """Let those who wait pass."""
        if self._opened is not None:
            self._opened.set()


class _Service(grpc.GenericRpcHandler):
    """The handlers of one service."""

    def __init__(self, handlers: grpc.GenericRpcHandler) -> None:
        self._handlers = handlers
        # In place of the method below, so that an open gate is not even looked at.
        self.service = handlers.service  # type: ignore[method-assign]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call."""
        return self._handlers.service(handler_call_details)

    def close(self, wait: Any) -> None:
        """Have unary calls await `wait` first."""

        def gated(handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
            handler = self._handlers.service(handler_call_details)
            behave: Any = None if handler is None else handler.unary_unary
            if handler is None or behave is None:
                return handler

            async def call(request: Any, context: Any) -> Any:
                await wait()
                return await behave(request, context)

            return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

        self.service = gated  # type: ignore[method-assign]


def stop_listening(port: int) -> None:
    """Have this process take no more connections on a port, while those that it has go on.

    The kernel then gives new ones to the other processes that share the port, and only those. Were the socket open until
    the server stops, clients that are told to connect again could come to it, and be cut off. gRPC has no call for it.
    """
    for name in os.listdir(_OPEN_FILES) if os.path.isdir(_OPEN_FILES) else ():
        with contextlib.suppress(OSError):
            file = os.dup(int(name))
            try:
                if not stat.S_ISSOCK(os.fstat(file).st_mode):
                    continue
                with socket.socket(fileno=os.dup(file)) as found:
                    if found.family in _INTERNET and found.getsockname()[1] == port and _listens(found):
                        found.shutdown(socket.SHUT_RD)
            finally:
                os.close(file)


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
