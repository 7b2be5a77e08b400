"""The hour that discounted evidence is seen from: set with the definition, moved by the leader."""

from typing import Any

import psycopg

from router.storage.times import time_of

# In the order in which batches of events lock them.
_RAISE = """
WITH changed AS MATERIALIZED (
    SELECT v.incarnation FROM policy_versions v JOIN experiments x USING (incarnation)
    WHERE {which} ORDER BY v.incarnation FOR UPDATE OF v
)
UPDATE policy_versions v
SET seen_from = greatest(v.seen_from, %(hour)s::timestamptz), policy_version = v.policy_version + 1,
    changed_at = clock_timestamp()
FROM changed c WHERE v.incarnation = c.incarnation
RETURNING v.incarnation
"""
# A concluded experiment stays as it ended.
_MOVE = _RAISE.format(which="v.seen_from < %(hour)s AND x.state <> 'concluded'")
_ALL = _RAISE.format(which="v.seen_from IS NOT NULL")

_FOLLOW = """
UPDATE policy_versions v
SET seen_from = CASE WHEN x.allocation ? 'discount' THEN date_trunc('hour', now(), 'UTC') END
FROM experiments x
WHERE x.incarnation = v.incarnation AND v.incarnation = %s AND (x.allocation ? 'discount') <> (v.seen_from IS NOT NULL)
"""


async def move_hours(connection: psycopg.AsyncConnection[Any], hour_us: int) -> list[int]:
    """See discounted experiments from this hour, and raise their policy versions; returns those that were behind."""
    async with connection.transaction():
        rows = await (await connection.execute(_MOVE, {"hour": time_of(hour_us)})).fetchall()
    return [incarnation for (incarnation,) in rows]


async def days_dropped(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise the policy versions of discounted experiments, after hours of their evidence went: replicas find out."""
    async with connection.transaction():
        await connection.execute(_ALL, {"hour": None})


async def follow_definition(connection: psycopg.AsyncConnection[Any], incarnation: int) -> None:
    """Give an experiment an hour if its definition, written in this transaction, discounts, and none if it does not."""
    await connection.execute(_FOLLOW, (incarnation,))
