"""RouterService: the hot path."""

import asyncio
import time
from typing import TypeAlias

from google.rpc import status_pb2

from router.decide import Decider
from router.errors import ServiceError
from router.feedback import Feedback
from router.ingest import Ingest
from router.interceptors import as_service_error
from router.services import Context
from router.storage.events import EventStatus
from router.v1 import routing_pb2 as pb
from router.v1 import routing_pb2_grpc
from router.validation import validate

#: Whether the event was stored now, once that is known; what storing it means; the arm it is about.
_Submitted: TypeAlias = "tuple[asyncio.Future[bool], EventStatus, str]"

_STATUSES = {
    EventStatus.APPLIED: pb.STATUS_APPLIED,
    EventStatus.NEUTRAL: pb.STATUS_NEUTRAL,
    EventStatus.LATE: pb.STATUS_LATE,
    EventStatus.LIMITED: pb.STATUS_LIMITED,
}
#: How long a batch may keep the event loop from other calls, in seconds.
_TURN_S = 0.002


class _Turn:
    """Lets other calls in between the items of a batch."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def give_way(self) -> None:
        if time.perf_counter() - self._began > _TURN_S:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


class RouterService(routing_pb2_grpc.RouterServiceServicer):
    """Implements `router.v1.RouterService`. Single requests arrive validated; items of batches are validated here."""

    def __init__(self, decider: Decider, feedback: Feedback, ingest: Ingest) -> None:
        self._decider = decider
        self._feedback = feedback
        self._ingest = ingest

    async def Route(self, request: pb.RouteRequest, context: Context) -> pb.RouteResponse:
        """See the proto."""
        decision = await self._decider.decide(request)
        reply = pb.RouteResponse()
        reply.CopyFrom(decision.reply)
        reply.allocation.extend(decision.choice.entries)
        return reply

    async def BatchRoute(self, request: pb.BatchRouteRequest, context: Context) -> pb.BatchRouteResponse:
        """See the proto."""
        reply = pb.BatchRouteResponse()
        indices: dict[bytes, int] = {}
        turn = _Turn()
        for item in request.requests:
            await turn.give_way()
            result = reply.results.add()
            try:
                validate(item)
                decision = await self._decider.decide(item)
            except Exception as error:
                result.error.CopyFrom(_item_status(error))
                continue
            choice = decision.choice
            index = indices.setdefault(choice.allocation_id, len(indices))
            if index == len(reply.allocations):
                reply.allocations.add().entries.extend(choice.entries)
            result.response.CopyFrom(decision.reply)
            result.response.allocation_index = index
        return reply

    async def Reward(self, request: pb.RewardRequest, context: Context) -> pb.RewardResponse:
        """See the proto."""
        return await self._acknowledged(await self._submitted(request))

    async def BatchReward(self, request: pb.BatchRewardRequest, context: Context) -> pb.BatchRewardResponse:
        """See the proto."""
        pending: list[_Submitted | Exception] = []
        turn = _Turn()
        for item in request.requests:
            await turn.give_way()
            try:
                validate(item)
                pending.append(await self._submitted(item))
            except Exception as error:
                pending.append(error)
        reply = pb.BatchRewardResponse()
        for waiting in pending:
            await turn.give_way()
            result = reply.results.add()
            try:
                if isinstance(waiting, Exception):
                    raise waiting
                result.response.CopyFrom(await self._acknowledged(waiting))
            except Exception as error:
                result.error.CopyFrom(_item_status(error))
        return reply

    async def _submitted(self, request: pb.RewardRequest) -> _Submitted:
        row, arm_id = await self._feedback.event(request)
        return self._ingest.submit(row), row.status, arm_id

    async def _acknowledged(self, submitted: _Submitted) -> pb.RewardResponse:
        future, status, arm_id = submitted
        stored = await future
        return pb.RewardResponse(status=_STATUSES[status] if stored else pb.STATUS_DUPLICATE, arm_id=arm_id)


def _item_status(error: Exception) -> status_pb2.Status:
    """The status of one item: a fault stays the item's own."""
    service_error: ServiceError = as_service_error(error)
    return service_error.to_status()
