"""What a log says of the past, for estimates and plans: decisions with their outcomes as arrays, and a summary of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from bandit.intraclass import ClusterSums, intraclass_correlation
from bandit.situation import History
from router.rules import assignment_of
from router.storage.analysis import Read, ReadArm, Reading, span_of
from router.storage.vectors import Decided, DrawVectors, Unusable

#: Of the outcomes that are known, this share was known after the reward lag.
_MOST = 0.9
_DAY_US = 86_400e6

_ACTIVE = "SELECT arm FROM arms WHERE incarnation = %(incarnation)s AND active AND role <> 'shadow' ORDER BY position"

#: Decisions that were drawn, and have an outcome that counts: the fields of `Decided`.
_LOGGED = """
SELECT d.arm, d.propensity, d.allocation_id, d.decided_at, d.reason, o.reward_micros, d.unit_id, d.session_id,
       CASE WHEN d.unit_id = '' AND d.session_id = '' THEN d.decision_key::text ELSE '' END
FROM decisions d
JOIN outcomes o ON o.decision_day = d.decision_day AND o.decision_key = d.decision_key
JOIN policy_versions v ON v.incarnation = d.incarnation
WHERE {in_span} AND (o.decided_at IS NULL OR v.matured_to IS NULL OR o.decided_at <= v.matured_to)
ORDER BY d.decided_at, d.decision_key
"""

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
class LeftOut:
    """How many decisions with an outcome estimates cannot use, by the reason."""

    #: Made among other arms, or other versions of them, than those of now.
    other_arms: int = 0
    #: Made among the arms of now, but some were ruled out: by eligible_arm_ids, or by a definition that has changed since.
    some_arms: int = 0
    #: What the arm was drawn from is not in the log any more: a stored unit's first decision, or the vector itself.
    unknown_draw: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.other_arms + self.some_arms + self.unknown_draw

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence, for people, for each reason that there is."""
        whys = (
            (self.other_arms, "made among other arms than those of now"),
            (self.some_arms, "made among some of the arms alone: the request, or the definition of then, ruled others out"),
            (self.unknown_draw, "of a draw that is not in the log any more"),
        )
        return tuple(f"{n:,} decision{'s were' if n > 1 else ' was'} left out, {why}" for n, why in whys if n)


@dataclass(frozen=True, slots=True)
class Logged:
    """Decisions whose arm was drawn from a vector over the active arms and no others, in the order of their time.

    As `bandit.arm_estimates.estimate_arms` takes them. The draw of a stored sticky unit is that of its first decision.
    """

    #: Active arms in the order of the definition: names of the indices below.
    arm_ids: tuple[str, ...]
    #: (n,): index of the arm drawn.
    arms: NDArray[np.intp]
    #: (n,): in [0, 1].
    rewards: NDArray[np.float64]
    #: (n,): of the arm drawn, at its draw.
    propensities: NDArray[np.float64]
    #: (n, K): the vectors drawn from, whose entries the propensities are. 0 is an arm that the allocation gave nothing.
    allocations: NDArray[np.float64]
    #: (n,): labels of units or sessions, whichever is coarser, and of sessions where the experiment is interleaved; None
    #: where each decision is one of its own.
    clusters: NDArray[np.intp] | None
    #: Decisions with an outcome that are not among these, and why.
    left_out: LeftOut


def read_logged(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> Logged:
    """Return the decisions of [start, end) that estimates of arms may use: drawn, with an outcome that counts.

    All of it is held in memory, some 700 bytes a decision. Raises StorageError.
    """
    definition = reading.definition(of)
    rows = [
        Decided(*row) for some in reading.rows(_LOGGED.format(in_span=_IN_SPAN), span_of(of, start, end)) for row in some
    ]
    draws = DrawVectors(reading, of, definition, rows)
    kept: list[Decided] = []
    vectors: list[NDArray[np.float64]] = []
    unusable: Counter[Unusable] = Counter()
    for row in rows:
        drawn = draws.of(row)
        if isinstance(drawn, Unusable):
            unusable[drawn] += 1
        else:
            kept.append(row)
            vectors.append(drawn)
    active = definition.active_arms
    place = {arm.number: i for i, arm in enumerate(active)}
    return Logged(
        tuple(arm.arm_id for arm in active),
        np.array([place[row.arm] for row in kept], dtype=np.intp),
        np.array([row.reward_micros for row in kept], dtype=np.float64) / 1e6,
        np.array([row.propensity for row in kept], dtype=np.float64),
        np.array(vectors, dtype=np.float64).reshape(len(kept), len(active)),
        _clusters(kept, assignment_of(definition.assignment) == "interleaved"),
        LeftOut(**{why.value: n for why, n in unusable.items()}),
    )


def read_history(reading: Reading, of: Read, start: datetime | None, end: datetime | None) -> History | None:
    """Return what the decisions of [start, end) say to a plan; None if there are none.

    Figures that they do not tell are None: baseline and variance without a control that has outcomes, the share of the
    variance between sessions without a session of two outcomes, the traffic of a single moment. Raises StorageError.
    """
    parameters = {**span_of(of, start, end), "most": _MOST}
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


def _clusters(decisions: Sequence[Decided], interleaved: bool) -> NDArray[np.intp] | None:
    """Return the labels of `Logged.clusters`."""
    both = [one for one in decisions if one.unit_id and one.session_id]
    units, sessions = {one.unit_id for one in both}, {one.session_id for one in both}
    by_unit = not interleaved and len(units) <= len(sessions)
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(_cluster(one, by_unit), len(numbers)) for one in decisions]
    return None if len(numbers) == len(labels) else np.array(labels, dtype=np.intp)


def _cluster(decision: Decided, by_unit: bool) -> str:
    # The letters tell units from sessions of the same name.
    if decision.unit_id and (by_unit or not decision.session_id):
        return f"u{decision.unit_id}"
    return f"s{decision.session_id}" if decision.session_id else f"d{decision.alone}"


def _names(arms: Sequence[ReadArm], active: Sequence[int]) -> tuple[str, ...]:
    names = {arm.number: arm.arm_id for arm in arms}
    return tuple(names[number] for number in active)
