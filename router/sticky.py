"""Stored assignments, remembered per process so that Postgres is asked once for each unit."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from router.storage.errors import StorageError
from router.storage.sticky import StickyAssignment

log = logging.getLogger(__name__)

#: How long a Route call waits for Postgres at the first sight of a unit.
WAIT_S = 0.025
_REMEMBERED = 100_000
#: Most units being read or stored at once; more are routed by their hash.
_UNDER_WAY = 1_000


class StickyStore(Protocol):
    """Where assignments are kept: `router.storage.sticky.StickyTable`."""

    async def claim(
        self, incarnation: int, unit_id: str, *, arm: int, propensity: float, now: datetime, ttl: timedelta | None
    ) -> tuple[StickyAssignment, bool]:
        """Store a first draw unless the unit has one; return the draw that is stored and whether it is this one."""

    async def store(
        self,
        incarnation: int,
        unit_id: str,
        *,
        previous_epoch: int,
        arm: int,
        propensity: float,
        now: datetime,
        ttl: timedelta | None,
    ) -> tuple[StickyAssignment, bool]:
        """Store a draw unless another replica was first; return the draw that holds and whether it is this one."""


class StickyUnits:
    """The stored draws this process has seen."""

    def __init__(self, store: StickyStore, clock: Callable[[], float], wait_s: float = WAIT_S) -> None:
        """`clock` gives seconds since the epoch."""
        self._store = store
        self._clock = clock
        self._wait_s = wait_s
        self._known: OrderedDict[tuple[int, str], StickyAssignment] = OrderedDict()
        #: How often something was forgotten.
        self._forgotten = 0
        self._tasks: set[asyncio.Task[tuple[StickyAssignment, bool]]] = set()
        self._failing = False

    def known(self, incarnation: int, unit_id: str) -> StickyAssignment | None:
        """Return the unit's draw if this process has seen it and it still holds."""
        found = self._known.get((incarnation, unit_id))
        return found if found is not None and self._holds(found) else None

    def forget(self, incarnation: int, unit_id: str) -> None:
        """Have Postgres asked again: another replica drew the unit anew."""
        self._forgotten += 1
        self._known.pop((incarnation, unit_id), None)

    def forget_all(self) -> None:
        """As `forget` for every unit: messages may have been missed."""
        self._forgotten += 1
        self._known.clear()

    async def settle(
        self,
        incarnation: int,
        unit_id: str,
        *,
        permitted: Callable[[int], bool],
        draw: Callable[[], tuple[int, float]],
        ttl: timedelta | None,
    ) -> tuple[StickyAssignment, bool] | None:
        """Return the unit's draw and whether it was drawn now; None if Postgres does not answer in time.

        A stored draw that has expired, or whose arm is not `permitted`, is drawn anew as the next epoch. What is under way
        when the wait ends goes on, so that the next call finds it.
        """
        if len(self._tasks) >= _UNDER_WAY:
            return None
        task = asyncio.ensure_future(self._settle(incarnation, unit_id, permitted, draw, ttl))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait([task], timeout=self._wait_s)
        if not done:
            return None
        return None if task.exception() is not None else task.result()

    async def _settle(
        self,
        incarnation: int,
        unit_id: str,
        permitted: Callable[[int], bool],
        draw: Callable[[], tuple[int, float]],
        ttl: timedelta | None,
    ) -> tuple[StickyAssignment, bool]:
        forgotten = self._forgotten
        arm, propensity = draw()
        now = datetime.fromtimestamp(self._clock(), UTC)
        stored, drawn_now = await self._store.claim(incarnation, unit_id, arm=arm, propensity=propensity, now=now, ttl=ttl)
        if not drawn_now and not (self._holds(stored) and permitted(stored.arm)):
            stored, drawn_now = await self._store.store(
                incarnation,
                unit_id,
                previous_epoch=stored.epoch,
                arm=arm,
                propensity=propensity,
                now=now,
                ttl=ttl,
            )
        # What was forgotten meanwhile may be this very unit, and the answer older than the message.
        if forgotten == self._forgotten:
            self._known[(incarnation, unit_id)] = stored
            self._known.move_to_end((incarnation, unit_id))
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return stored, drawn_now

    def _holds(self, assignment: StickyAssignment) -> bool:
        return assignment.expires_at is None or assignment.expires_at.timestamp() > self._clock()

    def _finished(self, task: "asyncio.Task[tuple[StickyAssignment, bool]]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._failing = False
        elif not isinstance(error, StorageError):
            log.error("a unit was routed by its hash", exc_info=error)
        elif not self._failing:
            self._failing = True
            log.warning("new units are routed by their hashes until Postgres answers: %s", error)
