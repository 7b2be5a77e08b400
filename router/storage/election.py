"""Leadership as an advisory lock of a session: whoever holds it leads, and its end, however it comes, ends the lead."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from router.storage.database import Database
from router.storage.errors import StorageUnavailableError, translated

_LOCK = 7_261_180_214


# An advisory lock of 64 bits is listed in two halves, with objsubid 1.
_HELD = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::int8 = %s AND objid::int8 = %s AND objsubid = 1
  AND pid = coalesce(%s, pg_backend_pid()) AND granted
"""


class Session:
    """A connection of the leader."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], holder: int | None = None) -> None:
        """`holder` is the process id of the backend that holds the leadership; None: this connection's.

        It is what Postgres says: a pooler in between tells clients another number.
        """
        self.connection = connection
        self._holder = holder

    async def check(self) -> None:
        """Raise StorageUnavailableError if the connection, or the lead, is gone."""
        with translated():
            cursor = await self.connection.execute(_HELD, (*divmod(_LOCK, 1 << 32), self._holder))
            found = await cursor.fetchone()
        if found is None or not found[0]:
            raise StorageUnavailableError("the leadership is lost: its connection ended")

    @asynccontextmanager
    async def beside(self, database: Database) -> AsyncIterator["Session"]:
        """Give a connection of its own to work that must not hold up what is done on this one; it knows who leads.

        Raises StorageUnavailableError if Postgres does not answer.
        """
        with translated():
            connection = await database.connect(autocommit=True)
        try:
            yield Session(connection, self._holder)
        finally:
            with contextlib.suppress(psycopg.Error):
                await connection.close()


@asynccontextmanager
async def elected(database: Database) -> AsyncIterator[Session | None]:
    """Give the session that leads from now until the end of the block, or None if another one leads.

    Raises StorageUnavailableError if Postgres does not answer.
    """
    with translated():
        connection = await database.connect(autocommit=True)
    try:
        with translated():
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s), pg_backend_pid()", (_LOCK,))
            found = await cursor.fetchone()
        yield Session(connection, found[1]) if found is not None and found[0] else None
    finally:
        with contextlib.suppress(psycopg.Error):
            await connection.close()
