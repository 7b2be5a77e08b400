"""Migrations: from empty, twice, by several at once, and what analysts may then read."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from postgres import TestCluster

from router.storage.connecting import DatabaseUrl, check_server
from router.storage.errors import StorageError
from router.storage.migrate import migrate, migrations_directory, schema_state

ANALYSTS_READ = {
    "imports",
    "posterior_history",
    "posterior_segments",
    "snapshots",
    "judge_runs",
    "judgments",
    "shadow_comparisons",
    "shadow_spend",
    "allocations",
    "arm_metrics",
    "arms",
    "decision_log",
    "decisions",
    "events",
    "evidence",
    "evidence_all",
    "evidence_base",
    "experiments",
    "interleaving_credits",
    "pending_outcomes",
    "ramps",
    "transitions",
    "interleavings",
    "outcomes",
    "policy_versions",
    "posterior_latest",
    "retention",
    "reward_rules",
}


@pytest.fixture
def empty(cluster: TestCluster):
    with cluster.database_from_template("template1") as url:
        yield DatabaseUrl.parse(url)


def test_from_empty_to_the_newest_and_no_further(empty: DatabaseUrl) -> None:
    assert schema_state(empty).pending
    before = migrate(empty)
    assert before.current is None
    assert not schema_state(empty).pending
    assert migrate(empty).current == before.needed


def test_several_starts_at_once_migrate_once(empty: DatabaseUrl) -> None:
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: migrate(empty), range(4)))
    assert sum(state.pending for state in states) == 1


def test_a_migration_that_fails_leaves_nothing_behind(empty: DatabaseUrl) -> None:
    with psycopg.connect(empty.url) as connection:
        connection.execute("CREATE TABLE outcomes (of_another_program integer)")
    with pytest.raises(StorageError, match=r'failed and was rolled back: relation "outcomes" already exists'):
        migrate(empty)
    with psycopg.connect(empty.url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("outcomes",)]


def test_every_migration_is_forward_only() -> None:
    for path in (migrations_directory() / "versions").glob("*.py"):
        assert "def downgrade" not in path.read_text(), path


def test_analysts_read_views_and_tables_but_no_keys(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT table_name FROM information_schema.role_table_grants"
            " WHERE grantee = 'bandit_router_reader' AND privilege_type = 'SELECT'"
        ).fetchall()
        writes = connection.execute(
            "SELECT table_name FROM information_schema.role_table_grants"
            " WHERE grantee = 'bandit_router_reader' AND privilege_type <> 'SELECT'"
        ).fetchall()
        connection.execute("SET ROLE bandit_router_reader")
        assert connection.execute("SELECT count(*) FROM posterior_latest").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM token_keys")
    assert {name for (name,) in rows} == ANALYSTS_READ
    assert writes == []


def test_every_view_is_described(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        silent = connection.execute(
            "SELECT c.relname FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace"
            " AND obj_description(c.oid) IS NULL"
        ).fetchall()
    assert silent == []


def test_every_column_of_what_came_after_the_first_release_is_described(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        silent = connection.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relname = ANY(%s) AND col_description(c.oid, a.attnum) IS NULL",
            (
                [
                    *("evidence_base", "evidence_all", "retention", "dropped_allocations", "posterior_latest"),
                    *("arm_metrics", "interleavings", "interleaving_credits"),
                ],
            ),
        ).fetchall()
    assert silent == []


def test_columns_that_hold_labels_of_forgotten_units_say_so(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        described = connection.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE NOT c.relispartition AND col_description(c.oid, a.attnum) ~ 'label'"
            " AND a.attname IN ('unit_id', 'unit_hash') ORDER BY 1"
        ).fetchall()
    assert described == [
        *(("decision_log", "unit_id"), ("decisions", "unit_id"), ("interleavings", "unit_id")),
        *(("judgments", "unit_hash"), ("shadow_comparisons", "unit_hash")),
    ]


class _OldServer:
    """Answers like a server of another version, which cannot be installed beside the embedded one."""

    class info:
        server_version = 130_012


def test_a_server_that_is_too_old_is_refused() -> None:
    with pytest.raises(StorageError, match=r"PostgreSQL 13\.12 is too old; 14 or newer is needed"):
        check_server(_OldServer())  # type: ignore[arg-type]
