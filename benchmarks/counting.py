"""What counting and tracing add to a call, in process, as processor time: `python -m benchmarks.counting`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from bandit.allocation import AllocationKind, AllocationRule
from router.experiment import Arm, Definition, Rules
from router.policy import compile_policy
from router.telemetry.answered import Answered
from router.telemetry.calls import Calls
from router.telemetry.drawn import Drawn
from router.telemetry.tallies import Names
from router.v1 import routing_pb2

_TURNS = 7
_REPLY = routing_pb2.RouteResponse(
    decision_id="x" * 180, experiment_id="support", propensity=0.5, policy_version=3, reason=routing_pb2.REASON_SAMPLED
).SerializeToString()


class _Context:
    """What a handler's context has for a call without a trace."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-python/1.85.1"),)


def main() -> None:
    """Print what each thing costs."""
    nothing = _ns(lambda: None)
    print(f"a call that is not traced      {_ns(_call()) - nothing:9,.0f} ns")
    print(f"a decision                     {_ns(_decision()) - nothing:9,.0f} ns")
    print(f"an event                       {_ns(_event()) - nothing:9,.0f} ns")
    for name, sampler in (("never sampled", ALWAYS_OFF), ("always sampled", ALWAYS_ON)):
        trace._TRACER_PROVIDER = TracerProvider(sampler=sampler)
        print(f"a traced call, {name:14}  {_ns(_call(), 20_000) - nothing:9,.0f} ns")


def _ns(work: Callable[[], Any], times: int = 200_000) -> float:
    best = float("inf")
    for _ in range(_TURNS):
        began = time.process_time_ns()
        for _ in range(times):
            work()
        best = min(best, (time.process_time_ns() - began) / times)
    return best


def _call() -> Callable[[], None]:
    method = Calls().method("router.v1.RouterService", "Route")
    context, ok = _Context(), grpc.StatusCode.OK
    return lambda: method.ended(method.began(context), ok, _REPLY)


def _decision() -> Callable[[], None]:
    arms = tuple(Arm(n, f"arm-{n}", 1, "", "", False, {}, None, None, True) for n in range(3))
    rules = Rules(AllocationRule(AllocationKind.UNIFORM, 0.0, (1.0,) * 3), (1.0, 1.0), "per_request", None)
    now = datetime.now(UTC)
    definition = Definition(7, "support", "", "running", "", arms, {}, {}, {}, rules, 1, {}, None, now, now, 1)
    policy = compile_policy(definition, 1, {})
    choice, drawn = policy.everyone, Drawn(Names())
    assert choice is not None

    def decide() -> None:
        drawn.decided(policy, choice, 1, routing_pb2.REASON_SAMPLED)
        drawn.made()

    return decide


def _event() -> Callable[[], Any]:
    answered = Answered(Names())
    return lambda: answered.event("support", "arm-1", routing_pb2.STATUS_APPLIED, 1_000_000)


if __name__ == "__main__":
    main()
