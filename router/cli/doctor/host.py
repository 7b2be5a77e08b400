"""Checks of this host: Python, the data directory, the disk, the spool, the embedded Postgres."""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from router.cli.doctor.findings import Finding, Level
from router.cli.options import running_database
from router.embedded import read_record
from router.embedded.binaries import locate

_LITTLE_DISK_BYTES = 1024**3
#: What a spool may take of each kind: as `router.journal` and `router.feedback_spool` have it.
_SPOOL_BYTES = 1024**3
#: A segment that nobody writes any more is stored within moments while Postgres answers.
_UNDRAINED_S = 60.0
_KINDS = {"decisions": ".journal", "events": ".events"}


def python() -> Iterator[Finding]:
    """The interpreter."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    level: Level = "ok" if sys.version_info >= (3, 11) else "problem"
    yield Finding("python", level, f"{found} (3.11 or newer is needed)")


def data_directory(data_dir: Path) -> Iterator[Finding]:
    """Whether it can be written."""
    existing = _existing(data_dir)
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = "choose another with --data-dir, or run this as the user that runs `serve`"
        yield Finding("data directory", "problem", f"{existing} cannot be written", remedy)
        return
    note = str(data_dir) if existing == data_dir else f"{data_dir} does not exist yet; `serve` makes it"
    yield Finding("data directory", "ok", note)


def disk(data_dir: Path) -> Iterator[Finding]:
    """Whether the spool could grow."""
    existing = _existing(data_dir)
    free = shutil.disk_usage(existing).free
    detail = f"{free / 2**30:.1f} GiB free at {existing}"
    if free < _LITTLE_DISK_BYTES:
        remedy = "free some: a spool takes up to 1 GiB of decisions and as much of rewards while Postgres is away"
        yield Finding("disk", "warning", detail, remedy)
    else:
        yield Finding("disk", "ok", detail)


def spool(data_dir: Path) -> Iterator[Finding]:
    """Whether it can be written, is full, drains, and what was set aside."""
    root = data_dir / "spool"
    directories = sorted(path for path in root.glob("*") if path.is_dir())
    if not directories:
        yield Finding("spool", "ok", "empty: no router has run here")
        return
    for directory in directories:
        yield from _spool(directory)


def _spool(directory: Path) -> Iterator[Finding]:
    problem = _unwritable(directory)
    if problem:
        remedy = "run `serve` and this as one user throughout, on a disk that is mounted read-write and has room"
        yield Finding("spool", "problem", f"{directory} cannot be written ({problem}): Route would refuse", remedy)
        return
    for kind, suffix in _KINDS.items():
        segments = [(path, path.stat()) for path in directory.glob(f"*{suffix}")]
        size = sum(found.st_size for _, found in segments)
        detail = f"{kind}: {len(segments)} segments, {size:,} bytes in {directory}"
        old = [path for path, found in segments if time.time() - found.st_mtime > _UNDRAINED_S and _is_complete(path)]
        if size >= 0.8 * _SPOOL_BYTES:
            full: Level = "problem" if size >= _SPOOL_BYTES else "warning"
            what = "Route is refused" if kind == "decisions" else "Reward is refused while Postgres is away"
            remedy = "bring Postgres back, or give it what slows it down; the spool then drains by itself"
            yield Finding("spool", full, f"{detail}: {size / _SPOOL_BYTES:.0%} of the bound, beyond which {what}", remedy)
        elif old:
            age_s = time.time() - min(path.stat().st_mtime for path in old)
            remedy = (
                "start `serve` with this data directory and database: its keeper stores what waits; its log says why not"
            )
            yield Finding("spool", "warning", f"{detail}: {len(old)} wait for {age_s / 60:.0f} minutes and more", remedy)
        else:
            yield Finding("spool", "ok", detail)
    aside = [path for ending in ("damaged", "refused") for path in directory.glob(f"*.{ending}")]
    if aside:
        remedy = "see docs/operations.md#records-set-aside"
        yield Finding(
            "spool", "warning", f"{len(aside)} files were set aside in {directory}, such as {aside[0].name}", remedy
        )


def embedded(data_dir: Path) -> Iterator[Finding]:
    """The programs of the embedded Postgres, and whether it runs."""
    binaries = locate()
    record = read_record(data_dir)
    state = "never started here" if record is None else f"last on port {record.port}"
    if record is not None and running_database(data_dir) is not None:
        state = f"running on port {record.port}"
    yield Finding("embedded postgres", "ok", f"PostgreSQL {binaries.major}, {state}")


def _existing(path: Path) -> Path:
    return next(found for found in (path, *path.absolute().parents) if found.exists())


def _unwritable(directory: Path) -> str:
    """Why nothing can be written there; empty if it can. The file it tries is gone again."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_complete(segment: Path) -> bool:
    """Whether no writer holds it."""
    try:
        with segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
