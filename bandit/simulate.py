"""Simulated bandits: what Thompson Sampling would have cost on known arms, and earned on a table of outcomes.

Model
    Arm k pays 1 with probability mu_k, else 0, independently. Each arm's posterior is Beta(alpha_k, beta_k),
    from one prior for all. At each step the arm with the largest posterior draw is chosen
    (`thompson_regret`), or an arm is drawn from the vector P(arm is best) (`matching_regret`): two ways to
    obey one law. The regret of a run is the sum over steps of max_j mu_j - mu_chosen: means, not realised
    rewards, so it has no reward noise.

    Feedback that takes its time (`delayed_choices`) is known a number of steps after its decision that depends on the
    arm and on what it says. With `mature_after`, outcomes count when their decision is that many steps old, or when they
    are known if that is later, so that within `mature_after` what they say makes no difference to when they count.

    A replay (`replay_table`) has a table with the outcome of every arm on every row, and reads only the
    chosen one.

Assumes
    The outcome of a decision is known `delay` further steps later, and elsewhere after the delays of its arm; nothing is
    lost and nothing drifts.
    Fractional rewards r count as r successes and 1 - r failures.

Source
    Thompson (1933), On the likelihood that one unknown probability exceeds another. Chapelle and Li (2011),
    An empirical evaluation of Thompson Sampling, §3, for the simulations and the effect of delay. Marsaglia
    and Tsang (2000), A simple method for generating gamma variables, for draws of a small shape.

Shapes
    K       number of arms
    R       number of runs, simulated side by side
    T       number of steps, or rows of a table
    means   (K,)
    scores  (T, K)
    alpha   (K, R)   as beta; arms first, so that the largest draw is a reduction over the outer axis
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit.allocation import apply_floor
from bandit.posterior import probability_best

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
#: Called with the steps done and the steps in all, about a hundred times in a simulation.
Progress = Callable[[int, int], None]
_Choose = Callable[[Array, Array], Indices]

#: From this parameter on, plain Beta draws hardly ever tie; below it they underflow.
_PLAIN: Final = 0.5


def beta_logits(alpha: Array, beta: Array, rng: np.random.Generator) -> Array:
    """Return log(theta / (1 - theta)) for independent draws theta ~ Beta(alpha, beta), without underflow.

    Plain draws of Beta(0.01, 0.01) are so often 0 or 1 that `argmax` over two of them picks the first 56 % of
    the time; their logits, between about -3000 and 3000, never tie.
    """
    return _log_gamma_draw(alpha, rng) - _log_gamma_draw(beta, rng)


def _log_gamma_draw(shape: Array, rng: np.random.Generator) -> Array:
    # A Gamma(a) draw is a Gamma(a + 1) draw times U^(1/a); the sum of logarithms cannot underflow.
    return np.asarray(np.log(rng.standard_gamma(shape + 1.0)) - rng.standard_exponential(shape.shape) / shape)


def largest_draw(alpha: Array, beta: Array, rng: np.random.Generator) -> Indices:
    """Return the arm whose draw from Beta(alpha, beta) is the largest, for every run: (K, R) to (R,)."""
    if min(alpha.min(), beta.min()) < _PLAIN:
        return np.asarray(beta_logits(alpha, beta, rng).argmax(axis=0))
    return np.asarray(rng.beta(alpha, beta).argmax(axis=0))


def thompson_regret(
    means: ArrayLike,
    steps: int,
    runs: int,
    rng: np.random.Generator,
    *,
    prior: tuple[float, float] = (1.0, 1.0),
    delay: int = 0,
    batch: int = 1,
    progress: Progress | None = None,
) -> Array:
    """Return the regret, shape (R,), of Thompson Sampling by posterior draws, without a floor.

    The posterior at step t holds the outcomes of the steps before t - t % `batch` - `delay`. `means` are in
    [0, 1]. Raises ValueError naming the argument, its value and the rule it breaks.
    """

    def draw(alpha: Array, beta: Array) -> Indices:
        return largest_draw(alpha, beta, rng)

    return _regret(means, steps, runs, rng, draw, prior, delay, batch, progress)


def matching_regret(
    means: ArrayLike,
    steps: int,
    runs: int,
    rng: np.random.Generator,
    *,
    prior: tuple[float, float] = (1.0, 1.0),
    delay: int = 0,
    batch: int = 1,
    progress: Progress | None = None,
) -> Array:
    """Return the regret, shape (R,), of drawing every arm from the vector P(arm is best), without a floor.

    The same law as `thompson_regret`, far slower; posteriors met before are remembered. Arguments and errors
    are the same.
    """
    known: dict[bytes, Array] = {}

    def draw(alpha: Array, beta: Array) -> Indices:
        state = np.ascontiguousarray(np.concatenate((alpha, beta)).T)
        sums = np.empty_like(alpha)
        for run, row in enumerate(state):
            key = row.tobytes()
            if key not in known:
                known[key] = np.cumsum(probability_best(*np.split(row, 2)))
            sums[:, run] = known[key]
        return _draw(sums, rng)

    return _regret(means, steps, runs, rng, draw, prior, delay, batch, progress)


def delayed_choices(
    means: ArrayLike,
    failure_delay: ArrayLike,
    success_delay: ArrayLike,
    steps: int,
    runs: int,
    rng: np.random.Generator,
    *,
    mature_after: int = 0,
    prior: tuple[float, float] = (1.0, 1.0),
) -> Indices:
    """Return the arm chosen at each step, shape (T, R), by Thompson Sampling where feedback takes its time.

    `failure_delay` and `success_delay`, shape (K,), are the steps after which the failure or success of a decision for each
    arm is known; `mature_after` is how old a decision must be before its outcome counts. The posterior at step t holds what
    counts by then. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    mu = _in_unit_interval("means", means, dimensions=1)
    for name, least, value in (("steps", 1, steps), ("runs", 1, runs), ("mature_after", 0, mature_after)):
        _at_least(name, value, least)
    _check_prior(prior)
    # By result, failure first, and arm. What is known at once still counts for the next step only.
    known = np.stack([_delays("failure_delay", failure_delay, len(mu)), _delays("success_delay", success_delay, len(mu))])
    wait = np.maximum(np.maximum(known, mature_after), 1)
    posterior = np.stack([np.full((len(mu), runs), prior[1]), np.full((len(mu), runs), prior[0])])
    coming = np.zeros((int(wait.max()) + 1, *posterior.shape))
    chosen = np.empty((steps, runs), dtype=np.intp)
    run = np.arange(runs)
    for step in range(steps):
        now = coming[step % len(coming)]
        posterior += now
        now[...] = 0.0
        arm = chosen[step] = largest_draw(posterior[1], posterior[0], rng)
        result = (rng.random(runs) < mu[arm]).astype(np.intp)
        coming[(step + wait[result, arm]) % len(coming), result, arm, run] += 1.0
    return chosen


