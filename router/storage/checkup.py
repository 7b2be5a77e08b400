"""What `doctor` asks a database: its clock, its partitions, whether notifications arrive, and whether feedback does."""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from bandit.reward import Rank
from router.storage.connecting import DatabaseUrl, SyncConnection, connect
from router.storage.errors import translated
from router.storage.partitions import PARTITIONED, partition_name

#: Decisions of one experiment that are looked at.
SAMPLED_DECISIONS = 2_000
#: A channel that no router listens to.
_CHANNEL = "bandit_router_doctor"

_MISSING = "SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(name) IS NULL ORDER BY name"

# That nothing was heard, which is what no_feedback and a derived session_abandoned say, covers no decision.
_COVERAGE = f"""
SELECT e.experiment_id, count(d.decision_key), count(o.covered)
FROM experiments e
JOIN LATERAL (SELECT decision_day, decision_key FROM decisions
              WHERE incarnation = e.incarnation AND decision_day BETWEEN %(first)s AND %(last)s
                AND decided_at BETWEEN now() - interval '2 days' AND now() - interval '15 minutes'
                AND reason NOT IN ('forced', 'holdout')
              ORDER BY decided_at DESC LIMIT {SAMPLED_DECISIONS}) d ON true
LEFT JOIN LATERAL (SELECT true AS covered FROM events
                   WHERE decision_day = d.decision_day AND decision_key = d.decision_key AND kind <> 'call'
                     AND (rank >= {int(Rank.SIGNAL)} OR signal <> 'session_abandoned') LIMIT 1) o ON true
WHERE e.state = 'running'
GROUP BY e.experiment_id ORDER BY e.experiment_id
"""

_ROUTERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'bandit-router' AND query LIKE 'LISTEN%%'
"""

_VERSIONS = "SELECT e.experiment_id, v.policy_version FROM policy_versions v JOIN experiments e USING (incarnation)"


class Covered(NamedTuple):
    """Recent decisions of a running experiment, and how many of them somebody said something about."""

    experiment_id: str
    decisions: int
    covered: int


def clock_ahead_s(connection: SyncConnection) -> tuple[float, float]:
    """Return by how many seconds Postgres' clock is ahead of this host's, and how far that may be off."""
    best = (0.0, float("inf"))
    for _ in range(5):
        before = time.time()
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        after = time.time()
        assert row is not None  # noqa: S101 - a SELECT without FROM has one row
        if (after - before) / 2 < best[1]:
            best = row[0] - (before + after) / 2, (after - before) / 2
    return best


def missing_partitions(connection: SyncConnection, today: date, ahead: int) -> list[tuple[date, list[str]]]:
    """Return which tables lack a partition on which of these days: today and those after it."""
    found = []
    for day in (today + timedelta(days=n) for n in range(ahead + 1)):
        names = [partition_name(parent, day) for parent in PARTITIONED]
        missing = [name for (name,) in connection.execute(_MISSING, [names])]
        if missing:
            found.append((day, missing))
    return found


def heard_after_s(url: DatabaseUrl, patience_s: float) -> float | None:
    """Return how long a notification of one connection takes to another, as between replicas; None if it does not arrive."""
    channel = sql.Identifier(_CHANNEL)
    with connect(url, autocommit=True) as hearing, connect(url, autocommit=True) as telling, translated():
        hearing.execute(sql.SQL("LISTEN {}").format(channel))
        word = f"{time.monotonic_ns()}"
        began = time.monotonic()
        telling.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, word))
        for heard in hearing.notifies(timeout=patience_s):
            if heard.payload == word:
                return time.monotonic() - began
    return None


def coverage(connection: SyncConnection, now: datetime) -> list[Covered]:
    """Return what is heard of decisions that are 15 minutes to two days old, of every running experiment that has some."""
    today = now.astimezone(UTC).date()
    values = {"first": today - timedelta(days=2), "last": today}
    with translated(), connection.transaction():
        connection.execute("SET LOCAL statement_timeout = '10s'")
        return [Covered(*row) for row in connection.execute(_COVERAGE, values)]


def policy_versions(connection: SyncConnection) -> dict[str, int]:
    """Return the policy version of every experiment."""
    rows: Sequence[Any] = connection.execute(_VERSIONS).fetchall()
    return dict(rows)


def listening(connection: psycopg.Connection[Any]) -> int:
    """Return how many connections of routers wait for notifications."""
    row = connection.execute(_ROUTERS).fetchone()
    return 0 if row is None else int(row[0])
