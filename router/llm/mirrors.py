"""Mirrored calls: the same request to the shadow arms, beside production and out of its way.

Production hands over a copy of what it asks, and later what it got, and never waits. Everything else happens in the
background thread. Admission is bounded (`queue`), so are the calls at a time (`concurrency`); what does not fit is dropped
and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router.client import Arm, Decision
from router.llm.answers import Answer
from router.llm.arguments import copied
from router.llm.background import Background, in_thread
from router.llm.dialect import Dialect
from router.llm.failures import failure_of
from router.llm.models import Completion, Model, Price
from router.llm.shadow_answer import ServingAnswer, ShadowAnswer, call_report

_log: Final = logging.getLogger("router.llm")

Record = Callable[["Mirrored", ServingAnswer, ShadowAnswer], Awaitable[None]]

#: How long a model rests that asked for it without saying how long, and at most.
_REST_S: Final = 5.0
_LONGEST_REST_S: Final = 600.0
#: How long production goes first, with its request and with its answer: both sides need the interpreter.
_HEAD_START_S: Final = 0.02
#: Mirrored calls begin one after the other, each once the loop has slept so long, so often in a row, and was never later.
_PROBE_S, _PROBES, _LATE_S = 0.003, 3, 0.002
#: A process that has been too busy for this long mirrors nothing.
_BUSY_S: Final = 10.0
#: How long a finished shadow answer waits for production's, for example for a stream that nobody reads to its end.
_PATIENCE_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class MirrorStats:
    """What became of mirrored calls."""

    #: Sent, whatever came back.
    asked: int = 0
    #: Those of them that gave no answer.
    failed: int = 0
    #: Not sent: too many were waiting.
    dropped: int = 0
    #: Not sent: production kept the process busy.
    busy: int = 0
    #: Not sent: the model had asked to be left alone.
    rested: int = 0
    #: Not sent: no client for it, see the log.
    unaddressed: int = 0


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One routed request that is mirrored."""

    decision: Decision
    #: The caller's own id of the request.
    request_id: str
    #: A copy of the caller's parameters.
    parameters: Mapping[str, Any]


