"""Events into outcomes and evidence: one transaction a batch, exactly once.

Ordering that everything rests on: the batch first locks the `policy_versions` rows of its experiments, in id order, and
only a *later* statement reads events and outcomes. Under READ COMMITTED that statement's snapshot then holds every batch
that held the lock before; were both one statement, two writers of one decision would each count it. Every event of a
decision belongs to the same experiment, so nobody else can insert the same keys meanwhile: looking them up first and then
inserting plainly costs half of what INSERT … ON CONFLICT does.

The outcome of a decision is the greatest of its candidates (`bandit.reward`): the batch's own greatest is found first,
then compared with the stored one. Evidence moves by the difference between the two.

Where outcomes mature, `policy_versions.matured_to` says up to which time of the decision they are in the evidence. A later
one is stored with that time and listed in `pending_outcomes`, once; the evidence stays as it is until
`router.storage.maturing` moves `matured_to` past it. Both hold the lock, so an outcome is in the evidence exactly if its
`decided_at` is null or not after `matured_to`. Several receipts may date one decision differently: the first one counts.

Where units have a share, a first outcome takes one of it or is limited (`router.storage.shares`): when it is stored, also if
it waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import psycopg

from router.storage import columns
from router.storage.errors import translated
from router.storage.shares import TAKE_SHARES
from router.storage.times import DAY_US, day_of
from router.storage.trip import Statement, one_trip

_HOUR_US = 3_600_000_000


class EventStatus(StrEnum):
    """What became of a stored event; the names of the proto's Status without its prefix."""

    APPLIED = "applied"
    NEUTRAL = "neutral"
    LATE = "late"
    LIMITED = "limited"


