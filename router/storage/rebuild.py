"""Rebuild: a snapshot computed again from the log of events, by another program than the one that took it.

A snapshot of version v holds the events whose applied_version is below v and, where outcomes wait, only those of decisions
made until matured_to. So the fold of exactly these, plus what dropped days left behind, is its evidence; prior plus evidence
its parameters; and their comparison the rest, but for the allocation, which followed from rules that may have changed.
Where evidence is discounted, the snapshot names the rule and the hour: the fold is then also added up by the hour. Snapshots
of segments are of the same version, and name what their priors borrow: they are computed again from the same fold.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from bandit.discount import Bucket
from bandit.reward import Candidate, Evidence, fold
from router.discounting import Hours
from router.segments import BySegment, Weights, weights_of
from router.standing import Standing, compared, evidence_of, posteriors_in, posteriors_of
from router.storage.errors import translated
from router.storage.experiments import BY_INCARNATION, definition_of
from router.storage.partitions import FIRST_KEPT
from router.storage.snapshots import OF_SEGMENTS, UNTIL, Snapshot, snapshot_of

_EVENTS = """
SELECT e.decision_day, e.decision_key, e.segment, e.arm, (extract(epoch FROM e.bucket) * 1000000)::int8, e.rank,
       (extract(epoch FROM e.occurred_at) * 1000000)::int8, e.event_id, e.reward_micros
FROM events e
WHERE e.incarnation = %(incarnation)s AND e.reward_micros IS NOT NULL
  AND (e.applied_version IS NULL OR e.applied_version < %(version)s)
  AND NOT coalesce((SELECT o.decided_at > %(matured_to)s FROM outcomes o WHERE o.decision_day = e.decision_day
                    AND o.decision_key = e.decision_key LIMIT 1), false)
ORDER BY e.decision_day, e.decision_key
"""


#: A segment, an arm's number, and the beginning of an hour in microseconds.
_Hour = tuple[str, int, int]

# Without what was imported after the snapshot.
_BASE = """
SELECT segment, arm, sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8
FROM (
    SELECT segment, arm, success_micros, failure_micros, n FROM evidence_base WHERE incarnation = %(incarnation)s
    UNION ALL
    SELECT u.segment, u.arm, -u.success_micros, -u.failure_micros, -u.n
    FROM imports m CROSS JOIN LATERAL unnest(m.segments, m.arms, m.success_micros, m.failure_micros, m.n)
        AS u (segment, arm, success_micros, failure_micros, n)
    WHERE m.incarnation = %(incarnation)s AND m.applied_version >= %(version)s
) b
GROUP BY segment, arm
"""


# What is in the base came from imports or from dropped days.
_DROPPED = """
SELECT coalesce((SELECT sum(n) FROM evidence_base WHERE incarnation = %(incarnation)s), 0)
       - coalesce((SELECT sum(u) FROM imports m, unnest(m.n) u WHERE m.incarnation = %(incarnation)s), 0)
