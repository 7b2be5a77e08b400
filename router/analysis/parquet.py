"""An experiment's logs as Parquet files, a day a file, and a manifest of what is in them.

    DIR/manifest.json
    DIR/decisions/day=2026-11-22/part-0.parquet        and so for events, outcomes, snapshots

A day is read from one state of the database, all its datasets together, and its files replace older ones in one step each.
The manifest is written after them. So an export that was cut off leaves whole files, and the next one goes on behind the
last day that the manifest has. Days are those of the decisions (of snapshots, when they were taken), in UTC.

A day that may still change in the ordinary course of things is *moving*, and written again each time. Any other is written
again only if its sums in the database are not those of the manifest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from router.analysis.logs import LogReader
from router.analysis.manifest import Entry, Manifest, alone, replacing
from router.analysis.source import AnalysisError, experiment_of
from router.analysis.tables import SNAPSHOT_SCHEMA, snapshot_batches
from router.storage.analysis import LOGS, Read, Reading, reading
from router.storage.connecting import DatabaseUrl
from router.storage.export import now_of, settled_after, snapshot_days, sums_of

DATASETS = ("decisions", "events", "outcomes", "snapshots")
#: A row group is written when it has so many rows, or rows of so many bytes.
_GROUP_ROWS, _GROUP_BYTES = 100_000, 64 * 1024 * 1024
#: Batches that wait for the thread that writes.
_AHEAD = 2
#: Columns whose texts or numbers come again. Building a dictionary of others is in vain.
_REPEATED = [
    *("arm_id", "arm_version", "reason", "segment", "session_id", "turn_id", "policy_version", "kind", "signal", "status"),
    *("rank", "reward", "reward_rule_version", "applied_version", "active", "matured_to", "taken_at"),
    *("allocation_arm_ids.list.element", "allocation.list.element"),
]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did to one dataset."""

    dataset: str
    days_written: int
    days_kept: int
    rows_written: int
    #: In all files of the dataset.
    rows: int
    bytes: int


#: Makes a batch.
_Part: TypeAlias = Callable[[], pa.RecordBatch]
#: Is told how many days are done, of how many, and how many rows are written.
Progress = Callable[[int, int, int], None]