class EventRow(NamedTuple):
    """An event that is ready to be stored. Times are microseconds since the epoch."""

    decision_key: bytes
    event_id: str
    incarnation: int
    arm: int
    segment: str
    #: "signal", "reward" or "call".
    kind: str
    #: The signal's name; None for other kinds.
    signal: str | None
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
    #: A keyed hash of what the client sent, to tell a repetition from a contradiction. Empty once its metadata was erased.
    content: bytes
    #: Call report, metadata and with it the unit's hash, as a JSON text; None where there is neither.
    details: str | None
    #: The unit's hash as a number; 0 where there is no unit.
    unit_hash: int = 0
    #: Outcomes of the unit that count, of the decisions of one day, or `shares.ONCE`; 0 is no limit.
    share: int = 0

    @property
    def key(self) -> tuple[bytes, int, str]:
        """What an event is unique by: its decision, its decision's day, its own id."""
        return (self.decision_key, self.decided_at_us // DAY_US, self.event_id)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a committed batch changed."""

    #: Positions of the rows that were known before.
    known: frozenset[int]
    #: How many of those came with another content.
    contradictions: int
    #: Experiments whose evidence moved.
    moved: tuple[int, ...]
    #: Positions of the rows whose decision's day is no longer kept: they were not stored.
    dropped: frozenset[int] = frozenset()
    #: Positions of the rows that were stored as limited.
    limited: frozenset[int] = frozenset()


def days_of(rows: Sequence[EventRow]) -> set[date]:
    """Return the UTC days of the rows' decisions, which name their partitions."""
    return {day_of(number * DAY_US) for number in {row.decided_at_us // DAY_US for row in rows}}


#: What a connection that applies events needs: its statements only ever look up keys, and a partition that is minutes old
#: has no statistics yet that would tell the planner so.
SESSION = """
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan
"""

LOCK = """
SELECT incarnation FROM policy_versions WHERE incarnation = ANY($1::int8[]) ORDER BY incarnation FOR UPDATE
"""

# Evidence is updated and inserted apart, because the CHECKs of an INSERT … ON CONFLICT would judge a negative difference as
# if it were a row.
ADD_EVIDENCE = """
updated AS (
    UPDATE evidence e
    SET success_micros = e.success_micros + d.success_micros, failure_micros = e.failure_micros + d.failure_micros,
        n = e.n + d.n
    FROM differences d
    WHERE e.incarnation = d.incarnation AND e.arm = d.arm AND e.segment = d.segment AND e.bucket = d.bucket
),
inserted AS (
    INSERT INTO evidence (incarnation, arm, segment, bucket, success_micros, failure_micros, n)
    SELECT incarnation, arm, segment, bucket, success_micros, failure_micros, n FROM differences d
    WHERE NOT coalesce((SELECT true FROM evidence e WHERE e.incarnation = d.incarnation AND e.arm = d.arm
                        AND e.segment = d.segment AND e.bucket = d.bucket LIMIT 1), false)
)
"""

# The range of days says nothing new. Being written out, it is known when the statement is planned: partitions beyond it are
# neither planned for nor locked. As parameters, each batch would lock every partition there is.
# One statement: its parts read the same snapshot, so `judged` holds outcomes as they were. Scalar subqueries, because an
# EXISTS may become a hash of the whole table. What has matured is looked up for each row only if something matures at all.
# A decision is called by the ordinal of its first event. The version is looked up once where there is one experiment.
# Contents of different lengths cannot be compared: one was erased, or hashed by a version that did so otherwise.
APPLY = """
WITH incoming AS MATERIALIZED (
    SELECT t.*, coalesce((SELECT CASE WHEN e.content <> t.content AND length(e.content) = length(t.content) THEN 2 ELSE 1 END
                          FROM events e
                          WHERE e.decision_day = t.decision_day AND e.decision_key = t.decision_key
                            AND e.event_id = t.event_id AND e.decision_day BETWEEN {first_day} AND {last_day}
                          LIMIT 1), 0) AS known,
           CASE WHEN cardinality($24::int8[]) = 1
                THEN (SELECT policy_version FROM policy_versions WHERE incarnation = ($24::int8[])[1])
                ELSE (SELECT v.policy_version FROM policy_versions v WHERE v.incarnation = t.incarnation LIMIT 1)
           END AS applied_version
    FROM unnest($1::int4[], $2::date[], $3::uuid[], $4::text[], $5::int8[], $6::int2[], $7::text[], $8::timestamptz[],
                $9::text[], $10::text[], $11::int2[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[],
                $15::int4[], $16::text[], $17::int4[], $18::int8[], $19::bytea[], $20::jsonb[],
                $21::int4[], $22::int8[], $23::int4[])
         AS t (ordinal, decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, signal, rank,
               decided_at, occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content,
               details, decision, unit_hash, share)
),
candidates AS (
    SELECT DISTINCT ON (decision)
           decision, decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id,
           reward_micros, decided_at, unit_hash, share
    FROM incoming
    WHERE known = 0 AND reward_micros IS NOT NULL
    ORDER BY decision, rank DESC, occurred_at DESC, event_id COLLATE "C" DESC
),
maturing AS MATERIALIZED (
    SELECT true FROM policy_versions WHERE incarnation = ANY($24::int8[]) AND matured_to IS NOT NULL LIMIT 1
),
judged AS MATERIALIZED (
    SELECT c.*, o.arm AS old_arm, o.segment AS old_segment, o.bucket AS old_bucket, o.reward_micros AS old_micros,
           o.arm IS NULL AS first, (c.rank, c.occurred_at, c.event_id) > (o.rank, o.occurred_at, o.event_id) AS replaces,
           coalesce(CASE WHEN o.arm IS NULL THEN c.decided_at ELSE o.decided_at END > v.matured_to, false) AS waits
    FROM candidates c
    LEFT JOIN LATERAL (SELECT matured_to FROM policy_versions
                       WHERE incarnation = c.incarnation AND (SELECT true FROM maturing) LIMIT 1) v ON true
    LEFT JOIN LATERAL (SELECT arm, segment, bucket, reward_micros, rank, occurred_at, event_id, decided_at FROM outcomes
                       WHERE decision_day = c.decision_day AND decision_key = c.decision_key
                         AND decision_day BETWEEN {first_day} AND {last_day} LIMIT 1) o ON true
),
{take_shares},
stored AS (
    INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, signal, rank,
                        decided_at, occurred_at, received_at, reward_micros, status, reward_rule_version,
                        policy_version, content, details, applied_version)
    SELECT decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, signal, rank, decided_at,
           occurred_at, received_at, CASE WHEN NOT is_limited THEN reward_micros END,
           CASE WHEN is_limited THEN 'limited' ELSE status END, reward_rule_version, policy_version, content,
           CASE WHEN is_limited THEN coalesce(details, '{}') || jsonb_build_object('reward_micros', reward_micros)
                ELSE details END, applied_version
    FROM (SELECT *, {is_limited} AS is_limited FROM incoming WHERE known = 0) i
),
firsts AS (
    INSERT INTO outcomes (decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id,
                          reward_micros, decided_at)
    SELECT decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at, event_id, reward_micros,
           CASE WHEN waits THEN decided_at END
    FROM judged WHERE first AND decision NOT IN (SELECT decision FROM limited)
),
pending AS (
    INSERT INTO pending_outcomes (incarnation, decided_at, decision_day, decision_key)
    SELECT incarnation, decided_at, decision_day, decision_key FROM judged
    WHERE first AND waits AND decision NOT IN (SELECT decision FROM limited)
),
replacements AS (
    UPDATE outcomes o
    SET arm = j.arm, segment = j.segment, bucket = j.bucket, rank = j.rank, occurred_at = j.occurred_at,
        event_id = j.event_id, reward_micros = j.reward_micros
    FROM judged j
    WHERE j.replaces AND o.decision_day = j.decision_day AND o.decision_key = j.decision_key
      AND o.decision_day BETWEEN {first_day} AND {last_day}
),
changes AS (
    SELECT incarnation, arm, segment, bucket, reward_micros, 1 AS sign FROM judged
    WHERE (first OR replaces) AND NOT waits AND decision NOT IN (SELECT decision FROM limited)
    UNION ALL
    SELECT incarnation, old_arm, old_segment, old_bucket, old_micros, -1 FROM judged WHERE replaces AND NOT waits
),
differences AS MATERIALIZED (
    SELECT incarnation, arm, segment, bucket, sum(sign * reward_micros)::int8 AS success_micros,
           sum(sign * (1000000 - reward_micros))::int8 AS failure_micros, sum(sign)::int8 AS n
    FROM changes GROUP BY incarnation, arm, segment, bucket
    HAVING sum(sign * reward_micros) <> 0 OR sum(sign) <> 0
),
{add_evidence},
bumped AS (
    UPDATE policy_versions SET policy_version = policy_version + 1, changed_at = clock_timestamp()
    WHERE incarnation IN (SELECT incarnation FROM differences)
    RETURNING incarnation
)
SELECT (SELECT array_agg(ordinal) FROM incoming WHERE known > 0), (SELECT count(*) FROM incoming WHERE known = 2),
       (SELECT array_agg(incarnation) FROM bumped),
       (SELECT array_agg(ordinal) FILTER (WHERE {is_limited}) FROM incoming WHERE known = 0)
"""

# In a list of columns or a FILTER, where this is a lookup in a hash. As a condition of WHERE it would become a join.
_IS_LIMITED = "(reward_micros IS NOT NULL AND decision IN (SELECT decision FROM limited))"


@lru_cache(maxsize=256)
def apply_statement(first_day: date, last_day: date) -> str:
    """Return `APPLY` for batches of these days. The first day may be earlier, so that there are few such statements."""
    span = (last_day - first_day).days
    first_day = last_day - timedelta(days=(1 << span.bit_length()) - 1)
    statement = APPLY.replace("{add_evidence}", ADD_EVIDENCE.strip()).replace("{take_shares}", TAKE_SHARES.strip())
    statement = statement.replace("{is_limited}", _IS_LIMITED)
    return statement.replace("{first_day}", f"date '{first_day}'").replace("{last_day}", f"date '{last_day}'")


async def apply_events(connection: psycopg.AsyncConnection[Any], rows: Sequence[EventRow]) -> BatchResult:
    """Store a batch of events with distinct keys, fold them and move the evidence, in one durable transaction.

    The connection must have been told `SESSION`; partitions of the events' days must exist. Raises StorageUnavailableError
    (nothing was stored, or the connection broke around the commit: sending the batch again is safe) and RefusedRowError (a
    value that Postgres does not take).
    """
    days = days_of(rows)
    experiments = columns.bigints(sorted({row.incarnation for row in rows}))
    with translated():
        *_, applied = await one_trip(
            connection,
            [
                Statement(LOCK, [experiments]),
                Statement(apply_statement(min(days), max(days)), [*_encoded(rows), experiments]),
            ],
        )
    known, contradictions, moved, limited = (applied.get_value(0, column) for column in range(4))
    return BatchResult(
        frozenset(_numbers(known)),
        int(contradictions or 0),
        tuple(_numbers(moved)),
        limited=frozenset(_numbers(limited)),
    )


def _numbers(array: bytes | None) -> list[int]:
    """Read an array of numbers in text format."""
    return [int(number) for number in array.strip(b"{}").split(b",")] if array else []


def _encoded(rows: Sequence[EventRow]) -> list[columns.Column]:
    """The parameters of `APPLY`, but for the last one."""
    given = dict(zip(EventRow._fields, zip(*rows, strict=True), strict=True))
    decided_us, occurred_us, received_us = (
        np.array(given[name], dtype=np.int64) for name in ("decided_at_us", "occurred_at_us", "received_at_us")
    )
    days = (decided_us // DAY_US).tolist()
    first: dict[tuple[bytes, int], int] = {}
    decisions = [first.setdefault(of, n) for n, of in enumerate(zip(given["decision_key"], days, strict=True))]
    return [
        columns.integers(np.arange(len(rows))),
        columns.days(decided_us),
        columns.uuids(given["decision_key"]),
        columns.texts(given["event_id"]),
        columns.bigints(given["incarnation"]),
        columns.smallints(given["arm"]),
        columns.texts(given["segment"]),
        columns.times(decided_us - decided_us % _HOUR_US),
        columns.texts(given["kind"]),
        columns.texts(given["signal"]),
        columns.smallints(given["rank"]),
        columns.times(decided_us),
        columns.times(occurred_us),
        columns.times(received_us),
        columns.nullable_integers(given["reward_micros"]),
        columns.texts(given["status"]),
        columns.integers(given["reward_rule_version"]),
        columns.bigints(given["policy_version"]),
        columns.blobs(given["content"]),
        columns.documents(given["details"]),
        columns.integers(decisions),
        columns.bigints(given["unit_hash"]),
        columns.integers(given["share"]),
    ]
