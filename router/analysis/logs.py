"""The logs as Arrow record batches: what Postgres sends, given names, types and the ids of arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from router.analysis.columns import TIME, WORD, arm_arrays, array_of, ids_of, keys_of
from router.storage.analysis import LOGS, Kind, Log, Read, ReadArm, Reading, Stretch

_TYPES = {
    Kind.UUID: pa.string(),
    Kind.TIME: TIME,
    Kind.SMALLINT: pa.int16(),
    Kind.INTEGER: pa.int32(),
    Kind.BIGINT: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.FLAG: pa.bool_(),
    Kind.TEXT: pa.string(),
}
#: Columns with few distinct texts.
_WORDS = {"reason", "segment", "kind", "signal", "status"}
#: Of vectors that are kept because later decisions were drawn from them too: bytes of their entries, and of one besides.
_REMEMBERED_BYTES, _OF_A_VECTOR = 64 * 1024 * 1024, 450
#: Entries of vectors that are asked for at once: Python's own numbers take some 40 bytes each.
_ASKED = 200_000
_ALLOCATION = (pa.field("allocation_arm_ids", pa.list_(pa.string())), pa.field("allocation", pa.list_(pa.float64())))


def schema_of(log: Log) -> pa.Schema:
    """Return the columns of a log, with their types."""
    fields: list[pa.Field] = []
    for column in log.columns:
        if column.name == "arm":
            fields += [pa.field("arm_id", WORD, nullable=False), pa.field("arm_version", pa.int32(), nullable=False)]
        elif column.name == "allocation_id":
            fields += _ALLOCATION
        else:
            type_ = WORD if column.name in _WORDS else _TYPES[column.kind]
            fields.append(pa.field(column.name, type_, nullable=column.nullable))
    return pa.schema(fields)


#: Numbers of arms, and their probabilities.
Vector: TypeAlias = tuple[NDArray[np.int16], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of some decisions: the distinct ones, None where the database lacks it, and for each row which."""

    distinct: Sequence[Vector | None]
    rows: NDArray[np.int32]

    def arrays(self, arms: Sequence[ReadArm]) -> tuple[pa.Array, pa.Array]:
        """Return for each row the ids of the arms and the probabilities."""
        known = [one for one in self.distinct if one is not None]
        ends = np.cumsum([0, *(0 if one is None else one[0].size for one in self.distinct)], dtype=np.int32)
        missing = np.array([one is None for one in self.distinct])
        numbers = np.concatenate([np.empty(0, np.int16), *(one[0] for one in known)])
        probabilities = np.concatenate([np.empty(0), *(one[1] for one in known)])
        indices = pa.array(self.rows)
        names, values = (
            pa.ListArray.from_arrays(pa.array(ends), entries, mask=pa.array(missing)).take(indices)
            for entries in (ids_of(numbers, arms), pa.array(probabilities))
        )
        return names, values


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a log, as they came."""

    stretch: Stretch
    #: Of decisions.
    vectors: Vectors | None


class LogReader:
    """Reads one log of one experiment as record batches."""

    def __init__(self, reading: Reading, of: Read, name: str) -> None:
        """`name` is decisions, events or outcomes."""
        self._reading = reading
        self._of = of
        self.log = LOGS[name]
        self.schema = schema_of(self.log)
        self._vectors = _Vectors(reading, of)

    def batches(self, start: datetime | None = None, end: datetime | None = None) -> Iterator[pa.RecordBatch]:
        """Give what was decided in [start, end), the days in order and the rows of a day in none."""
        first = date.min if start is None else start.astimezone(UTC).date()
        last = date.max if end is None else (end.astimezone(UTC) - timedelta(microseconds=1)).date()
        for day, pages in self._reading.days(self.log, first, last):
            yield from self.of_day(day, pages, start, end)

    def of_day(
        self, day: date, pages: int, start: datetime | None = None, end: datetime | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Give what was decided on a day; `pages` is the size of its partition."""
        for part in self.parts_of_day(day, pages, start, end):
            yield self.batch_of(part)

    def parts_of_day(
        self, day: date, pages: int, start: datetime | None = None, end: datetime | None = None
    ) -> Iterator[Part]:
        """As `of_day`, but the work of making batches is left to `batch_of`, which needs no database."""
        for stretch in self._reading.stretches(self.log, self._of, day, pages, start, end):
            ids = stretch.values.get("allocation_id")
            yield Part(stretch, None if ids is None else self._vectors.of(*keys_of(ids)))

    def batch_of(self, part: Part) -> pa.RecordBatch:
        """Return a part as a batch."""
        arrays: list[pa.Array] = []
        for column in self.log.columns:
            raw = part.stretch.values[column.name]
            if column.name == "arm":
                arrays += arm_arrays(raw, self._of.arms)
            elif part.vectors is not None and column.name == "allocation_id":
                arrays += part.vectors.arrays(self._of.arms)
            else:
                found = array_of(column, raw)
                arrays.append(found.dictionary_encode() if column.name in _WORDS else found)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


class _Vectors:
    """The vectors that decisions were drawn from. Few are read twice."""

    def __init__(self, reading: Reading, of: Read) -> None:
        self._reading = reading
        self._at_once = max(1, _ASKED // max(1, len(of.arms)))
        self._known: dict[bytes, Vector] = {}
        self._bytes = 0

    def of(self, ids: Sequence[bytes], rows: NDArray[np.int32]) -> Vectors:
        if self._bytes > _REMEMBERED_BYTES:
            self._known.clear()
            self._bytes = 0
        missing = [i for i in ids if i not in self._known]
        for first in range(0, len(missing), self._at_once):
            found = self._reading.allocations(missing[first : first + self._at_once])
            for key, (arms, probabilities) in found.items():
                vector = np.array(arms, dtype=np.int16), np.array(probabilities, dtype=np.float64)
                self._known[key] = vector
                self._bytes += _OF_A_VECTOR + vector[0].nbytes + vector[1].nbytes
        return Vectors([self._known.get(i) for i in ids], rows)
