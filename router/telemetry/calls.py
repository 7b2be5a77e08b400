"""RPCs: how many ended in which code, after how long; and, where traces are on, a span for each.

The handlers of a server are watched where they are wrapped, by `router.interceptors`: grpcio's own interceptors would be one
more coroutine a call, and learn nothing of the codes that handlers end with.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any, Final

import grpc

from router.telemetry import catalogue, spans
from router.telemetry.tallies import Distribution, Sample

#: A call that is cut off this long before its deadline is one that missed it: the client's clock and ours differ.
_DEADLINE_MARGIN_S: Final = 0.05


class Calls:
    """The RPCs of one process."""

    def __init__(self) -> None:
        self.durations = Distribution(catalogue.RPC_DURATION)
        self.in_flight = 0

    def method(self, service: str, name: str) -> "Method":
        """Return what watches a method; whether its calls are traced is settled here."""
        return TracedMethod(self, service, name) if spans.are_on() else Method(self, service, name)

    def samples(self) -> Iterator[Sample]:
        """Return what is known of the calls so far."""
        yield from self.durations.samples()
        yield catalogue.RPC_IN_FLIGHT.name, (), self.in_flight


class Method:
    """Watches the calls of one method."""

    def __init__(self, calls: Calls, service: str, name: str) -> None:
        self._calls = calls
        self._labels = {code: (service, name, code.name) for code in grpc.StatusCode}

    def began(self, context: Any, *, attach: bool = True) -> Any:
        """Take note of a call; returns what `ended` is to be told. `attach`: its handler runs in one piece."""
        self._calls.in_flight += 1
        return perf_counter()

    def ended(self, running: Any, code: grpc.StatusCode, reply: Any = None) -> None:
        """Take note of its end, with the code that the client is sent."""
        self._calls.in_flight -= 1
        self._calls.durations.record(self._labels[code], perf_counter() - running)


class TracedMethod(Method):
    """Does so with a span for each call, and tells OpenTelemetry's metrics too."""

    def __init__(self, calls: Calls, service: str, name: str) -> None:
        super().__init__(calls, service, name)
        self._spans = spans.MethodSpans(service, name)

    def began(self, context: Any, *, attach: bool = True) -> Any:
        """As `Method.began`; until the end the call's span is the current one, if it is attached."""
        return super().began(context), self._spans.start(context, attach=attach)

    def ended(self, running: Any, code: grpc.StatusCode, reply: Any = None) -> None:
        """As `Method.ended`."""
        started, span = running
        super().ended(started, code)
        self._spans.end(span, code, reply, perf_counter() - started)


def interrupted(context: Any) -> grpc.StatusCode:
    """Return the code of a call that was cut off: its deadline came, or its client went."""
    left_s = context.time_remaining()
    missed = left_s is not None and left_s <= _DEADLINE_MARGIN_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if missed else grpc.StatusCode.CANCELLED