"""


@dataclass(frozen=True, slots=True)
class ArmRebuilt:
    """One arm of a snapshot, kept and computed again."""

    arm_id: str
    version: int
    kept: dict[str, float | int]
    rebuilt: dict[str, float | int]
    discounted: bool = False
    #: The segment that the snapshot is of; empty of all traffic.
    segment: str = ""

    @property
    def agrees(self) -> bool:
        """Whether both are the same to the last digit.

        Powers of 2, which weigh evidence that is discounted, may differ in it between machines: there 1e-9 is agreement.
        """
        if not self.discounted:
            return self.kept == self.rebuilt
        return all(
            value == self.rebuilt[name] if isinstance(value, int) else math.isclose(value, self.rebuilt[name], rel_tol=1e-9)
            for name, value in self.kept.items()
        )


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one snapshot."""

    experiment_id: str
    policy_version: int
    taken_at: datetime
    #: Events folded.
    events: int
    arms: tuple[ArmRebuilt, ...]
    #: Why it cannot be rebuilt; empty if it can.
    obstacle: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it was rebuilt to the last digit."""
        return not self.obstacle and all(arm.agrees for arm in self.arms)


def rebuild(
    connection: psycopg.Connection[Any],
    incarnation: int,
    at: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rebuilt | None:
    """Compute the last snapshot taken until `at` again; None if there is none. `progress` is told (events, in all).

    Runs beside a live service and changes nothing; memory is bounded by the arms. Raises StorageError.
    """
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # Before the first reading: a day that is dropped in between would be gone.
        connection.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(BY_INCARNATION, (incarnation,)).fetchone()
        row = connection.execute(UNTIL, (incarnation, "", at)).fetchone()
        if found is None or row is None:
            return None
        definition = definition_of(found)
        arms = {arm.number: arm for arm in definition.arms}
        snapshot = snapshot_of(row, arms)
        named = definition.experiment_id, snapshot.standing.policy_version, snapshot.taken_at
        if obstacle := _obstacle(connection, snapshot):
            return Rebuilt(*named, events=0, arms=(), obstacle=obstacle)
        events, by_hour = _folded(connection, snapshot, progress)
        base = connection.execute(
            _BASE, {"incarnation": incarnation, "version": snapshot.standing.policy_version}
        ).fetchall()
        kept = connection.execute(OF_SEGMENTS, (incarnation, snapshot.standing.policy_version)).fetchall()
    by_segment: defaultdict[str, defaultdict[int, Evidence]] = defaultdict(lambda: defaultdict(Evidence))
    for (segment, arm, _), of_hour in by_hour.items():
        by_segment[segment][arm] += of_hour
    for segment, arm, *counted in base:
        by_segment[segment][arm] += Evidence(*counted)
    standings = [snapshot.standing, *(snapshot_of(row, arms).standing for row in kept)]
    # Of one version, all were discounted alike.
    hours = _hours(snapshot.standing, by_hour)
    weights = weights_of(by_segment, snapshot.standing.discount, hours)
    rebuilt = (arm for standing in standings for arm in _compared(standing, by_segment, hours, weights))
    return Rebuilt(*named, events, tuple(rebuilt))


def _obstacle(connection: psycopg.Connection[Any], snapshot: Snapshot) -> str:
    """Return why a snapshot cannot be rebuilt: days were dropped since, and at some time outcomes of this experiment were.

    Empty if it can.
    """
    found = connection.execute(FIRST_KEPT).fetchone()
    first = None if found is None else found[0]
    if first is None or (snapshot.kept_from is not None and snapshot.kept_from >= first):
        return ""
    dropped = connection.execute(_DROPPED, {"incarnation": snapshot.incarnation}).fetchone()
    if dropped is not None and dropped[0] == 0:
        return ""
    return f"days before {first} were dropped after it was taken, and their events with them"


def _folded(
    connection: psycopg.Connection[Any], snapshot: Snapshot, progress: Callable[[int, int], None]
) -> tuple[int, defaultdict[_Hour, Evidence]]:
    parameters = {
        "incarnation": snapshot.incarnation,
        "version": snapshot.standing.policy_version,
        "matured_to": snapshot.matured_to,
    }
    counted = connection.execute(f"SELECT count(*) FROM ({_EVENTS}) e", parameters).fetchone()
    total, events = int(counted[0]) if counted else 0, 0
    evidence: defaultdict[_Hour, Evidence] = defaultdict(Evidence)
    with connection.cursor("rebuild") as cursor:
        cursor.itersize = 10_000
        cursor.execute(_EVENTS, parameters)
        for _, rows in groupby(cursor, key=itemgetter(0, 1)):
            candidates: list[tuple[Candidate, _Hour]] = []
            for _, _, segment, arm, hour_us, rank, occurred_us, event_id, micros in rows:
                candidates.append((Candidate(rank, occurred_us, event_id, micros), (segment, arm, hour_us)))
                events += 1
                if events % 10_000 == 0:
                    progress(events, total)
            winner = fold(candidate for candidate, _ in candidates)
            assert winner is not None  # noqa: S101 - a decision has an event to be here
            hour = next(hour for candidate, hour in candidates if candidate is winner)
            evidence[hour] += Evidence.of(winner.reward_micros)
    progress(total, total)
    return events, evidence


def _compared(standing: Standing, by_segment: BySegment, hours: Hours | None, weights: Weights) -> tuple[ArmRebuilt, ...]:
    counted = evidence_of(standing.arms, by_segment, standing.segment)
    if standing.segment is None:
        alpha, beta = posteriors_of(standing.arms, counted, standing.priors, standing.discount, hours)
    else:
        alpha, beta = posteriors_in(standing.segment, standing.arms, standing.priors, weights)
    competing = np.array([arm.active for arm in standing.arms], dtype=bool)
    comparison = compared(alpha, beta, competing)
    kept = zip(
        standing.evidence, standing.alpha, standing.beta, standing.probability_best, standing.expected_loss, strict=True
    )
    again = zip(counted, alpha, beta, comparison.probability_best, comparison.expected_loss, strict=True)
    discounted, segment = standing.discount is not None, "" if standing.segment is None else standing.segment.name
    return tuple(
        ArmRebuilt(arm.arm_id, arm.version, _figures(*one), _figures(*other), discounted, segment)
        for arm, one, other in zip(standing.arms, kept, again, strict=True)
    )


def _hours(standing: Standing, by_hour: Mapping[_Hour, Evidence]) -> Hours | None:
    """Return the hours as the snapshot saw them; None where it discounted nothing."""
    if standing.seen_from_us is None:
        return None
    found: defaultdict[str, defaultdict[int, list[Bucket]]] = defaultdict(lambda: defaultdict(list))
    for (segment, arm, start_us), counted in by_hour.items():
        found[segment][arm].append((start_us, counted))
    by_segment = {name: {arm: tuple(hours) for arm, hours in of_arm.items()} for name, of_arm in found.items()}
    return Hours(standing.seen_from_us, by_segment)


def _figures(counted: Evidence, alpha: float, beta: float, best: float, loss: float) -> dict[str, float | int]:
    return {
        "success_micros": counted.success_micros,
        "failure_micros": counted.failure_micros,
        "n": counted.n,
        "alpha": float(alpha),
        "beta": float(beta),
        "probability_best": float(best),
        "expected_loss": float(loss),
    }
