"""The connections of a service to one database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from sqlalchemy import URL, AsyncAdaptedQueuePool, text
from sqlalchemy.ext.asyncio import AsyncConnection as Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from router.storage.connecting import POOL_SIZE, DatabaseUrl
from router.storage.errors import translated

__all__ = ["Connection", "Database", "DatabaseUrl", "driver_of"]

_POOL_TIMEOUT_S = 5
#: Attempts to connect that fail are this far apart at first, in seconds, and then ever further.
_FIRST_REST_S, _LONGEST_REST_S = 0.05, 0.5
#: A statement of a service waits this long for a lock before it gives up and is tried again.
_LOCK_TIMEOUT_S = 10


class Database:
    """Connections to one database. Cold paths share a pool; each hot path owns a connection."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self._engine: AsyncEngine = create_async_engine(
            URL.create("postgresql+psycopg"),
            async_creator=self.connect,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            pool_pre_ping=True,
        )
        #: After failed attempts to connect: for how long, until when, and why there are no others.
        self._rest_s = 0.0
        self._rest_until = float("-inf")
        self._refusal = ""
        #: Attempts to connect that failed.
        self.connect_failures = 0

    @property
    def pooled(self) -> tuple[int, int]:
        """How many connections of the pool are used, and how many are idle."""
        pool = self._engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)  # noqa: S101 - the engine's default
        return pool.checkedout(), pool.checkedin()

    async def connect(self, *, autocommit: bool = False) -> psycopg.AsyncConnection[Any]:
        """Open a connection of one's own.

        After an attempt that failed, others fail at once for a while: whoever needs Postgres asks often, and a server that
        comes up again must not meet hundreds of attempts a second.
        """
        clock = asyncio.get_running_loop().time
        if clock() < self._rest_until:
            raise psycopg.OperationalError(self._refusal)
        try:
            connection = await psycopg.AsyncConnection.connect(self.url.conninfo(), autocommit=True)
        except psycopg.OperationalError as error:
            self._refusal = str(error)
            self.connect_failures += 1
            self._rest_s = min(max(_FIRST_REST_S, 2 * self._rest_s), _LONGEST_REST_S)
            self._rest_until = clock() + self._rest_s
            raise
        self._rest_s = 0.0
        try:
            # What is acknowledged is on disk, whatever this role's default; a stricter setting is kept.
            await connection.execute(
                "SELECT set_config('lock_timeout', %s, false), CASE WHEN current_setting('synchronous_commit') = 'off'"
                " THEN set_config('synchronous_commit', 'on', false) END",
                (f"{_LOCK_TIMEOUT_S}s",),
            )
            await connection.set_autocommit(autocommit)
        except BaseException:
            await connection.close()
            raise
        return connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Connection]:
        """A transaction on a pooled connection; StorageUnavailableError when there is none to be had.

        A session keeps the `default_transaction_read_only` with which it began, also once the server takes writes again:
        such a connection is made anew.
        """
        with translated():
            async with self._engine.connect() as connection:
                read_only = await connection.scalar(text("SHOW transaction_read_only"))
                await connection.rollback()
                if read_only == "on":
                    await connection.invalidate()
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """A read-only transaction that sees one state of the database throughout."""
        async with self.begin() as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            yield connection

    async def dispose(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


async def driver_of(connection: Connection) -> psycopg.AsyncConnection[Any]:
    """Return the driver's connection, for statements of the same transaction that a leader runs too."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)  # noqa: S101 - the only driver there is
    return driver
