"""Snapshots: posteriors as they were. Rows are added and never changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple

import numpy as np
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bandit.reward import Evidence
from router.discounting import Discount
from router.experiment import Arm, Definition
from router.segments import Segment
from router.standing import Standing
from router.storage import experiments
from router.storage.database import driver_of
from router.storage.partitions import FIRST_KEPT
from router.storage.policies import EvidenceReading, read_evidence
from router.storage.times import time_of

_INSERT = """
INSERT INTO snapshots (incarnation, policy_version, taken_at, matured_to, kept_from, arms, active, success_micros,
                       failure_micros, n, prior_alpha, prior_beta, alpha, beta, probability_best, expected_loss, allocation,
                       seen_from, half_life_us, window_us, segment, weight, largest)
VALUES (%s, %s, %s, %s, %s, %s::int2[], %s::bool[], %s::int8[], %s::int8[], %s::int8[], %s::float8[], %s::float8[],
        %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s, %s, %s, %s, %s, %s)
ON CONFLICT (incarnation, segment, policy_version) DO NOTHING
"""

_LAST = """
SELECT v.incarnation, s.policy_version, (extract(epoch FROM s.taken_at) * 1000000)::int8, s.outcomes
FROM policy_versions v
CROSS JOIN LATERAL (SELECT policy_version, taken_at, (SELECT sum(u) FROM unnest(n) u)::int8 AS outcomes FROM snapshots
                    WHERE incarnation = v.incarnation AND segment = '' ORDER BY policy_version DESC LIMIT 1) s
"""

_COLUMNS = """
s.incarnation, s.policy_version, s.taken_at, s.matured_to, s.kept_from, s.arms, s.active, s.success_micros,
s.failure_micros, s.n, s.prior_alpha, s.prior_beta, s.alpha, s.beta, s.probability_best, s.expected_loss, s.allocation,
(extract(epoch FROM s.seen_from) * 1000000)::int8, s.half_life_us, s.window_us, s.segment, s.weight, s.largest
"""

#: Of an experiment and a segment, the last snapshot taken until a time: for `snapshot_of`.
UNTIL = f"""
SELECT {_COLUMNS} FROM snapshots s WHERE s.incarnation = %s AND s.segment = %s AND s.taken_at <= %s
ORDER BY s.taken_at DESC, s.policy_version DESC LIMIT 1
"""

#: Of an experiment and a policy version, the snapshots of segments: for `snapshot_of`.
OF_SEGMENTS = f"""
SELECT {_COLUMNS} FROM snapshots s WHERE s.incarnation = %s AND s.policy_version = %s AND s.segment <> '' ORDER BY s.segment
"""

_PAGE = f"""
SELECT {_COLUMNS} FROM snapshots s
WHERE s.incarnation = %(incarnation)s AND s.segment = %(segment)s AND s.policy_version > %(after)s
  AND (%(start)s::timestamptz IS NULL OR s.taken_at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR s.taken_at < %(end)s)
ORDER BY s.policy_version LIMIT %(limit)s
"""


class Kept(NamedTuple):
    """What the last snapshot of an experiment has, of all traffic."""

    policy_version: int
    taken_at_us: int
    #: Of all arms.
    outcomes: int


class Readings(NamedTuple):
    """What snapshots are made of, from one state of the database."""

    definition: Definition
    reading: EvidenceReading
    matured_to: datetime | None
    kept_from: date | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A posterior that was kept, of all traffic or of a segment."""

    incarnation: int
    taken_at: datetime
    matured_to: datetime | None
    #: The first day whose events were kept then; None: every day was. Of a day that was being dropped they still were.
    kept_from: date | None
    standing: Standing


async def read_last(connection: psycopg.AsyncConnection[Any]) -> dict[int, Kept]:
    """Return the last snapshot of every experiment that has one, by incarnation."""
    rows = await (await connection.execute(_LAST)).fetchall()
    return {incarnation: Kept(*kept) for incarnation, *kept in rows}


async def read_versions(connection: psycopg.AsyncConnection[Any]) -> dict[int, int]:
    """Return the policy version of every experiment, by incarnation."""
    cursor = await connection.execute("SELECT incarnation, policy_version FROM policy_versions")
    return dict(await cursor.fetchall())


async def read_readings(connection: AsyncConnection, incarnations: Sequence[int]) -> list[Readings]:
    """Return what snapshots of these experiments are made of; the transaction must see one state of the database."""
    definitions = {d.incarnation: d for d, _ in await experiments.read_incarnations(connection, incarnations)}
    rows = await connection.execute(
        text(f"SELECT incarnation, matured_to, ({FIRST_KEPT}) FROM policy_versions WHERE incarnation = ANY(:incarnations)"),
        {"incarnations": list(incarnations)},
    )
    days = {incarnation: (matured_to, kept_from) for incarnation, matured_to, kept_from in rows}
    return [
        Readings(definitions[reading.incarnation], reading, *days[reading.incarnation])
        for reading in await read_evidence(connection, incarnations)
    ]


