"""Administrative calls that were refused, on their way to the audit log.

They are written by a task of their own: whoever is refused waits for nothing. Whoever is refused without end must not fill
Postgres: beyond a rate they are counted in the log of this process, and not written.
"""

import asyncio
import logging
from collections.abc import Callable

from router.access.buckets import TokenBucket
from router.access.keys import Caller
from router.storage import audit
from router.storage.audit import DENIED, Act
from router.storage.database import Database, driver_of
from router.storage.errors import StorageError

log = logging.getLogger(__name__)

#: Rows a second, and at once.
_RATE, _BURST = 5.0, 100.0


class DenialLog:
    """The refused calls of one process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._database = database
        self._bucket = TokenBucket(_RATE, _BURST, clock)
        self._waiting: asyncio.Queue[Act] = asyncio.Queue(int(_BURST))
        self._left_out = 0

    def denied(self, caller: Caller, method: str, experiment_id: str, source: str) -> None:
        """Have a call written to the audit log, soon, unless there are too many."""
        if self._waiting.full() or self._bucket.take(1):
            self._left_out += 1
            return
        act = Act(
            method.rsplit("/", 1)[1],
            caller.key.name,
            caller.key.key_id,
            source,
            experiment_id,
            DENIED,
            detail=(("left_out_before", self._left_out),) if self._left_out else (),
        )
        self._left_out = 0
        self._waiting.put_nowait(act)

    async def run(self) -> None:
        """Write until cancelled. What cannot be written goes to the log of this process."""
        while True:
            act = await self._waiting.get()
            try:
                async with self._database.begin() as connection:
                    await audit.record_async(await driver_of(connection), act)
            except StorageError as error:
                log.warning("the audit log cannot be written (%s): %s was denied to %s", error, act.action, act.actor)
