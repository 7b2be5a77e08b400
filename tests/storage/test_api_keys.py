"""API keys, signing keys and the audit log in Postgres."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from keyed import ACT, create_key, revoke_key
from postgres import TestCluster
from running import query, scalar

from router.access.keys import new_key
from router.access.roles import Role
from router.storage import api_keys, audit, token_keys
from router.storage.api_keys import Grant, KeyRefusedError
from router.storage.audit import Act, Search
from router.storage.database import Database, driver_of

SECRETS = ("api_keys", "token_keys", "audit_log")


def rotate(url: str, key_id: str, overlap: timedelta = timedelta(hours=24), lifetime: timedelta | None = None) -> str:
    new = new_key()
    with psycopg.connect(url) as connection:
        api_keys.rotate(connection, key_id, new, overlap, lifetime, ACT)
    return new.key_id


def rows(url: str) -> dict[str, api_keys.KeyRow]:
    with psycopg.connect(url) as connection:
        return {row.key_id: row for row in api_keys.read_all(connection)}


def acts(url: str, search: Search | None = None) -> list[audit.AuditRow]:
    with psycopg.connect(url) as connection:
        return list(audit.search(connection, search or Search()))


@pytest.mark.parametrize("table", SECRETS)
def test_analysts_see_neither_keys_nor_the_audit_log(cluster: TestCluster, database_url: str, table: str) -> None:
    create_key(database_url, "read")
    name = database_url.rsplit("/", 1)[1].split("?")[0]
    with psycopg.connect(cluster.analyst_url_of(name)) as connection:
        connection.execute("SELECT count(*) FROM experiments")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT * FROM {table}")


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'nobody'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
def test_the_audit_log_is_append_only(database_url: str, statement: str) -> None:
    create_key(database_url, "read")
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.Error, match="append-only"):
        connection.execute(statement)
    assert len(acts(database_url)) == 1


async def test_no_secret_is_stored_or_listed(database_url: str) -> None:
    new = create_key(database_url, "read", name="one")
    secret = new.text.rsplit("_", 1)[0][-1:] + new.text[17:]
    dump = str(await query(database_url, "SELECT api_keys::text FROM api_keys")) + str(rows(database_url))
    dump += str(acts(database_url))
    assert new.text not in dump
    assert secret not in dump
    assert new.secret_hash.hex() not in str(rows(database_url))
    assert await scalar(database_url, "SELECT secret_hash FROM api_keys") == new.secret_hash


def test_a_new_key_and_its_successor(database_url: str) -> None:
    first = create_key(
        database_url, "route", "reward", name="backend", experiments=["a"], rate=5.0, lifetime=timedelta(days=9)
    )
    second = rotate(database_url, first.key_id, timedelta(hours=1))
    old, new = (rows(database_url)[key_id] for key_id in (first.key_id, second))
    assert (old.state, old.replaced_by, new.state, new.replaced_by) == ("replaced", second, "active", None)
    assert (new.name, new.roles, new.experiments, new.rate, new.burst) == ("backend", ["reward", "route"], ["a"], 5.0, 5.0)
    assert old.expires_at is not None
    assert new.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - new.created_at <= timedelta(hours=1)
    assert new.expires_at - new.created_at == timedelta(days=9)
    with pytest.raises(KeyRefusedError, match=f"was replaced by {second}: rotate that one"):
        rotate(database_url, first.key_id)


def test_an_overlap_prolongs_no_life(database_url: str) -> None:
    first = create_key(database_url, "read", lifetime=timedelta(minutes=1))
    before = rows(database_url)[first.key_id].expires_at
    rotate(database_url, first.key_id, timedelta(days=1))
    assert rows(database_url)[first.key_id].expires_at == before


def test_what_cannot_be_done_with_a_key(database_url: str) -> None:
    new = create_key(database_url, "read", name="one")
    with pytest.raises(KeyRefusedError, match="--name one: an active key has this name"):
        create_key(database_url, "route", name="one")
    revoke_key(database_url, new.key_id)
    create_key(database_url, "route", name="one")
    with pytest.raises(KeyRefusedError, match="was revoked at"):
        revoke_key(database_url, new.key_id)
    with pytest.raises(KeyRefusedError, match="is revoked: create a new one"):
        rotate(database_url, new.key_id)
    with pytest.raises(KeyRefusedError, match="there is no key 000000000000"):
        revoke_key(database_url, "0" * 12)


def test_of_several_rotations_at_once_one_succeeds(database_url: str) -> None:
    new = create_key(database_url, "read")

    def attempt(_: int) -> bool:
        try:
            rotate(database_url, new.key_id)
        except KeyRefusedError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert len(rows(database_url)) == 2


async def test_every_change_of_a_key_raises_the_version(database_url: str) -> None:
    version = "SELECT access_version FROM deployment"
    seen = [await scalar(database_url, version)]
    new = create_key(database_url, "read")
    seen.append(await scalar(database_url, version))
    second = rotate(database_url, new.key_id)
    seen.append(await scalar(database_url, version))
    revoke_key(database_url, second)
    seen.append(await scalar(database_url, version))
    with psycopg.connect(database_url) as connection:
        token_keys.rotate(connection, timedelta(hours=1), ACT)
    seen.append(await scalar(database_url, version))
    assert seen == [0, 1, 2, 3, 4]


async def test_what_replicas_read(database: Database, database_url: str) -> None:
    plain = create_key(database_url, "read", name="plain")
    limited = create_key(database_url, "route", name="limited", experiments=["b", "a"], rate=2.5, lifetime=timedelta(days=1))
    gone = create_key(database_url, "admin", name="gone")
    revoke_key(database_url, gone.key_id)
    long_gone = create_key(database_url, "admin", name="long gone")
    revoke_key(database_url, long_gone.key_id)
    await query(
        database_url, "UPDATE api_keys SET revoked_at = now() - interval '31 days' WHERE key_id = %s", long_gone.key_id
    )
    async with database.begin() as connection:
        found = {key.key_id: key for key in await api_keys.read_known(await driver_of(connection))}
    assert set(found) == {plain.key_id, limited.key_id, gone.key_id}
    assert (found[plain.key_id].experiments, found[plain.key_id].rate, found[plain.key_id].expires_at_us) == (None,) * 3
    key = found[limited.key_id]
    assert (key.name, key.roles, key.experiments) == ("limited", {Role.ROUTE}, {"a", "b"})
    assert (key.rate, key.burst, key.secret_hash, key.revoked) == (2.5, 2.5, limited.secret_hash, False)
    (expires,) = await query(database_url, "SELECT extract(epoch FROM expires_at) FROM api_keys WHERE rate IS NOT NULL")
    assert key.expires_at_us == int(expires[0] * 1_000_000)
    assert found[gone.key_id].revoked


def test_what_a_command_did_is_audited_with_it(database_url: str) -> None:
    by_ana = Act("keys create", "ana@host", reason="for the backend")
    new = new_key()
    with psycopg.connect(database_url) as connection:
        api_keys.create(connection, new, Grant("backend", frozenset({Role.ROUTE})), by_ana)
        with pytest.raises(KeyRefusedError):
            api_keys.create(connection, new_key(), Grant("backend", frozenset({Role.ROUTE})), by_ana)
    (row,) = acts(database_url)
    assert (row.action, row.actor, row.source, row.outcome) == ("keys create", "ana@host", "command", "done")
    assert row.detail == {"key_id": new.key_id, "name": "backend", "roles": ["route"], "reason": "for the backend"}
    assert acts(database_url, Search(actor="ben")) == []
    assert [found.audit_id for found in acts(database_url, Search(actor="ana@host", outcome="done"))] == [row.audit_id]
    assert acts(database_url, Search(since=row.at + timedelta(seconds=1))) == []
    assert acts(database_url, Search(experiment_id="support")) == []
