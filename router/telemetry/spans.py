"""Traces of calls, by OpenTelemetry's API alone: whoever runs the router says with an SDK where they go.

A span has the name and the attributes that OpenTelemetry's conventions for RPCs give to gRPC servers, and goes on from the
W3C `traceparent` of the caller. Of decisions it says experiment, arm, propensity, policy version and reason; never a unit.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import grpc
from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from router.v1 import routing_pb2

NAME: Final = "bandit_router"
#: Codes that are the server's fault, by those conventions; others leave a server's span without a status.
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


def are_on() -> bool:
    """Whether an SDK takes spans in this process."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


class Started(NamedTuple):
    """A span under way."""

    span: Span
    #: What gives the context before it back; None if it is not the current one.
    token: Any


class MethodSpans:
    """The spans of one method."""

    def __init__(self, service: str, name: str) -> None:
        # Finds the propagators among all installed packages, which takes a while.
        from opentelemetry.propagate import extract

        self._extract = extract
        self._tracer = trace.get_tracer(NAME)
        self._name = f"{service}/{name}"
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        self._describe = _DESCRIBED.get(self._name)
        self._durations = metrics.get_meter(NAME).create_histogram(
            "rpc.server.duration", "ms", "How long handlers of calls took"
        )

    def start(self, context: Any, *, attach: bool) -> Started:
        """Begin a call's span, as a child of its client's."""
        carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        parent = self._extract(carrier)
        span = self._tracer.start_span(self._name, parent, SpanKind.SERVER, self._attributes)
        return Started(span, contexts.attach(trace.set_span_in_context(span, parent)) if attach else None)

    def end(self, started: Started, code: grpc.StatusCode, reply: Any, duration_s: float) -> None:
        """End it with the code that the client is sent."""
        span, token = started
        attributes: dict[str, AttributeValue] = {"rpc.grpc.status_code": code.value[0]}
        if span.is_recording():
            if self._describe is not None and reply is not None:
                attributes.update(self._describe(reply))
            span.set_attributes(attributes)
            if code in _FAULTS:
                span.set_status(StatusCode.ERROR, code.name)
        self._durations.record(duration_s * 1e3, {**self._attributes, "rpc.grpc.status_code": code.value[0]})
        if token is not None:
            contexts.detach(token)
        span.end()


def _of_route(reply: bytes) -> Mapping[str, AttributeValue]:
    response = routing_pb2.RouteResponse.FromString(reply)
    return {
        f"{NAME}.experiment_id": response.experiment_id,
        f"{NAME}.arm_id": response.arm.arm_id,
        f"{NAME}.propensity": response.propensity,
        f"{NAME}.policy_version": response.policy_version,
        f"{NAME}.reason": routing_pb2.Reason.Name(response.reason).removeprefix("REASON_").lower(),
    }


def _of_reward(reply: bytes) -> Mapping[str, AttributeValue]:
    response = routing_pb2.RewardResponse.FromString(reply)
    return {
        f"{NAME}.arm_id": response.arm_id,
        f"{NAME}.status": routing_pb2.Status.Name(response.status).removeprefix("STATUS_").lower(),
    }


def _of_batch_route(reply: bytes) -> Mapping[str, AttributeValue]:
    return _of_batch(routing_pb2.BatchRouteResponse.FromString(reply).results)


def _of_batch_reward(reply: bytes) -> Mapping[str, AttributeValue]:
    return _of_batch(routing_pb2.BatchRewardResponse.FromString(reply).results)


def _of_batch(results: Any) -> Mapping[str, AttributeValue]:
    failed = sum(result.WhichOneof("result") == "error" for result in results)
    return {f"{NAME}.items": len(results), f"{NAME}.failed_items": failed}


#: What the replies of these methods say, serialized as they are, for spans that are recorded.
_DESCRIBED: Final[Mapping[str, Callable[[bytes], Mapping[str, AttributeValue]]]] = {
    "router.v1.RouterService/Route": _of_route,
    "router.v1.RouterService/BatchRoute": _of_batch_route,
    "router.v1.RouterService/Reward": _of_reward,
    "router.v1.RouterService/BatchReward": _of_batch_reward,
}
