"""The turns of an experiment that is assigned turn by turn, as `bandit.turns` compares them.

Several decisions of one turn are one turn: its user was answered again, by the same arm. A turn that the draft did not
decide alone is marked as such: forced, held out, drawn because the drafted arm was not eligible, restricted to some arms,
made while there were other arms, or answered by two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from bandit.turns import LARGEST_TURN
from router.storage.database import Connection
from router.storage.metrics import plan_for_keys

#: The latest decisions that are read.
MOST_TURNS = 1_000_000
#: How far a propensity may be from 1 / K by rounding.
_ROUNDING = 1e-9


class TurnTable(NamedTuple):
    """The turns, by session and number; every array has shape (n,)."""

    #: Numbered from 1.
    session: NDArray[np.int64]
    #: The place in the session, from 0.
    turn: NDArray[np.int64]
    #: The number of the arm that answered.
    arm: NDArray[np.int64]
    #: Whether the draft decided, among all of the arms.
    drafted: NDArray[np.bool_]
    #: Whether a signal says that the answer was a bad one.
    bad: NDArray[np.bool_]
    #: Whether a signal says that the task was completed.
    completed: NDArray[np.bool_]


_ROW = np.dtype([("session", ">i8"), ("turn", ">i8"), ("arm", ">i2"), ("flags", ">i2")])
_DRAFTED, _BAD, _COMPLETED = 1, 2, 4

# As one value: a million rows would take the driver seconds.
_TURNS = f"""
WITH recent AS MATERIALIZED (
    SELECT decision_day, decision_key, arm, reason, propensity, allocation_id, session_id, turn_id::int8 AS turn
    FROM decisions
    WHERE incarnation = :incarnation AND session_id <> '' AND turn_id ~ '^(0|[1-9][0-9]{{0,9}})$'
      AND (length(turn_id) < 10 OR turn_id COLLATE "C" <= '{LARGEST_TURN}')
    ORDER BY decided_at DESC LIMIT :most
),
decided AS (
    SELECT d.session_id, d.turn, d.arm,
           d.reason = 'sampled' AND abs(d.propensity * cardinality(CAST(:arms AS int2[])) - 1) < {_ROUNDING}
               AND coalesce(l.arms @> CAST(:arms AS int2[]) AND l.arms <@ CAST(:arms AS int2[]), false) AS drafted,
           coalesce(e.bad, false) AS bad, coalesce(e.completed, false) AS completed
    FROM recent d
    LEFT JOIN allocations l USING (allocation_id)
    LEFT JOIN LATERAL (
        SELECT bool_or(signal = ANY(CAST(:bad AS text[]))) AS bad, bool_or(signal = 'task_completed') AS completed
        FROM events
        WHERE decision_day = d.decision_day AND decision_key = d.decision_key AND status <> 'late'
    ) e ON true
),
turns AS (
    SELECT dense_rank() OVER (ORDER BY session_id COLLATE "C") AS session, turn, min(arm) AS arm,
           CASE WHEN bool_and(drafted) AND min(arm) = max(arm) THEN {_DRAFTED} ELSE 0 END
               + CASE WHEN bool_or(bad) THEN {_BAD} ELSE 0 END + CASE WHEN bool_or(completed) THEN {_COMPLETED} ELSE 0 END
               AS flags
    FROM decided GROUP BY session_id, turn
)
SELECT coalesce(string_agg(int8send(session) || int8send(turn) || int2send(arm) || int2send(flags::int2), ''
                           ORDER BY session, turn), '')
FROM turns
"""


async def read_turns(
    connection: Connection, incarnation: int, arms: Sequence[int], bad_signals: Sequence[str], most: int = MOST_TURNS
) -> TurnTable:
    """Return the turns of the latest `most` decisions; `arms` are the numbers that a draft of today deals."""
    await plan_for_keys(connection)
    parameters = {"incarnation": incarnation, "arms": list(arms), "bad": list(bad_signals), "most": most}
    packed = (await connection.execute(text(_TURNS), parameters)).scalar_one()
    rows = np.frombuffer(packed, dtype=_ROW)
    flags = rows["flags"]
    return TurnTable(
        rows["session"].astype(np.int64),
        rows["turn"].astype(np.int64),
        rows["arm"].astype(np.int64),
        (flags & _DRAFTED) > 0,
        (flags & _BAD) > 0,
        (flags & _COMPLETED) > 0,
    )
