"""RouterService: the hot path. Replies are bytes, put together from parts that were serialized before."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from router.access.caller import check_scope, current_caller
from router.decide import Decider, Decision
from router.errors import ResourceExhaustedError, ServiceError, UnavailableError
from router.feedback import Event, Feedback
from router.ingest import Ingest
from router.interceptors import as_service_error, log_fields
from router.services import Context
from router.storage.events import EventStatus
from router.submission import Fate, Outcome, Submission, patience_s
from router.telemetry.answered import Answered
from router.telemetry.tallies import Names
from router.v1 import routing_pb2 as pb
from router.validation import validate
from router.wire import embedded

_STATUSES = {
    EventStatus.APPLIED: pb.STATUS_APPLIED,
    EventStatus.NEUTRAL: pb.STATUS_NEUTRAL,
    EventStatus.LATE: pb.STATUS_LATE,
    EventStatus.LIMITED: pb.STATUS_LIMITED,
}
#: How long a batch may keep the event loop from other calls, in seconds.
_TURN_S = 0.002

#: An item of a batch: decided and yet to be journalled, or done.
_Routed: TypeAlias = "Decision | bytes"


class RouterService:
    """Implements `router.v1.RouterService`. Single requests arrive validated; items of batches are validated here."""

    def __init__(self, decider: Decider, feedback: Feedback, ingest: Ingest, answered: Answered | None = None) -> None:
        """`answered` counts events, and the items that fail."""
        self._decider = decider
        self._feedback = feedback
        self._ingest = ingest
        self._answered = answered or Answered(Names())

    async def Route(self, request: pb.RouteRequest, context: Context) -> bytes:
        """See the proto; the reply is a serialized RouteResponse."""
        decision = await self._decider.decide(request)
        self._decider.commit(decision.number)
        return decision.reply + decision.choice.in_reply

    async def BatchRoute(self, request: pb.BatchRouteRequest, context: Context) -> bytes:
        """See the proto; the reply is a serialized BatchRouteResponse."""
        reply = _BatchRouteReply(self._decider, self._item_error)
        turn_ends = time.perf_counter() + _TURN_S
        for item in request.requests:
            try:
                validate(item)
                check_scope(item.experiment_id)
                reply.add(await self._decider.decide(item))
            except Exception as error:
                reply.add(self._item_error(error, item))
            if time.perf_counter() > turn_ends:
                reply.commit()
                await asyncio.sleep(0)
                turn_ends = time.perf_counter() + _TURN_S
        reply.commit()
        return reply.serialized()

    async def Reward(self, request: pb.RewardRequest, context: Context) -> bytes:
        """See the proto; the reply is a serialized RewardResponse."""
        give_up_at = _give_up_at(context)
        event = await self._understood(request, give_up_at)
        submission = self._submit([request], [event], give_up_at)
        await submission.done
        outcome = submission.outcomes[0]
        if isinstance(outcome, ServiceError):
            raise outcome
        return _reward_reply(self._counted(event, outcome), event.arm_id if event is not None else "")

    async def BatchReward(self, request: pb.BatchRewardRequest, context: Context) -> bytes:
        """See the proto; the reply is a serialized BatchRewardResponse."""
        results: list[bytes] = []
        accepted: list[int] = []
        requests: list[pb.RewardRequest] = []
        events: list[Event | None] = []
        give_up_at = _give_up_at(context)
        turn_ends = time.perf_counter() + _TURN_S
        for position, item in enumerate(request.requests):
            try:
                validate(item)
                events.append(await self._understood(item, give_up_at))
                requests.append(item)
                accepted.append(position)
                results.append(b"")
            except Exception as error:
                results.append(self._item_error(error, item))
            if time.perf_counter() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.perf_counter() + _TURN_S
        if events:
            submission = self._submit(requests, events, give_up_at)
            await submission.done
            for position, event, outcome in zip(accepted, events, submission.outcomes, strict=True):
                if isinstance(outcome, ServiceError):
                    results[position] = self._item_error(outcome)
                else:
                    arm_id = event.arm_id if event is not None else ""
                    results[position] = _reward_item(self._counted(event, outcome), arm_id)
        return b"".join(results)

    async def _understood(self, request: pb.RewardRequest, give_up_at: float) -> Event | None:
        """Return the event of a request; None if only Postgres knows its experiment, and does not say in time."""
        token = self._feedback.open(request)
        event = self._feedback.event(request, token)
        if event is None:
            try:
                async with asyncio.timeout_at(give_up_at):
                    event = await self._feedback.lookup(request, token)
            except (UnavailableError, TimeoutError):
                if not current_caller().unscoped:
                    # Whether the key is for this experiment cannot be told.
                    raise UnavailableError(
                        "Postgres cannot be reached, and this replica has not seen the experiment"
                    ) from None
                return None
        check_scope(event.experiment_id)
        return event

    def _counted(self, event: Event | None, outcome: Outcome | None) -> pb.Status:
        """Return the status of an event, counted."""
        status = _status(event, outcome)
        if event is None:
            return self._answered.event("", "", status)
        row = event.row
        lag_us = None if row.kind == "call" else row.received_at_us - row.decided_at_us
        return self._answered.event(event.experiment_id, event.arm_id, status, lag_us)

    def _item_error(self, error: Exception, item: pb.RouteRequest | pb.RewardRequest | None = None) -> bytes:
        """The result of an item that failed, in either kind of batch: a fault stays the item's own."""
        told = as_service_error(error, None if item is None else log_fields(item)).to_status()
        self._answered.failed_item(told.code)
        return embedded(pb.BatchRouteResult(error=told).SerializeToString())

    def _submit(self, requests: list[pb.RewardRequest], events: list[Event | None], give_up_at: float) -> Submission:
        received_at_us = next((event.row.received_at_us for event in events if event is not None), None)
        return self._ingest.submit(
            requests,
            [event.row if event is not None else None for event in events],
            self._feedback.now_us() if received_at_us is None else received_at_us,
            max(0.0, give_up_at - asyncio.get_running_loop().time()),
        )


