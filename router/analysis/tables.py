"""What is small enough to travel row by row: snapshots, metrics, shadow comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

import pyarrow as pa

from router.analysis.columns import TIME, WORD
from router.storage.analysis import COMPARISONS, METRICS, SNAPSHOTS, Read, Reading

SNAPSHOT_SCHEMA = pa.schema(
    [
        pa.field("segment", WORD, nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("taken_at", TIME, nullable=False),
        pa.field("arm_id", WORD, nullable=False),
        pa.field("arm_version", pa.int32(), nullable=False),
        pa.field("active", pa.bool_(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("alpha", "beta")),
        pa.field("n", pa.int64(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("mean", "probability_best", "expected_loss", "allocation")
        ),
        pa.field("matured_to", TIME),
    ]
)

METRIC_SCHEMA = pa.schema(
    [
        pa.field("day", pa.date32(), nullable=False),
        pa.field("arm_id", WORD, nullable=False),
        pa.field("arm_version", pa.int32(), nullable=False),
        pa.field("holdout", pa.bool_(), nullable=False),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("interactions", "covered", "retries", "rephrases", "abandonments", "follow_ups", "completions")
        ),
        pa.field("outcomes", pa.int64(), nullable=False),
        pa.field("mean_reward", pa.float64()),
    ]
)

_ANSWER = (
    ("model", WORD),
    ("latency_ms", pa.float64()),
    ("input_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("error", WORD),
)
COMPARISON_SCHEMA = pa.schema(
    [
        pa.field("decision_key", pa.string(), nullable=False),
        pa.field("decided_at", TIME, nullable=False),
        pa.field("recorded_at", TIME, nullable=False),
        pa.field("serving_arm_id", WORD, nullable=False),
        pa.field("serving_arm_version", pa.int32(), nullable=False),
        pa.field("shadow_arm_id", WORD, nullable=False),
        pa.field("shadow_arm_version", pa.int32(), nullable=False),
        pa.field("text_mode", WORD, nullable=False),
        *(pa.field(name, pa.string()) for name in ("prompt", "serving_text", "shadow_text")),
        *(pa.field(f"serving_{name}", type_) for name, type_ in _ANSWER),
        *(pa.field(f"shadow_{name}", type_) for name, type_ in _ANSWER),
    ]
)


def snapshot_batches(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> Iterator[pa.RecordBatch]:
    """Give the posterior of every arm at each snapshot taken in [start, end), oldest first, then those of segments."""
    yield from _batches(reading, SNAPSHOTS, {"experiment_id": of.experiment_id, **_range(start, end)}, SNAPSHOT_SCHEMA)


def metric_batches(reading: Reading, of: Read, first: date | None, last: date | None) -> Iterator[pa.RecordBatch]:
    """Give the counts of the days `first` to `last`."""
    days = {"first": first or "-infinity", "last": last or "infinity"}
    yield from _batches(reading, METRICS, {"experiment_id": of.experiment_id, **days}, METRIC_SCHEMA)


def comparison_batches(
    reading: Reading, of: Read, start: datetime | None, end: datetime | None, *, text: bool
) -> Iterator[pa.RecordBatch]:
    """Give the shadow comparisons of decisions made in [start, end), oldest first."""
    parameters = {"incarnation": of.incarnation, "text": text, **_range(start, end)}
    yield from _batches(reading, COMPARISONS, parameters, COMPARISON_SCHEMA, at_once=1_000)


def _range(start: datetime | None, end: datetime | None) -> dict[str, object]:
    return {"start": start or "-infinity", "end": end or "infinity"}


def _batches(
    reading: Reading, query: str, parameters: dict[str, object], schema: pa.Schema, at_once: int = 10_000
) -> Iterator[pa.RecordBatch]:
    for rows in reading.rows(query, parameters, at_once):
        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
