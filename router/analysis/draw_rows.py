"""First draws as an Arrow table."""

from __future__ import annotations

import pyarrow as pa

from router.analysis.columns import TIME, WORD
from router.storage.drawn import Drawn

_SCHEMA = pa.schema(
    [
        pa.field("decided_at", TIME, nullable=False),
        pa.field("arm_id", WORD, nullable=False),
        pa.field("arm", pa.int32(), nullable=False),
        pa.field("allocation", pa.list_(pa.float64()), nullable=False),
        pa.field("feedback", pa.bool_(), nullable=False),
    ]
)


def draw_table(drawn: Drawn) -> pa.Table:
    """Return a row for each draw; every vector has an entry for each arm of the table."""
    k = len(drawn.arm_ids)
    arms = pa.array(drawn.arms, pa.int32())
    names = pa.DictionaryArray.from_arrays(arms, pa.array(drawn.arm_ids, pa.string()))
    ends = pa.array([k * i for i in range(drawn.arms.size + 1)], pa.int32())
    vectors = pa.ListArray.from_arrays(ends, pa.array(drawn.allocations.ravel(), pa.float64()))
    times = pa.array(drawn.decided_at_us, pa.int64()).cast(TIME)
    return pa.Table.from_arrays([times, names, arms, vectors, pa.array(drawn.feedback, pa.bool_())], schema=_SCHEMA)
