"""Shares: how many outcomes of one unit count, exactly, whatever number of processes store them.

Protocol
    The event that would give a decision its first outcome takes one of its unit's share. `unit_shares` says how much of it
    was taken: by experiment, by unit, and by the day of the decision, or for good where units count once. Both are read
    and written in the statement that folds a batch of events, under the lock that every such batch holds
    (`router.storage.events`), so no two of them take the same one. Nothing gives back what was taken: a later event of a
    decision that has an outcome is a correction, and takes nothing.

    Beyond the share an event is stored as *limited*: without a reward, so that no reader counts it. What it would have
    been worth is kept in its details. Its decision stays without an outcome.

    Decisions of one batch take their turns in the order of the batch.

A share belongs to the rule by which a decision was made. Decisions of one unit and day by rules that differ use the same
count. Where such decisions meet in one batch, those that are limited by the smaller share may cost others of the batch
their turn: fewer count than might, never more.
"""

from typing import Final

#: In place of a share: a unit counts once, whatever the day.
ONCE: Final = -1

# Turns are counted beside what is stored: joining the two would compare every decision of a batch with every unit that is
# stored, since nothing is hashed here. Units are looked up in one go, which costs a tenth of one by one. What is stored is
# replaced by a conflict, not by an UPDATE, which would be such a join; where nothing is stored, a plain INSERT is cheaper.
TAKE_SHARES = """
asked AS (
    SELECT NULL::int4 AS decision, unit_hash, incarnation, share_day, n, NULL::int4 AS share FROM unit_shares
    WHERE unit_hash = ANY($22::int8[]) AND share_day BETWEEN {first_day} AND {last_day}
    UNION ALL
    SELECT NULL, unit_hash, incarnation, share_day, n, NULL FROM unit_shares
    WHERE unit_hash = ANY($22::int8[]) AND share_day = '-infinity'
    UNION ALL
    SELECT decision, unit_hash, incarnation, CASE WHEN share < 0 THEN '-infinity' ELSE decision_day END, 1, abs(share)
    FROM judged WHERE first AND share <> 0
),
turns AS MATERIALIZED (
    SELECT decision, unit_hash, incarnation, share_day, share, sum(n) OVER in_turn AS turn,
           first_value(decision) OVER in_turn IS NULL AS stored
    FROM asked WINDOW in_turn AS (PARTITION BY unit_hash, incarnation, share_day ORDER BY decision NULLS FIRST
                                  ROWS UNBOUNDED PRECEDING)
),
limited AS MATERIALIZED (SELECT decision FROM turns WHERE turn > share),
taken AS MATERIALIZED (
    SELECT unit_hash, incarnation, share_day, stored, max(turn)::int4 AS n FROM turns WHERE turn <= share GROUP BY 1, 2, 3, 4
),
taken_first AS (
    INSERT INTO unit_shares (unit_hash, incarnation, share_day, n)
    SELECT unit_hash, incarnation, share_day, n FROM taken WHERE NOT stored
),
taken_more AS (
    INSERT INTO unit_shares (unit_hash, incarnation, share_day, n)
    SELECT unit_hash, incarnation, share_day, n FROM taken WHERE stored
    ON CONFLICT (unit_hash, incarnation, share_day) DO UPDATE SET n = excluded.n
)
"""


def number_of(unit_hash: bytes) -> int:
    """Return a unit's 8-byte hash as Postgres stores it here; 0 stands for no unit."""
    return int.from_bytes(unit_hash, "big", signed=True)
