"""What to look at before an arm's posterior is trusted: what is still to come, what was never heard, evidence by the hour.

Decisions of kept days are read by the index on experiment and time. Each then takes one look at a primary key: at its
outcome while the attribution window is open, at its events afterwards. The window is that of the reward rule in force when
the decision was made.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import text

from bandit.discount import Bucket
from bandit.reward import Evidence
from router.storage.database import Connection
from router.storage.metrics import plan_for_keys, read_recorded
from router.storage.times import time_of

#: The statement over decisions is given up after this long.
_PATIENCE: Final = "SET LOCAL statement_timeout = '50s'"


class ArmFeedback(NamedTuple):
    """The decisions of kept days that are learned from, for one version of an arm."""

    decisions: int
    #: Within the attribution window and without an outcome.
    pending: int
    #: Past the attribution window.
    closed: int
    #: Of those, how many have an event that came within it.
    covered: int


@dataclass(frozen=True, slots=True)
class ArmHistory:
    """The evidence of one version of an arm, by the hour as far as it is known."""

    created_at: datetime
    #: In the order of time, over all segments.
    buckets: list[Bucket] = field(default_factory=list)
    #: What dropped days and imports left behind.
    base: Evidence = field(default_factory=Evidence)


# Each LATERAL is evaluated only for the decisions that it is about: its first condition names none of its own columns.
_FEEDBACK = """
WITH windows AS MATERIALIZED (
    SELECT coalesce(r.policy_version, 0) AS first, w.open_since,
           lead(r.policy_version, 1, 9223372036854775807) OVER (ORDER BY r.version) AS next
    FROM reward_rules r
    JOIN unnest(CAST(:versions AS int4[]), CAST(:open_since AS timestamptz[])) w (version, open_since) USING (version)
    WHERE r.incarnation = :incarnation
)
SELECT d.arm, count(*), count(*) FILTER (WHERE d.is_open AND o.found IS NULL), count(*) FILTER (WHERE NOT d.is_open),
       count(e.found)
FROM (
    SELECT decision_day, decision_key, arm, decided_at > w.open_since AS is_open
    FROM decisions JOIN windows w ON policy_version >= w.first AND policy_version < w.next
    WHERE incarnation = :incarnation AND decided_at >= :first AND decided_at <= :last
      AND decision_day BETWEEN :first_day AND :last_day AND reason NOT IN ('forced', 'holdout')
) d
LEFT JOIN LATERAL (
    SELECT true AS found FROM outcomes
    WHERE d.is_open AND decision_day = d.decision_day AND decision_key = d.decision_key
      AND decision_day BETWEEN :first_day AND :last_day LIMIT 1
) o ON true
LEFT JOIN LATERAL (
    SELECT true AS found FROM events
    WHERE NOT d.is_open AND decision_day = d.decision_day AND decision_key = d.decision_key
      AND decision_day BETWEEN :first_day AND :last_day AND status <> 'late' AND kind <> 'no_feedback' LIMIT 1
) e ON true
GROUP BY d.arm
"""

_HOURS = """
SELECT arm, (extract(epoch FROM bucket) * 1000000)::int8, sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8
FROM evidence_all WHERE incarnation = :incarnation
GROUP BY arm, bucket ORDER BY arm, bucket
"""

_ARMS = "SELECT arm, created_at FROM arms WHERE incarnation = :incarnation"


async def read_feedback(
    connection: Connection, incarnation: int, open_since_us: Mapping[int, int]
) -> dict[int, ArmFeedback]:
    """Return what is known of the decisions of kept days, by arm number; arms without any are left out.

    `open_since_us` says for each version of the reward rule since when decisions are within its attribution window. Takes
    time in proportion to the decisions; StorageUnavailableError after 50 seconds.
    """
    recorded = await read_recorded(connection, incarnation)
    if recorded.first_us is None or recorded.last_us is None:
        return {}
    await plan_for_keys(connection)
    await connection.execute(text(_PATIENCE))
    first, last = time_of(recorded.first_us), time_of(recorded.last_us)
    rows = await connection.execute(
        text(_FEEDBACK),
        {
            "incarnation": incarnation,
            "versions": list(open_since_us),
            "open_since": [time_of(since_us) for since_us in open_since_us.values()],
            "first": first,
            "last": last,
            "first_day": first.date(),
            "last_day": last.date(),
        },
    )
    return {arm: ArmFeedback(*counted) for arm, *counted in rows}


async def read_histories(connection: Connection, incarnation: int) -> Mapping[int, ArmHistory]:
    """Return the evidence of every version of every arm, by arm number."""
    of = {"incarnation": incarnation}
    buckets: defaultdict[int, list[Bucket]] = defaultdict(list)
    base: dict[int, Evidence] = {}
    for arm, start_us, *counted in await connection.execute(text(_HOURS), of):
        if start_us is None:
            base[arm] = Evidence(*counted)
        else:
            buckets[arm].append((start_us, Evidence(*counted)))
    arms: Sequence[tuple[int, datetime]] = [(arm, created) for arm, created in await connection.execute(text(_ARMS), of)]
    return {arm: ArmHistory(created, buckets[arm], base.get(arm, Evidence())) for arm, created in arms}
