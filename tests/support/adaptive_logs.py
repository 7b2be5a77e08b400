"""Logs of Thompson Sampling with a floor, many runs side by side, whose allocations are exactly what was drawn from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.simulate import largest_draw


@dataclass(frozen=True)
class Logs:
    """R logs of T decisions over K arms."""

    arms: NDArray[np.intp]  # (R, T)
    rewards: NDArray[np.float64]  # (R, T)
    allocations: NDArray[np.float64]  # (R, T, K)
    propensities: NDArray[np.float64]  # (R, T)


def thompson_logs(
    means: list[float],
    steps: int,
    runs: int,
    floor: float,
    rng: np.random.Generator,
    batch: int = 20,
    draws: int = 100,
    table: NDArray[np.float64] | None = None,
    drift: NDArray[np.float64] | None = None,
) -> Logs:
    """Every `batch` decisions the allocation becomes floor + (1 - K floor) * share of wins among `draws` posterior draws.

    The shares stand in for P(best): Thompson Sampling as well as they approximate it, and exact propensities all the same.
    Rewards are Bernoulli of `means`, plus `drift` (T,) where given, or those of a `table` (rows, K) of outcomes, from a row
    drawn for each decision.
    """
    k = len(means)
    mu = np.array(means)
    alpha, beta = np.ones((k, runs)), np.ones((k, runs))
    arms = np.empty((runs, steps), dtype=np.intp)
    rewards = np.empty((runs, steps))
    allocations = np.empty((runs, steps, k))
    rows = np.arange(runs)
    for start in range(0, steps, batch):
        stop = min(start + batch, steps)
        wins = np.zeros((runs, k))
        for _ in range(draws):
            wins[rows, largest_draw(alpha, beta, rng)] += 1
        p = floor + (1 - k * floor) * wins / draws
        sums = p.cumsum(axis=1)
        u = rng.random((runs, stop - start)) * sums[:, -1:]
        drawn = (u[:, :, None] >= sums[:, None, :-1]).sum(axis=2)
        if table is None:
            moved = 0.0 if drift is None else drift[start:stop]
            paid = (rng.random(drawn.shape) < mu[drawn] + moved).astype(float)
        else:
            paid = table[rng.integers(len(table), size=drawn.shape), drawn]
        arms[:, start:stop], rewards[:, start:stop], allocations[:, start:stop] = drawn, paid, p[:, None, :]
        for arm in range(k):
            of_arm = drawn == arm
            alpha[arm] += (paid * of_arm).sum(axis=1)
            beta[arm] += ((1 - paid) * of_arm).sum(axis=1)
    return Logs(arms, rewards, allocations, np.take_along_axis(allocations, arms[:, :, None], axis=2)[:, :, 0])
