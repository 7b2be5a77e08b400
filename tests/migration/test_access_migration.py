"""From the revision before keys: what signs goes on signing, and the version before works on the new schema."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from migrating import migrate_to
from postgres import TestCluster

from router.storage.connecting import DatabaseUrl
from router.storage.database import Database
from router.storage.migrate import migrate
from router.storage.token_keys import load_codec

#: What the version before says at its first start, and at each.
OLD_INSERT = "INSERT INTO token_keys (key_id, secret) VALUES (%s, %s)"
OLD_READ = "SELECT key_id, secret FROM token_keys ORDER BY created_at DESC, key_id"


@pytest_asyncio.fixture
async def before(cluster: TestCluster) -> AsyncIterator[str]:
    """A database of the revision before, with a signing key of yesterday."""
    with cluster.database_from_template("template1") as url:
        migrate_to(url, "0007")
        with psycopg.connect(url) as connection:
            connection.execute(OLD_INSERT, (7, bytes(range(32))))
            connection.execute("UPDATE token_keys SET created_at = now() - interval '1 day'")
        yield url


async def test_the_key_that_signs_goes_on_signing(before: str) -> None:
    migrate(DatabaseUrl.parse(before))
    database = Database(DatabaseUrl.parse(before))
    codec = await load_codec(database)
    await database.dispose()
    assert (codec.key_id, codec.secret) == (7, bytes(range(32)))


def test_the_version_before_makes_and_reads_keys(before: str) -> None:
    migrate(DatabaseUrl.parse(before))
    with psycopg.connect(before) as connection:
        connection.execute(OLD_INSERT, (8, bytes(32)))
        assert [key_id for key_id, _ in connection.execute(OLD_READ)] == [8, 7]
        assert connection.execute("SELECT deployment_id IS NOT NULL FROM deployment").fetchone() == (True,)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO api_keys (key_id, name, secret_hash, roles, created_by) VALUES ('x', 'n', '\\x00', '{read}', 'a')",
        "INSERT INTO api_keys (key_id, name, secret_hash, roles, created_by)"
        " VALUES (repeat('a', 12), 'n', sha256(''), '{}', 'a')",
        "INSERT INTO api_keys (key_id, name, secret_hash, roles, created_by)"
        " VALUES (repeat('a', 12), 'n', sha256(''), '{root}', 'a')",
        "INSERT INTO audit_log (actor, key_id, source, action, experiment_id, outcome, detail)"
        " VALUES ('', '', '', '', '', 'perhaps', '{}')",
    ],
)
def test_what_the_tables_refuse(database_url: str, statement: str) -> None:
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement)
