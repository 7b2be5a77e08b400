"""The leader: of all keepers on one database, the one that does what must not be done twice at the same time."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from router.storage.database import Database
from router.storage.election import Session, elected
from router.storage.errors import StorageError, StorageUnavailableError
from router.tasks import cancelled

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Session], Awaitable[Any]]
_STAND_S = 5.0
_CHECK_S = 5.0


@dataclass(frozen=True, slots=True)
class Duty:
    """What the leader does again and again."""

    #: For the log.
    name: str
    #: Seconds from the beginning of one time to the next.
    every_s: float
    #: It is given the connection that holds the leadership: when that breaks, so does what is under way, and another may
    #: lead.
    work: Work
    #: Whether it may take long. It is then done beside the others, on a connection of its own, until the leadership is lost.
    aside: bool = False


class Leader:
    """Stands for election for as long as `run` runs."""

    def __init__(
        self,
        database: Database,
        duties: Sequence[Duty],
        *,
        stand_s: float = _STAND_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """The leader does its duties, one at a time but for those aside; the others ask to lead every `stand_s` seconds.

        `clock` gives seconds since the epoch.
        """
        self._database = database
        self._duties = tuple(duties)
        self._stand_s = stand_s
        #: Whether this process led when it looked last.
        self.leads = False
        self._clock = clock
        #: By duty: when it was last done, in seconds since the epoch, and how many attempts failed.
        self.done_at: dict[str, float] = {}
        self.failures = dict.fromkeys((duty.name for duty in duties), 0)

    async def run(self) -> None:
        """Do every duty in its time while this process leads, until cancelled.

        A fault of one is logged, holds up no other, and it is tried again next time.
        """
        while True:
            try:
                async with elected(self._database) as session:
                    if session is not None:
                        await self._lead(session)
            except StorageUnavailableError as error:
                if self.leads:
                    log.warning("this keeper leads no longer: %s", error)
            except StorageError as error:
                log.error("this keeper cannot lead: %s", error)
            finally:
                self.leads = False
            await asyncio.sleep(self._stand_s)

    async def _lead(self, session: Session) -> None:
        log.info("this keeper leads")
        self.leads = True
        async with contextlib.AsyncExitStack() as ending:
            for duty in self._duties:
                if duty.aside:
                    task = asyncio.create_task(self._do_aside(duty, session), name=duty.name)
                    ending.push_async_callback(cancelled, task)
            await self._do_in_turn([duty for duty in self._duties if not duty.aside], session)

    async def _do_in_turn(self, duties: Sequence[Duty], session: Session) -> None:
        clock = asyncio.get_running_loop().time
        due = dict.fromkeys(duties, clock())
        while True:
            for duty in duties:
                if clock() >= due[duty]:
                    due[duty] = clock() + duty.every_s
                    await self._do(duty, session)
            await asyncio.sleep(max(0.0, min([_CHECK_S, *(at - clock() for at in due.values())])))
            await session.check()

    async def _do_aside(self, duty: Duty, session: Session) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + duty.every_s
            try:
                async with session.beside(self._database) as own:
                    await self._do(duty, own)
            except StorageError as error:
                # Whether the leadership is lost too is found out where it is held.
                log.warning("work of the leader was cut short: %s: %s", duty.name, error)
            await asyncio.sleep(max(0.0, due - clock()))

    async def _do(self, duty: Duty, session: Session) -> None:
        try:
            await duty.work(session)
            self.done_at[duty.name] = self._clock()
        except StorageUnavailableError:
            self.failures[duty.name] += 1
            raise
        except Exception:
            self.failures[duty.name] += 1
            log.exception("work of the leader failed: %s; it is tried again in %.0f s", duty.name, duty.every_s)
