"""What Postgres holds of one experiment: read as an analyst would, with the read-only login, in one snapshot.

The replay is that of the command, with the login of the router.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from bandit.reward import MICROS, Evidence
from router.embedded import ServerRecord
from router.storage.connecting import DatabaseUrl, connect
from router.storage.replay import ReplayReport, replay

_DRAIN_S = 20.0
_POLL_S = 0.05

_COUNT = "SELECT count(*) FROM decisions JOIN experiments USING (incarnation) WHERE experiment_id = %s"

_DECISIONS = """
SELECT request_id, decision_key, arm_id, propensity, policy_version, reason, unit_id, decided_at, reward,
       allocation_arm_ids, allocation
FROM decision_log WHERE experiment_id = %s ORDER BY decided_at, decision_key
"""

# The decision is found by the key that the event's signed decision id carried.
_EVENTS = """
SELECT coalesce(d.request_id, ''), e.event_id, e.reward_micros
FROM events e JOIN experiments x USING (incarnation) LEFT JOIN decisions d USING (decision_day, decision_key)
WHERE x.experiment_id = %s
"""

_OUTCOMES = "SELECT count(*) FROM outcomes JOIN experiments USING (incarnation) WHERE experiment_id = %s"

_EVIDENCE = """
SELECT a.arm_id, sum(e.success_micros)::int8, sum(e.failure_micros)::int8, sum(e.n)::int8
FROM evidence_all e JOIN experiments x USING (incarnation) JOIN arms a USING (incarnation, arm)
WHERE x.experiment_id = %s GROUP BY a.arm_id
"""


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A row of the decision log."""

    request_id: str
    decision_key: UUID
    arm_id: str
    propensity: float
    policy_version: int
    #: The proto's Reason without its prefix, in lower case.
    reason: str
    unit_id: str
    decided_at: datetime
    #: None where there is no outcome.
    reward_micros: int | None
    #: The vector drawn from, by arm id; empty where it is not in the log.
    allocation: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A row of the log of events."""

    #: Of the event's decision; empty if that is not in the decision log.
    request_id: str
    event_id: str
    reward_micros: int | None


@dataclass(frozen=True, slots=True)
class Records:
    """One snapshot of everything about an experiment."""

    #: In order of time.
    decisions: tuple[LoggedDecision, ...]
    events: tuple[LoggedEvent, ...]
    outcomes: int
    #: By arm id.
    evidence: Mapping[str, Evidence]
    replayed: ReplayReport
    #: How long the decision journal took to drain after the last answer, as far as was waited.
    drained_s: float


def read_records(postgres: ServerRecord, experiment_id: str, decisions: int) -> Records:
    """Read everything, once the decision journal has drained so many decisions into Postgres, or has had 20 s to."""
    key = (experiment_id,)
    started = time.monotonic()
    with connect(DatabaseUrl.parse(postgres.analyst_url), autocommit=True) as connection:
        while True:
            row = connection.execute(_COUNT, key).fetchone()
            if (row is not None and row[0] >= decisions) or time.monotonic() - started > _DRAIN_S:
                break
            time.sleep(_POLL_S)
        drained_s = time.monotonic() - started
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            logged = tuple(_decision(*row) for row in connection.execute(_DECISIONS, key))
            events = tuple(LoggedEvent(*row) for row in connection.execute(_EVENTS, key))
            ((outcomes,),) = connection.execute(_OUTCOMES, key).fetchall()
            evidence = {arm_id: Evidence(s, f, n) for arm_id, s, f, n in connection.execute(_EVIDENCE, key)}
    with connect(DatabaseUrl.parse(postgres.url)) as connection:
        report = replay(connection)
    return Records(logged, events, int(outcomes), evidence, report, drained_s)


def _decision(
    request_id: str,
    decision_key: UUID,
    arm_id: str,
    propensity: float,
    policy_version: int,
    reason: str,
    unit_id: str,
    decided_at: datetime,
    reward: Decimal | None,
    arm_ids: list[str] | None,
    allocation: list[float] | None,
) -> LoggedDecision:
    return LoggedDecision(
        request_id=request_id,
        decision_key=decision_key,
        arm_id=arm_id,
        propensity=propensity,
        policy_version=policy_version,
        reason=reason,
        unit_id=unit_id,
        decided_at=decided_at,
        reward_micros=None if reward is None else int(reward * MICROS),
        allocation=dict(zip(arm_ids or (), allocation or (), strict=True)),
    )
