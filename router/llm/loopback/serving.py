"""Runs the server: in a thread of this process for tests and the demo, or as the whole process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from router.llm.loopback.app import ABORT, App, Receive, Scope, Send
from router.llm.loopback.ledger import Ledger
from router.llm.loopback.world import World

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_START_S: Final = 10.0


class Loopback:
    """A server in a thread of its own, with its own event loop: callers may block, or close their loop.

    Use it with `with` or `async with`. Leaving the block breaks off what is still being answered.
    """

    def __init__(self, world: World | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world = world or World()
        #: What it was asked.
        self.ledger = Ledger()
        self._host = host
        self._wanted_port = port
        self._port = 0
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def anthropic_url(self) -> str:
        """What Anthropic's SDK takes as base_url."""
        return f"http://{self._host}:{self._port}"

    @property
    def openai_url(self) -> str:
        """What OpenAI's SDK takes as base_url."""
        return f"{self.anthropic_url}/v1"

    def async_anthropic(self) -> AsyncAnthropic:
        """Return a client of Anthropic's SDK that calls this server."""
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(api_key="not needed", base_url=self.anthropic_url)

    def __enter__(self) -> Self:
        listener = socket.create_server((self._host, self._wanted_port), backlog=1024)
        self._port = listener.getsockname()[1]
        self._server = server = _Server(_config(self.world, self.ledger))
        run = functools.partial(server.run, sockets=[listener])
        self._thread = threading.Thread(target=run, name="loopback-models", daemon=True)
        self._thread.start()
        if not server.ready.wait(_START_S):
            raise RuntimeError(f"the loopback model server did not start within {_START_S} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        server, thread = self._server, self._thread
        if server is not None and thread is not None:
            server.should_exit = True
            thread.join()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)


def serve_loopback(world: World | None = None, *, host: str = "127.0.0.1", port: int = 0) -> Loopback:
    """Return a server to enter; port 0 takes a free one. `with` and `async with` both work."""
    return Loopback(world, host=host, port=port)


def run_loopback(world: World, host: str, port: int) -> None:
    """Serve until a signal, saying on stdout where, once it answers."""
    ledger = Ledger()
    listener = socket.create_server((host, port), backlog=1024)
    name, number = listener.getsockname()[:2]

    def announce() -> None:
        print(
            f"loopback models: ANTHROPIC_BASE_URL=http://{name}:{number} OPENAI_BASE_URL=http://{name}:{number}/v1",
            flush=True,
        )

    _Server(_config(world, ledger), signals=True, started=announce).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, signals: bool = False, started: Any = None) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._signals = signals
        self._when_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._when_started is not None:
            self._when_started()
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Only a process that is nothing else may be ended by this server.
        with super().capture_signals() if self._signals else contextlib.nullcontext():
            yield


class _Breakable(H11Protocol):
    """HTTP whose application may break the connection, as a crashing server or a dead link would."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = cast(Any, self.app)

        async def breakable(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "extensions": {ABORT: transport.abort}}, receive, send)
            if transport.is_closing():
                # Until uvicorn has seen the end of the connection, it would answer in the application's place.
                await receive()

        self.app = cast(Any, breakable)


def _config(world: World, ledger: Ledger) -> uvicorn.Config:
    return uvicorn.Config(
        cast(Any, App(world, ledger)),
        http=_Breakable,
        ws="none",
        lifespan="off",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=0,
    )