def replay_table(
    scores: ArrayLike,
    rng: np.random.Generator,
    *,
    floor: float = 0.01,
    lag: int = 64,
    prior: tuple[float, float] = (1.0, 1.0),
    runs: int = 1,
    progress: Progress | None = None,
) -> Array:
    """Return the average reward, shape (R,), of Thompson Sampling in one pass over a full table of outcomes.

    `scores` are in [0, 1]. Every run shuffles the rows anew; each row's chosen score enters the posterior
    `lag` rows later. `floor` is every arm's least probability, as in `bandit.allocation.apply_floor`. Raises
    ValueError naming the argument, its value and the rule it breaks.
    """
    table = _in_unit_interval("scores", scores, dimensions=2)
    rows, arms = table.shape
    _at_least("runs", runs, 1)
    _at_least("lag", lag, 0)
    order = np.stack([rng.permutation(rows) for _ in range(runs)], axis=1)
    # The floor is affine, so flooring the chosen arm's unit vector and drawing again is flooring P(arm is
    # best).
    floored = np.cumsum(np.stack([apply_floor(unit, floor) for unit in np.eye(arms)], axis=1), axis=0)

    def choose(alpha: Array, beta: Array) -> Indices:
        return _draw(floored[:, largest_draw(alpha, beta, rng)], rng)

    earned = np.zeros(runs)

    def pay(step: int, chosen: Indices) -> Array:
        reward = table[order[step], chosen]
        np.add(earned, reward, out=earned)
        return np.asarray(reward)

    _play(arms, rows, runs, choose, pay, prior, lag, 1, progress)
    return np.asarray(earned / rows)


