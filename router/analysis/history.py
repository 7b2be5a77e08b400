"""Historical outcomes in a file: Parquet, CSV or JSON lines, checked row by row, and what they add up to.

A row has `arm`, `reward` in [0, 1] and `time`, when the decision was made, with its time zone; it may have `unit` and
`segment`. The names that exports and tables have will do too: `arm_id`, `decided_at`, `unit_id`. Others are left alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.json as jsonl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bandit.reward import MICROS, Evidence
from router.analysis.columns import TIME
from router.analysis.source import AnalysisError

#: By column, the names that it may have.
_NAMES = {
    "arm": ("arm", "arm_id"),
    "reward": ("reward",),
    "time": ("time", "decided_at"),
    "unit": ("unit", "unit_id"),
    "segment": ("segment",),
}
_TEXTS = ("arm", "arm_id", "time", "decided_at", "unit", "unit_id", "segment")
_ZONED = r":\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"
#: As the proto has it of the segment of a decision.
_SEGMENT = re.compile(r"[A-Za-z0-9._:/@-]{0,64}")
#: Evidence has a row for each arm and segment, and all of them are read whenever something is learned.
_MOST_SEGMENTS = 100


@dataclass(frozen=True, slots=True)
class History:
    """What a file says."""

    rows: int
    #: SHA-256 of the file.
    content_hash: bytes
    first_at: datetime
    last_at: datetime
    #: Distinct units; None where the file does not tell.
    units: int | None
    #: By arm id and segment.
    evidence: Mapping[tuple[str, str], Evidence]

    def of_arm(self, arm_id: str) -> Evidence:
        """Return the evidence of an arm over all segments."""
        return sum((e for (arm, _), e in self.evidence.items() if arm == arm_id), Evidence())

    @property
    def arm_ids(self) -> list[str]:
        """The arms that it has outcomes of."""
        return sorted({arm for arm, _ in self.evidence})


def read_history(path: Path) -> History:
    """Read a file whole, and check every row of it.

    Raises AnalysisError, which names the file, the column, and the first row (from 1) that is wrong; OSError.
    """
    content_hash = hashlib.sha256(path.read_bytes()).digest()
    table = _read(path)
    if not table.num_rows:
        raise AnalysisError(f"{path}: has no rows")
    arms, rewards, times = (_needed(path, table, name) for name in ("arm", "reward", "time"))
    arms, times = _texts(path, "arm", arms), _times(path, times)
    _refuse(path, "arm", arms, pc.equal(arms, ""), "must be the id of an arm")
    micros = _micros(path, rewards)
    segments = _segments(path, _column(path, table, "segment"), table.num_rows)
    units = _column(path, table, "unit")
    return History(
        rows=table.num_rows,
        content_hash=content_hash,
        first_at=pc.min(times).as_py(),
        last_at=pc.max(times).as_py(),
        units=None if units is None else pc.count_distinct(units).as_py(),
        evidence=_summed(arms, segments, micros),
    )


def _read(path: Path) -> pa.Table:
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": pq.read_table,
        ".csv": lambda file: csv.read_csv(file, convert_options=_as_texts()),
        ".jsonl": lambda file: jsonl.read_json(file, parse_options=_texts_of_json()),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise AnalysisError(f"{path}: must be a .parquet, .csv or .jsonl file")
    try:
        return reader(path)
    except pa.ArrowInvalid as error:
        raise AnalysisError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def _as_texts() -> csv.ConvertOptions:
    # As they stand: whether a time has a zone is seen then, and an arm may be called 007, or NULL.
    return csv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string()), strings_can_be_null=False)


def _texts_of_json() -> jsonl.ParseOptions:
    return jsonl.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in _TEXTS]))


def _column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """Return a column under whichever of its names the file has, None without one that holds anything."""
    found = [given for given in _NAMES[name] if given in table.column_names]
    # JSON lines are read as if they had every name.
    found = [given for given in found if table.column(given).null_count < table.num_rows]
    if len(found) > 1:
        raise AnalysisError(f"{path}: has the columns {' and '.join(map(repr, found))}, which mean the same: leave one")
    return table.column(found[0]) if found else None


def _needed(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = _column(path, table, name)
    if column is None:
        wanted = " or ".join(map(repr, _NAMES[name]))
        raise AnalysisError(f"{path}: needs a column {wanted} with a value in every row")
    _refuse(path, name, column, pc.is_null(column), "must have a value: leave out rows without one")
    return column


def _texts(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise AnalysisError(f"{path}: column {name!r} must hold texts, not {column.type}")
    return column.cast(pa.string())


def _times(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    say = "must have a time zone: end it with Z or an offset, as in 2026-11-22T10:00:00Z"
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None:
            raise AnalysisError(f"{path}: column 'time' has no time zone: give it one, UTC for example")
        return column.cast(TIME, safe=False)
    texts = _texts(path, "time", column)
    _refuse(path, "time", texts, pc.invert(pc.match_substring_regex(texts, _ZONED)), say)
    try:
        return texts.cast(TIME)
    except pa.ArrowInvalid as error:
        raise AnalysisError(f"{path}: column 'time' holds what is no time: {str(error).splitlines()[0]}") from None


def _micros(path: Path, column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return rewards in millionths, rounded as `bandit.reward.to_micros` rounds them."""
    try:
        rewards = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise AnalysisError(f"{path}: column 'reward' must hold numbers, not {column.type}") from None
    values = rewards.to_numpy()
    _refuse(path, "reward", column, pa.array(~((values >= 0) & (values <= 1))), "must be in [0, 1]")
    micros: NDArray[np.int64] = np.rint(values * MICROS).astype(np.int64)
    return micros


def _segments(path: Path, column: pa.ChunkedArray | None, rows: int) -> pa.ChunkedArray:
    if column is None:
        return pa.chunked_array([pa.array([""] * rows, pa.string())])
    texts = pc.fill_null(_texts(path, "segment", column), "")
    distinct = pc.unique(texts).to_pylist()
    if len(distinct) > _MOST_SEGMENTS:
        raise AnalysisError(f"{path}: column 'segment' has {len(distinct)} values; at most {_MOST_SEGMENTS} are taken")
    for value in distinct:
        if not _SEGMENT.fullmatch(value):
            _refuse(path, "segment", texts, pc.equal(texts, value), f"must match {_SEGMENT.pattern}")
    return texts


def _summed(arms: pa.ChunkedArray, segments: pa.ChunkedArray, micros: NDArray[np.int64]) -> dict[tuple[str, str], Evidence]:
    table = pa.table({"arm": arms, "segment": segments, "micros": micros})
    sums = table.group_by(["arm", "segment"]).aggregate([("micros", "sum"), ("micros", "count")]).to_pylist()
    return {
        (row["arm"], row["segment"]): Evidence(
            row["micros_sum"], row["micros_count"] * MICROS - row["micros_sum"], row["micros_count"]
        )
        for row in sums
    }


def _refuse(path: Path, name: str, column: pa.ChunkedArray, wrong: pa.Array | pa.ChunkedArray, rule: str) -> None:
    """AnalysisError where anything is wrong, with the first row that is."""
    flags = wrong.to_numpy(zero_copy_only=False) if isinstance(wrong, pa.Array) else wrong.to_numpy()
    rows = np.flatnonzero(flags)
    if len(rows):
        more = f" (and {len(rows) - 1:,} more rows)" if len(rows) > 1 else ""
        raise AnalysisError(f"{path}: row {rows[0] + 1}{more}: {name} {column[int(rows[0])].as_py()!r} {rule}")
