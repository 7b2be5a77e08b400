"""The keys that sign decision ids, and the deployment they belong to."""

import secrets
from uuid import UUID

from sqlalchemy import text

from router.storage.database import Connection, Database
from router.tokens import TokenCodec, TokenKey

_LOCK = 7_261_180_213


async def load_codec(database: Database) -> TokenCodec:
    """Return a codec with every key of the database; the first start makes the first key."""
    async with database.begin() as connection:
        keys = await read_keys(connection)
        if not keys:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            keys = await read_keys(connection)
        if not keys:
            await connection.execute(
                text("INSERT INTO token_keys (key_id, secret) VALUES (:key_id, :secret)"),
                {"key_id": secrets.randbits(32), "secret": secrets.token_bytes(32)},
            )
            keys = await read_keys(connection)
    return TokenCodec(keys[0], {key.key_id: key.secret for key in keys})


async def read_keys(connection: Connection) -> list[TokenKey]:
    """Return every key, the one that signs first."""
    rows = await connection.execute(text("SELECT key_id, secret FROM token_keys ORDER BY created_at DESC, key_id"))
    return [TokenKey(row.key_id, bytes(row.secret)) for row in rows]


async def deployment_id(database: Database) -> UUID:
    """Return the identity of the database, which names its spool directory."""
    async with database.begin() as connection:
        value = (await connection.execute(text("SELECT deployment_id FROM deployment"))).scalar_one()
        return UUID(str(value))
