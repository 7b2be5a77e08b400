"""Addresses of databases and connections of commands to them: without SQLAlchemy, which takes long to import."""

from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from router.storage.errors import StorageError, StorageUnavailableError

#: What commands work on.
SyncConnection: TypeAlias = psycopg.Connection[Any]

OLDEST_MAJOR = 14
POOL_SIZE = 4
#: A pool for cold paths, and one connection each for events, sticky units, learning, listening, announcing and keys.
CONNECTIONS_PER_WORKER = POOL_SIZE + 6
_CONNECT_TIMEOUT_S = 5
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
