"""What a log says of the past, for estimates and plans: decisions with their outcomes as arrays, and a summary of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.intraclass import ClusterSums, intraclass_correlation
from bandit.situation import History
from router.storage.analysis import Read, ReadArm, Reading

#: Buckets round propensities to 1 / 10,000.
_ROUNDING = 2e-4
#: By how much the sum of a vector may differ from 1.
_SUM = 1e-6
#: Of the outcomes that are known, this share was known after the reward lag.
_MOST = 0.9
_DAY_US = 86_400e6

_ACTIVE = "SELECT arm FROM arms WHERE incarnation = %(incarnation)s AND active AND role <> 'shadow' ORDER BY position"

#: Decisions that were drawn, and have an outcome that counts.
_LOGGED = """
SELECT d.arm, d.propensity, d.allocation_id, o.reward_micros, coalesce(nullif(d.unit_id, ''), d.decision_key::text)
FROM decisions d
JOIN outcomes o ON o.decision_day = d.decision_day AND o.decision_key = d.decision_key
JOIN policy_versions v ON v.incarnation = d.incarnation
WHERE {in_span} AND (o.decided_at IS NULL OR v.matured_to IS NULL OR o.decided_at <= v.matured_to)
ORDER BY d.decided_at, d.decision_key
"""

_VECTORS = "SELECT allocation_id, arms, probabilities FROM allocations WHERE allocation_id = ANY(%(ids)s)"

_IN_SPAN = """
d.incarnation = %(incarnation)s AND d.decided_at >= %(start)s AND d.decided_at < %(end)s
AND d.decision_day BETWEEN %(first)s AND %(last)s AND d.reason NOT IN ('forced', 'holdout')
"""

# Clusters are sessions, or else units. Rewards are taken as differences from the mean of their arm.
_SUMMARY = """
WITH logged AS MATERIALIZED (
    SELECT coalesce(nullif(d.session_id, ''), nullif(d.unit_id, ''), d.decision_key::text) AS cluster, d.arm, d.decided_at,
           o.reward_micros / 1e6::float8 AS reward,
           extract(epoch FROM o.occurred_at - d.decided_at)::float8 AS lag
    FROM decisions d
    LEFT JOIN outcomes o ON o.decision_day = d.decision_day AND o.decision_key = d.decision_key
    WHERE {in_span}
),
means AS (SELECT arm, avg(reward) AS mean FROM logged GROUP BY arm),
clusters AS (
    SELECT count(*) AS decisions, count(reward) AS m, coalesce(sum(reward - mean), 0) AS s,
           coalesce(sum((reward - mean) ^ 2), 0) AS q
    FROM logged JOIN means USING (arm) GROUP BY cluster
),
control AS (
    SELECT avg(reward) AS mean, var_samp(reward) AS variance FROM logged
    WHERE arm = (SELECT arm FROM arms WHERE incarnation = %(incarnation)s AND active AND role = 'control')
)
SELECT (SELECT count(*) FROM logged), (SELECT min(decided_at) FROM logged), (SELECT max(decided_at) FROM logged),
       (SELECT percentile_disc(%(most)s) WITHIN GROUP (ORDER BY lag) FROM logged WHERE lag IS NOT NULL),
       (SELECT mean FROM control), (SELECT variance FROM control),
       (SELECT avg(decisions)::float8 FROM clusters),
       count(*) FILTER (WHERE m > 0), coalesce(sum(m), 0)::bigint, coalesce(sum(m ^ 2), 0)::float8,
       coalesce(sum(q), 0)::float8, coalesce(sum(s ^ 2 / nullif(m, 0)), 0)::float8, coalesce(sum(s), 0)::float8
