"""Records that were set aside: a file of frames beside the segment they came from, for people.

Protocol
    Whoever appends to a file, or takes records out of it, holds an exclusive `flock` on it, and then looks whether the path
    still names it: what is left of a file takes its place in one step.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from router.spool.frames import Record, frame, frames, next_frame

#: What the name of a segment is followed by.
SUFFIX = ".refused"


def append(path: Path, records: Sequence[Record]) -> None:
    """Add records, durably; raises OSError."""
    with _alone(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        for record in records:
            os.write(file, frame(*record))
        os.fsync(file)


def take_out(path: Path, unwanted: Callable[[Record], bool]) -> int:
    """Have a file without some of its records, durably; returns how many those were. What is no record stays.

    A file that nothing is left of is removed. Raises OSError.
    """
    try:
        with _alone(path, os.O_RDWR) as file:
            data = path.read_bytes()
            found = [(record is not None and unwanted(record), piece) for record, piece in pieces(data)]
            left = b"".join(piece for wanted_no_more, piece in found if not wanted_no_more)
            if not left:
                path.unlink()
            elif len(left) < len(data):
                _replace(path, left, os.fstat(file))
            return sum(wanted_no_more for wanted_no_more, _ in found)
    except FileNotFoundError:
        return 0


def pieces(data: bytes) -> Iterator[tuple[Record | None, bytes]]:
    """Give the records of a file in their order, each with its bytes; None for a stretch that is no record."""
    while data:
        records, end = frames(data)
        for record in records:
            yield record, frame(*record)
        data = data[end:]
        gap = next_frame(data) if data else 0
        gap = len(data) if gap is None else gap
        if gap:
            yield None, data[:gap]
        data = data[gap:]


@contextmanager
def _alone(path: Path, flags: int) -> Iterator[int]:
    """Open a file that nobody else changes meanwhile."""
    while True:
        file = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _names(path, file):
                yield file
                return
        finally:
            os.close(file)


def _names(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _replace(path: Path, data: bytes, was: os.stat_result) -> None:
    """Put a file in the place of another one, of the same owner."""
    temporary = path.with_name(f"{path.name}.tmp")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(file, "wb") as written:
            written.write(data)
            written.flush()
            os.fchown(file, was.st_uid, was.st_gid)
            os.fsync(file)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
