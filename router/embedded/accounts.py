"""Which account Postgres runs as, and who owns the files beside it.

Postgres refuses to run as root. An ordinary user runs it as themself. Root runs it as the owner of the data,
if that is not root either, so that the same directory works with and without sudo; otherwise as `nobody`.
"""

from __future__ import annotations

import errno
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from router.embedded.errors import CannotDropPrivileges, DataDirectoryUnusable

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """An account to change to."""

    uid: int
    gid: int


def account_for(data_dir: Path, pgdata: Path) -> Account | None:
    """The account to change to before running Postgres on `pgdata`; None if this process's own will do.

    Raises CannotDropPrivileges if root finds no unprivileged account, DataDirectoryUnusable if the data
    belongs to somebody that an ordinary user cannot become.
    """
    uid = os.geteuid()
    if uid != 0:
        if pgdata.exists() and (owner := pgdata.stat().st_uid) != uid:
            cause = f"{pgdata} belongs to {name_of(owner)}, this process runs as {name_of(uid)}"
            remedy = f"Run as {name_of(owner)}, or hand it over with `sudo chown -R {uid} '{data_dir}'`"
            raise DataDirectoryUnusable(data_dir, cause, remedy)
        return None
    for path in (pgdata, data_dir):
        if path.exists() and (stat := path.stat()).st_uid != 0 and is_named(stat.st_uid):
            return Account(stat.st_uid, stat.st_gid)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise CannotDropPrivileges(f"this system has no account named {UNPRIVILEGED}") from error
    return Account(entry.pw_uid, entry.pw_gid)


def is_named(uid: int) -> bool:
    """Whether the account is listed: initdb refuses to run as one that is not."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def name_of(uid: int) -> str:
    """The account's name, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def open_private(path: Path, flags: int) -> int:
    """Open a file that only the owner of its directory may read, who also becomes the owner of a new one.

    So a run as root locks nobody out of the directory. Symbolic and hard links are refused, with an OSError: in
    somebody else's directory they could lead root to any file.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            file, directory = os.fstat(descriptor), path.parent.stat()
            if file.st_nlink > 1:
                raise OSError(errno.EMLINK, "it has more than one name", str(path))
            if file.st_uid != directory.st_uid:
                os.fchown(descriptor, directory.st_uid, directory.st_gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def hand_tree_over(tree: Path, account: Account) -> None:
    """Give a directory and all below it to an account, following no symbolic link."""
    os.chown(tree, account.uid, account.gid, follow_symlinks=False)
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            os.chown(os.path.join(directory, name), account.uid, account.gid, follow_symlinks=False)
