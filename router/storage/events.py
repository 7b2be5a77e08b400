"""Events into outcomes and evidence: one transaction a batch, exactly once.

Ordering that everything rests on: the batch first locks the `policy_versions` rows of its experiments, in id order, and
only a *later* statement reads outcomes. Under READ COMMITTED that statement's snapshot then holds every batch that held
the lock before; were both one statement, two writers of one decision would each count it.

The outcome of a decision is the greatest of its candidates (`bandit.reward`): the batch's own greatest is found first,
then compared with the stored one. Evidence moves by the difference between the two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import psycopg

from router.storage.errors import translated

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


class EventStatus(Enum):
    """What became of a stored event; the names of the proto's Status without its prefix."""

    APPLIED = "applied"
    NEUTRAL = "neutral"
    LATE = "late"
    LIMITED = "limited"


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event that is ready to be stored. Times are microseconds since the epoch."""

    decision_key: bytes
    event_id: str
    incarnation: int
    arm: int
    segment: str
    #: "signal", "reward" or "call".
    kind: str
    rank: int
    decided_at_us: int
    occurred_at_us: int
    received_at_us: int
    #: None where the event maps to no reward or does not count.
    reward_micros: int | None
    status: EventStatus
    reward_rule_version: int
    #: The policy that made the decision.
    policy_version: int
    #: A hash of what the client sent, to tell a repetition from a contradiction.
    content: bytes
    #: Signal, call report and metadata, as stored.
    details: Mapping[str, Any] | None

    @property
    def key(self) -> tuple[bytes, int, str]:
        """What an event is unique by: its decision, its decision's day, its own id."""
        return (self.decision_key, self.decided_at_us // _DAY_US, self.event_id)

    @property
    def decision_day(self) -> date:
        """The UTC day of the decision, which names the partition."""
        return day_of(self.decided_at_us)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a committed batch changed."""

    #: Keys of the events that were stored now; the others were known.
    stored: frozenset[tuple[bytes, int, str]]
    #: How many of the known ones came with another content.
    contradictions: int
    #: Experiments whose evidence moved.
    moved: tuple[int, ...]


def day_of(time_us: int) -> date:
    """Return the UTC day of a time."""
    return (_EPOCH + timedelta(days=time_us // _DAY_US)).date()


_LOCK = """
SELECT incarnation FROM policy_versions WHERE incarnation = ANY(%s) ORDER BY incarnation FOR UPDATE
"""

# One statement: its parts read the same snapshot, so `replaced` holds outcomes as they were. None of its parts joins two
# others: the planner cannot know their sizes and would compare every row with every row. Evidence is updated and inserted
# apart, because the CHECKs of an INSERT … ON CONFLICT would judge a negative difference as if it were a row.
_APPLY = """
WITH incoming AS (
    SELECT decision_key, date '1970-01-01' + (decided_us / 86400000000)::int AS decision_day, event_id, incarnation, arm,
           segment, timestamptz 'epoch' + (decided_us / 3600000000) * interval '1 hour' AS bucket, kind, rank,
           timestamptz 'epoch' + decided_us * interval '1 microsecond' AS decided_at,
           timestamptz 'epoch' + occurred_us * interval '1 microsecond' AS occurred_at,
           timestamptz 'epoch' + received_us * interval '1 microsecond' AS received_at,
           reward_micros, status, reward_rule_version, policy_version, content, details::jsonb AS details
    FROM unnest(%s::uuid[], %s::text[], %s::int8[], %s::int2[], %s::text[], %s::text[], %s::int2[], %s::int8[],
                %s::int8[], %s::int8[], %s::int4[], %s::text[], %s::int4[], %s::int8[], %s::bytea[], %s::text[])
         AS t (decision_key, event_id, incarnation, arm, segment, kind, rank, decided_us, occurred_us, received_us,
               reward_micros, status, reward_rule_version, policy_version, content, details)
),
stored AS (
    INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank, decided_at,
                        occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content,
                        details)
    SELECT decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank, decided_at,
           occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content, details
    FROM incoming
    ON CONFLICT DO NOTHING
    RETURNING decision_day, decision_key, event_id, incarnation, arm, segment, bucket, rank, occurred_at, reward_micros
),
candidates AS (
    SELECT DISTINCT ON (decision_day, decision_key)
           decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id, reward_micros
    FROM stored
    WHERE reward_micros IS NOT NULL
    ORDER BY decision_day, decision_key, rank DESC, occurred_at DESC, event_id COLLATE "C" DESC
),
replaced AS (
    SELECT o.incarnation, o.arm, o.segment, o.bucket, o.reward_micros
    FROM candidates c JOIN outcomes o USING (decision_day, decision_key)
    WHERE (c.rank, c.occurred_at, c.event_id) > (o.rank, o.occurred_at, o.event_id)
),
winners AS (
    INSERT INTO outcomes AS o (decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id,
                               reward_micros)
    SELECT decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id, reward_micros
    FROM candidates
    ON CONFLICT (decision_day, decision_key) DO UPDATE
    SET arm = excluded.arm, segment = excluded.segment, bucket = excluded.bucket, rank = excluded.rank,
        occurred_at = excluded.occurred_at, event_id = excluded.event_id, reward_micros = excluded.reward_micros
    WHERE (excluded.rank, excluded.occurred_at, excluded.event_id) > (o.rank, o.occurred_at, o.event_id)
    RETURNING decision_day, decision_key, incarnation, arm, segment, bucket, reward_micros
),
changes AS (
    SELECT incarnation, arm, segment, bucket, reward_micros, 1 AS sign FROM winners
    UNION ALL
    SELECT incarnation, arm, segment, bucket, reward_micros, -1 FROM replaced
),
differences AS (
    SELECT incarnation, arm, segment, bucket, sum(sign * reward_micros)::int8 AS success_micros,
           sum(sign * (1000000 - reward_micros))::int8 AS failure_micros, sum(sign)::int8 AS n
    FROM changes GROUP BY incarnation, arm, segment, bucket
    HAVING sum(sign * reward_micros) <> 0 OR sum(sign) <> 0
),
updated AS (
    UPDATE evidence e
    SET success_micros = e.success_micros + d.success_micros, failure_micros = e.failure_micros + d.failure_micros,
        n = e.n + d.n
    FROM differences d
    WHERE (e.incarnation, e.arm, e.segment, e.bucket) = (d.incarnation, d.arm, d.segment, d.bucket)
    RETURNING e.incarnation, e.arm, e.segment, e.bucket
),
inserted AS (
    INSERT INTO evidence (incarnation, arm, segment, bucket, success_micros, failure_micros, n)
    SELECT incarnation, arm, segment, bucket, success_micros, failure_micros, n FROM differences d
    WHERE NOT EXISTS (SELECT FROM evidence e WHERE (e.incarnation, e.arm, e.segment, e.bucket)
                                                 = (d.incarnation, d.arm, d.segment, d.bucket))
),
bumped AS (
    UPDATE policy_versions v SET policy_version = v.policy_version + 1
    WHERE incarnation IN (SELECT incarnation FROM differences)
    RETURNING incarnation
)
SELECT decision_key, decision_day - date '1970-01-01', event_id, NULL::int8 FROM stored
UNION ALL
SELECT NULL, NULL, NULL, incarnation FROM bumped
"""

_CONTRADICTIONS = """
SELECT count(*) FROM unnest(%s::uuid[], %s::int4[], %s::text[], %s::bytea[]) AS t (decision_key, day, event_id, content)
JOIN events e ON e.decision_day = date '1970-01-01' + t.day AND e.decision_key = t.decision_key
             AND e.event_id = t.event_id
