"""One routed call, from the decision to the answer: route, mirror, call, report; and the control where the arm failed.

It is written once, as coroutines. `AsyncSteps` really awaits; the coroutines of `SyncSteps` never do, so `run` finishes them
in one step, in the thread of the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from router.client import Arm, Decision, RewardEvent, RouterError
from router.llm.answers import Answer
from router.llm.call_reports import EVENT_ID, Reports
from router.llm.dialect import Dialect
from router.llm.failures import MalformedAnswer, failure_of
from router.llm.mirrors import Exchange, Mirrors, cost_of
from router.llm.models import Price
from router.llm.routed import AsyncRoutedStream, Routed, RoutedStream
from router.llm.shadow_answer import ServingAnswer, call_report
from router.llm.streams import AsyncServedStream, ServedStream

T = TypeVar("T")

_log: Final = logging.getLogger("router.llm")
#: The longest id of a request that the router takes.
_LONGEST_ID: Final = 256


@dataclass(frozen=True, slots=True)
class Question:
    """What the caller asked."""

    #: The arguments of the router's `route`.
    route: Mapping[str, Any]
    #: The parameters of the SDK's call, without `stream`.
    parameters: Mapping[str, Any]
    stream: bool


class Steps(Protocol):
    """What takes time: the router and the provider."""

    async def route(self, route: Mapping[str, Any]) -> Decision:
        """Ask the router. Raises RouterError."""

    async def create(self, arguments: Mapping[str, Any]) -> Any:
        """Call the provider. Raises what its SDK does."""

    async def first(self, stream: Any) -> Any:
        """Return the first event of a stream. Raises what the SDK does, and MalformedAnswer where there is none."""

    async def close(self, stream: Any) -> None:
        """Close a stream that failed."""


class Flow:
    """Answers questions. One for each drop-in client."""

    def __init__(
        self, dialect: Dialect, client: Any, steps: Steps, reports: Reports, mirrors: Mirrors, prices: Mapping[str, Price]
    ) -> None:
        self._dialect = dialect
        self._client = client
        self._steps = steps
        self._reports = reports
        self._mirrors = mirrors
        self._prices = prices
        self._asynchronous = isinstance(steps, AsyncSteps)

    async def answer(self, question: Question) -> Routed[Any]:
        """Return what the chosen arm answers, or the control if that arm fails. Raises RouterError and what the SDK does."""
        decision = await self._steps.route(question.route)
        request_id = str(question.route.get("request_id") or "")
        exchange = self._mirrors.begin(decision, question.parameters, request_id)
        call = _Call(self, decision, exchange)
        try:
            return self._routed(question)(await self._attempt(call, question), decision)
        except Exception as error:
            control = await self._control(question, decision)
            call.failed(error, {} if control is None else {"fallback_arm_id": control.arm.arm_id})
            if control is None:
                raise
            return await self._fall_back(question, decision, control)
        except BaseException:
            # The caller gave up, for example by cancelling its task. Nobody failed.
            call.given_up()
            raise

    async def _fall_back(self, question: Question, failed: Decision, control: Decision) -> Routed[Any]:
        call = _Call(self, control, None)
        try:
            answer = await self._attempt(call, question)
            return self._routed(question)(answer, control, fallback=True, failed=failed)
        except Exception as error:
            call.failed(error, {})
            raise
        except BaseException:
            call.given_up()
            raise

    async def _attempt(self, call: _Call, question: Question) -> Any:
        arguments = self._dialect.arguments(question.parameters, call.decision.arm, stream=question.stream)
        response = await self._steps.create(arguments)
        try:
            if not question.stream:
                answer = self._dialect.answer_of(response)
                call.succeeded(answer, {})
                return response
            first = await self._first(response)
        except MalformedAnswer as error:
            # The SDK took it for an answer. Callers know the errors of the SDK, so it becomes one.
            raise self._dialect.malformed(self._client, str(error)) from error
        collector = self._dialect.collector(response, question.parameters)

        def ended(error: BaseException | None, early: bool) -> None:
            if early or (error is not None and not isinstance(error, Exception)):
                call.given_up(collector.answer())
            elif error is not None:
                call.failed(error, {})
            else:
                call.succeeded(collector.answer(), {})

        served = AsyncServedStream if self._asynchronous else ServedStream
        return served(response, first, collector, ended)

    def _routed(self, question: Question) -> Callable[..., Routed[Any]]:
        if not question.stream:
            return Routed
        return AsyncRoutedStream if self._asynchronous else RoutedStream

    async def _first(self, stream: Any) -> Any:
        try:
            return await self._steps.first(stream)
        except BaseException:
            await self._steps.close(stream)
            raise

    async def _control(self, question: Question, failed: Decision) -> Decision | None:
        """Return the control's decision to fall back to; None if there is no other arm to call, or nobody to ask."""
        if question.route.get("force_arm_id") or question.route.get("force_control"):
            return None
        route = {**question.route, "force_control": True}
        if route.get("request_id"):
            route["request_id"] = control_request_id(str(route["request_id"]))
        try:
            control = await self._steps.route(route)
        except RouterError:
            return None
        # An arm that the caller does not accept must not answer, and the arm that just failed would fail again.
        eligible = tuple(question.route.get("eligible_arm_ids") or ())
        accepted = not eligible or control.arm.arm_id in eligible
        return control if accepted and control.arm.arm_id != failed.arm.arm_id else None

    def tell(
        self, decision: Decision, exchange: Exchange | None, serving: ServingAnswer, metadata: Mapping[str, str]
    ) -> None:
        """Report how a call went, and leave its answer for the mirrored ones."""
        if exchange is not None:
            exchange.served(serving)
        _log.debug("routed call", extra=decision.log_fields() | {"call_error": serving.call.error})
        if not decision.is_fallback:
            self._reports.add(RewardEvent(decision, event_id=EVENT_ID, call=serving.call, metadata=dict(metadata)))

    def cost_usd(self, arm: Arm, answer: Answer) -> float | None:
        """Return what an answer cost."""
        return cost_of(self._prices, arm.model, answer)


