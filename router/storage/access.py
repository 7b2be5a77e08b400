"""What a worker reads and hears of keys, on one connection of its own."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg import sql

from router.access.keys import ApiKey
from router.storage.api_keys import ACCESS_CHANNEL, note_used, read_known
from router.storage.database import Database
from router.storage.errors import StorageUnavailableError, translated
from router.storage.token_keys import read_keys_on
from router.tokens import TokenKey

_VERSION = "SELECT access_version, deployment_id FROM deployment"


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key of a deployment, of either kind."""

    deployment_id: UUID
    api_keys: Sequence[ApiKey]
    #: The oldest first.
    token_keys: Sequence[TokenKey]


class AccessReader:
    """Implements `router.credentials.KeySource` on Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def follow(self, every_s: float, used: Callable[[], Sequence[str]]) -> AsyncIterator[Keys | None]:
        """Yield all keys at once and whenever one changed, else None every `every_s` seconds, until the caller ends it.

        `used` gives the ids of API keys that were used since it was asked last: that is kept too. Raises
        StorageUnavailableError when cut off.
        """
        with translated():
            connection = await self._database.connect(autocommit=True)
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(ACCESS_CHANNEL)))
                known = None
                while True:
                    row = await (await connection.execute(_VERSION)).fetchone()
                    assert row is not None  # noqa: S101 - a migration wrote it
                    # Read before the keys: a change in between is found next time.
                    if row != known:
                        keys = Keys(row[1], await read_known(connection), await read_keys_on(connection))
                        known = row
                        yield keys
                    else:
                        yield None
                    if ids := used():
                        # A Postgres that takes no writes just now still tells of keys.
                        with contextlib.suppress(psycopg.Error):
                            await note_used(connection, ids)
                    async for _ in connection.notifies(timeout=every_s, stop_after=1):
                        pass
                    if connection.closed:
                        raise StorageUnavailableError("Postgres closed the connection that tells of keys")
