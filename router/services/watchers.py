"""Watchers: streams that wait for a posterior to change, all of them fed by one query a second."""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator

from router.errors import ResourceExhaustedError, UnavailableError
from router.storage.database import Database
from router.storage.errors import StorageError
from router.storage.policies import read_policy_versions

log = logging.getLogger(__name__)

#: Streams of one process.
_MOST = 100
#: Seconds between looks, and so between the messages of a stream.
_EVERY_S = 1.0
_RETRY_MS = 1000


class Watchers:
    """The streams of one process."""

    def __init__(self, database: Database, *, most: int = _MOST, every_s: float = _EVERY_S) -> None:
        """At most `most` streams, looked after every `every_s` seconds."""
        self._database = database
        self._most = most
        self._every_s = every_s
        #: By incarnation, the queues of its streams: each holds at most one version that was not sent yet.
        self._streams: defaultdict[int, set[asyncio.Queue[int]]] = defaultdict(set)
        self._count = 0
        self._versions: dict[int, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def changes(self, incarnation: int) -> AsyncGenerator[int]:
        """Yield at once, and then whenever the policy version may have changed, until the caller ends it.

        Raises ResourceExhaustedError if there are too many streams, UnavailableError once this process drains.
        """
        if self._count >= self._most:
            raise ResourceExhaustedError(
                f"this replica has {self._most} streams already: end one, or watch on another replica",
                retry_after_ms=_RETRY_MS,
            )
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        self._count += 1
        self._streams[incarnation].add(queue)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="watchers")
        try:
            yield 0
            while True:
                yield await self._next(queue)
        finally:
            self._count -= 1
            self._streams[incarnation].discard(queue)
            if not self._streams[incarnation]:
                del self._streams[incarnation]
                self._versions.pop(incarnation, None)

    async def close(self) -> None:
        """End every stream."""
        self._closing.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _next(self, queue: asyncio.Queue[int]) -> int:
        getting = asyncio.ensure_future(queue.get())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait([getting, closing], return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set():
                raise UnavailableError(
                    "this replica drains before it stops: watch again, another one answers",
                    reason="SHUTTING_DOWN",
                    retry_after_ms=_RETRY_MS,
                )
            return getting.result()
        finally:
            getting.cancel()
            closing.cancel()

    async def _look(self) -> None:
        """See which of the watched experiments have changed, again and again."""
        while True:
            await asyncio.sleep(self._every_s)
            watched = list(self._streams)
            if not watched:
                continue
            try:
                async with self._database.begin() as connection:
                    versions = await read_policy_versions(connection, watched)
            except StorageError as error:
                log.warning("watched posteriors cannot be looked at: %s", error)
                continue
            for incarnation, version in versions.items():
                before, self._versions[incarnation] = self._versions.get(incarnation), version
                if before != version:
                    for queue in self._streams.get(incarnation, ()):
                        with contextlib.suppress(asyncio.QueueFull):
                            queue.put_nowait(version)
