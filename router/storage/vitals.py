"""What the metrics say of experiments, read from Postgres in bounded time: every statement looks at a sample or at keys."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text

from bandit.reward import Rank
from router.storage.database import Connection
from router.storage.metrics import plan_for_keys
from router.storage.partitions import partition_name
from router.storage.times import day_of, time_of

#: The newest decisions of an experiment that are looked at for feedback.
COVERAGE_DECISIONS: Final = 10_000
#: About as many bytes of events are sampled for orphans: some ten thousand of them.
_SAMPLED_BYTES: Final = 4 * 1024 * 1024
#: A statement that takes longer is given up.
_PATIENCE: Final = "SET LOCAL statement_timeout = '3s'"

_STATES = "SELECT state, count(*) AS experiments FROM experiments GROUP BY state"

_NEWEST = """
SELECT v.incarnation, e.experiment_id, v.policy_version, v.definition_version, s.policy_version AS kept_version,
       (extract(epoch FROM s.taken_at) * 1000000)::int8 AS kept_at_us
FROM policy_versions v JOIN experiments e USING (incarnation)
LEFT JOIN LATERAL (SELECT policy_version, taken_at FROM snapshots WHERE incarnation = v.incarnation
                   ORDER BY policy_version DESC LIMIT 1) s ON true
WHERE e.state IN ('running', 'shadow')
ORDER BY v.changed_at DESC, v.incarnation LIMIT :limit
"""

# That nothing was heard, which is what no_feedback and a derived session_abandoned say, covers no decision.
_COVERAGE = f"""
SELECT d.arm, count(*), count(e.covered)
FROM (SELECT decision_day, decision_key, arm FROM decisions
      WHERE incarnation = :incarnation AND decided_at >= :since AND decided_at < :until
        AND decision_day BETWEEN :first_day AND :last_day AND reason NOT IN ('forced', 'holdout')
      ORDER BY decided_at DESC LIMIT {COVERAGE_DECISIONS}) d
LEFT JOIN LATERAL (SELECT true AS covered FROM events
                   WHERE decision_day = d.decision_day AND decision_key = d.decision_key
                     AND decision_day BETWEEN :first_day AND :last_day AND kind <> 'call'
                     AND (rank >= {int(Rank.SIGNAL)} OR signal <> 'session_abandoned') LIMIT 1) e ON true
GROUP BY d.arm
"""

# A scalar subquery, because an EXISTS may become a hash of the whole table.
_ORPHANS = """
SELECT count(*), count(*) FILTER (WHERE NOT coalesce((
    SELECT true FROM decisions d WHERE d.decision_day = e.decision_day AND d.decision_key = e.decision_key
                                   AND d.decision_day BETWEEN :first_day AND :last_day LIMIT 1), false))
FROM events e TABLESAMPLE SYSTEM (:percent)
WHERE e.decision_day BETWEEN :first_day AND :last_day AND e.received_at < :until
"""

_EVENT_BYTES = """
SELECT coalesce(sum(pg_relation_size(to_regclass(name))), 0)::int8 FROM unnest(CAST(:names AS text[])) name
"""


class Version(NamedTuple):
    """An experiment that answers, at its newest."""

    incarnation: int
    experiment_id: str
    policy_version: int
    definition_version: int
    #: Of the last snapshot; None if there is none.
    kept_version: int | None
    kept_at_us: int | None


class Coverage(NamedTuple):
    """The recent decisions for one version of an arm, and how many of them somebody said something about."""

    arm: int
    decisions: int
    covered: int


async def read_states(connection: Connection) -> dict[str, int]:
    """Return how many experiments there are in each state."""
    await connection.execute(text(_PATIENCE))
    return {row.state: row.experiments for row in await connection.execute(text(_STATES))}


async def read_newest(connection: Connection, limit: int) -> list[Version]:
    """Return experiments that answer, those first that changed last."""
    return [Version(*row) for row in await connection.execute(text(_NEWEST), {"limit": limit})]


async def read_coverage(connection: Connection, incarnation: int, since_us: int, until_us: int) -> list[Coverage]:
    """Return how feedback covers the newest decisions made between these times, without forced and held out ones."""
    await connection.execute(text(_PATIENCE))
    await plan_for_keys(connection)
    values = {
        "incarnation": incarnation,
        "since": time_of(since_us),
        "until": time_of(until_us),
        "first_day": day_of(since_us),
        "last_day": day_of(until_us),
    }
    return [Coverage(*row) for row in await connection.execute(text(_COVERAGE), values)]


async def read_orphans(connection: Connection, today: date, until_us: int) -> tuple[int, int]:
    """Return how many events were sampled, and of how many the decision is not stored.

    They are of decisions of `today` and the day before, received before `until_us`; whole pages are sampled.
    """
    await connection.execute(text(_PATIENCE))
    await plan_for_keys(connection)
    days = (today - timedelta(days=1), today)
    names = [partition_name("events", day) for day in days]
    size = (await connection.execute(text(_EVENT_BYTES), {"names": names})).scalar_one()
    values = {
        "percent": 100.0 * min(1.0, _SAMPLED_BYTES / max(size, 1)),
        "first_day": days[0],
        "last_day": days[1],
        "until": time_of(until_us),
    }
    sampled, orphans = (await connection.execute(text(_ORPHANS), values)).one()
    return sampled, orphans


def incarnations_of(versions: Sequence[Version]) -> list[int]:
    """Return the incarnations of versions."""
    return [version.incarnation for version in versions]
