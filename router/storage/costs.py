"""What arms cost: by the definition, and by the reports of their calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from router.storage.analysis import Read, Reading

# Of a decision with several reports, the one received last, as for guardrails.
_REPORTED = """
SELECT d.arm, count(*), avg(c.cost_usd), stddev_samp(c.cost_usd)
FROM decisions d
CROSS JOIN LATERAL (
    SELECT (details ->> 'cost_usd')::float8 AS cost_usd FROM events
    WHERE decision_day = d.decision_day AND decision_key = d.decision_key AND kind = 'call' AND details ? 'cost_usd'
    ORDER BY received_at DESC, event_id DESC LIMIT 1
) c
WHERE d.incarnation = %(incarnation)s AND d.decided_at >= %(start)s AND d.decided_at < %(end)s
  AND d.decision_day BETWEEN %(first)s AND %(last)s
GROUP BY d.arm
"""

# The view has the posterior of now; shares are those of the last snapshot.
_ARMS = """
SELECT a.arm, a.arm_id, p.alpha, p.beta, a.cost_usd, h.allocation
FROM arms a
JOIN posterior_latest p ON p.experiment_id = %(experiment_id)s AND p.arm_id = a.arm_id AND p.arm_version = a.version
LEFT JOIN LATERAL (
    SELECT allocation FROM posterior_history
    WHERE experiment_id = %(experiment_id)s AND arm_id = a.arm_id AND arm_version = a.version
    ORDER BY taken_at DESC LIMIT 1
) h ON true
WHERE a.incarnation = %(incarnation)s AND a.active AND a.role <> 'shadow'
ORDER BY a.position
"""

_CEILING = "SELECT (allocation #>> '{cost,ceilingUsd}')::float8 FROM experiments WHERE incarnation = %(incarnation)s"


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What is known of an arm's reward and cost."""

    arm_id: str
    #: Its posterior.
    alpha: float
    beta: float
    #: By the definition, in US dollars; None if it does not say.
    declared_usd: float | None
    #: Its share at the last snapshot; None before the first.
    allocation: float | None
    #: Decisions with a report of what they cost, its mean and its standard deviation, in US dollars: None below two of them.
    calls: int = 0
    mean_usd: float = 0.0
    deviation_usd: float | None = None


def read_costs(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> list[ArmCost]:
    """Return what the arms that are offered traffic earn and cost, by the calls of decisions of [start, end).

    In the order of the definition. Raises StorageError.
    """
    parameters: Mapping[str, object] = {
        "incarnation": of.incarnation,
        "experiment_id": of.experiment_id,
        "start": start or "-infinity",
        "end": end or "infinity",
        "first": "-infinity" if start is None else start.astimezone(UTC).date(),
        "last": "infinity" if end is None else end.astimezone(UTC).date(),
    }
    reported = {arm: counted for arm, *counted in reading.all(_REPORTED, parameters)}
    return [
        ArmCost(arm_id, float(alpha), float(beta), declared, allocation, *reported.get(arm, ()))
        for arm, arm_id, alpha, beta, declared, allocation in reading.all(_ARMS, parameters)
    ]


def read_ceiling(reading: Reading, of: Read) -> float | None:
    """Return the most that a decision may cost in expectation, in US dollars; None without a ceiling."""
    ((ceiling,),) = reading.all(_CEILING, {"incarnation": of.incarnation})
    return None if ceiling is None else float(ceiling)
