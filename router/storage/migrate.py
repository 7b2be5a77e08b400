"""Brings a database to this version's schema, forward only, one process at a time."""

from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine

import router
from router.storage.connecting import DatabaseUrl, check_server, connect
from router.storage.errors import StorageError, translated

#: Any constant will do, as long as every version of the router uses the same one.
_LOCK = 7_261_180_211


# Roles belong to the whole cluster, and making one takes a privilege that a managed Postgres may withhold. So this runs
# at every start: once an administrator has created the role, it gets its grants.
_LET_ANALYSTS_READ = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bandit_router_reader') THEN
        CREATE ROLE bandit_router_reader NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bandit_router_reader') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bandit_router_reader', current_schema());
        GRANT SELECT ON experiments, arms, reward_rules, policy_versions, evidence, evidence_base, evidence_all,
            retention, allocations, decisions, events, outcomes, posterior_latest, decision_log, arm_metrics,
            interleavings, interleaving_credits, pending_outcomes, ramps, transitions, shadow_comparisons, shadow_spend,
            judge_runs, judgments, snapshots, posterior_history, posterior_segments, imports TO bandit_router_reader;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END $$;
"""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a database's schema stands."""

    #: The revision of the database; None if it has none yet.
    current: str | None
    #: The revision that this version of the router needs.
    needed: str

    @property
    def pending(self) -> bool:
        """Whether `migrate` has something to do."""
        return self.current != self.needed


def migrations_directory() -> Path:
    """The migrations: inside the package in an installed wheel, beside it in a checkout."""
    package = Path(router.__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(migrations_directory()))


def needed_revision() -> str:
    """Return the schema revision that this version of the router needs."""
    head = _script().get_current_head()
    assert head is not None  # noqa: S101 - the package ships at least one migration
    return head


def schema_state(url: DatabaseUrl) -> SchemaState:
    """Read where the schema stands, changing nothing."""
    with connect(url, autocommit=True) as connection, translated():
        check_server(connection)
        return _state(connection)


def _state(connection: psycopg.Connection[tuple[object, ...]]) -> SchemaState:
    head = needed_revision()
    exists = connection.execute("SELECT to_regclass('schema_version')").fetchone()
    if exists is None or exists[0] is None:
        return SchemaState(None, head)
    rows = connection.execute("SELECT version_num FROM schema_version").fetchall()
    return SchemaState(str(rows[0][0]) if rows else None, head)


def migrate(url: DatabaseUrl) -> SchemaState:
    """Apply pending migrations, all or none, let analysts read, and return where the schema stood before.

    Waits for another process that is migrating. Raises StorageError if the database is newer than this version, holds
    tables that are not ours under our names, or refuses a statement; a failed migration leaves nothing behind.
    """
    with connect(url, autocommit=True) as guard:
        check_server(guard)
        guard.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        before = _state(guard)
        if before.pending:
            _check_known(before)
            _upgrade(url, before)
        with translated():
            guard.execute(_LET_ANALYSTS_READ)
        return before


def is_newer(state: SchemaState) -> bool:
    """Whether a newer version of the router has migrated this database."""
    return state.current is not None and state.current not in {script.revision for script in _script().walk_revisions()}


def _check_known(state: SchemaState) -> None:
    if is_newer(state):
        raise StorageError(
            f"database: its schema is at revision {state.current}, which this version does not know: it was migrated by a"
            " newer bandit-router; upgrade this one"
        )


def _upgrade(url: DatabaseUrl, before: SchemaState) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    engine = create_engine(URL.create("postgresql+psycopg"), creator=lambda: connect(url))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except Exception as error:
        cause = getattr(error, "orig", None) or error
        first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise StorageError(
            f"database: migrating from {before.current or 'empty'} to {before.needed} failed and was rolled back:"
            f" {first_line}. If tables of another program, or of a half-restored backup, bear our names, give the router a"
            " database of its own"
        ) from error
    finally:
        engine.dispose()
