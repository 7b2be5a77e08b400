"""Credentials: the API keys and signing keys of this process, kept as Postgres has them.

Protocol
    Every change of a key raises a version and is told with NOTIFY; versions are compared once a second, in case a message
    was lost. Then all keys are read again and replaced as a whole. While Postgres is away the last ones stay, and expire by
    this host's clock. A signing key that waits begins to sign at its time, by the same clock: no message is needed for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol
from uuid import UUID

from router.access.guard import Guard
from router.storage.access import Keys
from router.storage.errors import StorageUnavailableError
from router.tokens import TokenCodec

log = logging.getLogger(__name__)

_POLL_S = 1.0
_RETRY_S = 0.25
#: Uses of keys are kept this often, in seconds.
_USED_EVERY_S = 60.0


class KeySource(Protocol):
    """Where keys are read from: `router.storage.access.AccessReader`."""

    def follow(self, every_s: float, used: Callable[[], Sequence[str]]) -> AsyncIterator[Keys | None]:
        """Yield all keys at once and whenever one changed, else None every `every_s` seconds."""


class Credentials:
    """Keeps a codec, and a guard where there is one, up to date."""

    def __init__(
        self,
        source: KeySource,
        deployment_id: UUID,
        codec: TokenCodec,
        guard: Guard | None,
        clock: Callable[[], float],
        clock_us: Callable[[], int],
    ) -> None:
        """`clock` is monotonic, in seconds; `clock_us` gives microseconds since the epoch."""
        self._source = source
        self._deployment_id = deployment_id
        self._codec = codec
        self._guard = guard
        self._clock = clock
        self._clock_us = clock_us
        self._used_at = clock()
        #: Set once the keys were read.
        self.read = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        said = ""
        while True:
            try:
                async for keys in self._source.follow(_POLL_S, self._used):
                    if said:
                        log.info("keys are followed again")
                    said = ""
                    self._take(keys)
            except StorageUnavailableError as error:
                if not said:
                    log.warning("keys stay as they are known from now on: %s", error)
                said = said or "away"
            except Exception as error:
                # Postgres may be back before it is migrated.
                if str(error) != said:
                    log.exception("keys cannot be followed; it goes on")
                said = str(error) or type(error).__name__
            self._take(None)
            await asyncio.sleep(_RETRY_S)

    def _take(self, keys: Keys | None) -> None:
        if keys is not None and keys.deployment_id != self._deployment_id:
            keys = None  # another one is in its place: this process is about to start over
        if keys is not None:
            if self._guard is not None:
                self._guard.follow(keys.api_keys)
                if not keys.api_keys:
                    log.warning("calls need a key, and there is none: make one with `bandit-router keys create`")
            self.read.set()
        signing = self._codec.key_id
        self._codec.follow(self._codec.keys if keys is None else keys.token_keys, self._clock_us())
        if self._codec.key_id != signing:
            log.info("decision ids are signed with token key %d from now on", self._codec.key_id)

    def _used(self) -> Sequence[str]:
        if self._guard is None or self._clock() - self._used_at < _USED_EVERY_S:
            return ()
        self._used_at = self._clock()
        return self._guard.used()
