"""The provider as OpenFeature's SDK calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode, GeneralError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails

from router.client import AsyncRouterClient, Decision, RouterClient, RouterError, Signal, Unauthenticated, Unavailable
from router.client._errors import from_rpc
from router.openfeature import _resolution
from router.openfeature._condition import Condition, Observer
from router.openfeature._context import route_options, session_of
from router.openfeature._memory import Memory, Subject
from router.openfeature._outbox import Outbox
from router.openfeature._tracking import Tracking, TrackingStats

T = TypeVar("T")
_Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]

_READY_S: Final = 2.0


class BanditRouterProvider(AbstractProvider):
    """Resolves flags by the router, and takes tracked events as feedback.

    The clients are the caller's, who closes them after the provider was shut down. Their `fallback_arms` answer as they do
    elsewhere; without one the default value of the evaluation does.
    """

    def __init__(
        self,
        client: RouterClient,
        *,
        aio: AsyncRouterClient | None = None,
        events: Mapping[str, Signal | str] | None = None,
        remember: int = 10_000,
        remember_for: timedelta = timedelta(minutes=30),
        queue: int = 10_000,
        stale_after: timedelta = timedelta(seconds=30),
        flush: timedelta = timedelta(seconds=5),
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make a provider of a client.

        `aio`, of the event loop that evaluates, serves the asynchronous evaluations; without it they use `client` in a
        thread. `events` says what events of your own names mean: a signal, or "reward". `remember` decisions are kept for
        `remember_for`, so that feedback finds them, and `queue` events while the router cannot be reached. The provider is
        STALE when decisions come from a policy that is older than `stale_after`. `shutdown` takes `flush` at most.
        Raises ValueError for a size or a time that is not positive, or an event that means nothing.
        """
        super().__init__()
        sizes = {"remember": remember, "queue": queue}
        times = {"remember_for": remember_for, "stale_after": stale_after}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} {size}: must be at least 1")
        for name, span in times.items():
            if span <= timedelta(0):
                raise ValueError(f"{name} {span}: must be longer than 0")
        self._client = client
        self._aio = aio
        self._stale_after = stale_after
        self._flush_s = max(0.0, flush.total_seconds())
        self._memory = Memory(remember, remember_for.total_seconds(), monotonic)
        self._outbox = Outbox(client.batch_reward, queue, lambda event, error: self._tracking.refused(event, error))
        self._tracking = Tracking(self._memory, self._outbox, events or {}, now)
        self._observer = Observer(self._tell, monotonic)

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name="bandit-router")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Ask whether a router serves. Raises GeneralError if none does: evaluations try all the same."""
        self._outbox.open()
        self._observer.reset(Condition.ERROR)
        check: Any = self._client._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            reply = check(health_pb2.HealthCheckRequest(), timeout=_READY_S)
        except grpc.RpcError as error:
            raise GeneralError(f"no router answers: {from_rpc(error)}") from error
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise GeneralError(
                f"the router is {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}, not SERVING"
            )
        self._observer.reset(Condition.READY)

    def shutdown(self) -> None:
        """Send the feedback that waits. The clients stay open."""
        self._outbox.close(self._flush_s)

    def stats(self) -> TrackingStats:
        """Return what became of tracked events."""
        return self._tracking.stats()

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Take an event as feedback, in the background.

        Of its attributes these are read: `decision_id`, or else `flag_key` where several flags were evaluated for the same
        targeting key and session; `event_id`, which makes a repetition harmless; `metadata`, texts that are stored with it.
        """
        self._tracking.track(tracking_event_name, evaluation_context, tracking_event_details)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the id of the arm."""
        return self._resolve(flag_key, default_value, evaluation_context, _resolution.arm_id)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the same without blocking the loop."""
        return await self._resolve_async(flag_key, default_value, evaluation_context, _resolution.arm_id)

    def resolve_object_details(
        self, flag_key: str, default_value: _Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Object]:
        """Return `arm_id`, `model` and `config` of the arm."""
        return self._resolve(flag_key, default_value, evaluation_context, _resolution.arm)

    async def resolve_object_details_async(
        self, flag_key: str, default_value: _Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Object]:
        """Return the same without blocking the loop."""
        return await self._resolve_async(flag_key, default_value, evaluation_context, _resolution.arm)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Refuse: an arm is no boolean."""
        return _mismatch(flag_key, default_value)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Refuse: an arm is no number."""
        return _mismatch(flag_key, default_value)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Refuse: an arm is no number."""
        return _mismatch(flag_key, default_value)

    def _resolve(
        self, flag_key: str, default: T, context: EvaluationContext | None, value_of: Callable[[Decision], T]
    ) -> FlagResolutionDetails[T]:
        options = route_options(context)
        try:
            decision = self._client.route(flag_key, **options)
        except RouterError as error:
            return self._failed(flag_key, default, context, error)
        return self._decided(flag_key, context, decision, value_of)

    async def _resolve_async(
        self, flag_key: str, default: T, context: EvaluationContext | None, value_of: Callable[[Decision], T]
    ) -> FlagResolutionDetails[T]:
        if self._aio is None:
            return await asyncio.to_thread(self._resolve, flag_key, default, context, value_of)
        options = route_options(context)
        try:
            decision = await self._aio.route(flag_key, **options)
        except RouterError as error:
            return self._failed(flag_key, default, context, error)
        return self._decided(flag_key, context, decision, value_of)

    def _decided(
        self, flag_key: str, context: EvaluationContext | None, decision: Decision, value_of: Callable[[Decision], T]
    ) -> FlagResolutionDetails[T]:
        subject = _subject(context)
        if decision.is_fallback:
            # Feedback on it must not be taken for feedback on the decision before. Nor is it known why there was none.
            self._memory.forget(subject, flag_key)
        else:
            self._saw(decision)
            if subject.targeting_key:
                self._memory.remember(subject, flag_key, decision.decision_id)
        return _resolution.resolved(decision, value_of(decision))

    def _failed(
        self, flag_key: str, default: T, context: EvaluationContext | None, error: RouterError
    ) -> FlagResolutionDetails[T]:
        subject = _subject(context)
        self._memory.forget(subject, flag_key)
        if isinstance(error, Unavailable | Unauthenticated):
            self._observer.saw(Condition.ERROR, str(error))
        return _resolution.unresolved(error, default, has_targeting_key=bool(subject.targeting_key))

    def _saw(self, decision: Decision) -> None:
        if decision.stale_for >= self._stale_after:
            self._observer.saw(Condition.STALE, f"policies have not been refreshed for {decision.stale_for}")
        else:
            self._observer.saw(Condition.READY)

    def _tell(self, condition: Condition, message: str) -> None:
        match condition:
            case Condition.READY:
                self.emit_provider_ready(ProviderEventDetails())
            case Condition.STALE:
                self.emit_provider_stale(ProviderEventDetails(message=message))
            case Condition.ERROR:
                self.emit_provider_error(ProviderEventDetails(message=message, error_code=ErrorCode.GENERAL))


def _subject(context: EvaluationContext | None) -> Subject:
    return Subject((context.targeting_key if context is not None else "") or "", session_of(context))


def _mismatch(flag_key: str, default: T) -> FlagResolutionDetails[T]:
    message = f"experiment {flag_key!r} resolves to an arm: evaluate it as a string or as an object"
    return _resolution.refused(ErrorCode.TYPE_MISMATCH, message, default)
