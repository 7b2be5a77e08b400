"""Replay: evidence computed again from the log of events, by another program than the one that keeps it.

Ingest folds in SQL, event by event; this reads every event and folds with `bandit.reward.fold`. Both must agree to the
last digit, for the days that are kept: the events of dropped days are gone, and what they added up to is the base.
Decisions whose outcome waits until they are old enough are left out.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import psycopg

from bandit.reward import Candidate, Evidence, fold
from router.storage.errors import translated

_EVENTS = """
SELECT e.decision_day, e.decision_key, e.incarnation, e.arm, e.segment, e.bucket, e.rank,
       (extract(epoch FROM e.occurred_at) * 1000000)::int8, e.event_id, e.reward_micros,
       coalesce((SELECT true FROM pending_outcomes p WHERE p.incarnation = e.incarnation AND p.decided_at = e.decided_at
                 AND p.decision_key = e.decision_key LIMIT 1), false)
FROM events e
WHERE e.reward_micros IS NOT NULL AND (%(incarnation)s::int8 IS NULL OR e.incarnation = %(incarnation)s)
ORDER BY e.decision_day, e.decision_key
"""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row of evidence that the log does not bear out."""

    incarnation: int
    arm: int
    segment: str
    bucket: datetime
    live: Evidence
    replayed: Evidence


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found."""

    #: Events that could count.
    events: int
    #: Decisions with an outcome, those that wait included.
    outcomes: int
    #: Rows of evidence compared.
    rows: int
    disagreements: tuple[Disagreement, ...]
    #: Outcomes of dropped days, in the base of the evidence: they cannot be replayed.
    base: int = 0
    #: Decisions with an outcome that waits until they are old enough: it is not in the evidence.
    pending: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the evidence of the kept days is exactly what the log says."""
        return not self.disagreements


_Key = tuple[int, int, str, datetime]


def replay(
    connection: psycopg.Connection[Any],
    incarnation: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReplayReport:
    """Compare the evidence of one experiment, or of all, with a fold of its events, both from one snapshot.

    Runs beside a live service and changes nothing. Memory is bounded by the rows of evidence, not by the events.
    `progress` is told (events read, events in all).
    """
    parameters = {"incarnation": incarnation}
    folded: defaultdict[_Key, Evidence] = defaultdict(Evidence)
    events = outcomes = pending = 0
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # Before the snapshot: a day that is dropped in between would still be in the evidence, and its events be gone.
        connection.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        counted = connection.execute(f"SELECT count(*) FROM ({_EVENTS}) e", parameters).fetchone()
        total = int(counted[0]) if counted else 0
        live = _live(connection, parameters)
        base = _base(connection, parameters)
        with connection.cursor("replay") as cursor:
            cursor.itersize = 10_000
            cursor.execute(_EVENTS, parameters)
            for _, rows in groupby(cursor, key=itemgetter(0, 1)):
                candidates: list[tuple[Candidate, _Key]] = []
                waits = False
                for _, _, experiment, arm, segment, bucket, rank, occurred_us, event_id, micros, is_pending in rows:
                    candidates.append((Candidate(rank, occurred_us, event_id, micros), (experiment, arm, segment, bucket)))
                    waits = waits or is_pending
                    events += 1
                    if events % 10_000 == 0:
                        progress(events, total)
                outcomes += 1
                pending += waits
                if not waits:
                    _count(candidates, folded)
        progress(events, total)
    keys = sorted(live.keys() | {key for key, value in folded.items() if value != Evidence()})
    none = Evidence()
    disagreements = tuple(
        Disagreement(*key, live=live.get(key, none), replayed=folded.get(key, none))
        for key in keys
        if live.get(key, none) != folded.get(key, none)
    )
    return ReplayReport(events, outcomes, len(keys), disagreements, base, pending)


def _live(connection: psycopg.Connection[Any], parameters: dict[str, int | None]) -> dict[_Key, Evidence]:
    rows = connection.execute(
        "SELECT incarnation, arm, segment, bucket, success_micros, failure_micros, n FROM evidence"
        " WHERE %(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s",
        parameters,
    )
    return {(i, arm, segment, bucket): Evidence(s, f, n) for i, arm, segment, bucket, s, f, n in rows}


def _base(connection: psycopg.Connection[Any], parameters: dict[str, int | None]) -> int:
    row = connection.execute(
        "SELECT coalesce(sum(n), 0)::int8 FROM evidence_base"
        " WHERE %(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s",
        parameters,
    ).fetchone()
    return int(row[0]) if row else 0


def _count(candidates: list[tuple[Candidate, _Key]], folded: defaultdict[_Key, Evidence]) -> None:
    """Add the outcome of one decision to its evidence."""
    winner = fold(candidate for candidate, _ in candidates)
    assert winner is not None  # noqa: S101 - a decision has an event to be here
    key = next(key for candidate, key in candidates if candidate is winner)
    folded[key] += Evidence.of(winner.reward_micros)


def experiment_names(connection: psycopg.Connection[Any]) -> dict[int, str]:
    """Return the id of every experiment, by incarnation."""
    with translated(), connection.transaction():
        return dict(connection.execute("SELECT incarnation, experiment_id FROM experiments").fetchall())
