"""Logs of Thompson Sampling with a floor, as the router writes them: whole vectors, and propensities that are their entries.

Model
    Every `batch` decisions the allocation becomes `apply_floor(probability_best(alpha, beta), floor)`, computed from all
    outcomes so far; in between it stands, as under one policy version. Each decision is one draw from it.

Shapes
    T decisions, K arms
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.allocation import apply_floor
from bandit.posterior import probability_best

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Log:
    """One log."""

    arms: NDArray[np.intp]  # (T,)
    rewards: Array  # (T,)
    allocations: Array  # (T, K)

    @property
    def propensities(self) -> Array:
        """The entries of the vectors that were drawn, (T,)."""
        return np.asarray(self.allocations[np.arange(len(self.arms)), self.arms])

    def counts(self) -> tuple[Array, Array]:
        """Return sums of rewards and numbers of outcomes by arm after each decision, both (T, K)."""
        own = np.zeros(self.allocations.shape)
        own[np.arange(len(self.arms)), self.arms] = 1.0
        return (own * self.rewards[:, None]).cumsum(axis=0), own.cumsum(axis=0)


def thompson_log(rng: np.random.Generator, outcomes: Array, floor: float, batch: int) -> Log:
    """Return the log of one run on a table of what every arm would have earned at every decision, (T, K)."""
    steps, k = outcomes.shape
    arms, rewards, allocations = np.empty(steps, dtype=np.intp), np.empty(steps), np.empty((steps, k))
    alpha, beta = np.ones(k), np.ones(k)
    for start in range(0, steps, batch):
        part = slice(start, min(start + batch, steps))
        p = apply_floor(probability_best(alpha, beta), floor)
        drawn = rng.choice(k, size=part.stop - start, p=p)
        paid = outcomes[np.arange(start, part.stop), drawn]
        arms[part], rewards[part], allocations[part] = drawn, paid, p
        alpha += np.bincount(drawn, paid, k)
        beta += np.bincount(drawn, 1.0 - paid, k)
    return Log(arms, rewards, allocations)


def bernoulli(rng: np.random.Generator, means: tuple[float, ...], steps: int) -> Array:
    """Return outcomes of arms with these means, (T, K)."""
    return (rng.random((steps, len(means))) < np.array(means)).astype(np.float64)
