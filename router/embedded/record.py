"""`postgres.json`: where the running or last server of a data directory can be reached, for other commands."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import quote

from router.embedded.accounts import open_private
from router.embedded.cluster import SUPERUSER, Credentials
from router.embedded.errors import DataDirectoryUnusable
from router.embedded.ports import HOST
from router.embedded.roles import ANALYST, DATABASE

RECORD = "postgres.json"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server's addresses; that it is recorded does not mean that it still runs."""

    #: The TCP port on the loopback address.
    port: int
    #: The postmaster's process id.
    pid: int
    #: The application's database, as its owner.
    url: str
    #: The same database, as the read-only analyst.
    analyst_url: str


def server_record(port: int, pid: int, credentials: Credentials) -> ServerRecord:
    """The record of a server that listens on `port`."""
    return ServerRecord(
        port=port,
        pid=pid,
        url=url_of(port, SUPERUSER, credentials.owner_password, DATABASE),
        analyst_url=url_of(port, ANALYST, credentials.analyst_password, DATABASE),
    )


def url_of(port: int, user: str, password: str, database: str) -> str:
    """A connection URL. TLS is ruled out in it, since PGSSLMODE in the environment may demand what loopback lacks."""
    return f"postgresql://{user}:{quote(password, safe='')}@{HOST}:{port}/{quote(database, safe='')}?sslmode=disable"


def read_record(data_dir: Path) -> ServerRecord | None:
    """The running or last server of a data directory; None if there was none yet.

    Raises DataDirectoryUnusable if the record cannot be read or understood.
    """
    path = data_dir / RECORD
    try:
        record = ServerRecord(**json.loads(path.read_text()))
        for field in fields(record):
            value = getattr(record, field.name)
            if type(value).__name__ != field.type:
                raise TypeError(f"{field.name} is {value!r}")
        return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        remedy = "Read it as the user that runs `bandit-router serve`; its next start writes it anew"
        raise DataDirectoryUnusable(data_dir, f"{path} cannot be read ({error})", remedy) from error


def write_record(data_dir: Path, record: ServerRecord) -> None:
    """Replace the record in one step, readable by the data directory's owner only."""
    fresh = data_dir / f"{RECORD}.new"
    fresh.unlink(missing_ok=True)
    with os.fdopen(open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        file.write(json.dumps(asdict(record), indent=2) + "\n")
    fresh.replace(data_dir / RECORD)