WHERE e.content <> t.content
"""


async def apply_events(connection: psycopg.AsyncConnection[Any], rows: Sequence[EventRow]) -> BatchResult:
    """Store a batch of events with distinct keys, fold them and move the evidence, in one durable transaction.

    Partitions of their days must exist. Raises StorageUnavailableError (nothing was stored, or the connection broke
    around the commit: sending the batch again is safe) and RefusedRowError (a value that Postgres does not take).
    """
    columns = list(zip(*(_parameters(row) for row in rows), strict=True))
    incarnations = sorted({row.incarnation for row in rows})
    with translated():
        try:
            async with connection.pipeline(), connection.transaction():
                await connection.execute(_LOCK, (incarnations,), prepare=True)
                cursor = await connection.execute(_APPLY, [list(column) for column in columns], prepare=True)
            result = await cursor.fetchall()
        except BaseException:
            # A cancelled or broken pipeline leaves the connection in a state that nothing should build on.
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                await connection.close()
            raise
    stored = frozenset((key.bytes, day, event_id) for key, day, event_id, moved in result if moved is None)
    repeated = [row for row in rows if row.key not in stored]
    return BatchResult(
        stored=stored,
        contradictions=await _contradictions(connection, repeated) if repeated else 0,
        moved=tuple(moved for _, _, _, moved in result if moved is not None),
    )


async def _contradictions(connection: psycopg.AsyncConnection[Any], rows: Sequence[EventRow]) -> int:
    with translated():
        async with connection.transaction():
            cursor = await connection.execute(
                _CONTRADICTIONS,
                (
                    [UUID(bytes=row.decision_key) for row in rows],
                    [row.decided_at_us // _DAY_US for row in rows],
                    [row.event_id for row in rows],
                    [row.content for row in rows],
                ),
            )
            found = await cursor.fetchone()
    return int(found[0]) if found else 0


def _parameters(row: EventRow) -> tuple[Any, ...]:
    return (
        UUID(bytes=row.decision_key),
        row.event_id,
        row.incarnation,
        row.arm,
        row.segment,
        row.kind,
        row.rank,
        row.decided_at_us,
        row.occurred_at_us,
        row.received_at_us,
        row.reward_micros,
        row.status.value,
        row.reward_rule_version,
        row.policy_version,
        row.content,
        None if row.details is None else json.dumps(row.details),
    )