class _BatchRouteReply:
    """A BatchRouteResponse that grows by its results, in order."""

    def __init__(self, decider: Decider, item_error: Callable[[Exception], bytes]) -> None:
        self._decider = decider
        self._item_error = item_error
        self._results: list[bytes] = []
        #: Decided, and not made yet.
        self._pending: list[_Routed] = []
        self._since: int | None = None
        #: Index of each allocation in the reply.
        self._indices: dict[bytes, int] = {}
        self._allocations: list[bytes] = []

    def add(self, item: _Routed) -> None:
        """Add a decision or a serialized result."""
        self._pending.append(item)
        if self._since is None and isinstance(item, Decision):
            self._since = item.number

    def commit(self) -> None:
        """Make the decisions since the last time; those that the disk refuses become errors."""
        refusal: ResourceExhaustedError | None = None
        try:
            self._decider.commit(self._since)
        except ResourceExhaustedError as error:
            refusal = error
        for item in self._pending:
            self._results.append(item if isinstance(item, bytes) else self._result(item, refusal))
        self._pending.clear()
        self._since = None

    def serialized(self) -> bytes:
        """Return the whole reply."""
        return b"".join((*self._results, *self._allocations))

    def _result(self, decision: Decision, refusal: ResourceExhaustedError | None) -> bytes:
        if refusal is not None:
            return self._item_error(refusal)
        choice = decision.choice
        index = self._indices.get(choice.allocation_id)
        if index is None:
            index = self._indices[choice.allocation_id] = len(self._allocations)
            self._allocations.append(choice.in_batch)
        response = decision.reply + _index(index) if index else decision.reply
        return embedded(embedded(response))


def _give_up_at(context: Context) -> float:
    """When a call stops waiting for Postgres, by the event loop's clock."""
    return asyncio.get_running_loop().time() + patience_s(context.time_remaining())


@lru_cache(1_000)
def _index(index: int) -> bytes:
    return pb.RouteResponse(allocation_index=index).SerializeToString()


def _status(event: Event | None, outcome: Outcome | None) -> pb.Status:
    match outcome:
        case Fate.STORED if event is not None:
            return _STATUSES[event.row.status]
        case Fate.KNOWN:
            return pb.STATUS_DUPLICATE
        case Fate.DROPPED:
            return pb.STATUS_LATE
        case Fate.LIMITED:
            return pb.STATUS_LIMITED
        case Fate.SPOOLED:
            return pb.STATUS_SPOOLED
    raise AssertionError(f"an event that was not understood ended as {outcome}")


@lru_cache(10_000)
def _reward_reply(status: pb.Status, arm_id: str) -> bytes:
    return pb.RewardResponse(status=status, arm_id=arm_id).SerializeToString()


@lru_cache(10_000)
def _reward_item(status: pb.Status, arm_id: str) -> bytes:
    return embedded(embedded(_reward_reply(status, arm_id)))
