"""What release 0.1.0 sends to Postgres, as it was released: it must go on working while replicas are replaced one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import psycopg
from growth import BASE_US, DAY_US

LOCK = """
SELECT incarnation FROM policy_versions WHERE incarnation = ANY(%s) ORDER BY incarnation FOR UPDATE
"""

APPLY = """
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

INSERT_ALLOCATION = """
INSERT INTO allocations (allocation_id, incarnation, policy_version, arms, probabilities)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""

INSERT_DECISIONS = """
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

CLAIM = """
WITH wanted AS (
    SELECT * FROM unnest(%s::int8[], %s::text[], %s::int2[], %s::float8[], %s::timestamptz[], %s::timestamptz[])
         AS t (incarnation, unit_id, arm, propensity, drawn_at, expires_at)
),
claimed AS (
    INSERT INTO sticky_assignments (incarnation, unit_id, epoch, arm, propensity, drawn_at, expires_at)
    SELECT incarnation, unit_id, 1, arm, propensity, drawn_at, expires_at FROM wanted ORDER BY incarnation, unit_id
    ON CONFLICT DO NOTHING
    RETURNING incarnation, unit_id, epoch, arm, propensity, expires_at
)
SELECT incarnation, unit_id, epoch, arm, propensity, expires_at, true FROM claimed
UNION ALL
SELECT s.incarnation, s.unit_id, s.epoch, s.arm, s.propensity, s.expires_at, false
FROM wanted JOIN sticky_assignments s USING (incarnation, unit_id)
"""

READ_EVIDENCE = """
SELECT v.incarnation, e.arm, e.success_micros::bigint, e.failure_micros::bigint, e.n::bigint
FROM policy_versions v LEFT JOIN LATERAL (SELECT arm, sum(success_micros) AS success_micros,
 sum(failure_micros) AS failure_micros, sum(n) AS n FROM evidence
 WHERE evidence.incarnation = v.incarnation GROUP BY arm) e ON true
WHERE v.incarnation = ANY(%s)
"""


def ensure_partition(connection: psycopg.Connection[Any], day: date) -> None:
    """Make the partitions of a day."""
    connection.execute("SELECT pg_advisory_xact_lock(7261180212)")
    for parent in ("decisions", "events", "outcomes"):
        name = f"{parent}_{day:%Y%m%d}"
        (found,) = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() or (None,)
        if found is None:
            connection.execute(f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL)")
            connection.execute(
                f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
            )


def apply(connection: psycopg.Connection[Any], rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Store and fold events, the rows of `event`."""
    rows = list(rows)
    connection.execute(LOCK, (sorted({row[2] for row in rows}),))
    return connection.execute(APPLY, [list(column) for column in zip(*rows, strict=True)]).fetchall()


def event(number: int, name: str, *, day: int = 0, signal: str | None = None, **fields: Any) -> tuple[Any, ...]:
    """A row of event parameters: a signal if it has a name, else a reward; `fields` go into its details."""
    decided_us = BASE_US + day * DAY_US + number * 1_000_000
    details = {**({} if signal is None else {"signal": signal}), **fields}
    micros = {None: 250_000, "task_completed": 1_000_000, "thumbs_down": 0}.get(signal)
    status = "neutral" if micros is None else "applied"
    kind = "reward" if signal is None else "signal"
    return (
        *(f"{number:032x}", name, 1 + number % 2, number % 3, "", kind, 2 if signal else 4),
        *(decided_us, decided_us, decided_us, micros, status, 1, 1, name.encode(), json.dumps(details) if details else None),
    )


def decide(connection: psycopg.Connection[Any], number: int, day: int = 0) -> None:
    """Store a decision and its allocation."""
    allocation = f"{number % 4:032x}"
    connection.execute(INSERT_ALLOCATION, (allocation, 1, 1, [0, 1], [0.5, 0.5]))
    decided_us = BASE_US + day * DAY_US + number * 1_000_000
    row = (f"{number:032x}", 1 + number % 2, number % 3, decided_us, 0.5, 1, allocation, "sampled", *("",) * 6, None)
    connection.execute(INSERT_DECISIONS, [[value] for value in row])
