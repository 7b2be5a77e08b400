"""Every history of a small adaptive experiment with its exact probability: expectations without simulation."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product


@dataclass(frozen=True)
class History:
    """One way that the experiment can go."""

    probability: Fraction
    arms: list[int]
    rewards: list[float]
    allocations: list[list[float]]

    @property
    def propensities(self) -> list[float]:
        return [vector[arm] for vector, arm in zip(self.allocations, self.arms, strict=True)]


def greedy(arms: list[int], rewards: list[int], k: int) -> list[Fraction]:
    """An allocation that learns: an arm's share grows with its successes and shrinks with its failures."""
    odds = [Fraction(1)] * k
    for arm, reward in zip(arms, rewards, strict=True):
        odds[arm] *= Fraction(3) if reward else Fraction(1, 3)
    return [o / sum(odds) for o in odds]


def histories(means: list[Fraction], steps: int) -> Iterator[History]:
    """Every history of Bernoulli arms of `means` under `greedy`; the probabilities add up to 1."""
    k = len(means)
    for arms in product(range(k), repeat=steps):
        for rewards in product((0, 1), repeat=steps):
            probability = Fraction(1)
            allocations = []
            for t in range(steps):
                p = greedy(list(arms[:t]), list(rewards[:t]), k)
                mean = means[arms[t]]
                probability *= p[arms[t]] * (mean if rewards[t] else 1 - mean)
                allocations.append([float(x) for x in p])
            yield History(probability, list(arms), [float(r) for r in rewards], allocations)