def export_experiment(
    url: DatabaseUrl,
    experiment_id: str,
    directory: Path,
    datasets: Sequence[str] = DATASETS,
    *,
    first: date = date.min,
    last: date = date.max,
    compression: str = "zstd",
    rewrite: bool = False,
    progress: Progress = lambda done, days, rows: None,
) -> list[Exported]:
    """Bring the files of an experiment up to date, for the days `first` to `last`; `rewrite` writes finished days again too.

    Raises AnalysisError for an experiment that is not there and a directory of another one; StorageError; OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory):
        for left in directory.rglob("*.parquet.tmp"):
            left.unlink()
        with reading(url) as found:
            of = experiment_of(found, experiment_id)
            days = sorted({day for dataset in datasets for day in _sizes(found, of, dataset, first, last)})
        manifest = Manifest.of(directory, of)
        export = _Export(directory, manifest, compression, rewrite)
        for done, day in enumerate(days):
            export.told = partial(progress, done, len(days))
            with reading(url) as found:
                now = _same(of, experiment_of(found, experiment_id))
                for dataset in datasets:
                    export.bring_up_to_date(found, now, dataset, day)
            manifest.save()
        progress(len(days), len(days), export.rows)
    return [export.report(dataset) for dataset in datasets]


def _same(of: Read, now: Read) -> Read:
    """Return an experiment as it is now, with the arms that it got meanwhile; AnalysisError if it is another one."""
    if now.incarnation != of.incarnation:
        raise AnalysisError(
            f"experiment {of.experiment_id!r}: became another one of that name while it was exported: give that one a"
            " directory of its own"
        )
    return now


def _sizes(found: Reading, of: Read, dataset: str, first: date, last: date) -> dict[date, int]:
    """Return the days of a dataset, with the pages or the snapshots of each."""
    if dataset == "snapshots":
        return snapshot_days(found, of, first, last)
    return dict(found.days(LOGS[dataset], first, last))


class _Export:
    """One run."""

    def __init__(self, directory: Path, manifest: Manifest, compression: str, rewrite: bool) -> None:
        self._directory = directory
        self._manifest = manifest
        self._compression = compression
        self._rewrite = rewrite
        #: Is told the rows that are written.
        self.told: Callable[[int], None] = lambda rows: None
        self.rows = 0
        self._written: dict[str, list[int]] = {}
        self._kept: dict[str, int] = {}

    def bring_up_to_date(self, found: Reading, of: Read, dataset: str, day: date) -> None:
        """Write a day unless its file is right, or the database has not got it any more. `of` is read in the same state."""
        size = _sizes(found, of, dataset, day, day).get(day)
        if size is None:
            return
        entries = self._manifest.days.setdefault(dataset, {})
        known = entries.get(day.isoformat())
        sums = (size,) if dataset == "snapshots" else sums_of(found, of, dataset, day)
        if known is not None and not known.moving and known.sums == sums and not self._rewrite and self._is_there(known):
            self._kept[dataset] = self._kept.get(dataset, 0) + 1
            return
        as_of = now_of(found)
        end_of_day = datetime.combine(day, time(), UTC) + timedelta(days=1)
        moving = as_of < end_of_day + settled_after(found, of, dataset)
        path = self._directory / dataset / f"day={day.isoformat()}" / "part-0.parquet"
        rows = self._write(found, of, dataset, day, size, path) if sums[0] else 0
        if not rows:
            path.unlink(missing_ok=True)
        file = str(path.relative_to(self._directory)) if rows else None
        size_bytes = path.stat().st_size if rows else 0
        entries[day.isoformat()] = Entry(rows, file, size_bytes, as_of.isoformat(), moving, sums)
        self._written.setdefault(dataset, []).append(rows)

    def report(self, dataset: str) -> Exported:
        entries = self._manifest.days.get(dataset, {}).values()
        written = self._written.get(dataset, [])
        return Exported(
            dataset,
            len(written),
            self._kept.get(dataset, 0),
            sum(written),
            sum(entry.rows for entry in entries),
            sum(entry.bytes for entry in entries),
        )

    def _is_there(self, entry: Entry) -> bool:
        if entry.file is None:
            return True
        path = self._directory / entry.file
        return path.is_file() and path.stat().st_size == entry.bytes

    def _write(self, found: Reading, of: Read, dataset: str, day: date, size: int, path: Path) -> int:
        """Write a day's file and return its rows. A thread makes columns and compresses them while the next are read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        schema, parts = self._parts(found, of, dataset, day, size)
        dictionaries = _repeated(schema)
        with (
            replacing(path) as temporary,
            pq.ParquetWriter(temporary, schema, compression=self._compression, use_dictionary=dictionaries) as writer,
            ThreadPoolExecutor(1, thread_name_prefix="parquet") as thread,
        ):
            groups = _Groups(writer)
            waiting: deque[Future[None]] = deque()
            for part in parts:
                waiting.append(thread.submit(groups.add, part))
                while len(waiting) > _AHEAD:
                    waiting.popleft().result()
                self.told(self.rows + groups.rows)
            waiting.append(thread.submit(groups.write))
            while waiting:
                waiting.popleft().result()
        self.rows += groups.rows
        self.told(self.rows)
        return groups.rows

    def _parts(self, found: Reading, of: Read, dataset: str, day: date, size: int) -> tuple[pa.Schema, Iterator[_Part]]:
        """Give the parts of a day; what they give when called needs no database."""
        if dataset == "snapshots":
            midnight = datetime.combine(day, time(), UTC)
            batches = snapshot_batches(found, of, midnight, midnight + timedelta(days=1))
            return SNAPSHOT_SCHEMA, (partial(_itself, batch) for batch in batches)
        reader = LogReader(found, of, dataset)
        return reader.schema, (partial(reader.batch_of, part) for part in reader.parts_of_day(day, size))


def _itself(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


class _Groups:
    """Collects batches into row groups of a file. Used by one thread."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._collected: list[pa.RecordBatch] = []
        self._waiting = 0
        self._bytes = 0
        #: Of the batches that came.
        self.rows = 0

    def add(self, part: _Part) -> None:
        batch = part()
        self._collected.append(batch)
        self._waiting += batch.num_rows
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._waiting >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.write()

    def write(self) -> None:
        if self._collected:
            self._writer.write_table(pa.Table.from_batches(self._collected), row_group_size=self._waiting)
            self._collected, self._waiting, self._bytes = [], 0, 0


def _repeated(schema: pa.Schema) -> list[str]:
    return [name for name in _REPEATED if name.split(".")[0] in schema.names]
