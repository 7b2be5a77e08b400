"""First draws: the decisions whose arm was drawn then, and drawn for the first time, for tests of the split.

A decision that repeats an earlier draw says nothing new: of a sticky unit, of an interleaved session and of a request id
the first one is kept. So are no decisions that were forced or held out, or that had one arm to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.rules import assignment_of
from router.storage.analysis import Read, Reading, span_of

#: Buckets round propensities to 1 / 10,000.
_ROUNDING: Final = 2e-4
#: By how much the sum of a vector may differ from 1.
_SUM: Final = 1e-6

# By assignment: what tells one draw from another, and whether draws made before the range repeat in it. Vectors of one arm
# are no draws, so that a unit's first one is the first that could have gone otherwise.
_PER_UNIT = ("nullif(unit_id, '')", "true")
_DRAW: Final = {
    "per_request": ("coalesce(nullif(request_id, ''), decision_key::text)", "decided_at >= %(start)s"),
    "sticky_hash": _PER_UNIT,
    "sticky_stored": _PER_UNIT,
    "interleaved": ("nullif(session_id, '')", "true"),
}

_FIRST = """
WITH logged AS (
    SELECT {draw} AS draw, decision_day, decision_key, decided_at, arm, propensity, allocation_id
    FROM decisions
    WHERE incarnation = %(incarnation)s AND decided_at < %(end)s AND decision_day <= %(last)s AND {since}
      AND reason NOT IN ('forced', 'holdout') AND propensity < 1
),
first AS (
    SELECT DISTINCT ON (draw) * FROM logged WHERE draw IS NOT NULL ORDER BY draw, decided_at, decision_key
)
SELECT (extract(epoch FROM f.decided_at) * 1000000)::int8, f.arm, f.propensity, f.allocation_id,
       o.decision_key IS NOT NULL AND (o.decided_at IS NULL OR v.matured_to IS NULL OR o.decided_at <= v.matured_to)
FROM first f
LEFT JOIN outcomes o ON o.decision_day = f.decision_day AND o.decision_key = f.decision_key
CROSS JOIN (SELECT matured_to FROM policy_versions WHERE incarnation = %(incarnation)s) v
WHERE f.decided_at >= %(start)s
ORDER BY f.decided_at, f.decision_key
"""

_CHOICES = """
SELECT count(*) FROM decisions
WHERE incarnation = %(incarnation)s AND decided_at >= %(start)s AND decided_at < %(end)s
  AND decision_day BETWEEN %(first)s AND %(last)s AND reason NOT IN ('forced', 'holdout') AND propensity < 1
"""

_VECTORS = "SELECT allocation_id, arms, probabilities FROM allocations WHERE allocation_id = ANY(%(ids)s)"


@dataclass(frozen=True, slots=True)
class Drawn:
    """First draws in the order of their time, among all arms that any of them could have given."""

    #: Names of the arms, versions after the first said, in the order in which they came to the experiment.
    arm_ids: tuple[str, ...]
    #: (n,): when, microseconds since the epoch.
    decided_at_us: NDArray[np.int64]
    #: (n,): index of the arm drawn.
    arms: NDArray[np.intp]
    #: (n, K): the vectors drawn from; 0 where an arm could not be drawn.
    allocations: NDArray[np.float64]
    #: (n,): whether the decision has an outcome that counts by now.
    feedback: NDArray[np.bool_]
    #: Decisions with a choice that are no first draws: they repeat one, or do not say of what unit they are.
    repeated: int
    #: First decisions that were left out, because the vector they were drawn from is not known.
    unknown: int


def read_drawn(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> Drawn:
    """Return the first draws of [start, end).

    Units that were drawn before `start`, in the days that are kept, are not drawn again in the range. All of it is held
    in memory, some 150 bytes and 16 for each arm a decision. Raises StorageError.
    """
    parameters = span_of(of, start, end)
    draw, since = _DRAW[assignment_of(reading.definition(of).assignment)]
    rows = _Rows()
    for some in reading.rows(_FIRST.format(draw=draw, since=since), parameters):
        rows.add(some)
    ((choices,),) = reading.all(_CHOICES, parameters)
    times, numbers, propensities, vectors, feedback = rows.arrays()
    columns, table = _vectors(reading, rows.ids, of)
    place = {number: i for i, number in enumerate(columns)}
    arms = np.array([place.get(number, -1) for number in numbers.tolist()], dtype=np.intp)
    own = table[vectors, arms] if columns else np.zeros(arms.size)
    # A unit whose draw is not in the log has the propensity of that one: none of the vector of now.
    known = (arms >= 0) & (np.abs(own - propensities) <= _ROUNDING) & (own > 0.0)
    known &= np.abs(table.sum(axis=1)[vectors] - 1.0) < _SUM
    names = {arm.number: arm.arm_id if arm.version <= 1 else f"{arm.arm_id} v{arm.version}" for arm in of.arms}
    drawable = (table[np.unique(vectors[known])] > 0.0).any(axis=0) if columns else np.zeros(0, dtype=bool)
    kept = np.cumsum(drawable) - 1
    return Drawn(
        tuple(names[number] for number, some in zip(columns, drawable.tolist(), strict=True) if some),
        times[known],
        kept[arms[known]].astype(np.intp),
        table[:, drawable][vectors[known]],
        feedback[known],
        int(choices) - times.size,
        int(times.size - known.sum()),
    )


class _Rows:
    """Rows as arrays, some at a time: a row of Python's own takes ten times the memory."""

    def __init__(self) -> None:
        #: Ids of vectors; rows have their places.
        self.ids: dict[Any, int] = {}
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def add(self, rows: list[tuple[Any, ...]]) -> None:
        times, arms, propensities, ids, feedback = zip(*rows, strict=True)
        places = [self.ids.setdefault(one, len(self.ids)) for one in ids]
        self._parts.append(
            (
                np.array(times, dtype=np.int64),
                np.array(arms, dtype=np.int64),
                np.array(propensities, dtype=np.float64),
                np.array(places, dtype=np.intp),
                np.array(feedback, dtype=np.bool_),
            )
        )

    def arrays(self) -> tuple[NDArray[Any], ...]:
        if not self._parts:
            kinds = (np.int64, np.int64, np.float64, np.intp, np.bool_)
            return tuple(np.zeros(0, dtype=kind) for kind in kinds)
        return tuple(np.concatenate(part) for part in zip(*self._parts, strict=True))


def _vectors(reading: Reading, ids: dict[Any, int], of: Read) -> tuple[list[int], NDArray[np.float64]]:
    """Return the numbers of the arms in any vector, and the vectors, (V, K); one that is not kept is all 0."""
    found = reading.all(_VECTORS, {"ids": list(ids)}) if ids else []
    named = {number for _, arms, _ in found for number in arms}
    columns = [arm.number for arm in of.arms if arm.number in named]
    place = {number: i for i, number in enumerate(columns)}
    table = np.zeros((len(ids), len(columns)))
    for one, arms, probabilities in found:
        table[ids[one], [place[number] for number in arms]] = probabilities
    return columns, table
