"""Interleaved lists and what users took of them. Each position counts once, however often it is reported."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from router.storage.database import Connection
from router.storage.times import time_of


class Interleaving(NamedTuple):
    """A list made of the rankings of several arms. Its key names it and all that is in it."""

    #: 16 bytes.
    interleaving_key: bytes
    incarnation: int
    #: Microseconds since the epoch.
    interleaved_at_us: int
    #: May be empty.
    unit_id: str
    #: Numbers of the arms that gave a ranking.
    arms: tuple[int, ...]
    item_ids: tuple[str, ...]
    #: For each item, the index into `arms` of the arm that is credited for it.
    teams: tuple[int, ...]
    #: Positions that every arm had the same chance of; others credit nobody.
    even: int


class PairCounts(NamedTuple):
    """How many units preferred one arm to another, by number, over the lists that both gave a ranking to."""

    arm: int
    other_arm: int
    wins: int
    losses: int
    ties: int


class PreferenceCounts(NamedTuple):
    """What users preferred."""

    interleavings: int
    #: Those of which an item was taken that credits an arm.
    credited: int
    pairs: list[PairCounts]


_STORE = """
INSERT INTO interleavings (interleaving_key, incarnation, interleaved_at, unit_id, arms, item_ids, teams, even)
VALUES (:key, :incarnation, :at, :unit_id, CAST(:arms AS int2[]), CAST(:item_ids AS text[]), CAST(:teams AS int2[]), :even)
ON CONFLICT DO NOTHING
"""
_READ = """
SELECT interleaving_key, incarnation, (extract(epoch FROM interleaved_at) * 1000000)::int8, unit_id, arms, item_ids, teams,
       even
FROM interleavings WHERE interleaving_key = :key
"""
# In ascending order, so that two reports of the same list never wait for one another.
_CREDIT = """
INSERT INTO interleaving_credits (interleaving_key, position, occurred_at, received_at)
SELECT :key, p.position, :occurred_at, :received_at
FROM (SELECT DISTINCT unnest(CAST(:positions AS int2[])) AS position ORDER BY 1) p
ON CONFLICT DO NOTHING
"""
_CREDITED = "SELECT position FROM interleaving_credits WHERE interleaving_key = :key ORDER BY position"

_LISTS = """
WITH lists AS MATERIALIZED (
    SELECT interleaving_key, arms, CASE WHEN unit_id = '' THEN interleaving_key::text ELSE 'unit ' || unit_id END AS unit
    FROM interleavings WHERE incarnation = :incarnation
),
taken AS MATERIALIZED (
    SELECT interleaving_key, i.arms[i.teams[c.position + 1] + 1] AS arm, count(*) AS credit
    FROM interleavings i JOIN interleaving_credits c USING (interleaving_key)
    WHERE i.incarnation = :incarnation AND c.position < i.even
    GROUP BY 1, 2
)
"""
_COUNTS = f"{_LISTS} SELECT (SELECT count(*) FROM lists), (SELECT count(DISTINCT interleaving_key) FROM taken)"
_PAIRS = f"""
{_LISTS},
credits AS MATERIALIZED (
    SELECT l.interleaving_key, l.unit, a.arm, coalesce(t.credit, 0) AS credit
    FROM lists l CROSS JOIN unnest(l.arms) a (arm)
    LEFT JOIN taken t ON t.interleaving_key = l.interleaving_key AND t.arm = a.arm
),
units AS (
    SELECT a.arm, b.arm AS other_arm, a.unit, sum(a.credit) AS credit, sum(b.credit) AS other_credit
    FROM credits a JOIN credits b ON b.interleaving_key = a.interleaving_key AND b.arm > a.arm
    GROUP BY 1, 2, 3
)
SELECT arm, other_arm, count(*) FILTER (WHERE credit > other_credit), count(*) FILTER (WHERE credit < other_credit),
       count(*) FILTER (WHERE credit = other_credit)
FROM units GROUP BY 1, 2 ORDER BY 1, 2
"""


async def store(connection: Connection, interleaving: Interleaving) -> None:
    """Store a list; storing it again changes nothing."""
    await connection.execute(
        text(_STORE),
        {
            "key": UUID(bytes=interleaving.interleaving_key),
            "incarnation": interleaving.incarnation,
            "at": time_of(interleaving.interleaved_at_us),
            "unit_id": interleaving.unit_id,
            "arms": list(interleaving.arms),
            "item_ids": list(interleaving.item_ids),
            "teams": list(interleaving.teams),
            "even": interleaving.even,
        },
    )


async def read(connection: Connection, interleaving_key: bytes) -> Interleaving | None:
    """Return a list, or None if there is none of this key."""
    row = (await connection.execute(text(_READ), {"key": UUID(bytes=interleaving_key)})).one_or_none()
    if row is None:
        return None
    key, incarnation, at_us, unit_id, arms, item_ids, teams, even = row
    return Interleaving(key.bytes, incarnation, at_us, unit_id, tuple(arms), tuple(item_ids), tuple(teams), even)


async def credit(
    connection: Connection, interleaving_key: bytes, positions: Sequence[int], occurred_at_us: int, received_at_us: int
) -> list[int]:
    """Store that these positions of a stored list were taken; returns all positions that were taken so far."""
    key = {"key": UUID(bytes=interleaving_key)}
    await connection.execute(
        text(_CREDIT),
        {
            **key,
            "positions": list(positions),
            "occurred_at": time_of(occurred_at_us),
            "received_at": time_of(received_at_us),
        },
    )
    return list((await connection.execute(text(_CREDITED), key)).scalars())


async def read_preferences(connection: Connection, incarnation: int) -> PreferenceCounts:
    """Count preferences; a unit counts once for each pair, by the sum of its credits, and a list without unit is its own."""
    of = {"incarnation": incarnation}
    interleavings, credited = (await connection.execute(text(_COUNTS), of)).one()
    pairs = [PairCounts(*row) for row in await connection.execute(text(_PAIRS), of)]
    return PreferenceCounts(interleavings, credited, pairs)
