"""The leader: of all keepers on one database, the one that does what must not be done twice at the same time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from router.storage.database import Database
from router.storage.election import Session, elected
from router.storage.errors import StorageError, StorageUnavailableError

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Session], Awaitable[Any]]
_STAND_S = 5.0
_CHECK_S = 5.0


class Leader:
    """Stands for election for as long as `run` runs."""

    def __init__(self, database: Database, *, every_s: float, stand_s: float = _STAND_S) -> None:
        """The leader works every `every_s` seconds; the others ask to lead every `stand_s`."""
        self._database = database
        self._every_s = every_s
        self._stand_s = stand_s
        #: Whether this process led when it looked last.
        self.leads = False

    async def run(self, work: Work) -> None:
        """Run `work` periodically while this process leads, until cancelled.

        It is given the connection that holds the leadership: when that breaks, so does what is under way, and another may
        lead. A fault of the work is logged, and the work tried again next time.
        """
        while True:
            try:
                async with elected(self._database) as session:
                    if session is not None:
                        await self._lead(session, work)
            except StorageUnavailableError as error:
                if self.leads:
                    log.warning("this keeper leads no longer: %s", error)
            except StorageError as error:
                log.error("this keeper cannot lead: %s", error)
            finally:
                self.leads = False
            await asyncio.sleep(self._stand_s)

    async def _lead(self, session: Session, work: Work) -> None:
        log.info("this keeper leads")
        self.leads = True
        clock = asyncio.get_running_loop().time
        next_at = clock()
        while True:
            if clock() >= next_at:
                next_at = clock() + self._every_s
                try:
                    await work(session)
                except StorageUnavailableError:
                    raise
                except Exception:
                    log.exception("work of the leader failed; it is tried again in %.0f s", self._every_s)
            await asyncio.sleep(max(0.0, min(_CHECK_S, next_at - clock())))
            await session.check()
