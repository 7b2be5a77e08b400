"""A whole database as one file, and back: by Postgres' own `pg_dump` and `pg_restore`.

The file is in their custom format, so that Postgres' own tools read it too. It is one consistent reading, whatever is
written meanwhile. It holds the keys that sign decision ids: whoever has it can forge them.
"""

import os
import subprocess
from pathlib import Path

import psycopg

from router.storage.connecting import DatabaseUrl, check_server, connect
from router.storage.errors import StorageError, translated
from router.storage.migrate import SchemaState, migrate

#: What must not be there where a backup goes.
_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v') ORDER BY relname LIMIT 3
"""


def dump(url: DatabaseUrl, programs: Path, path: Path) -> int:
    """Write a backup with the programs of a directory; the file appears once it is whole. Returns its size in bytes.

    Raises StorageError with what `pg_dump` says, OSError.
    """
    with connect(url) as connection:
        check_server(connection)
    fresh = path.with_name(f"{path.name}.unfinished")
    fresh.unlink(missing_ok=True)
    # Made here, so that it is never readable by others: it holds keys.
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _run([programs / "pg_dump", "--format=custom", "--no-password", "--file", fresh], url)
        os.fsync(file)
        fresh.replace(path)
    finally:
        os.close(file)
        fresh.unlink(missing_ok=True)
    return path.stat().st_size


def restore(url: DatabaseUrl, programs: Path, path: Path) -> SchemaState:
    """Fill an empty database from a backup, all or nothing, and bring it to this version's schema.

    Returns where the schema of the backup stood. Raises StorageError if the database is not empty, if the backup is of a
    newer version of the router, or with what `pg_restore` says.
    """
    with connect(url) as connection, translated():
        check_server(connection)
        found = [name for (name,) in connection.execute(_TABLES)]
    if found:
        raise StorageError(f"database: {url.shown} is not empty, it has {', '.join(found)}: restore into a new database")
    # Owners and privileges are those of the login that restores: roles are not in a backup.
    options = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", "--no-password"]
    # Named explicitly, since pg_restore without a database prints SQL.
    _run([programs / "pg_restore", *options, "--dbname", _parameters(url)["PGDATABASE"], path], url)
    return migrate(url)


def _run(command: list[str | Path], url: DatabaseUrl) -> None:
    """Run a program on a database; its address, password included, travels in the environment, which others cannot read."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | _parameters(url)
    done = subprocess.run(  # noqa: S603 - paths of the installed package, no shell
        [str(part) for part in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise StorageError(f"{Path(command[0]).name}: {said[0] if said else f'exit status {done.returncode}'}")


def _parameters(url: DatabaseUrl) -> dict[str, str]:
    """The URL as libpq's environment variables."""
    names = {bytes(option.keyword): option.envvar for option in psycopg.pq.Conninfo.get_defaults()}
    given = [option for option in psycopg.pq.Conninfo.parse(url.url.encode()) if option.val is not None]
    unnamed = [option.keyword.decode() for option in given if not names[option.keyword]]
    if unnamed:
        raise StorageError(f"database URL: {', '.join(unnamed)} cannot be handed to Postgres' own programs: leave it out")
    found = {(names[option.keyword] or b"").decode(): (option.val or b"").decode() for option in given}
    return {"PGDATABASE": found.get("PGUSER", "postgres"), "PGCONNECT_TIMEOUT": "5", **found}
