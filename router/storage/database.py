"""One database: its address, its connections, and what it must be able to do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection as Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from router.storage.errors import StorageError, StorageUnavailableError, translated

__all__ = [
    "CONNECTIONS_PER_WORKER",
    "Connection",
    "Database",
    "DatabaseUrl",
    "SyncConnection",
    "check_server",
    "connect",
    "driver_of",
]

#: What commands work on.
SyncConnection: TypeAlias = psycopg.Connection[Any]

OLDEST_MAJOR = 14
_CONNECT_TIMEOUT_S = 5
_POOL_SIZE = 4
#: Attempts to connect that fail are this far apart at first, in seconds, and then ever further.
_FIRST_REST_S, _LONGEST_REST_S = 0.05, 0.5
#: A pool for cold paths, and one connection each for events, sticky units, learning, listening and announcing.
CONNECTIONS_PER_WORKER = _POOL_SIZE + 5
#: A statement of a service waits this long for a lock before it gives up and is tried again.
_LOCK_TIMEOUT_S = 10
_APPLICATION = "bandit-router"


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A checked postgresql:// URL."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Accept postgresql:// and postgres:// URLs; StorageError says what is wrong with others."""
        normal = text.replace("postgresql+psycopg://", "postgresql://", 1)
        if not normal.startswith(("postgresql://", "postgres://")):
            raise StorageError("database URL: must start with postgresql://, as in postgresql://user:password@host/name")
        try:
            conninfo_to_dict(normal)
        except psycopg.ProgrammingError as error:
            # The driver's own text may hold the password.
            raise StorageError("database URL: cannot be parsed; write reserved characters as %XX") from error
        return cls(normal)

    @property
    def shown(self) -> str:
        """The address without its password."""
        parts = conninfo_to_dict(self.url)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"

    def conninfo(self) -> str:
        """What psycopg connects with: UTC, and a name that an administrator recognises."""
        return psycopg.conninfo.make_conninfo(
            self.url,
            application_name=_APPLICATION,
            connect_timeout=_CONNECT_TIMEOUT_S,
            options=_options(self.url),
            # A network that swallows packets must not hold up feedback for the kernel's quarter of an hour.
            tcp_user_timeout=15_000,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )


def _options(url: str) -> str:
    given = conninfo_to_dict(url).get("options") or ""
    return f"{given} -c timezone=UTC".strip()


class Database:
    """Connections to one database. Cold paths share a pool; each hot path owns a connection."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self._engine: AsyncEngine = create_async_engine(
            URL.create("postgresql+psycopg"),
            async_creator=self.connect,
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_timeout=_CONNECT_TIMEOUT_S,
            pool_pre_ping=True,
        )
        #: After failed attempts to connect: for how long, until when, and why there are no others.
        self._rest_s = 0.0
        self._rest_until = float("-inf")
        self._refusal = ""

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


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Refuse a Postgres that is too old or that cannot take writes."""
    version = connection.info.server_version
    if version // 10_000 < OLDEST_MAJOR:
        raise StorageError(
            f"database: PostgreSQL {version // 10_000}.{version % 10_000} is too old; {OLDEST_MAJOR} or newer is needed"
        )
    row = connection.execute("SELECT pg_is_in_recovery(), current_setting('server_encoding')").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    if row[0]:
        raise StorageError("database: this server is a read-only standby; give the URL of the primary")
    if row[1] != "UTF8":
        raise StorageError(f"database: encoding is {row[1]}, UTF8 is needed: CREATE DATABASE … ENCODING 'UTF8'")


def connect(url: DatabaseUrl, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    """Open a synchronous connection, for commands; StorageUnavailableError names the address without its password."""
    try:
        return psycopg.connect(url.conninfo(), autocommit=autocommit)
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise StorageUnavailableError(f"database {url.shown}: cannot connect: {reason}") from error