class Exchange:
    """Where production leaves its answer for the mirrored calls of one request. Safe from any thread; the first counts."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._serving: ServingAnswer | None = None
        self._waiting: list[asyncio.Future[ServingAnswer]] = []

    def served(self, serving: ServingAnswer) -> None:
        """Leave the answer. Returns at once."""
        self._background.call(lambda: self._settle(serving))

    async def serving(self) -> ServingAnswer:
        """Return the answer once it is there. In the background's loop."""
        if self._serving is not None:
            return self._serving
        waiting: asyncio.Future[ServingAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return await waiting

    def _settle(self, serving: ServingAnswer) -> None:
        if self._serving is None:
            self._serving = serving
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(serving)


class Mirrors:
    """Asks shadow arms and passes both answers on to be recorded."""

    def __init__(
        self,
        background: Background,
        dialect: Dialect,
        make_client: Callable[[], Any] | None,
        record: Record,
        *,
        models: Mapping[str, Model],
        prices: Mapping[str, Price],
        timeout_s: float,
        concurrency: int,
        queue: int,
        asynchronous: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_client` None: only the arms of `models` can be asked. `asynchronous`: whether its methods are coroutines."""
        self._background = background
        self._dialect = dialect
        self._make_client = make_client
        #: Made at the first use: a client costs memory and time, and most processes mirror nothing.
        self._client: Any | None = None
        self._record = record
        self._models = models
        self._prices = prices
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._queue = queue
        self._asynchronous = asynchronous
        self._clock = clock
        self._slots: asyncio.Semaphore | None = None
        self._turn: asyncio.Lock | None = None
        self._lock = threading.RLock()
        self._waiting = 0
        self._resting: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def begin(self, decision: Decision, parameters: Mapping[str, Any], request_id: str) -> Exchange | None:
        """Mirror a request to the decision's shadow arms, if it has any. Returns at once; never raises."""
        if not decision.shadow_arms:
            return None
        admitted = [arm for arm in decision.shadow_arms if self._admit(arm)]
        if not admitted:
            return None
        try:
            mirrored = Mirrored(decision, request_id, copied(parameters))
        except Exception:
            # An object that cannot be read twice, or without end. It is the request of the user that matters.
            self._release("dropped", len(admitted))
            return None
        exchange = Exchange(self._background)
        for arm in admitted:
            if not self._background.post(lambda arm=arm: self._mirror(mirrored, arm, exchange)):  # type: ignore[misc]
                self._release("dropped", 1)
        return exchange

    def stats(self) -> MirrorStats:
        """Return the counts."""
        with self._lock:
            return MirrorStats(**self._counts)

    async def close(self) -> None:
        """Let go of connections. In the background's loop."""
        for model in self._models.values():
            await model.close()
        if self._client is not None:
            closing = self._client.close()
            if asyncio.iscoroutine(closing):
                await closing

    def _admit(self, arm: Arm) -> bool:
        with self._lock:
            if arm.arm_id not in self._models and self._make_client is None:
                self._counts["unaddressed"] += 1
                if self._counts["unaddressed"] == 1:
                    _log.warning(
                        "arm %r is not mirrored: the client has an http_client of its own, so give a shadow_client",
                        arm.arm_id,
                    )
            elif self._resting.get(self._rest_key(arm), 0.0) > self._clock():
                self._counts["rested"] += 1
            elif self._waiting >= self._queue:
                self._counts["dropped"] += 1
            else:
                self._waiting += 1
                return True
            return False

    def _release(self, count: str, by: int) -> None:
        with self._lock:
            self._waiting -= by
            self._counts[count] += by

    async def _mirror(self, mirrored: Mirrored, arm: Arm, exchange: Exchange) -> None:
        try:
            await asyncio.sleep(_HEAD_START_S)
            if not await self._idle():
                with self._lock:
                    self._counts["busy"] += 1
                return
            shadow = await self._ask(mirrored, arm)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    serving = await exchange.serving()
            except TimeoutError:
                with self._lock:
                    self._counts["dropped"] += 1
                return
            await asyncio.sleep(_HEAD_START_S)
            await self._record(mirrored, serving, shadow)
        finally:
            with self._lock:
                self._waiting -= 1

    async def _idle(self) -> bool:
        """Wait until the process has time to spare; False if it has none.

        A loop that wakes up late shows that others want the interpreter, and those are production's calls.
        """
        turn = self._turn = self._turn or asyncio.Lock()
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + _BUSY_S
        in_time = 0
        async with turn:
            while in_time < _PROBES and clock() < give_up_at:
                due = clock() + _PROBE_S
                await asyncio.sleep(_PROBE_S)
                in_time = in_time + 1 if clock() - due < _LATE_S else 0
        return in_time == _PROBES

    async def _ask(self, mirrored: Mirrored, arm: Arm) -> ShadowAnswer:
        slots = self._slots = self._slots or asyncio.Semaphore(self._concurrency)
        if arm.arm_id not in self._models:
            # Made before the clock runs: the first one takes as long as a quick answer.
            self._own_client()
        await slots.acquire()
        with self._lock:
            self._counts["asked"] += 1
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._call(mirrored.parameters, arm, slots)
        except Exception as error:
            failure = failure_of(error)
            if failure.kind in ("rate_limit", "overloaded"):
                self._rest(arm, failure.retry_after_s)
            with self._lock:
                self._counts["failed"] += 1
            return ShadowAnswer(arm.arm_id, None, call_report(None, time.perf_counter() - started, None, failure.kind))
        cost_usd = cost_of(self._prices, arm.model, answer)
        return ShadowAnswer(arm.arm_id, answer, call_report(answer, time.perf_counter() - started, cost_usd))

    async def _call(self, parameters: Mapping[str, Any], arm: Arm, slots: asyncio.Semaphore) -> Answer:
        """Make the call, and free the slot when it has really ended: a thread goes on after its time is up."""
        model = self._models.get(arm.arm_id)
        with contextlib.ExitStack() as held:
            held.callback(slots.release)
            if model is not None:
                return _of_completion(await model.complete(self._dialect.prompt(parameters, arm)))
            arguments = self._dialect.arguments(parameters, arm, stream=False)
            create = functools.partial(self._dialect.create(self._own_client()), **arguments)
            if self._asynchronous:
                return self._dialect.answer_of(await create())
            held.pop_all()
        return self._dialect.answer_of(await in_thread(create, slots.release))

    def _own_client(self) -> Any:
        if self._client is None and self._make_client is not None:
            self._client = self._make_client()
        return self._client

    def _rest(self, arm: Arm, retry_after_s: float | None) -> None:
        rest_s = min(_REST_S if retry_after_s is None else retry_after_s, _LONGEST_REST_S)
        with self._lock:
            until = self._clock() + rest_s
            self._resting[self._rest_key(arm)] = max(until, self._resting.get(self._rest_key(arm), 0.0))

    def _rest_key(self, arm: Arm) -> str:
        model = self._models.get(arm.arm_id)
        return arm.model if model is None else model.name


def cost_of(prices: Mapping[str, Price], model: str, answer: Answer) -> float | None:
    """Return what a call cost; None where the price or the tokens are not known."""
    price = prices.get(model)
    if price is None or answer.input_tokens is None or answer.output_tokens is None:
        return None
    return price.cost_usd(answer.input_tokens, answer.output_tokens)


def _of_completion(completion: Completion) -> Answer:
    return Answer(
        completion.text,
        completion.model,
        completion.stop_reason,
        completion.input_tokens,
        completion.output_tokens,
        completion.request_id,
    )
