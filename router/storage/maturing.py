"""Maturing: outcomes of young decisions wait, and enter the evidence once their decision is old enough.

Protocol
    `policy_versions.matured_to` is null where every outcome counts at once. Elsewhere an outcome is in the evidence exactly
    if its decision was made until then: what comes earlier waits, and is listed in `pending_outcomes`
    (`router.storage.events`). Whoever moves `matured_to` holds the row's lock, as every batch of events does, and counts
    in the same transaction what it moves past. So at every commit

        evidence + evidence_base = fold of the outcomes that are not listed as pending

    and what is listed is later than `matured_to`. Where outcomes of a day that is being dropped still wait, `matured_to`
    moves to its end, once it is closed. It never moves back, whatever the clocks do.
"""

import logging
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

import psycopg

from router.storage.errors import translated
from router.storage.events import ADD_EVIDENCE
from router.storage.times import time_of

log = logging.getLogger(__name__)

#: Outcomes that one transaction counts: it holds the lock that batches of events wait for.
_AT_ONCE = 5_000


class Matured(NamedTuple):
    """What one transaction did."""

    #: Outcomes of decisions until then count; None: all do.
    matured_to_us: int | None
    #: Outcomes that it counted.
    outcomes: int
    #: Whether it did all that was asked for.
    done: bool


# For these transactions only: a table that is minutes old has no statistics that would tell the planner to use its index.
_PLANS = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true)
"""

_LOCK = """
SELECT (extract(epoch FROM matured_to) * 1000000)::int8 FROM policy_versions WHERE incarnation = %s FOR UPDATE
"""

# Outcomes that waited before and counted early, when maturing was given up: they must not become uncounted.
_LATEST_WAITED = """
SELECT (extract(epoch FROM max(decided_at)) * 1000000)::int8 FROM outcomes
WHERE incarnation = %s AND decided_at > %s AND decision_day >= %s
"""

_SET = "UPDATE policy_versions SET matured_to = %s WHERE incarnation = %s"

_BOUND = """
SELECT (extract(epoch FROM decided_at) * 1000000)::int8 FROM pending_outcomes
WHERE incarnation = %s AND decided_at <= %s ORDER BY decided_at OFFSET %s LIMIT 1
"""

_COUNT = f"""
WITH matured AS MATERIALIZED (
    DELETE FROM pending_outcomes
    WHERE incarnation = %(incarnation)s AND decided_at >= %(first)s AND decided_at <= %(last)s
    RETURNING decision_day, decision_key
),
counted AS MATERIALIZED (
    SELECT o.arm, o.segment, o.bucket, o.reward_micros
    FROM matured m
    CROSS JOIN LATERAL (SELECT arm, segment, bucket, reward_micros FROM outcomes
                        WHERE decision_day = m.decision_day AND decision_key = m.decision_key
                          AND decision_day BETWEEN %(first_day)s AND %(last_day)s LIMIT 1) o
),
differences AS MATERIALIZED (
    SELECT %(incarnation)s::int8 AS incarnation, arm, segment, bucket, sum(reward_micros)::int8 AS success_micros,
           sum(1000000 - reward_micros)::int8 AS failure_micros, count(*)::int8 AS n
    FROM counted GROUP BY arm, segment, bucket
),
{ADD_EVIDENCE.strip()},
bumped AS (
    UPDATE policy_versions SET policy_version = policy_version + 1, changed_at = clock_timestamp()
    WHERE incarnation = %(incarnation)s AND (SELECT count(*) FROM counted) > 0
)
SELECT count(*) FROM counted
"""

_WAITING_EXPERIMENTS = """
SELECT v.incarnation FROM policy_versions v
WHERE (SELECT true FROM pending_outcomes p WHERE p.incarnation = v.incarnation AND p.decided_at >= %s AND p.decided_at < %s
       LIMIT 1)