FROM clusters
"""


@dataclass(frozen=True, slots=True)
class Logged:
    """Decisions among the active arms, all of which and no others could have been drawn, in the order of their time."""

    #: Active arms in the order of the definition.
    arm_ids: tuple[str, ...]
    #: (n,): index of the arm drawn.
    arms: NDArray[np.intp]
    #: (n,): in [0, 1].
    rewards: NDArray[np.float64]
    #: (n,): of the arm drawn, then.
    propensities: NDArray[np.float64]
    #: (n, K): the vectors drawn from; None where propensities are not their entries, as with stored sticky units.
    allocations: NDArray[np.float64] | None
    #: (n,): labels of units; None where each decision is one of its own.
    clusters: NDArray[np.intp] | None
    #: Decisions with an outcome that were left out, because the choice was among other arms than these.
    left_out: int


def read_logged(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> Logged:
    """Return the decisions of [start, end) that estimates of arms may use: drawn, with an outcome that counts.

    All of it is held in memory, some 500 bytes a decision. Raises StorageError.
    """
    active = _active(reading, of)
    rows: list[tuple[Any, ...]] = []
    for some in reading.rows(_LOGGED.format(in_span=_IN_SPAN), _span(of, start, end)):
        rows += some
    vectors = _vectors(reading, {row[2] for row in rows}, active)
    whole = {one for one, vector in vectors.items() if (vector > 0.0).all() and abs(vector.sum() - 1.0) < _SUM}
    kept = [row for row in rows if row[0] in active and row[2] in whole]
    arms = np.array([active.index(row[0]) for row in kept], dtype=np.intp)
    propensities = np.array([row[1] for row in kept], dtype=np.float64)
    allocations = np.array([vectors[row[2]] for row in kept], dtype=np.float64).reshape(-1, len(active))
    own = allocations[np.arange(arms.size), arms]
    drawn_from = bool((np.abs(own - propensities) <= _ROUNDING).all())
    units, labels = np.unique(np.array([row[4] for row in kept], dtype=np.str_), return_inverse=True)
    return Logged(
        _names(of.arms, active),
        arms,
        np.array([row[3] for row in kept], dtype=np.float64) / 1e6,
        propensities,
        allocations if drawn_from else None,
        None if units.size == arms.size else labels.astype(np.intp),
        len(rows) - len(kept),
    )


def read_history(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> History | None:
    """Return what the decisions of [start, end) say to a plan; None if there are none.

    Figures that they do not tell are None: baseline and variance without a control that has outcomes, the share of the
    variance between sessions without a session of two outcomes, the traffic of a single moment. Raises StorageError.
    """
    parameters = {**_span(of, start, end), "most": _MOST}
    ((n, first, last, lag_s, mean, variance, turns, *sums),) = reading.all(_SUMMARY.format(in_span=_IN_SPAN), parameters)
    if not n:
        return None
    days = (last - first).total_seconds() / 86_400
    clusters = ClusterSums(*sums)
    icc = intraclass_correlation(clusters)
    return History(
        baseline=None if mean is None else float(mean),
        variance=None if not variance else float(variance),
        # 1 would mean that a session's first outcome tells all others: plans refuse it.
        icc=None if icc is None else min(icc, 0.99),
        turns_per_session=float(turns),
        feedback_delay_us=None if lag_s is None else max(0, round(lag_s * 1e6)),
        traffic_per_day=(n - 1) / days if days > 0.0 else None,
        coverage=clusters.outcomes / n if clusters.outcomes else None,
        weighted_outcomes_per_session=clusters.squared_sizes / clusters.outcomes if clusters.outcomes else None,
    )


def active_arm_ids(reading: Reading, of: Read) -> tuple[str, ...]:
    """Return the arms that are offered traffic, in the order of the definition. Raises StorageError."""
    return _names(of.arms, _active(reading, of))


def _active(reading: Reading, of: Read) -> list[int]:
    return [number for (number,) in reading.all(_ACTIVE, {"incarnation": of.incarnation})]


def _span(of: Read, start: datetime | None, end: datetime | None) -> dict[str, object]:
    return {
        "incarnation": of.incarnation,
        "start": start or "-infinity",
        "end": end or "infinity",
        "first": "-infinity" if start is None else start.astimezone(UTC).date(),
        "last": "infinity" if end is None else end.astimezone(UTC).date(),
    }


def _vectors(reading: Reading, ids: set[Any], active: Sequence[int]) -> dict[Any, NDArray[np.float64]]:
    """Return the probabilities of the active arms by the vector's id; 0 where it does not have the arm."""
    place = {number: i for i, number in enumerate(active)}
    # A vector that was not kept says nothing of any arm.
    found = {one: np.zeros(len(active)) for one in ids}
    for one, arms, probabilities in reading.all(_VECTORS, {"ids": list(ids)}):
        for number, probability in zip(arms, probabilities, strict=True):
            if number in place:
                found[one][place[number]] = probability
    return found


def _names(arms: Sequence[ReadArm], active: Sequence[int]) -> tuple[str, ...]:
    names = {arm.number: arm.arm_id for arm in arms}
    return tuple(names[number] for number in active)
