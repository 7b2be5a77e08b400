"""Rejection replay: what another learner, prior or discount would have earned, from the log of one that ran.

Model
    Decision t was drawn from p_t. The learner under test, having learned from accepted decisions alone, would draw from
    pi_t. The decision is accepted with probability c_t pi_t(A_t) / p_t(A_t), c_t = min_k p_t(k) / pi_t(k). Then in all it is
    accepted with probability c_t, and the arm of an accepted one is distributed as pi_t: the accepted decisions are a run of
    the learner under test. From uniform logging and a deterministic learner this is the original
    replay, which keeps a decision when both would have chosen the same arm.

    The value is the mean reward of the accepted decisions. Rewards minus what pi_t expects are a martingale, so that the
    interval covers the average expected reward along *this* run. Another run of the same learner may learn something
    else; repeat with other generators, and other orders of a log without drift, to see how much. Where units come back, the
    accepted decisions of one unit resemble one another: the standard error and the interval are those of `bandit.estimate`,
    by cluster.

Assumes
    Each decision is a draw of its own from p_t. A sticky unit's later decisions are not: keep its first.

    Decisions are alike: the means do not drift with time or segment. A learner of m accepted decisions has the luck and
    the age of m, so two learners are compared at the same number of them.

Source
    Li, Chu, Langford & Wang (2011), "Unbiased offline evaluation of contextual-bandit-based news article recommendation
    algorithms", algorithm 2; Li, Chu, Langford & Schapire (2010), §4; von Neumann (1951) for rejection. That of
    `bandit.estimate` for the interval.

Shapes
    As in `bandit.logged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from bandit.learners import BetaLearner
from bandit.logged import Indices, Vector, arm_indices, cluster_indices, fraction, numbers, probability_table
from bandit.offpolicy import raw_mean
from bandit.posterior import probability_best

#: With fewer accepted decisions than this the result carries a warning.
FEW_ACCEPTED = 100
_ROUNDING = 1e-6


class Learner(Protocol):
    """Anything that chooses and learns; it holds its own state."""

    def allocate(self) -> Vector:
        """Return the probability of each arm for the next decision, (K,)."""

    def update(self, arm: int, reward: float) -> None:
        """Learn that `arm` was drawn and earned `reward`."""


class ThompsonLearner(BetaLearner):
    """Thompson Sampling from one prior for all of k arms, with a floor and a discount, as a `Learner`."""

    def __init__(
        self, k: int, prior: tuple[float, float] = (1.0, 1.0), floor: float = 0.01, discount: float = 1.0, every: int = 1
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}: it must be 1 or more")
        super().__init__(np.repeat(np.array([prior], dtype=np.float64), k, axis=0), probability_best, floor, discount, every)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a learner earned in a rejection replay, in units of reward."""

    #: Mean reward of the accepted decisions.
    value: float
    #: Its standard error along this run, from the rewards, by cluster.
    stderr: float
    #: Ends of Student's interval for the average expected reward along this run.
    lower: float
    upper: float
    #: Decisions accepted: the length of the run.
    accepted: int
    #: Independent clusters among them; `accepted` where none were named.
    clusters: int
    #: Decisions in the log.
    n: int
    #: Accepted decisions by arm, (K,).
    drawn: tuple[int, ...]
    #: What makes it doubtful, in words; empty if nothing was found.
    warnings: tuple[str, ...]


def rejection_replay(
    rewards: ArrayLike,
    arms: ArrayLike,
    allocations: ArrayLike,
    learner: Learner,
    rng: np.random.Generator,
    clusters: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Replay:
    """Run `learner`, which keeps what it learned, over the log in order, and return what it earned.

    `allocations` are the vectors that the decisions were drawn from, (n, K) or (K,). `clusters` are labels of units, (n,):
    where units come back, the interval is too short without them. Raises ValueError naming the argument, its value and the
    rule it breaks, and with the number of accepted decisions if they are of fewer than 2 clusters.
    """
    r = numbers("rewards", rewards)
    p = probability_table("allocations", allocations, r.size)
    a = arm_indices(arms, p.shape[1], r.size)
    undrawable = np.flatnonzero(p[np.arange(r.size), a] <= 0.0)
    if undrawable.size:
        row = undrawable[0]
        raise ValueError(f"allocations[{row}, {a[row]}] is 0: decision {row} drew arm {a[row]} and had a probability of it")
    fraction("level", level)
    groups = cluster_indices(clusters, r.size)[0]
    accepted: list[int] = []
    barred = np.zeros(p.shape[1], dtype=np.intp)
    for t, u in enumerate(rng.random(r.size)):
        pi = _checked(learner.allocate(), p.shape[1])
        wanted = pi > 0.0
        barred += wanted & (p[t] <= 0.0)
        bound = float((p[t, wanted] / pi[wanted]).min())
        if u * p[t, a[t]] < bound * pi[a[t]]:
            accepted.append(t)
            learner.update(int(a[t]), float(r[t]))
    return _replay(r[accepted], a[accepted], groups[accepted], barred, r.size, level)


def _checked(pi: Vector, k: int) -> Vector:
    vector = np.asarray(pi, dtype=np.float64)
    if vector.shape != (k,) or not (vector.min() >= 0.0 and abs(vector.sum() - 1.0) <= _ROUNDING):
        raise ValueError(f"the learner allocated {vector.tolist()}: it must be {k} probabilities that add up to 1")
    return vector


def _replay(r: Vector, a: Indices, groups: Indices, barred: Indices, n: int, level: float) -> Replay:
    warnings = [
        f"arm {arm} had probability 0 in {barred[arm]} decisions where the learner might draw it: those were not accepted"
        for arm in np.flatnonzero(barred)
    ]
    if np.unique(groups).size < 2:
        of = "" if r.size < 2 else ", all of one cluster"
        raise ValueError("; ".join([f"{r.size} of {n} decisions were accepted{of}: at least 2 are needed", *warnings]))
    if r.size < FEW_ACCEPTED:
        warnings.append(f"only {r.size} of {n} decisions were accepted: a run that short says little about the learner")
    mean = raw_mean(r, groups, level=level)
    drawn = tuple(np.bincount(a, minlength=barred.size).tolist())
    alarms = (*warnings, *mean.warnings)
    return Replay(mean.value, mean.stderr, mean.lower, mean.upper, r.size, mean.clusters, n, drawn, alarms)