ORDER BY v.incarnation
"""


async def begin(connection: psycopg.AsyncConnection[Any], incarnation: int, now_us: int) -> int:
    """Let outcomes of decisions after now wait; returns from when on. What is older counts at once, as before.

    The connection must be in autocommit mode. Raises StorageError.
    """
    with translated():
        async with connection.transaction():
            matured_to_us = await _locked(connection, incarnation)
            if matured_to_us is not None:
                return matured_to_us
            now = time_of(now_us)
            found = await (await connection.execute(_LATEST_WAITED, (incarnation, now, now.date()))).fetchone()
            begun_us = max(now_us, (found[0] if found else None) or 0)
            await connection.execute(_SET, (time_of(begun_us), incarnation))
    return begun_us


async def advance(
    connection: psycopg.AsyncConnection[Any], incarnation: int, to_us: int, *, at_once: int = _AT_ONCE
) -> Matured:
    """Count the outcomes of decisions made until `to_us`: the oldest `at_once` of those that wait, or a few more.

    The connection must be in autocommit mode. Raises StorageError: then nothing was counted, or the connection broke around
    the commit.
    """
    with translated():
        async with connection.transaction():
            matured_to_us = await _locked(connection, incarnation)
            if matured_to_us is None or matured_to_us >= to_us:
                return Matured(matured_to_us, 0, done=True)
            bound_us = await _bound(connection, incarnation, time_of(to_us), at_once)
            reached_us = to_us if bound_us is None else bound_us
            counted = await _count(connection, incarnation, time_of(matured_to_us), time_of(reached_us))
            await connection.execute(_SET, (time_of(reached_us), incarnation))
    return Matured(reached_us, counted, done=bound_us is None)


async def finish(connection: psycopg.AsyncConnection[Any], incarnation: int, *, at_once: int = _AT_ONCE) -> Matured:
    """Count what waits, whatever its age, the oldest `at_once` or a few more; once that is all, outcomes count at once.

    The connection must be in autocommit mode. Raises StorageError, as `advance`.
    """
    with translated():
        async with connection.transaction():
            matured_to_us = await _locked(connection, incarnation)
            if matured_to_us is None:
                return Matured(None, 0, done=True)
            last = datetime.max.replace(tzinfo=UTC)
            bound_us = await _bound(connection, incarnation, last, at_once)
            until = last if bound_us is None else time_of(bound_us)
            counted = await _count(connection, incarnation, time_of(matured_to_us), until)
            await connection.execute(_SET, (None if bound_us is None else until, incarnation))
    return Matured(bound_us, counted, done=bound_us is None)


async def count_day(connection: psycopg.AsyncConnection[Any], day: date) -> int:
    """Count the outcomes of a day's decisions that wait, because the day is about to be dropped; returns how many.

    Where there are any, `matured_to` moves to the end of the day.

    No event of that day may be stored any more. The connection must be in autocommit mode.
    """
    midnight = datetime.combine(day, time(), UTC)
    tomorrow = midnight + timedelta(days=1)
    last = tomorrow - timedelta(microseconds=1)
    with translated():
        async with connection.transaction():
            rows = await (await connection.execute(_WAITING_EXPERIMENTS, (midnight, tomorrow))).fetchall()
        total = 0
        for (incarnation,) in rows:
            async with connection.transaction():
                matured_to_us = await _locked(connection, incarnation)
                total += await _count(connection, incarnation, midnight, last)
                if matured_to_us is not None and time_of(matured_to_us) < last:
                    # Days are dropped in order: no earlier decision waits any more, or could.
                    await connection.execute(_SET, (last, incarnation))
    if total:
        log.info("counted %d outcomes of %s early: the day is dropped", total, day)
    return total


async def _locked(connection: psycopg.AsyncConnection[Any], incarnation: int) -> int | None:
    """Lock an experiment against batches of events; returns its `matured_to`."""
    await connection.execute(_PLANS)
    row = await (await connection.execute(_LOCK, (incarnation,))).fetchone()
    return None if row is None else row[0]


async def _bound(connection: psycopg.AsyncConnection[Any], incarnation: int, until: datetime, at_once: int) -> int | None:
    """Return the time of the outcome after which to stop, None if there are not so many."""
    row = await (await connection.execute(_BOUND, (incarnation, until, at_once - 1))).fetchone()
    return None if row is None else int(row[0])


async def _count(connection: psycopg.AsyncConnection[Any], incarnation: int, first: datetime, last: datetime) -> int:
    # A statement of its own, after the lock: it sees every batch that held the lock before.
    parameters = {
        "incarnation": incarnation,
        "first": first,
        "last": last,
        "first_day": first.date(),
        "last_day": last.date(),
    }
    # Planned with the days at hand, so that no other is locked.
    row = await (await connection.execute(_COUNT, parameters, prepare=False)).fetchone()
    assert row is not None  # noqa: S101 - a count has one row
    return int(row[0])
