"""A unit is forgotten in exported files of whatever day: no export writes those anew that the database has dropped.

Protocol
    Of each day the events come first: which of them are the unit's is told by the decisions, which lose its name last. A
    file is written beside the old one and takes its place in one step, then the manifest follows. So a run that was cut off
    leaves whole files, and the next one goes on. No export writes to the directory meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from router.analysis.manifest import Manifest, alone, replacing
from router.analysis.source import AnalysisError
from router.storage.analysis import Read
from router.storage.traces import Trace

_ERASED = ("session_id", "turn_id", "request_id", "prompt_fingerprint")
#: What Parquet calls compressions, where writers call them otherwise.
_COMPRESSIONS = {"UNCOMPRESSED": "none", "LZ4_RAW": "lz4"}
#: For a group of rows: which of them are the unit's.
_Which: TypeAlias = Callable[[pa.Table], pa.Array]


@dataclass(frozen=True, slots=True)
class Blanked:
    """What was erased in the files of an export, or would be."""

    directory: str
    #: Rows that lost their identifiers.
    decisions: int
    #: Rows that lost their metadata.
    events: int
    #: Files that were written anew.
    files: int


class ExportedFiles:
    """The files of an export. Raises OSError, and AnalysisError for a file that cannot be read."""

    def __init__(self, directory: Path, manifest: Manifest, of: Read) -> None:
        self._directory = directory
        self._manifest = manifest
        self._of = of

    def forget(self, trace: Trace, *, dry_run: bool = False) -> Blanked:
        """Erase a unit's identifiers and its events' metadata, as in the database; the rows stay, under the same label."""
        for left in self._directory.rglob("*.parquet.tmp"):
            left.unlink()
        label = trace.label_of(self._of.incarnation)
        decisions = events = files = 0
        days = {path.parent.name for kind in ("decisions", "events") for path in self._directory.glob(f"{kind}/day=*/*")}
        for day in sorted(days):
            keys = pa.array(
                [key for path in self._files("decisions", day) for key in _keys(path, trace.unit_id)], pa.string()
            )
            for path in self._files("events", day):
                erased = self._rewritten(path, _with_metadata(keys, trace), _without_metadata, dry_run)
                events, files = events + erased, files + bool(erased)
            for path in self._files("decisions", day) if len(keys) else ():
                erased = self._rewritten(path, _of_unit(trace.unit_id), _labelled(label), dry_run)
                decisions, files = decisions + erased, files + bool(erased)
        return Blanked(str(self._directory), decisions, events, files)

    def _files(self, dataset: str, day: str) -> Sequence[Path]:
        return sorted((self._directory / dataset / day).glob("*.parquet"))

    def _rewritten(self, path: Path, which: _Which, change: Callable[[pa.Table, pa.Array], pa.Table], dry_run: bool) -> int:
        """Write a file anew if some of its rows are the unit's; returns how many are."""
        with _opened(path) as file:
            names = [name for name in ("unit_id", "decision_key", "details") if name in file.schema_arrow.names]
            groups = range(file.num_row_groups)
            its = [which(file.read_row_group(group, names)) for group in groups]
            count = sum(pc.sum(rows).as_py() or 0 for rows in its)
            if count and not dry_run:
                with replacing(path) as temporary, pq.ParquetWriter(temporary, file.schema_arrow, **_as_in(file)) as writer:
                    for group, rows in zip(groups, its, strict=True):
                        table = file.read_row_group(group)
                        writer.write_table(change(table, rows), row_group_size=table.num_rows)
                self._note(path)
        return count

    def _note(self, path: Path) -> None:
        """Have the manifest know a file's size."""
        entries = self._manifest.days.get(path.parents[1].name, {})
        day = path.parent.name.removeprefix("day=")
        entry = entries.get(day)
        if entry is not None and entry.file == str(path.relative_to(self._directory)):
            entries[day] = replace(entry, bytes=path.stat().st_size)
            self._manifest.save()


@contextmanager
def exported_files(directory: Path, trace: Trace) -> Iterator[ExportedFiles]:
    """Open an export for a unit to be forgotten in, and keep others from writing there.

    Raises AnalysisError for a directory that holds none, or one of another experiment than that of `trace`.
    """
    path = directory / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        of = Read(found["incarnation"], found["experiment_id"], ())
    except FileNotFoundError:
        raise AnalysisError(f"{directory}: holds no export: there is no manifest.json") from None
    except (KeyError, TypeError, ValueError) as error:
        raise AnalysisError(f"{path}: is no manifest of an export: {error}") from None
    if not trace.is_of(of.incarnation):
        raise AnalysisError(
            f"{directory}: holds an export of experiment {of.experiment_id!r}, not of the one to forget it in"
        )
    with alone(directory):
        yield ExportedFiles(directory, Manifest.of(directory, of), of)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise AnalysisError(f"{path}: cannot be read, and may hold the unit: {error}") from None


def _keys(path: Path, unit_id: str) -> Iterator[str]:
    """Give the keys of a unit's decisions."""
    its = _of_unit(unit_id)
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, ["decision_key", "unit_id"])
            yield from table.filter(its(table)).column("decision_key").to_pylist()


def _of_unit(unit_id: str) -> _Which:
    return lambda table: pc.equal(table.column("unit_id"), unit_id)


def _with_metadata(keys: pa.Array, trace: Trace) -> _Which:
    """By the decision, or by the unit's hash beside the metadata: the decision may never have reached the log."""

    def which(table: pa.Table) -> pa.Array:
        details = table.column("details")
        its = pc.is_in(table.column("decision_key"), value_set=keys)
        for found in trace.hashes:
            its = pc.or_(its, pc.match_substring(details, json.dumps({"unit_hash": found.hex()})[1:-1]))
        return pc.fill_null(pc.and_(its, pc.match_substring(details, '"metadata"')), False)

    return which


def _without_metadata(table: pa.Table, its: pa.Array) -> pa.Table:
    details = table.column("details").to_pylist()
    for row in pc.indices_nonzero(its).to_pylist():
        found: dict[str, Any] = json.loads(details[row])
        left = {name: value for name, value in found.items() if name not in ("metadata", "unit_hash")}
        details[row] = json.dumps(left, ensure_ascii=False) if left else None
    return _with_column(table, "details", pa.array(details, pa.string()))


def _labelled(label: str) -> Callable[[pa.Table, pa.Array], pa.Table]:
    def change(table: pa.Table, its: pa.Array) -> pa.Table:
        for name, value in (("unit_id", label), *((name, "") for name in _ERASED)):
            table = _with_column(table, name, pc.if_else(its, value, table.column(name)))
        return table

    return change


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)


def _as_in(file: pq.ParquetFile) -> dict[str, Any]:
    """Return how a file was written: its compression, and the columns with a dictionary."""
    group = file.metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    compression = columns[0].compression
    return {
        "compression": _COMPRESSIONS.get(compression, compression.lower()),
        "use_dictionary": [column.path_in_schema for column in columns if column.has_dictionary_page],
    }
