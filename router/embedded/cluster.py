"""The files of the cluster: created whole or not at all, checked before use, configured at each start.

A new cluster is made in a staging directory beside its final place, together with its passwords, written to
disk, and then renamed: an initdb that was killed half-way leaves only a staging directory, which the next
start removes.

`postgresql.conf` is what initdb wrote plus one line that includes `bandit_router.conf`, rewritten at each
start. An operator changes a setting with ALTER SYSTEM, which wins over both files and is never touched here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from router.embedded import accounts
from router.embedded.accounts import Account
from router.embedded.binaries import Binaries
from router.embedded.errors import (
    CannotDropPrivileges,
    DataDirectoryUnusable,
    DiskFull,
    InitFailed,
    VersionMismatch,
)
from router.embedded.log import Log, tells_of_full_disk
from router.embedded.process import GuardedProcess

PGDATA = "postgres"
STAGING = "postgres.initdb-"
CREDENTIALS = "bandit_router_credentials.json"
CONFIGURATION = "bandit_router.conf"
SUPERUSER = "bandit_router"

#: What initdb writes (40 MB), the first WAL segments and some room to work.
LEAST_FREE_BYTES = 160 * 1024 * 1024
INITDB_TIMEOUT_S = 300.0

#: Defaults of ours; fsync and synchronous_commit are Postgres's own (on), stated because durability is
#: promised.
DEFAULTS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_size": "1GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "bandit-router",
}

HOST_BASED_AUTHENTICATION = """\
# Only passwords, only from this machine. The second line lets pg_basebackup in.
host all         all              127.0.0.1/32 scram-sha-256
host replication {superuser} 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The generated passwords; kept in the cluster so that they move with it."""

    #: Password of the superuser `bandit_router`.
    owner_password: str
    #: Password of the read-only login `bandit_analyst`.
    analyst_password: str


def remove_leftovers(data_dir: Path) -> None:
    """Remove the staging directories of interrupted first starts; the server's lock must be held."""
    for leftover in data_dir.glob(f"{STAGING}*"):
        shutil.rmtree(leftover)


def exists(data_dir: Path) -> bool:
    """Whether there is a cluster; DataDirectoryUnusable if its place is taken by something else."""
    pgdata = data_dir / PGDATA
    if (pgdata / "PG_VERSION").is_file():
        return True
    if pgdata.exists() and (not pgdata.is_dir() or any(pgdata.iterdir())):
        remedy = "Move it away, or choose another --data-dir"
        raise DataDirectoryUnusable(data_dir, f"{pgdata} is not a Postgres data directory", remedy)
    return False


