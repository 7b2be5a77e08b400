"""Decisions and the allocations they were drawn from, from journal to Postgres: storing them twice changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from router.storage.errors import translated


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """A vector that decisions were drawn from."""

    allocation_id: bytes
    incarnation: int
    policy_version: int
    #: Arm numbers, aligned with the probabilities.
    arms: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as the log keeps it."""

    decision_key: bytes
    incarnation: int
    arm: int
    decided_at_us: int
    propensity: float
    policy_version: int
    allocation_id: bytes
    #: The proto's Reason without its prefix, in lower case.
    reason: str
    unit_id: str
    session_id: str
    turn_id: str
    request_id: str
    segment: str
    prompt_fingerprint: str
    prompt_similarity: float | None


_INSERT_ALLOCATION = """
INSERT INTO allocations (allocation_id, incarnation, policy_version, arms, probabilities)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""

_INSERT_DECISIONS = """
INSERT INTO decisions (decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version,
                       allocation_id, reason, unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint,
                       prompt_similarity)
SELECT date '1970-01-01' + (decided_us / 86400000000)::int, decision_key, incarnation, arm,
       timestamptz 'epoch' + decided_us * interval '1 microsecond', propensity, policy_version, allocation_id, reason,
       unit_id, session_id, turn_id, request_id, segment, prompt_fingerprint, prompt_similarity
FROM unnest(%s::uuid[], %s::int8[], %s::int2[], %s::int8[], %s::float8[], %s::int8[], %s::uuid[], %s::text[],
            %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[])
     AS t (decision_key, incarnation, arm, decided_us, propensity, policy_version, allocation_id, reason, unit_id,
           session_id, turn_id, request_id, segment, prompt_fingerprint, prompt_similarity)
ON CONFLICT DO NOTHING
"""


async def store_decisions(
    connection: psycopg.AsyncConnection[Any], allocations: Sequence[AllocationRow], decisions: Sequence[DecisionRow]
) -> None:
    """Store what is not stored yet, in one transaction. Partitions of the decisions' days must exist."""
    with translated():
        async with connection.transaction():
            if allocations:
                async with connection.cursor() as cursor:
                    await cursor.executemany(
                        _INSERT_ALLOCATION,
                        [
                            (
                                UUID(bytes=a.allocation_id),
                                a.incarnation,
                                a.policy_version,
                                list(a.arms),
                                list(a.probabilities),
                            )
                            for a in allocations
                        ],
                    )
            if decisions:
                columns = zip(*(_parameters(row) for row in decisions), strict=True)
                await connection.execute(_INSERT_DECISIONS, [list(column) for column in columns], prepare=True)


def _parameters(row: DecisionRow) -> tuple[Any, ...]:
    return (
        UUID(bytes=row.decision_key),
        row.incarnation,
        row.arm,
        row.decided_at_us,
        row.propensity,
        row.policy_version,
        UUID(bytes=row.allocation_id),
        row.reason,
        row.unit_id,
        row.session_id,
        row.turn_id,
        row.request_id,
        row.segment,
        row.prompt_fingerprint,
        row.prompt_similarity,
    )
