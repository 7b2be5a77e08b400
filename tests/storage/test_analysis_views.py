"""What an analyst finds in the database: every view says what it holds, and a read-only login reads it."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_column_of_every_view_is_described(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        silent = connection.execute(
            "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace AND col_description(c.oid, a.attnum) IS NULL"
        ).fetchall()
        views = connection.execute("SELECT count(*) FROM pg_views WHERE schemaname = 'public'").fetchone()
    assert silent == []
    assert views is not None
    assert views[0] >= 5


def test_the_document_names_what_readers_may_not_read(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        hidden = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND NOT relispartition"
            " AND relnamespace = 'public'::regnamespace AND NOT has_table_privilege('bandit_router_reader', oid, 'SELECT')"
        ).fetchall()
    sentence = re.search(r"gets `SELECT` on everything but (.*?), at every\s+start", DOCUMENT.read_text(), re.DOTALL)
    assert sentence is not None
    assert set(re.findall("`(.*?)`", sentence[1])) == {name for (name,) in hidden}


def test_a_login_of_ones_own_reads_and_does_not_write(database_url: str) -> None:
    """As docs/analysis.md says how to make one."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE ana LOGIN PASSWORD 'secret' IN ROLE bandit_router_reader")
        try:
            connection.execute("ALTER ROLE ana SET default_transaction_read_only = on")
            connection.execute("ALTER ROLE ana SET timezone = 'UTC'")
            with psycopg.connect(database_url, user="ana", password="secret") as reader:
                for view in ("posterior_history", "posterior_segments", "posterior_latest", "decision_log", "arm_metrics"):
                    assert reader.execute(f"SELECT count(*) FROM {view}").fetchone() == (0,)
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    reader.execute("UPDATE experiments SET description = ''")
                reader.rollback()
                reader.execute("SET default_transaction_read_only = off")
                reader.commit()
                for statement in ("UPDATE experiments SET description = ''", "SELECT 1 FROM token_keys"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        reader.execute(statement)
                    reader.rollback()
        finally:
            connection.execute("DROP ROLE ana")
