"""What a demo should earn: the same learner in simulation, and the bound that a run must reach.

Model
    Thompson Sampling by posterior draws, with the floor, on the same prompts and the same units. A unit keeps the arm of its
    first draw; without units every prompt is one of its own. Each score enters the posterior LAG decisions later, more than
    the window of outstanding decisions, to leave room for the time that a new policy takes to reach every worker.

Assumes
    Rows are shuffled anew in every run; who asks when stays. Under sticky_hash units follow the allocation as it moves, to
    better arms on average, so that what stored draws earn is a lower bound for it.

Shapes
    scores  (T, K)
    unit    (T,) the number of each row's unit
    R       runs, side by side
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.allocation import DEFAULT_FLOOR, apply_floor
from bandit.simulate import largest_draw
from router.demo.data import Array

LAG = 160
_RUNS = 64
#: A run must keep this share of what simulated runs gain over uniform choice, if that lies this many standard deviations
#: below their mean; else, as for a few hundred prompts, it must only reach that. A run of the service is one more draw of
#: the simulated law, whose lower tail is longer than a normal one: some runs stay with the second best arm for long.
_SHARE = 0.6
_DEVIATIONS = 6.0
#: For one pass over all 9-arm prompts, per request: .587 ± .006 simulated, none of 3,000 runs below .549; uniform is .429.
PROMISED = 0.525


@dataclass(frozen=True, slots=True)
class Expectation:
    """What simulated runs earned on average, and what this one must."""

    mean: float
    deviation: float
    bound: float


def expectation(scores: Array, units: tuple[str, ...] | None, *, promised: bool, seed: int) -> Expectation:
    """Return what to expect; `promised` puts the published bound in place of the simulated one."""
    averages = simulate(scores, units, np.random.default_rng(seed))
    mean, deviation, uniform = float(averages.mean()), float(averages.std(ddof=1)), float(scores.mean())
    bound = min(uniform + _SHARE * (mean - uniform), mean - _DEVIATIONS * deviation)
    return Expectation(mean, deviation, PROMISED if promised else max(0.0, bound))


def simulate(
    scores: Array, units: tuple[str, ...] | None, rng: np.random.Generator, *, lag: int = LAG, runs: int = _RUNS
) -> Array:
    """Return the average reward of each simulated run, shape (R,)."""
    rows, arms = scores.shape
    unit = _numbered(units, rows)
    order = np.stack([rng.permutation(rows) for _ in range(runs)], axis=1)
    # The floor is affine: flooring the unit vector of the largest draw, and drawing again, floors P(arm is best).
    floored = np.cumsum([apply_floor(vector, DEFAULT_FLOOR) for vector in np.eye(arms)], axis=1)
    kept = np.full((unit.max() + 1, runs), -1)
    run = np.arange(runs)
    alpha, beta = np.ones((arms, runs)), np.ones((arms, runs))
    chosen, reward = np.empty((rows, runs), dtype=np.intp), np.empty((rows, runs))
    for step in range(rows):
        if step >= lag:
            alpha[chosen[step - lag], run] += reward[step - lag]
            beta[chosen[step - lag], run] += 1.0 - reward[step - lag]
        sums = floored[largest_draw(alpha, beta, rng)]
        drawn = (rng.random((runs, 1)) * sums[:, -1:] >= sums[:, :-1]).sum(axis=1)
        mine = kept[unit[step]]
        chosen[step] = np.where(mine >= 0, mine, drawn)
        kept[unit[step]] = chosen[step]
        reward[step] = scores[order[step], chosen[step]]
    return np.asarray(reward.mean(axis=0))


def _numbered(units: tuple[str, ...] | None, rows: int) -> NDArray[np.intp]:
    if units is None:
        return np.arange(rows)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(units))}
    return np.array([numbers[name] for name in units], dtype=np.intp)
