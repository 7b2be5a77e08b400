"""Leadership as an advisory lock of a session: whoever holds it leads, and its end, however it comes, ends the lead."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from router.storage.database import Database
from router.storage.errors import translated

_LOCK = 7_261_180_214


class Session:
    """The connection that holds the leadership."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    async def check(self) -> None:
        """Raise StorageUnavailableError if the connection, and with it the lead, is gone."""
        with translated():
            await self.connection.execute("SELECT 1")


@asynccontextmanager
async def elected(database: Database) -> AsyncIterator[Session | None]:
    """Give the session that leads from now until the end of the block, or None if another one leads.

    Raises StorageUnavailableError if Postgres does not answer.
    """
    with translated():
        connection = await database.connect(autocommit=True)
    try:
        with translated():
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
            found = await cursor.fetchone()
        yield Session(connection) if found is not None and found[0] else None
    finally:
        with contextlib.suppress(psycopg.Error):
            await connection.close()