def _regret(
    means: ArrayLike,
    steps: int,
    runs: int,
    rng: np.random.Generator,
    choose: _Choose,
    prior: tuple[float, float],
    delay: int,
    batch: int,
    progress: Progress | None,
) -> Array:
    """Play `choose` against Bernoulli arms and return the regret of every run."""
    mu = _in_unit_interval("means", means, dimensions=1)
    _at_least("steps", steps, 1)
    _at_least("runs", runs, 1)
    gap = mu.max() - mu
    regret = np.zeros(runs)

    def pay(step: int, chosen: Indices) -> Array:
        np.add(regret, gap[chosen], out=regret)
        return (rng.random(runs) < mu[chosen]).astype(np.float64)

    _play(len(mu), steps, runs, choose, pay, prior, delay, batch, progress)
    return regret


def _play(
    arms: int,
    steps: int,
    runs: int,
    choose: _Choose,
    pay: Callable[[int, Indices], Array],
    prior: tuple[float, float],
    delay: int,
    batch: int,
    progress: Progress | None,
) -> None:
    """Alternate `choose` and `pay`, and move the posteriors once outcomes are known."""
    _at_least("delay", delay, 0)
    _at_least("batch", batch, 1)
    _check_prior(prior)
    alpha, beta = np.full((arms, runs), prior[0]), np.full((arms, runs), prior[1])
    run = np.arange(runs)
    unknown = delay + batch
    chosen = np.zeros((unknown, runs), dtype=np.intp)
    rewards = np.zeros((unknown, runs))
    learned, report = 0, max(1, steps // 100)
    for step in range(steps):
        if step % batch == 0:
            for past in range(learned, step - delay):
                arm, reward = chosen[past % unknown], rewards[past % unknown]
                alpha[arm, run] += reward
                beta[arm, run] += 1.0 - reward
            learned = max(learned, step - delay)
        arm = choose(alpha, beta)
        chosen[step % unknown] = arm
        rewards[step % unknown] = pay(step, arm)
        if progress is not None and ((step + 1) % report == 0 or step + 1 == steps):
            progress(step + 1, steps)


def _draw(sums: Array, rng: np.random.Generator) -> Indices:
    """Return one index per column of cumulative probabilities (K, R), drawn accordingly."""
    # Scaled by the last sum, so that rounding can never leave the number above every sum.
    return np.asarray((rng.random(sums.shape[1]) * sums[-1] >= sums[:-1]).sum(axis=0))


def _in_unit_interval(name: str, values: ArrayLike, dimensions: int) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: it must have {dimensions} dimensions, none empty")
    bad = array[~((array >= 0.0) & (array <= 1.0))]
    if bad.size:
        raise ValueError(f"{name} holds {bad[0]}: every entry must be from 0 to 1")
    return array


def _delays(name: str, values: ArrayLike, arms: int) -> Indices:
    given = np.asarray(values)
    if given.shape != (arms,) or given.dtype.kind not in "iu" or given.min() < 0:
        raise ValueError(
            f"{name} is {given.tolist()}: it must be a whole number of steps, 0 or more, for each of {arms} arms"
        )
    return given.astype(np.intp)


def _check_prior(prior: tuple[float, float]) -> None:
    if not (0.0 < prior[0] < np.inf and 0.0 < prior[1] < np.inf):
        raise ValueError(f"prior is {prior}: both parameters must be positive and finite")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}: it must be {least} or more")
