"""The split of a log: how many decisions each arm got beside what their own vectors say, and whether that can be chance.

Model
    Decision t draws arm k with probability p_tk. Arm k is then expected in sum p_tk decisions, with the variance
    sum p_tk (1 - p_tk) if vectors do not follow earlier draws, and about that if they do. The verdict is not from these but
    from the e-value of `bandit.srm.srm_sequential`, which holds either way and at every look.

Assumes
    As `bandit.srm`: decisions in order, each of them a first draw.

Source
    That of `bandit.srm`.

Shapes
    n            number of decisions
    K            number of arms
    allocations  (n, K)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from bandit.logged import arm_indices, fraction, probability_table
from bandit.srm import srm_sequential

#: How often, at most, a sound log is ever called unsound: rarely, since a mismatch puts everything else in doubt.
ALPHA: Final = 0.01


@dataclass(frozen=True, slots=True)
class Split:
    """What a test of the split found; sequences are aligned with the arms."""

    #: Decisions.
    n: int
    #: Decisions that each arm got.
    observed: tuple[int, ...]
    #: Decisions that each arm was to get.
    expected: tuple[float, ...]
    #: The difference in standard deviations, to find the arm at fault: no test. 0 of an arm that was never left to chance.
    deviations: tuple[float, ...]
    #: The e-value after the last decision, and the largest after any.
    e_value: float
    largest: float
    #: A sound log ever has an e-value of 1 / alpha with probability alpha at most.
    alpha: float
    #: Index of the decision after which the e-value first was 1 / alpha or more; None if it never was.
    found_at: int | None

    @property
    def mismatch(self) -> bool:
        """Whether decisions were not split as their vectors say."""
        return self.found_at is not None


def split_of(arms: ArrayLike, allocations: ArrayLike, alpha: float = ALPHA) -> Split:
    """Return the split of the decisions, which must be first draws, beside the vectors that they were drawn from, (n, K).

    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    a = arm_indices(arms)
    p = probability_table("allocations", allocations, a.size)
    k = p.shape[1]
    a = arm_indices(a, k)
    threshold = 1.0 / fraction("alpha", alpha)
    e = srm_sequential(a, p)
    observed = np.bincount(a, minlength=k)
    expected, variance = p.sum(axis=0), (p * (1.0 - p)).sum(axis=0)
    deviations = np.divide(observed - expected, np.sqrt(variance), out=np.zeros(k), where=variance > 0.0)
    reached = np.flatnonzero(e >= threshold)
    return Split(
        n=a.size,
        observed=tuple(observed.tolist()),
        expected=tuple(expected.tolist()),
        deviations=tuple(deviations.tolist()),
        e_value=float(e[-1]),
        largest=float(e.max()),
        alpha=alpha,
        found_at=int(reached[0]) if reached.size else None,
    )
