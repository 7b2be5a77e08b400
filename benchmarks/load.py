"""Loads: calls that are sent in a closed or an open loop, and what became of them.

Model
    A *closed loop* keeps N calls in flight: as one ends the next begins. It measures what a server can do. An *open loop*
    begins a call at each tick of a fixed rate, whatever has become of those before. Its latencies count from the tick and
    not from the sending, so a server that stalls is charged for every call that had to wait (no coordinated omission).
    Several loads may run at once, from one thread.

    Calls that end within the window count for the rate; calls that begin within the window count for the latencies. After
    the window nothing new is sent, and every call still in flight is waited for. Every status of every call is looked at,
    those of the warm-up too.
"""

import gc
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.h2 import Connection, ConnectionLostError, Reply

_NS = 1_000_000_000
_DRAIN_S = 60.0
_LONGEST_WAIT_S = 0.1
_FOREVER_S = 600.0


class MeasurementError(Exception):
    """The measurement failed: there is no figure."""


@dataclass(slots=True)
class Load:
    """One kind of calls. Exactly one of `in_flight` and `rate` is set."""

    method: str
    #: Taken in turn; a call that follows a reply goes to the connection that the reply came on.
    connections: Sequence[Connection]
    #: Framed requests; the load ends early when there are no more.
    messages: Iterator[bytes]
    in_flight: int = 0
    #: Calls begun in a second.
    rate: float = 0.0
    #: A second call for each reply: its method, and the request made of the first one's reply. Both are one unit of work.
    then: tuple[str, Callable[[bytes], bytes]] | None = None
    #: Looks at each good reply of the first call, which it is told with the times, in nanoseconds, of the call's sending and
    #: end; raises what it finds wrong.
    check: Callable[[bytes, int, int], None] | None = None
    measured: "_Tally" = field(default_factory=lambda: _Tally())


@dataclass(slots=True)
class _Tally:
    latencies_ns: list[int] = field(default_factory=list)
    #: Units of work that ended within the window.
    ended: int = 0
    #: How late an open loop sent its calls.
    lateness_ns: list[int] = field(default_factory=list)
    #: Every call ever sent, by status and method.
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    next_ns: int = 0
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What one load did in one window."""

    seconds: float
    #: Calls, or pairs of calls, that ended within the window.
    calls: int
    #: Sorted.
    latencies_ns: NDArray[np.int64]
    #: Sorted; empty for a closed loop.
    lateness_ns: NDArray[np.int64]
    #: Calls that succeeded by method, those outside the window too: what the server acknowledged.
    acknowledged: Mapping[str, int]
    #: CPU seconds within the window by role; the generator's own under "generator".
    cpu_s: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Calls, or pairs, in a second."""
        return self.calls / self.seconds

    def latency_ms(self, percentile: float) -> float:
        """A percentile of the latencies."""
        return float(np.percentile(self.latencies_ns, percentile)) / 1e6