class _Call:
    """One call to a provider, told about once."""

    def __init__(self, flow: Flow, decision: Decision, exchange: Exchange | None) -> None:
        self.decision = decision
        self._flow = flow
        self._exchange = exchange
        self._started = time.perf_counter()

    def succeeded(self, answer: Answer, metadata: Mapping[str, str]) -> None:
        """Tell that the caller has its answer."""
        cost_usd = self._flow.cost_usd(self.decision.arm, answer)
        self._tell(ServingAnswer(answer, call_report(answer, self._elapsed(), cost_usd)), metadata)

    def failed(self, error: BaseException, metadata: Mapping[str, str]) -> None:
        """Tell that the arm gave no answer, or only the beginning of one."""
        report = call_report(None, self._elapsed(), None, failure_of(error).kind)
        self._tell(ServingAnswer(None, report), metadata)

    def given_up(self, answer: Answer | None = None) -> None:
        """Tell that the caller wanted no more of it, which is nobody's failure."""
        # What an unread rest would have cost is not known.
        report = call_report(answer, self._elapsed(), None)
        self._tell(ServingAnswer(answer, report), {"ended": "by the caller"})

    def _tell(self, serving: ServingAnswer, metadata: Mapping[str, str]) -> None:
        self._flow.tell(self.decision, self._exchange, serving, metadata)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started


class SyncSteps:
    """Steps that block, for the clients for threads."""

    def __init__(self, dialect: Dialect, client: Any, router: Any) -> None:
        self._create = dialect.create(client)
        self._router = router

    async def route(self, route: Mapping[str, Any]) -> Decision:
        """Ask the router."""
        decision: Decision = self._router.route(**route)
        return decision

    async def create(self, arguments: Mapping[str, Any]) -> Any:
        """Call the provider."""
        return self._create(**arguments)

    async def first(self, stream: Any) -> Any:
        """Return the first event of a stream."""
        try:
            return next(stream)
        except StopIteration:
            raise MalformedAnswer("the stream has no events") from None

    async def close(self, stream: Any) -> None:
        """Close a stream."""
        stream.close()


class AsyncSteps:
    """Steps that await."""

    def __init__(self, dialect: Dialect, client: Any, router: Any) -> None:
        self._create = dialect.create(client)
        self._router = router
        #: The loop that the router's client belongs to, once there was a call.
        self.loop: asyncio.AbstractEventLoop | None = None

    async def route(self, route: Mapping[str, Any]) -> Decision:
        """Ask the router."""
        self.loop = asyncio.get_running_loop()
        decision: Decision = await self._router.route(**route)
        return decision

    async def create(self, arguments: Mapping[str, Any]) -> Any:
        """Call the provider."""
        return await self._create(**arguments)

    async def first(self, stream: Any) -> Any:
        """Return the first event of a stream."""
        try:
            return await anext(stream)
        except StopAsyncIteration:
            raise MalformedAnswer("the stream has no events") from None

    async def close(self, stream: Any) -> None:
        """Close a stream."""
        await stream.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    coroutine.close()
    raise RuntimeError("a step that should block was awaited")


def control_request_id(request_id: str) -> str:
    """Return the idempotency key of the fallback: with the request's own one the router would repeat its first decision."""
    if len(request_id) + len("/control") <= _LONGEST_ID:
        return f"{request_id}/control"
    return f"{hashlib.blake2b(request_id.encode(), digest_size=32).hexdigest()}/control"
