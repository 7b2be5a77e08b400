"""The keys that sign decision ids, and the deployment they belong to."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import text

from router.storage import audit
from router.storage.api_keys import KeyRefusedError, changed
from router.storage.audit import Act
from router.storage.database import Connection, Database, driver_of
from router.storage.errors import translated
from router.tokens import TokenCodec, TokenKey

_LOCK = 7_261_180_213

# The oldest first: it names units.
_KEYS = """
SELECT key_id, secret, (extract(epoch FROM activates_at) * 1000000)::bigint, retired_at IS NOT NULL
FROM token_keys ORDER BY created_at, key_id
"""
_LIST = """
SELECT key_id, created_at, activates_at, retired_at,
       CASE WHEN retired_at IS NOT NULL THEN 'retired' WHEN activates_at > now() THEN 'waiting'
            WHEN key_id = (SELECT key_id FROM token_keys WHERE retired_at IS NULL AND activates_at <= now()
                           ORDER BY activates_at DESC, key_id LIMIT 1) THEN 'signing'
            ELSE 'verifying' END
FROM token_keys ORDER BY created_at, key_id
"""
_INSERT = "INSERT INTO token_keys (key_id, secret, activates_at) VALUES (%s, %s, now() + %s) RETURNING activates_at"
_RETIRE = "UPDATE token_keys SET retired_at = now() WHERE key_id = %s"


class TokenKeyRow(NamedTuple):
    """A signing key as it is listed."""

    key_id: int
    created_at: datetime
    activates_at: datetime
    retired_at: datetime | None
    #: waiting, signing, verifying or retired.
    state: str


async def load_codec(database: Database) -> TokenCodec:
    """Return a codec with every key of the database, as of now; the first start makes the first key."""
    async with database.begin() as connection:
        keys = await read_keys(connection)
        if not keys:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            keys = await read_keys(connection)
        if not keys:
            await (await driver_of(connection)).execute(_INSERT, (*_random(), timedelta()))
            keys = await read_keys(connection)
        now_us = (await connection.execute(text("SELECT (extract(epoch FROM now()) * 1000000)::bigint"))).scalar_one()
    return TokenCodec.of(keys, now_us)


async def read_keys(connection: Connection) -> list[TokenKey]:
    """Return every key, the oldest first."""
    return await read_keys_on(await driver_of(connection))


async def read_keys_on(connection: psycopg.AsyncConnection[Any]) -> list[TokenKey]:
    """As `read_keys`, on a connection of the driver's."""
    rows = await (await connection.execute(_KEYS)).fetchall()
    return [TokenKey(key_id, bytes(secret), activates_at_us, retired) for key_id, secret, activates_at_us, retired in rows]


def read_all(connection: psycopg.Connection[Any]) -> list[TokenKeyRow]:
    """Return every key without its secret, the oldest first."""
    with translated(), connection.transaction():
        return [TokenKeyRow(*row) for row in connection.execute(_LIST)]


def rotate(connection: psycopg.Connection[Any], activate_after: timedelta, act: Act) -> TokenKeyRow:
    """Make a key that signs after a while, by when every replica must know it. Those there are go on verifying.

    Raises KeyRefusedError if one waits already, StorageError.
    """
    with translated(), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        waiting = [row for row in read_all(connection) if row.state == "waiting"]
        if waiting:
            raise KeyRefusedError(
                f"token key {waiting[0].key_id} was made already, and signs from {waiting[0].activates_at.isoformat()}"
            )
        key_id, secret = _random()
        connection.execute(_INSERT, (key_id, secret, activate_after))
        changed(connection)
        audit.record(connection, act.about(token_key_id=key_id, activate_after_s=activate_after.total_seconds()))
        return next(row for row in read_all(connection) if row.key_id == key_id)


def retire(connection: psycopg.Connection[Any], key_id: int, act: Act) -> None:
    """Refuse what a key signed, from now on. Raises KeyRefusedError if it signs or is to, StorageError."""
    with translated(), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found: Sequence[TokenKeyRow] = [row for row in read_all(connection) if row.key_id == key_id]
        if not found:
            raise KeyRefusedError(f"there is no token key {key_id}: `bandit-router keys tokens list` shows them")
        if found[0].state != "verifying":
            raise KeyRefusedError(f"token key {key_id} is {found[0].state}: only one that verifies can be retired")
        connection.execute(_RETIRE, (key_id,))
        changed(connection)
        audit.record(connection, act.about(token_key_id=key_id))


async def deployment_id(database: Database) -> UUID:
    """Return the identity of the database, which names its spool directory."""
    async with database.begin() as connection:
        value = (await connection.execute(text("SELECT deployment_id FROM deployment"))).scalar_one()
        return UUID(str(value))


def _random() -> tuple[int, bytes]:
    return secrets.randbits(32), secrets.token_bytes(32)
