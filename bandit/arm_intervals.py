"""Intervals of a log's arms that may be looked at every day: where each sequence of `bandit.sequences` stands at the end.

Model
    Of each unit the first decision is kept, since later ones are no new evidence. Of each arm there are

    exact         the mean of its own rewards, for means that do not drift
    average       its mean reward averaged over the decisions that could have drawn it
    less_control  the same of the difference to the control, over the decisions that could have drawn either

    and each kind misses, of any arm at any look, with probability alpha at most. A decision could draw an arm if that had a
    probability of 1 / 10,000 or more: the sequences need propensities that are bounded away from 0. It is known before the
    decision is made, so that what is left is a martingale as before, also where an arm was given up after bad luck.

Assumes
    As `bandit.sequences`.

Source
    That of `bandit.sequences`.

Shapes
    As in `bandit.logged`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from bandit.logged import Indices, Vector, arm_indices, cluster_indices, fraction, probability_table, unit_numbers
from bandit.sequences import LEAST_OBSERVATIONS, PLANNED, Running, arm_bounds, arm_sequence, difference_sequence

#: A decision says something of an arm that had this probability in it, or more.
LEAST_PROBABILITY: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Interval:
    """The end of a sequence: an interval that held at every look before, too; or why there is none."""

    #: Why there is no interval, in words; empty if there is one.
    insufficient: str
    #: Decisions that it is from.
    n: int = 0
    #: The estimate, and the ends of the interval.
    value: float = 0.0
    lower: float = 0.0
    upper: float = 0.0


@dataclass(frozen=True, slots=True)
class ArmIntervals:
    """What may be said of one arm at any time, in units of reward."""

    #: Index of the arm.
    arm: int
    #: Of its own rewards.
    exact: Interval
    #: Averaged over the decisions.
    average: Interval
    #: The difference to the control; None of the control itself, and where there is none.
    less_control: Interval | None


def arm_intervals(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    allocations: ArrayLike,
    control: int | None = None,
    clusters: ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    planned: int = PLANNED,
) -> tuple[ArmIntervals, ...]:
    """Return the intervals of each arm after the last decision.

    `allocations` are the whole vectors, (n, K) or (K,); `control` is the index of an arm. Sequences are tightest after about
    `planned` decisions. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    every = unit_numbers("rewards", rewards)
    table = probability_table("allocations", allocations, every.size)
    k = table.shape[1]
    if control is not None and not 0 <= control < k:
        raise ValueError(f"control is {control}: it must be the index of an arm, from 0 to {k - 1}")
    first = np.sort(cluster_indices(clusters, every.size)[1])
    r, p = every[first], table[first]
    a = arm_indices(arms, k, every.size)[first]
    drawn = np.asarray(propensities, dtype=np.float64)[first]
    found = []
    for arm, bounds in enumerate(_exact(r, a, k, alpha)):
        average = _last(arm_sequence, r, a, drawn, p, (arm,), fraction("alpha", alpha) / k, planned)
        less = None
        if control is not None and arm != control:
            less = _last(difference_sequence, r, a, drawn, p, (arm, control), alpha / (k - 1), planned)
        found.append(ArmIntervals(arm, bounds, average, less))
    return tuple(found)


def _exact(r: Vector, a: Indices, k: int, alpha: float) -> list[Interval]:
    sums, counts = np.bincount(a, r, minlength=k), np.bincount(a, minlength=k)
    bounds = arm_bounds(sums.tolist(), counts.tolist(), alpha)
    return [
        Interval("", n, s / n, low, high) if n else Interval(f"arm {arm} has no outcome")
        for arm, (s, n, (low, high)) in enumerate(zip(sums.tolist(), counts.tolist(), bounds, strict=True))
    ]


def _last(
    sequence: Callable[..., Running],
    r: Vector,
    a: Indices,
    drawn: Vector,
    p: Vector,
    of: tuple[int, ...],
    alpha: float,
    planned: int,
) -> Interval:
    """Return the end of a sequence of these arms over the decisions that could have drawn each of them."""
    possible = (p[:, list(of)] >= LEAST_PROBABILITY).all(axis=1)
    for arm in of:
        own = int((a[possible] == arm).sum())
        if own < LEAST_OBSERVATIONS:
            return Interval(f"arm {arm} has {own} outcomes that count here: it needs {LEAST_OBSERVATIONS}")
    found = sequence(r[possible], a[possible], drawn[possible], *of, p.shape[1], alpha=alpha, planned=planned)
    last = (float(ends[-1]) for ends in (found.center, found.lower, found.upper))
    return Interval("", int(possible.sum()), *last)
