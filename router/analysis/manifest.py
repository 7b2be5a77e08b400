"""The directory of an export: its manifest, one writer at a time, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from router.analysis.source import AnalysisError
from router.storage.analysis import Read

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of a day of a dataset."""

    rows: int
    #: Below the directory of the export; None for a day without rows.
    file: str | None
    bytes: int
    #: What was committed by then is in it.
    as_of: str
    #: Whether the day could still change then.
    moving: bool
    #: What the database said of it.
    sums: tuple[int, ...]


class Manifest:
    """What the files of an export hold."""

    def __init__(self, path: Path, of: Read, days: dict[str, dict[str, Entry]]) -> None:
        self._path = path
        self._of = of
        #: By dataset and day.
        self.days = days

    @classmethod
    def of(cls, directory: Path, of: Read) -> Manifest:
        """Read the manifest of a directory, if it has one; AnalysisError if it is of another experiment, or is none."""
        path = directory / "manifest.json"
        if not path.exists():
            return cls(path, of, {})
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise AnalysisError(f"{path}: has format {found['format']}, which this version does not know")
            if found["incarnation"] != of.incarnation:
                raise AnalysisError(
                    f"{path.parent}: holds an export of experiment {found['experiment_id']!r}"
                    f"{', another one of that name' if found['experiment_id'] == of.experiment_id else ''}:"
                    " give each experiment a directory of its own"
                )
            days = {
                dataset: {day: Entry(**{**entry, "sums": tuple(entry["sums"])}) for day, entry in entries.items()}
                for dataset, entries in found["datasets"].items()
            }
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise AnalysisError(
                f"{path}: is no manifest of an export: {error}; remove it to write every day again"
            ) from None
        return cls(path, of, days)

    def save(self) -> None:
        """Write it."""
        document = {
            "format": _FORMAT,
            "experiment_id": self._of.experiment_id,
            "incarnation": self._of.incarnation,
            "datasets": {
                dataset: {day: asdict(entry) for day, entry in sorted(entries.items())}
                for dataset, entries in sorted(self.days.items())
            },
        }
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what is written replaces `path` in one step, and survives a power cut."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep another export out of the directory."""
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnalysisError(
                f"{directory}: another export is writing there: wait for it, or give another directory"
            ) from None
        yield
