"""Which vector the arm of each logged decision was drawn from, and whether that was a choice among the arms of now.

The log of a decision has the vector of its own time. A unit whose arm is stored replays its first decision's draw, which
may have been among other arms: its vector is looked up at that decision. A vector has every arm that was active, and 0 for
those that the request ruled out, or that the allocation gave nothing. What the rules of now give a share must have had one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.allocation import LEARNING, NoEligibleArmError, allocate
from router.experiment import Definition
from router.rules import assignment_of
from router.storage.analysis import Read, Reading
from router.storage.labels import is_label

#: Propensities and entries of vectors may differ by rounding.
_ROUNDING = 2e-4

_VECTORS = "SELECT allocation_id, arms, probabilities FROM allocations WHERE allocation_id = ANY(%(ids)s)"
_KEPT_FROM = "SELECT kept_from FROM retention"

#: The draws of stored units: one that Postgres did not confirm in time is a fallback, and stored all the same.
_DRAWS = """
SELECT unit_id, arm, propensity, decided_at, allocation_id FROM decisions
WHERE incarnation = %(incarnation)s AND reason IN ('sampled', 'fallback') AND unit_id = ANY(%(units)s)
ORDER BY decided_at, decision_key
"""


class Unusable(Enum):
    """Why estimates cannot use a decision: the fields of `router.storage.logged.LeftOut`."""

    OTHER_ARMS = "other_arms"
    SOME_ARMS = "some_arms"
    UNKNOWN_DRAW = "unknown_draw"


class Decided(NamedTuple):
    """A decision with its outcome."""

    #: The arm's number.
    arm: int
    propensity: float
    allocation_id: Any
    decided_at: datetime
    reason: str
    reward_micros: int
    #: Empty where there is none.
    unit_id: str
    session_id: str
    #: The decision's key where there is neither; empty otherwise.
    alone: str


class _Vector(NamedTuple):
    #: Numbers of its arms.
    arms: frozenset[int]
    #: (K,): of the active arms, 0 where it does not have the arm.
    probabilities: NDArray[np.float64]


class DrawVectors:
    """The draws behind some decisions of one experiment."""

    def __init__(self, reading: Reading, of: Read, definition: Definition, decisions: Iterable[Decided]) -> None:
        """Reads what they need. Raises StorageError."""
        self._place = {arm.number: i for i, arm in enumerate(definition.active_arms)}
        self._always = gets_a_share(definition)
        self._judged: dict[tuple[Any, Any], NDArray[np.float64] | Unusable] = {}
        self._units: dict[tuple[str, int, float], tuple[list[datetime], list[Any]]] = {}
        decisions = list(decisions)
        units = {one.unit_id for one in decisions if one.reason == "sticky" and one.unit_id}
        if units:
            for unit, arm, propensity, at, vector in reading.all(
                _DRAWS, {"incarnation": of.incarnation, "units": list(units)}
            ):
                times, vectors = self._units.setdefault((unit, arm, propensity), ([], []))
                times.append(at)
                vectors.append(vector)
        ids = {one.allocation_id for one in decisions} | {one for _, found in self._units.values() for one in found}
        self._vectors = self._read(reading, ids)
        self._stored = assignment_of(definition.assignment) == "sticky_stored"
        ((kept_from,),) = reading.all(_KEPT_FROM, {}) or [(None,)]
        self._complete = kept_from is None or kept_from <= definition.created_at.astimezone(UTC).date()

    def of(self, decision: Decided) -> NDArray[np.float64] | Unusable:
        """Return the vector that a decision's arm was drawn from, (K,) over the active arms, or why there is none."""
        pair = self._drawn_from(decision), decision.allocation_id
        if pair not in self._judged:
            self._judged[pair] = self._judge(*pair)
        found = self._judged[pair]
        if not isinstance(found, Unusable) and abs(found[self._place[decision.arm]] - decision.propensity) > _ROUNDING:
            return Unusable.UNKNOWN_DRAW
        return found

    def _judge(self, drawn_from: Any, then: Any) -> NDArray[np.float64] | Unusable:
        """Return the vector of an arm that was drawn from one, and served when another was in force."""
        drawn = self._vectors.get(drawn_from)
        if drawn is None:
            return Unusable.UNKNOWN_DRAW
        if drawn.arms != self._place.keys():
            return Unusable.OTHER_ARMS
        if ((drawn.probabilities == 0.0) & self._always).any():
            return Unusable.SOME_ARMS
        # A unit that had drawn an arm which was ruled out then would have drawn again: those that kept theirs are a choice.
        if then in self._vectors and ((drawn.probabilities > 0.0) & (self._vectors[then].probabilities == 0.0)).any():
            return Unusable.SOME_ARMS
        return drawn.probabilities

    def _drawn_from(self, decision: Decided) -> Any:
        """Return the id of the vector, None if the log does not tell."""
        if decision.reason != "sticky":
            return decision.allocation_id
        times, vectors = self._units.get((decision.unit_id, decision.arm, decision.propensity), ([], []))
        if times:
            # Of requests at the same moment, one that replays the draw may be logged before the one that made it.
            return vectors[max(0, bisect_right(times, decision.decided_at) - 1)]
        # A hash draws each time. So it does for stored units while a ramp is open, which cannot be told from a first
        # decision that was dropped or forgotten.
        named = decision.unit_id and not is_label(decision.unit_id)
        hashed = not self._stored or (self._complete and named)
        return decision.allocation_id if hashed else None

    def _read(self, reading: Reading, ids: set[Any]) -> Mapping[Any, _Vector]:
        found = {}
        for one, arms, probabilities in reading.all(_VECTORS, {"ids": list(ids)}):
            vector = np.zeros(len(self._place))
            for number, probability in zip(arms, probabilities, strict=True):
                if number in self._place:
                    vector[self._place[number]] = probability
            found[one] = _Vector(frozenset(arms), vector)
        return found


def gets_a_share(definition: Definition) -> NDArray[np.bool_]:
    """Return for each active arm, (K,), whether the rules in force give it more than 0 whatever was learned."""
    rule, arms = definition.rules.allocation, definition.active_arms
    if definition.bucket_table is not None:
        return np.isin([arm.number for arm in arms], definition.bucket_table)
    if rule.kind in LEARNING:
        return rule.least() > 0.0
    nothing = np.zeros(0)  # neither fixed nor uniform shares look at posteriors
    try:
        return allocate(rule, nothing, nothing) > 0.0
    except NoEligibleArmError:
        return np.zeros(len(arms), dtype=np.bool_)
