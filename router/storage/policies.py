"""Evidence and policy versions, as replicas read them; and the messages by which replicas wake one another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bandit.discount import Bucket
from bandit.reward import Evidence
from router.discounting import Hours
from router.segments import BySegment, over_all
from router.storage.database import driver_of

CHANNEL = "bandit_router"
#: An incarnation has up to 19 digits.
_PER_PAYLOAD = 350


@dataclass(frozen=True, slots=True)
class EvidenceReading:
    """The evidence of one experiment at one policy version."""

    incarnation: int
    policy_version: int
    definition_version: int
    #: By segment and arm number.
    by_segment: BySegment
    #: Postgres' clock at the reading.
    as_of: datetime
    #: How long before it the policy version was raised, in seconds.
    changed_ago_s: float = 0.0
    #: The evidence of kept days by the hour, where it is discounted.
    hours: Hours | None = None
    #: By arm number, over all segments.
    evidence: Mapping[int, Evidence] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", over_all(self.by_segment))


class Digest(NamedTuple):
    """Sums that tell whether anything changed: versions only grow."""

    experiments: int
    policy_versions: int
    definition_versions: int


EVIDENCE = """
SELECT v.incarnation, v.policy_version, v.definition_version, now(),
       extract(epoch FROM clock_timestamp() - v.changed_at)::float8, e.segments, e.arms, e.successes, e.failures, e.counts,
       (extract(epoch FROM v.seen_from) * 1000000)::int8, h.segments, h.arms, h.starts, h.successes, h.failures, h.counts
FROM policy_versions v
LEFT JOIN LATERAL (
    SELECT array_agg(segment) AS segments, array_agg(arm) AS arms, array_agg(successes) AS successes,
           array_agg(failures) AS failures, array_agg(n) AS counts
    FROM (SELECT arm, segment, sum(success_micros)::int8 AS successes, sum(failure_micros)::int8 AS failures,
                 sum(n)::int8 AS n
          FROM evidence_all x WHERE x.incarnation = v.incarnation GROUP BY arm, segment) s
) e ON true
LEFT JOIN LATERAL (
    SELECT array_agg(segment) AS segments, array_agg(arm) AS arms,
           array_agg((extract(epoch FROM bucket) * 1000000)::int8) AS starts,
           array_agg(success_micros) AS successes, array_agg(failure_micros) AS failures, array_agg(n) AS counts
    FROM evidence x WHERE v.seen_from IS NOT NULL AND x.incarnation = v.incarnation
) h ON true
WHERE v.incarnation = ANY(%s)
"""

DIGEST = """
SELECT count(*), coalesce(sum(policy_version), 0)::bigint, coalesce(sum(definition_version), 0)::bigint
FROM policy_versions
"""


async def read_evidence(connection: AsyncConnection, incarnations: Sequence[int]) -> list[EvidenceReading]:
    """As `read_evidence_alone`, in the transaction of `connection`."""
    return await read_evidence_alone(await driver_of(connection), incarnations)


async def read_evidence_alone(
    connection: psycopg.AsyncConnection[Any], incarnations: Sequence[int]
) -> list[EvidenceReading]:
    """Return consistent readings, version and evidence from one snapshot, of those experiments that exist.

    Evidence is that of every outcome ever counted, also of days that retention dropped.
    """
    cursor = await connection.execute(EVIDENCE, (list(incarnations),), prepare=True)
    readings = []
    async for row in cursor:
        incarnation, policy_version, definition_version, as_of, changed_ago_s = row[:5]
        sums, seen_from_us, by_hour = row[5:10], row[10], row[11:]
        by_segment: defaultdict[str, dict[int, Evidence]] = defaultdict(dict)
        for segment, arm, *counted in _rows(sums):
            by_segment[segment][arm] = Evidence(*counted)
        hours = None if seen_from_us is None else Hours(seen_from_us, _hours(by_hour))
        readings.append(
            EvidenceReading(incarnation, policy_version, definition_version, dict(by_segment), as_of, changed_ago_s, hours)
        )
    return readings


def _rows(columns: Sequence[Sequence[Any] | None]) -> Iterable[tuple[Any, ...]]:
    return zip(*(column or () for column in columns), strict=True)


def _hours(columns: Sequence[Sequence[Any] | None]) -> dict[str, dict[int, tuple[Bucket, ...]]]:
    """Return the hours by segment and arm, from arrays of segments, arms, beginnings, successes, failures and counts."""
    found: defaultdict[str, defaultdict[int, list[Bucket]]] = defaultdict(lambda: defaultdict(list))
    for segment, arm, start_us, *counted in _rows(columns):
        found[segment][arm].append((start_us, Evidence(*counted)))
    return {name: {arm: tuple(buckets) for arm, buckets in of_arm.items()} for name, of_arm in found.items()}


async def read_digest(connection: AsyncConnection) -> Digest:
    """As `read_digest_alone`, in the transaction of `connection`."""
    return Digest(*(await connection.execute(text(DIGEST))).one())


async def read_digest_alone(connection: psycopg.AsyncConnection[Any]) -> Digest:
    """Return the sums; that costs a fifth of `read_version_table`."""
    row = await (await connection.execute(DIGEST, prepare=True)).fetchone()
    assert row is not None  # noqa: S101 - sums have one row
    return Digest(*row)


async def read_version_table(connection: AsyncConnection) -> NDArray[np.int64]:
    """Return (incarnation, policy version, definition version) of every experiment, as rows of an (N, 3) array.

    It travels as one value: as rows, 10,000 experiments would keep the event loop busy for 30 ms, and so it takes 3.
    """
    packed = (
        await connection.execute(
            text(
                "SELECT coalesce(string_agg(int8send(incarnation) || int8send(policy_version)"
                " || int8send(definition_version), ''), '') FROM policy_versions"
            )
        )
    ).scalar_one()
    return np.frombuffer(packed, dtype=">i8").reshape(-1, 3).astype(np.int64)


async def read_versions(connection: AsyncConnection) -> dict[int, tuple[int, int]]:
    """Return (policy version, definition version) of every experiment, by incarnation."""
    table = await read_version_table(connection)
    return {incarnation: (policy, definition) for incarnation, policy, definition in table.tolist()}


async def read_policy_versions(connection: AsyncConnection, incarnations: Sequence[int]) -> dict[int, int]:
    """Return the policy version of those of these experiments that exist."""
    rows = await connection.execute(
        text("SELECT incarnation, policy_version FROM policy_versions WHERE incarnation = ANY(:incarnations)"),
        {"incarnations": list(incarnations)},
    )
    return {row.incarnation: row.policy_version for row in rows}


def notifications(incarnations: Iterable[int]) -> list[str]:
    """Return the payloads that say that these experiments changed, each within Postgres' limit of 8,000 bytes."""
    words = [str(incarnation) for incarnation in sorted(incarnations)]
    return [",".join(words[i : i + _PER_PAYLOAD]) for i in range(0, len(words), _PER_PAYLOAD)]


def notified(payload: str) -> list[int]:
    """Return the incarnations of a payload; what is not a number is left out."""
    return [int(word) for word in payload.split(",") if word.isdigit()]
