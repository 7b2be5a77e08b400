"""Everything a client does except sending: the message, the deadline, how to read the reply, what to do without one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from router.client import _errors, _messages
from router.client._channel import DEADLINE_S
from router.client._errors import RouterError
from router.client._requests import RewardEvent, RouteRequest, ShadowRecord, as_arm
from router.client._values import Arm, ClientStats, Decision, Reason, RewardResult, Status
from router.v1 import routing_pb2, shadow_pb2

T = TypeVar("T")

#: Codes that mean nobody could decide, whoever is at fault. Everything else is the caller's to correct.
_NO_ANSWER: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,  # by a server that shuts down; a caller that cancels sees no status
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        # What proxies and crashed handlers end with.
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call to make: send `message` to `method`, then `done` reads the reply or `failed` the error."""

    method: str
    #: None: there is nothing to send, and `done` takes None.
    message: Message | None
    timeout_s: float
    done: Callable[[Any], T]
    #: Returns what stands in for a reply, or raises.
    failed: Callable[[RouterError], T]


class Calls:
    """Plans calls and keeps what they share: the fallback arms and the counts. Safe to use from many threads."""

    def __init__(self, fallback_arms: Mapping[str, Arm | str] | None) -> None:
        self._fallback_arms = {name: as_arm(arm) for name, arm in (fallback_arms or {}).items()}
        self._lock = threading.Lock()
        self._fallbacks = 0
        self._skipped_rewards = 0

    def stats(self) -> ClientStats:
        """Return the counts, consistent with each other."""
        with self._lock:
            return ClientStats(self._fallbacks, self._skipped_rewards)

    def route(self, request: RouteRequest, timeout_s: float | None) -> Call[Decision]:
        """Plan Route."""

        def failed(error: RouterError) -> Decision:
            instead = self._instead(request, error)
            if isinstance(instead, RouterError):
                raise instead
            return instead

        return Call(
            "Route",
            _messages.route_request(request),
            _deadline("Route", timeout_s),
            done=lambda reply: _messages.decision(reply, request),
            failed=failed,
        )

    def batch_route(self, requests: Iterable[RouteRequest], timeout_s: float | None) -> Call[list[Decision | RouterError]]:
        """Plan BatchRoute: each request falls back on its own; an error of the whole call raises if none can."""
        asked = list(requests)

        def done(reply: routing_pb2.BatchRouteResponse | None) -> list[Decision | RouterError]:
            if reply is None:
                return []
            _check_alignment(asked, reply.results)
            allocations = [_messages.probabilities(allocation.entries) for allocation in reply.allocations]
            return [self._routed(request, result, allocations) for request, result in zip(asked, reply.results, strict=True)]

        def failed(error: RouterError) -> list[Decision | RouterError]:
            instead = [self._instead(request, error) for request in asked]
            if all(isinstance(item, RouterError) for item in instead):
                raise error
            return instead

        message = routing_pb2.BatchRouteRequest(requests=map(_messages.route_request, asked)) if asked else None
        return Call("BatchRoute", message, _deadline("BatchRoute", timeout_s), done, failed)

    def reward(self, event: RewardEvent, timeout_s: float | None) -> Call[RewardResult]:
        """Plan Reward; an event about a fallback is counted and not sent."""

        def done(reply: routing_pb2.RewardResponse | None) -> RewardResult:
            return self._skip(event) if reply is None else _messages.reward_result(reply, event)

        message = _messages.reward_request(event) if event.decision_id else None
        return Call("Reward", message, _deadline("Reward", timeout_s), done, failed=_raise)

    def batch_reward(self, events: Iterable[RewardEvent], timeout_s: float | None) -> Call[list[RewardResult | RouterError]]:
        """Plan BatchReward; events about fallbacks are counted and not sent."""
        told = list(events)
        sent = [event for event in told if event.decision_id]

        def done(reply: routing_pb2.BatchRewardResponse | None) -> list[RewardResult | RouterError]:
            results = [] if reply is None else reply.results
            _check_alignment(sent, results)
            rest = iter(results)
            return [_rewarded(event, next(rest)) if event.decision_id else self._skip(event) for event in told]

        message = routing_pb2.BatchRewardRequest(requests=map(_messages.reward_request, sent)) if sent else None
        return Call("BatchReward", message, _deadline("BatchReward", timeout_s), done, failed=_raise)

    def record_shadow(self, record: ShadowRecord, timeout_s: float | None) -> Call[bool]:
        """Plan RecordShadow; nothing is sent about a fallback, which mirrors nothing."""

        def done(reply: shadow_pb2.RecordShadowResponse | None) -> bool:
            return reply is not None and not reply.duplicate

        message = _messages.shadow_request(record) if record.decision_id else None
        return Call("RecordShadow", message, _deadline("RecordShadow", timeout_s), done, failed=_raise)

    def _routed(
        self,
        request: RouteRequest,
        result: routing_pb2.BatchRouteResult,
        allocations: Sequence[Mapping[str, float]],
    ) -> Decision | RouterError:
        match result.WhichOneof("result"):
            case "response":
                index = result.response.allocation_index
                # A vector that is missing is not worth losing the decision for.
                allocation = allocations[index] if 0 <= index < len(allocations) else {}
                return _messages.decision(result.response, request, allocation)
            case "error":
                return self._instead(request, _errors.from_status(result.error))
            case _:
                return self._instead(request, _errors.broken_reply("a result of the batch is empty"))

    def _instead(self, request: RouteRequest, error: RouterError) -> Decision | RouterError:
        """Return the fallback decision, counted, or the error if it or the request rules that out."""
        arm = self._fallback_arms.get(request.experiment_id) if request.fallback is None else as_arm(request.fallback)
        if arm is None or not request.permits(arm) or not _may_fall_back(error):
            return error
        with self._lock:
            self._fallbacks += 1
        return Decision(
            decision_id="",
            experiment_id=request.experiment_id,
            arm=arm,
            propensity=1.0,
            allocation={arm.arm_id: 1.0},
            policy_version=0,
            reason=Reason.FALLBACK,
            session_id=request.session_id,
            turn_id=request.turn_id,
        )

    def _skip(self, event: RewardEvent) -> RewardResult:
        with self._lock:
            self._skipped_rewards += 1
        arm_id = "" if isinstance(event.decision, str) else event.decision.arm.arm_id
        return RewardResult(Status.NOT_SENT, arm_id, event.event_id or "")


def _may_fall_back(error: RouterError) -> bool:
    # An operator's pause must not break the product. NO_ELIGIBLE_ARM is left to raise: the arms the caller accepts were
    # switched off on purpose.
    # Likewise a key that ends while the program runs. One that was never good is a fault of the program's, and is raised.
    return error.code in _NO_ANSWER or error.reason in ("EXPERIMENT_NOT_RUNNING", "API_KEY_EXPIRED", "API_KEY_REVOKED")


def _rewarded(event: RewardEvent, result: routing_pb2.BatchRewardResult) -> RewardResult | RouterError:
    match result.WhichOneof("result"):
        case "response":
            return _messages.reward_result(result.response, event)
        case "error":
            return _errors.from_status(result.error)
        case _:
            return _errors.broken_reply("a result of the batch is empty")


def _check_alignment(asked: Sequence[object], results: Sequence[object]) -> None:
    if len(asked) != len(results):
        raise _errors.broken_reply(f"{len(results)} results for a batch of {len(asked)}")


def _deadline(method: str, timeout_s: float | None) -> float:
    return DEADLINE_S[method] if timeout_s is None else timeout_s


def _raise(error: RouterError) -> NoReturn:
    raise error