def create(data_dir: Path, binaries: Binaries, account: Account | None, log: Log, kept_fd: int, *, sync: bool) -> None:
    """Make a new cluster and put it in its place in one step; InitFailed, DiskFull or CannotDropPrivileges if not."""
    free = shutil.disk_usage(data_dir).free
    if free < LEAST_FREE_BYTES:
        raise DiskFull(data_dir, f"only {free >> 20} MB are free, and a new database takes {LEAST_FREE_BYTES >> 20}")
    uid = os.geteuid() if account is None else account.uid
    if not accounts.is_named(uid):
        # initdb looks its account up and gives up without a name; the server itself would not.
        cause = f"initdb needs an account with a name. Add uid {uid} to /etc/passwd, or run as another user"
        raise InitFailed(data_dir, cause)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=data_dir))
    try:
        cluster = staging / PGDATA
        credentials = Credentials(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        password_file = staging / "password"
        _write(password_file, credentials.owner_password + "\n", os.O_CREAT | os.O_EXCL)
        cluster.mkdir(mode=0o700)
        if account is not None:
            accounts.hand_tree_over(staging, account)
        _run_initdb(data_dir, binaries, account, log, kept_fd, cluster, password_file, sync=sync)
        _write(cluster / "postgresql.conf", f"\ninclude_if_exists = '{CONFIGURATION}'\n", os.O_APPEND)
        _write(cluster / "pg_hba.conf", HOST_BASED_AUTHENTICATION.format(superuser=SUPERUSER), os.O_TRUNC)
        _write(cluster / CREDENTIALS, json.dumps(asdict(credentials)) + "\n", os.O_CREAT | os.O_EXCL)
        if sync:
            for name in ("postgresql.conf", "pg_hba.conf", CREDENTIALS, "."):
                _sync(cluster / name)
        os.rename(cluster, data_dir / PGDATA)
        if sync:
            _sync(data_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _run_initdb(
    data_dir: Path,
    binaries: Binaries,
    account: Account | None,
    log: Log,
    kept_fd: int,
    cluster: Path,
    password_file: Path,
    *,
    sync: bool,
) -> None:
    argv = [
        str(binaries.initdb),
        f"--pgdata={cluster}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # Built in, so that the order of text depends neither on installed locales nor on the C library's
        # version.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--text-search-config=english",
        "--data-checksums",
        "--no-instructions",
    ]
    if not sync:
        argv.append("--no-sync")
    needs = [*binaries.needs(), (cluster, os.R_OK | os.W_OK | os.X_OK), (password_file, os.R_OK)]
    log.begin()
    process = GuardedProcess(argv, account=account, needs=needs, cwd=cluster, log_fd=log.fileno(), kept_fd=kept_fd)
    try:
        in_time = process.ended.wait(INITDB_TIMEOUT_S)
    finally:
        process.close()
    if process.failure is not None:
        step, cause = process.failure
        raise CannotDropPrivileges(cause) if step == "account" else InitFailed(data_dir, cause, log.tail())
    if not in_time:
        raise InitFailed(data_dir, f"initdb took more than {INITDB_TIMEOUT_S:g} s", log.tail())
    if process.status != 0:
        tail = log.tail()
        if tells_of_full_disk(tail):
            raise DiskFull(data_dir, "the disk became full while the database was created")
        raise InitFailed(data_dir, f"initdb ended with status {process.status}", tail)


def check(data_dir: Path, binaries: Binaries, account: Account | None) -> None:
    """Make sure that the programs can read the cluster: VersionMismatch if they cannot, and put its owner right."""
    pgdata = data_dir / PGDATA
    written_by = (pgdata / "PG_VERSION").read_text().strip()
    if written_by != str(binaries.major):
        raise VersionMismatch(data_dir, written_by, binaries.major)
    if account is not None and pgdata.stat().st_uid != account.uid and not pgdata.is_symlink():
        # Restored by root from a copy. Postgres insists on owning its files.
        accounts.hand_tree_over(pgdata, account)
    if pgdata.stat().st_mode & 0o777 != 0o700:
        pgdata.chmod(0o700)


def credentials_of(data_dir: Path) -> Credentials:
    """The cluster's passwords; DataDirectoryUnusable if the file that holds them is gone or broken."""
    path = data_dir / PGDATA / CREDENTIALS
    try:
        return Credentials(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        remedy = "Restore it from a backup of the same data directory"
        raise DataDirectoryUnusable(data_dir, f"{path}, which holds the passwords, is lost", remedy) from error


def configure(data_dir: Path) -> None:
    """Write our defaults, if they differ from those of the last start."""
    path = data_dir / PGDATA / CONFIGURATION
    text = "# Rewritten at each start. To change a setting, use ALTER SYSTEM: it wins over this file.\n"
    text += "".join(f"{name} = '{value}'\n" for name, value in DEFAULTS.items())
    if path.exists() and path.read_text() == text:
        return
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    _write(fresh, text, os.O_CREAT | os.O_EXCL)
    fresh.replace(path)


def _write(path: Path, text: str, flags: int) -> None:
    with os.fdopen(accounts.open_private(path, os.O_WRONLY | flags), "w") as file:
        file.write(text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
