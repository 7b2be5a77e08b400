"""Drives prompts through a router: concurrent callers, and feedback that comes late, out of order and more than once.

Protocol
    A decision is outstanding from its Route call until all that is told about it has been acknowledged. At most WINDOW are,
    so that feedback lags by a number of decisions and not by the clock: how much is learned does not depend on how fast
    the machine is.

    An event falls due a number of answered decisions after its own. The oldest of WINDOW outstanding and answered decisions
    is WINDOW - 1 behind, hence due: callers and feedback never wait for each other. After the last answer all is due.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from router.client import (
    AsyncRouterClient,
    CallReport,
    Decision,
    FailedPrecondition,
    Reason,
    RewardEvent,
    RewardResult,
    RouterError,
    Status,
)
from router.demo.data import Table
from router.demo.users import LONGEST_LAG, Event, feedback

#: Most outstanding decisions.
WINDOW = 64
CALLERS = 16
assert CALLERS + LONGEST_LAG < WINDOW  # noqa: S101 - what the protocol above rests on

_BATCH = 24
_BATCH_WAIT_S = 0.02
#: Generous, for slow machines: the demo measures learning, not latency.
_ROUTE_TIMEOUT_S = 20.0
_REWARD_TIMEOUT_S = 60.0
#: How long a worker may take to hear that the experiment was started.
_START_S, _START_PAUSE_S = 5.0, 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """One decision as its caller saw it."""

    #: Row of the table.
    prompt: int
    #: Index of the arm.
    arm: int
    #: The real score of that arm on that prompt.
    score: float
    propensity: float
    policy_version: int
    reason: Reason
    unit_id: str
    events: tuple[Event, ...]


@dataclass(order=True, slots=True)
class _Telling:
    """One sending of one event."""

    due: int
    order: int
    number: int = field(compare=False)
    event: RewardEvent = field(compare=False)
    batched: bool = field(compare=False)


class Drive:
    """One pass over a table. What it has seen so far may be read at any time."""

    def __init__(
        self,
        clients: Sequence[AsyncRouterClient],
        experiment_id: str,
        table: Table,
        units: Sequence[str] | None,
        seed: int,
    ) -> None:
        self.table = table
        #: In the order in which they were answered.
        self.answers: list[Answer] = []
        #: What became of each sending.
        self.statuses: Counter[Status] = Counter()
        self.reward_sum = 0.0
        self._clients = clients
        self._experiment_id = experiment_id
        self._units = units
        self._seed = seed
        self._index = {arm_id: i for i, arm_id in enumerate(table.arm_ids)}
        self._window = asyncio.Semaphore(WINDOW)
        self._untold: dict[int, int] = {}
        self._heap: list[_Telling] = []
        self._order = itertools.count()
        self._batch: list[_Telling] = []
        self._flushing = False
        self._turn = itertools.cycle(clients)

    @property
    def events(self) -> int:
        """Sendings acknowledged."""
        return self.statuses.total()

    async def run(self) -> None:
        """Drive every prompt and tell everything. Raises an ExceptionGroup of what the router did not take."""
        prompts = iter(range(len(self.table.scores)))
        async with asyncio.TaskGroup() as telling:
            async with asyncio.TaskGroup() as calling:
                for caller in range(CALLERS):
                    calling.create_task(self._call(self._clients[caller % len(self._clients)], prompts, telling))
            self._tell_due(telling, all_of_it=True)

    async def _call(self, client: AsyncRouterClient, prompts: Iterator[int], telling: asyncio.TaskGroup) -> None:
        for prompt in prompts:
            await self._window.acquire()
            unit_id = self._units[prompt] if self._units else ""
            decision = await self._route(client, prompt, unit_id)
            answered_at = datetime.now(UTC)
            arm = self._index[decision.arm.arm_id]
            score = float(self.table.scores[prompt, arm])
            cost = None if self.table.costs is None else float(self.table.costs[prompt, arm])
            events = feedback(request_id(prompt), score, cost, np.random.default_rng((self._seed, prompt, arm)))
            number = len(self.answers)
            self.answers.append(
                Answer(prompt, arm, score, decision.propensity, decision.policy_version, decision.reason, unit_id, events)
            )
            self.reward_sum += score
            self._untold[number] = sum(len(event.lags) for event in events)
            for event in events:
                message = _message(decision.decision_id, event, answered_at)
                for lag in event.lags:
                    heapq.heappush(self._heap, _Telling(number + lag, next(self._order), number, message, event.batched))
            self._tell_due(telling)

    async def _route(self, client: AsyncRouterClient, prompt: int, unit_id: str) -> Decision:
        """Ask for an arm. Other workers hear within milliseconds that the experiment was started; a call may be faster."""
        give_up_at = time.monotonic() + _START_S
        while True:
            try:
                return await client.route(
                    self._experiment_id, unit_id=unit_id, request_id=request_id(prompt), timeout=_ROUTE_TIMEOUT_S
                )
            except FailedPrecondition as error:
                if error.reason != "EXPERIMENT_NOT_RUNNING" or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(_START_PAUSE_S)

    def _tell_due(self, telling: asyncio.TaskGroup, *, all_of_it: bool = False) -> None:
        while self._heap and (all_of_it or self._heap[0].due < len(self.answers)):
            due = heapq.heappop(self._heap)
            if due.batched:
                self._batch.append(due)
            else:
                telling.create_task(self._tell(due))
        if len(self._batch) >= _BATCH or all_of_it:
            self._send_batch(telling)
        elif self._batch and not self._flushing:
            self._flushing = True
            telling.create_task(self._flush_soon())

    def _send_batch(self, telling: asyncio.TaskGroup) -> None:
        batch, self._batch = self._batch, []
        if batch:
            telling.create_task(self._tell_batch(batch))

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_BATCH_WAIT_S)
        self._flushing = False
        batch, self._batch = self._batch, []
        if batch:
            await self._tell_batch(batch)

    async def _tell(self, one: _Telling) -> None:
        await _happened([one])
        event = one.event
        result = await next(self._turn).reward(
            event.decision,
            event_id=event.event_id,
            signal=event.signal,
            reward=event.reward,
            call=event.call,
            occurred_at=event.occurred_at,
            timeout=_REWARD_TIMEOUT_S,
        )
        self._acknowledged(one, result)

    async def _tell_batch(self, batch: Sequence[_Telling]) -> None:
        await _happened(batch)
        results = await next(self._turn).batch_reward([one.event for one in batch], timeout=_REWARD_TIMEOUT_S)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, RouterError):
                raise result
            self._acknowledged(one, result)

    def _acknowledged(self, one: _Telling, result: RewardResult) -> None:
        self.statuses[result.status] += 1
        self._untold[one.number] -= 1
        if not self._untold[one.number]:
            del self._untold[one.number]
            self._window.release()


def request_id(prompt: int) -> str:
    """Return the id that a prompt's decision has in the decision log."""
    return f"prompt-{prompt}"


def _message(decision_id: str, event: Event, answered_at: datetime) -> RewardEvent:
    return RewardEvent(
        decision_id,
        event_id=event.event_id,
        signal=event.signal,
        reward=event.reward,
        call=None if event.cost_usd is None else CallReport(cost_usd=event.cost_usd),
        occurred_at=None if event.after_us is None else answered_at + timedelta(microseconds=event.after_us),
    )


async def _happened(batch: Sequence[_Telling]) -> None:
    """Wait until all of these have happened: see `users` for why none may be told earlier."""
    latest = max((one.event.occurred_at for one in batch if one.event.occurred_at is not None), default=None)
    if latest is not None and (ahead := (latest - datetime.now(UTC)).total_seconds()) > 0.0:
        await asyncio.sleep(ahead)
