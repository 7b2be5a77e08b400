"""What the processes of a host report of themselves, and what that comes to together.

Protocol
    A child has a socket to the supervisor. It sends a report when it has started, whenever the supervisor asks (with one
    byte), and when it has drained: a length, then JSON. The end of the socket is the end of the child.

    Counters and histograms of a child that ended stay in the sums, as last reported, so that no sum goes back when a worker
    is restarted. One that was killed takes with it what it counted since it was last asked. Gauges are those of children
    that answered.
"""

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from router.telemetry.catalogue import CATALOGUE, Kind, Over
from router.telemetry.tallies import Labels, Sample, Value

log = logging.getLogger(__name__)

#: Values by metric and labels.
Values: TypeAlias = dict[tuple[str, Labels], Value]

_HEAD: Final = struct.Struct("!?I")
_ASK: Final = b"?"
_GOODBYE_S: Final = 1.0


class Reporter:
    """A child's end."""

    def __init__(self, collect: Callable[[], Iterable[Sample]]) -> None:
        """`collect` returns every sample of the process; it is called in the event loop."""
        self._collect = collect
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, file: int) -> None:
        """Report over this file from now on."""
        reader, self._writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=file))
        self._task = asyncio.create_task(self._answer(reader, self._writer), name="reports")

    async def stop(self) -> None:
        """Send a last report: nothing is counted any more."""
        if self._task is None or self._writer is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._send(self._writer, serving=False)
        self._writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The supervisor may be gone any time: then this process drains for that reason.
        with contextlib.suppress(OSError):
            await self._send(writer, serving=True)
            while await reader.read(1):
                await self._send(writer, serving=True)

    async def _send(self, writer: asyncio.StreamWriter, *, serving: bool) -> None:
        data = json.dumps(list(self._collect())).encode()
        writer.write(_HEAD.pack(serving, len(data)) + data)
        await writer.drain()


class Line:
    """The supervisor's end of one child's socket."""

    def __init__(self, role: str, writer: asyncio.StreamWriter) -> None:
        self.role = role
        self._writer = writer
        self._news = asyncio.Event()
        #: As last reported.
        self.values: Values = {}
        #: Whether it has started, and does not drain.
        self.serving = False

    def heard(self, serving: bool, data: bytes) -> None:
        """Take a report."""
        self.values = {(name, tuple(labels)): value for name, labels, value in json.loads(data)}
        self.serving = serving
        self._news.set()

    async def ask(self) -> None:
        """Return once there is a report that was made after this call."""
        self._news.clear()
        self._writer.write(_ASK)
        await self._news.wait()


class Reports:
    """All children of a supervisor, past and present."""

    def __init__(self) -> None:
        self._lines: dict[Line, asyncio.Task[None]] = {}
        #: Sums of what those had counted that ended.
        self._kept: Values = {}
        #: By role, those that ended on their own.
        self.deaths: Counter[str] = Counter()

    async def open(self, role: str) -> socket.socket:
        """Return the child's end of a new line; the caller closes it once the child has it."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        line = Line(role, writer)
        self._lines[line] = asyncio.create_task(self._follow(line, reader, writer), name=f"reports of a {role}")
        return theirs

    async def ask(self, timeout_s: float) -> list[Line]:
        """Ask everybody at once; return those that answered in time, with the new report in their `values`."""
        asked = {asyncio.create_task(line.ask()): line for line in self._lines if line.serving}
        if not asked:
            return []
        answered, silent = await asyncio.wait(asked, timeout=timeout_s)
        for task in silent:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return [asked[task] for task in answered if not task.cancelled() and task.exception() is None]

    def together(self, answered: Iterable[Line]) -> Values:
        """Return the values of the host: counts of all children, gauges of those that answered."""
        values = dict(self._kept)
        living = set(answered)
        for line in self._lines:
            for key, value in line.values.items():
                if _is_gauge(key):
                    if line in living:
                        values[key] = _over(CATALOGUE[key[0]].over, values.get(key), value)
                else:
                    values[key] = _sum(values.get(key), value)
        return values

    async def close(self) -> None:
        """Let go of the sockets."""
        for task in self._lines.values():
            task.cancel()
        await asyncio.gather(*self._lines.values(), return_exceptions=True)

    async def _follow(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                serving, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                line.heard(serving, await reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            pass
        except ValueError:
            log.exception("the report of a %s cannot be read; it is not asked any more", line.role)
        finally:
            del self._lines[line]
            for key, value in line.values.items():
                if not _is_gauge(key):
                    self._kept[key] = _sum(self._kept.get(key), value)
            writer.close()


def by_name(values: Mapping[tuple[str, Labels], Value]) -> dict[str, dict[Labels, Value]]:
    """Return values by metric, then by labels."""
    found: dict[str, dict[Labels, Value]] = {}
    for (name, labels), value in values.items():
        found.setdefault(name, {})[labels] = value
    return found


def _is_gauge(key: tuple[str, Labels]) -> bool:
    return CATALOGUE[key[0]].kind is Kind.GAUGE


def _sum(known: Value | None, value: Value) -> Value:
    if known is None:
        return value
    if isinstance(known, list) and isinstance(value, list):
        return [a + b for a, b in zip(known, value, strict=True)]
    assert not isinstance(known, list) and not isinstance(value, list)  # noqa: S101, PT018 - of one metric
    return known + value


def _over(over: Over, known: Value | None, value: Value) -> Value:
    if known is None:
        return value
    if over is Over.SUM:
        return _sum(known, value)
    return max(known, value) if over is Over.LARGEST else min(known, value)
