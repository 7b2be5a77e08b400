"""Metrics and health over HTTP, for the service as a whole, served by the supervisor.

    /metrics   what all processes of the host counted and measure, in the text format of Prometheus
    /livez     200 while the supervisor runs
    /readyz    200 while a worker answers Route, else 503; 503 from the moment the service is told to stop

Plain HTTP without keys: it shows names of experiments and arms, and numbers, to whoever reaches it. Nothing of a unit.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import uvicorn

from router.expiry import expires_at
from router.exposition import CONTENT_TYPE, exposition
from router.settings import KEEPER, Address
from router.telemetry import catalogue
from router.telemetry.reports import Reports, Values

log = logging.getLogger(__name__)

#: A process that does not answer within this is left out: its event loop hangs. Probes wait for a second by default.
_PATIENCE_S, _PATIENCE_OF_PROBES_S = 2.0, 0.7
_TEXT: Final = "text/plain; charset=utf-8"
#: Scrapers, probes, and some more.
_CONNECTIONS: Final = 100


class Endpoint:
    """Serves for as long as it is entered."""

    def __init__(self, reports: Reports, workers: int, bound: socket.socket, tls_cert: str = "") -> None:
        """`workers` is how many there should be; `bound` listens; `tls_cert` is the file of the service's certificate."""
        self._reports = reports
        self._workers = workers
        self._socket = bound
        self._certificate = Path(tls_cert) if tls_cert else None
        self._started_at = time.time()
        self._server = _Server(
            uvicorn.Config(
                cast(Any, self._answer),
                http="h11",
                ws="none",
                lifespan="off",
                loop="none",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()
        #: Set once the service is told to stop.
        self.stopping = False

    @property
    def address(self) -> Address:
        """Where it is served."""
        host, port = self._socket.getsockname()[:2]
        return Address(host, port)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="metrics endpoint")
        log.info("metrics and health on http://%s", self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._reports.close()

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path, method = scope["path"], scope["method"]
        kind = _TEXT
        if method not in ("GET", "HEAD"):
            status, body = 405, b"only GET and HEAD\n"
        elif path == "/metrics":
            status, body, kind = 200, exposition(await self._values()), CONTENT_TYPE
        elif path == "/livez":
            status, body = 200, b"alive\n"
        elif path == "/readyz":
            answering = (await self._ask(_PATIENCE_OF_PROBES_S))[1]
            said = "stopping" if self.stopping else f"{answering} of {self._workers} workers answer"
            status, body = 200 if self._is_ready(answering) else 503, f"{said}\n".encode()
        else:
            status, body = 404, b"/metrics, /livez or /readyz\n"
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    async def _values(self) -> Values:
        values, answering = await self._ask(_PATIENCE_S)
        values[catalogue.READY.name, ()] = int(self._is_ready(answering))
        values[catalogue.WORKERS.name, ("configured",)] = self._workers
        values[catalogue.WORKERS.name, ("answering",)] = answering
        for role in ("worker", KEEPER):
            values[catalogue.CHILD_DEATHS.name, (role,)] = self._reports.deaths[role]
        values[catalogue.START_TIME.name, ()] = self._started_at
        expires_at_s = expires_at(self._certificate) if self._certificate is not None else None
        if expires_at_s is not None:
            values[catalogue.CERTIFICATE_EXPIRY.name, ()] = expires_at_s
        values[catalogue.BUILD.name, (version("bandit-router"),)] = 1
        return values

    async def _ask(self, patience_s: float) -> tuple[Values, int]:
        """Return what the processes report now, and how many workers did."""
        async with self._asking:
            answered = await self._reports.ask(patience_s)
            workers = sum(line.serving and line.role != KEEPER for line in answered)
            return self._reports.together(answered), workers

    def _is_ready(self, answering: int) -> bool:
        return answering > 0 and not self.stopping


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They are the supervisor's.
        yield
