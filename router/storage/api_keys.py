"""API keys in Postgres: made, replaced and revoked by commands, read by every replica."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from router.access.keys import ApiKey, NewKey
from router.access.roles import Role
from router.storage import audit
from router.storage.audit import Act
from router.storage.errors import StorageError, translated

_ROLES = frozenset(role.value for role in Role)
#: What replicas hear, and compare once a second in case they did not.
ACCESS_CHANNEL = "bandit_router_access"

# What expired or was revoked lately is told so; later it is as unknown as any other text.
_KNOWN = """
SELECT key_id, name, secret_hash, roles, experiments, rate, burst,
       (extract(epoch FROM expires_at) * 1000000)::bigint, revoked_at IS NOT NULL
FROM api_keys WHERE coalesce(least(revoked_at, expires_at) > now() - interval '30 days', true) ORDER BY key_id
"""
_LIST = """
SELECT key_id, name, roles, experiments, rate, burst, created_at, created_by, expires_at, replaced_by, revoked_at,
       revoked_by, revoke_reason, last_used_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired'
            WHEN replaced_by IS NOT NULL THEN 'replaced' ELSE 'active' END
FROM api_keys ORDER BY created_at, key_id
"""
_INSERT = """
INSERT INTO api_keys (key_id, name, secret_hash, roles, experiments, rate, burst, created_by, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now() + %s)
"""
_LOCK = """
SELECT name, roles, experiments, rate, burst, expires_at - created_at, replaced_by, revoked_at FROM api_keys
WHERE key_id = %s FOR UPDATE
"""
_REPLACE = "UPDATE api_keys SET replaced_by = %s, expires_at = least(expires_at, now() + %s) WHERE key_id = %s"
_REVOKE = "UPDATE api_keys SET revoked_at = now(), revoked_by = %s, revoke_reason = %s WHERE key_id = %s"
_USED = """
UPDATE api_keys SET last_used_at = date_trunc('minute', now())
WHERE key_id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - interval '5 minutes')
"""


class KeyRefusedError(StorageError):
    """A key cannot be made, replaced or revoked so; the message says why."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key is to be for."""

    name: str
    roles: frozenset[Role]
    #: Ids; None for every experiment.
    experiments: frozenset[str] | None = None
    rate: float | None = None
    burst: float | None = None
    #: None for ever.
    lifetime: timedelta | None = None


class KeyRow(NamedTuple):
    """A key as it is listed."""

    key_id: str
    name: str
    roles: Sequence[str]
    experiments: Sequence[str] | None
    rate: float | None
    burst: float | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    replaced_by: str | None
    revoked_at: datetime | None
    revoked_by: str | None
    revoke_reason: str | None
    last_used_at: datetime | None
    #: active, replaced (and still good), expired or revoked.
    state: str


async def read_known(connection: psycopg.AsyncConnection[Any]) -> list[ApiKey]:
    """Return every key that calls may be made with, and those that were until lately."""
    cursor = await connection.execute(_KNOWN)
    return [_api_key(row) for row in await cursor.fetchall()]


async def note_used(connection: psycopg.AsyncConnection[Any], key_ids: Sequence[str]) -> None:
    """Keep when keys were used last, to a few minutes."""
    await connection.execute(_USED, (list(key_ids),))


def read_all(connection: psycopg.Connection[Any]) -> list[KeyRow]:
    """Return every key there was, the oldest first."""
    with translated(), connection.transaction():
        return [KeyRow(*row) for row in connection.execute(_LIST)]


def create(connection: psycopg.Connection[Any], new: NewKey, grant: Grant, act: Act) -> None:
    """Store a new key. Raises KeyRefusedError if an active key has this name, StorageError."""
    with translated(), connection.transaction():
        try:
            with connection.transaction():
                _insert(connection, new, grant, act)
        except psycopg.errors.UniqueViolation:
            raise KeyRefusedError(
                f"--name {grant.name}: an active key has this name: rotate or revoke it, or choose another"
            ) from None
        changed(connection)
        audit.record(connection, act.about(key_id=new.key_id, name=grant.name, roles=sorted(grant.roles)))


def rotate(
    connection: psycopg.Connection[Any], key_id: str, new: NewKey, overlap: timedelta, lifetime: timedelta | None, act: Act
) -> Grant:
    """Store the key that takes another's place, which goes on for the overlap; returns what both are for.

    Without `lifetime` the new one lives as long as the old one was to. Raises KeyRefusedError, StorageError.
    """
    with translated(), connection.transaction():
        name, roles, experiments, rate, burst, old_lifetime, replaced_by, revoked_at = _locked(connection, key_id)
        if revoked_at is not None:
            raise KeyRefusedError(f"key {key_id} ({name}) is revoked: create a new one")
        if replaced_by is not None:
            raise KeyRefusedError(f"key {key_id} ({name}) was replaced by {replaced_by}: rotate that one")
        grant = Grant(
            name,
            frozenset(map(Role, roles)),
            None if experiments is None else frozenset(experiments),
            rate,
            burst,
            old_lifetime if lifetime is None else lifetime,
        )
        # One active key of a name: the old one steps aside first. That the new one exists is asked at the commit.
        connection.execute(_REPLACE, (new.key_id, overlap, key_id))
        _insert(connection, new, grant, act)
        changed(connection)
        audit.record(
            connection, act.about(key_id=key_id, name=name, new_key_id=new.key_id, overlap_s=overlap.total_seconds())
        )
        return grant


def revoke(connection: psycopg.Connection[Any], key_id: str, act: Act) -> str:
    """Refuse a key from now on; returns its name. Raises KeyRefusedError, StorageError."""
    with translated(), connection.transaction():
        name, *_, revoked_at = _locked(connection, key_id)
        if revoked_at is not None:
            raise KeyRefusedError(f"key {key_id} ({name}) was revoked at {revoked_at.isoformat()}")
        connection.execute(_REVOKE, (act.actor, act.reason, key_id))
        changed(connection)
        audit.record(connection, act.about(key_id=key_id, name=name))
        return str(name)


def changed(connection: psycopg.Connection[Any]) -> None:
    """Tell every replica, at the commit, that a key of either kind changed."""
    connection.execute("UPDATE deployment SET access_version = access_version + 1")
    connection.execute("SELECT pg_notify(%s, '')", (ACCESS_CHANNEL,))


def _insert(connection: psycopg.Connection[Any], new: NewKey, grant: Grant, act: Act) -> None:
    experiments = None if grant.experiments is None else sorted(grant.experiments)
    values = (new.key_id, grant.name, new.secret_hash, sorted(grant.roles), experiments, grant.rate, grant.burst, act.actor)
    connection.execute(_INSERT, (*values, grant.lifetime))


def _locked(connection: psycopg.Connection[Any], key_id: str) -> tuple[Any, ...]:
    row = connection.execute(_LOCK, (key_id,)).fetchone()
    if row is None:
        raise KeyRefusedError(f"there is no key {key_id}: `bandit-router keys list` shows them")
    found: tuple[Any, ...] = row
    return found


def _api_key(row: Sequence[Any]) -> ApiKey:
    key_id, name, secret_hash, roles, experiments, rate, burst, expires_at_us, revoked = row
    return ApiKey(
        key_id,
        name,
        bytes(secret_hash),
        # A role that a newer version has added gives nothing here.
        frozenset(Role(role) for role in roles if role in _ROLES),
        None if experiments is None else frozenset(experiments),
        rate,
        burst,
        expires_at_us,
        revoked,
    )