def run(
    loads: Sequence[Load],
    *,
    warm_up_s: float,
    seconds: float,
    cpu: Callable[[], Mapping[str, float]] = dict,
) -> list[Measured]:
    """Run the loads together and return what each did. `cpu` reads the CPU seconds used so far, by role.

    Without an end (`seconds` is infinite) the window is from the first call to the end of the last one, and every message
    is sent. Raises MeasurementError if a call does not succeed or does not end.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        return _Run(loads, cpu).run(warm_up_s, seconds)
    except ConnectionLostError as error:
        raise MeasurementError(str(error)) from error
    finally:
        if collecting:
            gc.enable()


#: The load, since when latency counts, when it was sent, whether it is the second call.
_Tag = tuple[Load, int, int, bool]


class _Run:
    def __init__(self, loads: Sequence[Load], cpu: Callable[[], Mapping[str, float]]) -> None:
        self._loads = loads
        self._connections = list(dict.fromkeys(connection for load in loads for connection in load.connections))
        self._turns = {id(load): deque(load.connections) for load in loads}
        self._cpu = cpu
        self._from_ns = self._until_ns = 0

    def run(self, warm_up_s: float, seconds: float) -> list[Measured]:
        began_ns = time.perf_counter_ns()
        self._from_ns = began_ns + int(warm_up_s * _NS)
        self._until_ns = self._from_ns + int(min(seconds, _FOREVER_S) * _NS)
        for load in self._loads:
            load.measured.next_ns = began_ns
            now = time.perf_counter_ns()
            for _ in range(load.in_flight):
                self._begin(load, now, now)
        self._turn_until(lambda now: now >= self._from_ns)
        started_ns = time.perf_counter_ns()
        before = self._used()
        self._turn_until(lambda now: now >= self._until_ns or self._exhausted(seconds))
        stopped_ns = time.perf_counter_ns()
        after = self._used()
        self._until_ns = min(self._until_ns, stopped_ns)
        give_up = stopped_ns + int(_DRAIN_S * _NS)
        self._turn_until(lambda now: now >= give_up or not self._in_flight())
        self._refuse_failures()
        cpu_s = {role: after[role] - before.get(role, 0.0) for role in after}
        return [self._measured(load, (self._until_ns - started_ns) / _NS, cpu_s) for load in self._loads]

    def _exhausted(self, seconds: float) -> bool:
        if not all(load.measured.exhausted for load in self._loads):
            return False
        return seconds <= _FOREVER_S or not self._in_flight()

    def _in_flight(self) -> int:
        return sum(connection.in_flight for connection in self._connections)

    def _turn_until(self, done: Callable[[int], bool]) -> None:
        """Receive, begin and send until `done`, which is told the time."""
        open_loops = [load for load in self._loads if load.rate]
        while True:
            now = time.perf_counter_ns()
            if now < self._until_ns:
                for load in open_loops:
                    self._tick(load, now)
            writers = []
            for connection in self._connections:
                connection.flush()
                if connection.wants_to_write:
                    writers.append(connection)
            if done(now):
                return
            wait_s = _LONGEST_WAIT_S
            if now < self._until_ns:
                dues = [load.measured.next_ns for load in open_loops]
                edge = self._from_ns if now < self._from_ns else self._until_ns
                wait_s = min(wait_s, max(0, min([edge, *dues]) - now) / _NS)
            readable, _, _ = select.select(self._connections, writers, (), wait_s)
            for connection in readable:
                self._take(connection, connection.receive())

    def _tick(self, load: Load, now: int) -> None:
        tally = load.measured
        while tally.next_ns <= now:
            if tally.next_ns >= self._from_ns:
                tally.lateness_ns.append(now - tally.next_ns)
            self._begin(load, tally.next_ns, now)
            tally.next_ns += int(_NS / load.rate)

    def _begin(self, load: Load, since_ns: int, sent_ns: int, connection: Connection | None = None) -> None:
        message = next(load.messages, None)
        if message is None:
            load.measured.exhausted = True
            return
        if connection is None:
            turns = self._turns[id(load)]
            connection = turns[0]
            turns.rotate(-1)
        connection.call(load.method, message, (load, since_ns, sent_ns, False))

    def _take(self, connection: Connection, replies: Sequence[Reply]) -> None:
        now = time.perf_counter_ns()
        counts = self._from_ns <= now < self._until_ns
        refill = now < self._until_ns
        for reply in replies:
            tag: _Tag = reply.tag
            load, since_ns, sent_ns, is_second = tag
            tally = load.measured
            method = load.then[0] if is_second and load.then else load.method
            tally.statuses[method, reply.status] += 1
            if reply.status == 0:
                if load.check is not None and not is_second:
                    load.check(reply.message, sent_ns, now)
                if load.then is not None and not is_second:
                    connection.call(load.then[0], load.then[1](reply.message), (load, since_ns, now, True))
                    continue
            if counts:
                tally.ended += 1
            if self._from_ns <= since_ns < self._until_ns:
                tally.latencies_ns.append(now - since_ns)
            if refill and load.in_flight:
                self._begin(load, now, now, connection)

    def _refuse_failures(self) -> None:
        examples = {status: text for connection in self._connections for status, text in connection.messages.items()}
        failures = [
            f"{count} × {method} with status {status} ({examples.get(status, 'no message')})"
            for load in self._loads
            for (method, status), count in load.measured.statuses.items()
            if status
        ]
        waiting = self._in_flight()
        if waiting:
            failures.append(f"{waiting} calls without a reply {_DRAIN_S:.0f} s after the last was sent")
        if failures:
            raise MeasurementError("calls failed: " + "; ".join(failures))

    def _used(self) -> dict[str, float]:
        return {**self._cpu(), "generator": time.process_time()}

    def _measured(self, load: Load, seconds: float, cpu_s: Mapping[str, float]) -> Measured:
        tally = load.measured
        if not tally.latencies_ns or not tally.ended:
            raise MeasurementError(f"{load.method}: no call ended within {seconds:.1f} s")
        acknowledged: Counter[str] = Counter()
        for (method, status), count in tally.statuses.items():
            acknowledged[method] += count if status == 0 else 0
        return Measured(
            seconds=seconds,
            calls=tally.ended,
            latencies_ns=np.sort(np.array(tally.latencies_ns, dtype=np.int64)),
            lateness_ns=np.sort(np.array(tally.lateness_ns, dtype=np.int64)),
            acknowledged=acknowledged,
            cpu_s=cpu_s,
        )