async def write(connection: psycopg.AsyncConnection[Any], snapshots: Sequence[Snapshot]) -> None:
    """Keep all of these snapshots or none; one that is kept already stays as it is."""
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.executemany(_INSERT, [_row(snapshot) for snapshot in snapshots])


def _row(snapshot: Snapshot) -> tuple[Any, ...]:
    standing = snapshot.standing
    return (
        snapshot.incarnation,
        standing.policy_version,
        snapshot.taken_at,
        snapshot.matured_to,
        snapshot.kept_from,
        [arm.number for arm in standing.arms],
        [arm.active for arm in standing.arms],
        [counted.success_micros for counted in standing.evidence],
        [counted.failure_micros for counted in standing.evidence],
        [counted.n for counted in standing.evidence],
        [alpha for alpha, _ in standing.priors],
        [beta for _, beta in standing.priors],
        standing.alpha.tolist(),
        standing.beta.tolist(),
        standing.probability_best.tolist(),
        standing.expected_loss.tolist(),
        standing.allocation.tolist(),
        None if standing.seen_from_us is None else time_of(standing.seen_from_us),
        None if standing.discount is None else standing.discount.half_life_us,
        None if standing.discount is None else standing.discount.window_us,
        "" if standing.segment is None else standing.segment.name,
        None if standing.segment is None else standing.segment.weight,
        None if standing.segment is None else standing.segment.largest,
    )


async def read_until(
    connection: AsyncConnection, definition: Definition, time_us: int, segment: str = ""
) -> Snapshot | None:
    """Return the last snapshot of a segment, or of all traffic, taken until a time; None if there is none."""
    cursor = await (await driver_of(connection)).execute(UNTIL, (definition.incarnation, segment, time_of(time_us)))
    row = await cursor.fetchone()
    return None if row is None else snapshot_of(row, {arm.number: arm for arm in definition.arms})


async def read_first(connection: AsyncConnection, incarnation: int, segment: str = "") -> datetime | None:
    """Return when the first snapshot of a segment, or of all traffic, was taken."""
    query = text("SELECT min(taken_at) FROM snapshots WHERE incarnation = :incarnation AND segment = :segment")
    parameters = {"incarnation": incarnation, "segment": segment}
    found: datetime | None = (await connection.execute(query, parameters)).scalar_one()
    return found


async def read_page(
    connection: AsyncConnection,
    definition: Definition,
    after: int,
    start_us: int | None,
    end_us: int | None,
    limit: int,
    segment: str = "",
) -> list[Snapshot]:
    """Return up to `limit` snapshots later than the version `after`, taken in [start, end), in order.

    They are of a segment, or of all traffic.
    """
    parameters = {
        "incarnation": definition.incarnation,
        "segment": segment,
        "after": after,
        "start": None if start_us is None else time_of(start_us),
        "end": None if end_us is None else time_of(end_us),
        "limit": limit,
    }
    rows = await (await (await driver_of(connection)).execute(_PAGE, parameters)).fetchall()
    arms = {arm.number: arm for arm in definition.arms}
    return [snapshot_of(row, arms) for row in rows]


def snapshot_of(row: Sequence[Any], arms: Mapping[int, Arm]) -> Snapshot:
    """Build a Snapshot from a row of `_COLUMNS`; `arms` are the experiment's, by number."""
    incarnation, version, taken_at, matured_to, kept_from, numbers, active, successes, failures, counts, *numbers_of = row
    prior_alpha, prior_beta, alpha, beta, best, loss, allocation, *rules = numbers_of
    seen_from_us, half_life_us, window_us, segment, weight, largest = rules
    standing = Standing(
        policy_version=version,
        arms=tuple(_as_then(arms[number], was) for number, was in zip(numbers, active, strict=True)),
        evidence=tuple(Evidence(*counted) for counted in zip(successes, failures, counts, strict=True)),
        priors=tuple(zip(prior_alpha, prior_beta, strict=True)),
        alpha=np.array(alpha),
        beta=np.array(beta),
        probability_best=np.array(best),
        expected_loss=np.array(loss),
        allocation=np.array(allocation),
        discount=None if seen_from_us is None else Discount(half_life_us, window_us),
        seen_from_us=seen_from_us,
        segment=Segment(segment, weight, largest) if segment else None,
    )
    return Snapshot(incarnation, taken_at, matured_to, kept_from, standing)


def _as_then(arm: Arm, active: bool) -> Arm:
    return arm if arm.active == active else replace(arm, active=active)
