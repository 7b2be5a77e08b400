"""Learners for rejection replay that are set up as experiments are: a prior for each arm, and any strategy over posteriors.

Model
    Beta posteriors, whose evidence is multiplied by a discount with each outcome; the strategy turns them into an
    allocation, which then gets its floor.

Assumes
    Rewards in [0, 1]. No caps and no subsets.

Source
    That of `bandit.posterior` and `bandit.top_two`.

Shapes
    K        number of arms
    priors   (K, 2)   alpha and beta of each arm
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from bandit.allocation import apply_floor
from bandit.logged import Vector, table
from bandit.posterior import probability_best

#: Gives probabilities of the arms, (K,), for parameters alpha and beta, (K,) each.
Strategy = Callable[[Vector, Vector], Vector]


class BetaLearner:
    """A `bandit.rejection.Learner` over Beta posteriors, by default Thompson Sampling.

    1 is the `discount` that forgets nothing; 0.99 remembers about 100 outcomes. The allocation is computed anew every
    `every` outcomes. Raises ValueError naming the argument, its value and the rule it breaks.
    """

    def __init__(
        self,
        priors: ArrayLike,
        strategy: Strategy = probability_best,
        floor: float = 0.01,
        discount: float = 1.0,
        every: int = 1,
    ) -> None:
        given = np.asarray(priors, dtype=np.float64)
        self._priors = np.array(table("priors", given, given.shape[0] if given.ndim else 0, 2))
        if not (self._priors > 0.0).all():
            raise ValueError(f"priors is {self._priors.tolist()}: alpha and beta of every arm must be positive")
        if every < 1:
            raise ValueError(f"every is {every}: it must be 1 outcome or more")
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount is {discount}: it must be greater than 0 and at most 1")
        self._strategy, self._floor, self._discount, self._every = strategy, floor, discount, every
        self._evidence = np.zeros_like(self._priors)
        self._outcomes = 0
        self._allocation = self._compute()

    def allocate(self) -> Vector:
        """Return the probability of each arm for the next decision, (K,)."""
        return self._allocation

    def update(self, arm: int, reward: float) -> None:
        """Learn that `arm` was drawn and earned `reward`, in [0, 1]."""
        self._evidence *= self._discount
        self._evidence[arm] += (reward, 1.0 - reward)
        self._outcomes += 1
        if self._outcomes % self._every == 0:
            self._allocation = self._compute()

    def _compute(self) -> Vector:
        alpha, beta = (self._priors + self._evidence).T
        return apply_floor(self._strategy(alpha, beta), self._floor)
