"""Sizes: how much evidence an answer takes, by strategy, before anything has been observed.

Model
    A/B          two-proportion z-test:   n = (z_a sqrt(2 p q) + z_b sqrt(p1 q1 + p2 q2))^2 / e^2 an arm,  p = (p1 + p2) / 2
    pairs        sign test on the pairs in which the arms differ, as McNemar's:
                 n = (z_a sqrt(d) + z_b sqrt(d - e^2))^2 / e^2 pairs,  d = P(they differ)
    turns        two arms are compared by the blocks of K turns that have an outcome of both: m // K of a session's m turns,
                 and of the r = m mod K turns left over a share r (r - 1) / (K (K - 1)), their chance to hold both arms.
                 Outcomes missing independently, coverage c, leave c^2 of these pairs. For a session of any length
                 there are at least (m - floor(K^2 / 4) / (K - 1)) / K, since r (K - r) <= floor(K^2 / 4).
    bandit       Thompson Sampling between one best arm and K - 1 that are worse by e, as a flow. With n_1 and n_0 outcomes
                 of the best arm and of each other one, and noise variance v, the best arm gets the share

                     P(e + sqrt(c v / n_1) Z > max over the others of sqrt(c v / n_0) Z_j),   Z, Z_j ~ N(0, 1),

                 of the outcomes known a delay later. With c = 1 this would be P(best) at the true means, and with c = 2 at
                 means that err independently of the allocation. They err less than that: an arm that errs downwards is
                 tried less and one that errs upwards corrects itself. c = 1.25 agrees with simulated regret to 20 %.
                 A floor f leaves f + (1 - K f) times that share. The bandit is sure when P(best) at the true means (c = 1)
                 reaches .95, or with a tolerance d the chance that no other arm is better by more than d, which is
                 P(best) with e + d in place of e; `Ending` says how long it goes on. Where it waits for n outcomes of every
                 arm, runs differ: beside the floor's share, what exploring has given an arm is taken as a Gamma variable of
                 shape 2 with the flow's mean, and the wait is the sum over time of the chance that an arm has too few.

Assumes
    Independent outcomes, one difference e for all. Normal approximations: good where every arm expects 10 successes and 10
    failures. The flow describes the mean of many runs; single runs vary as much as the mean itself.

Source
    Fleiss, Levin & Paik (2003), "Statistical Methods for Rates and Proportions", section 4.2, for the A/B test, without
    continuity correction; Connor (1987), "Sample size for testing differences in proportions for the paired-sample
    design", after Miettinen (1968), for pairs; Kuang & Wager (2024), "Weak signal asymptotics for sequentially randomized
    experiments", and Fan & Glynn (2021), "Diffusion approximations for Thompson sampling", for the limit that the flow
    simplifies; Lai & Robbins (1985) for its growth with log t.

Shapes
    Rates and effects in [0, 1]; sizes in outcomes, as real numbers: callers round up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri

from bandit.stopping import StoppingRule

#: A bandit is sure when an arm is the best with this probability.
STOP_AT: Final = StoppingRule().probability_best
#: c: how much wider than a posterior the flow's differences are.
_WIDENING: Final = 1.25
#: The outcomes that a flat prior is worth.
_PRIOR: Final = 2.0
#: A step of the flow, as a share of the outcomes learned from so far.
_STEP: Final = 0.02
_MOST_STEPS: Final = 3000
#: A flow is followed until a run goes on with no more than this chance.
_HARDLY: Final = 1e-3
_NODES, _WEIGHTS = (np.asarray(part, dtype=np.float64) for part in np.polynomial.hermite_e.hermegauss(40))


def ab_size(baseline: float, effect: float, alpha: float, power: float) -> float:
    """Return the outcomes of each arm for a two-sided test at `alpha` to find `baseline + effect` with chance `power`."""
    other = baseline + effect
    middle = baseline + 0.5 * effect
    z_alpha, z_power = _quantiles(alpha, power)
    spread = z_alpha * math.sqrt(2.0 * middle * (1.0 - middle))
    spread += z_power * math.sqrt(baseline * (1.0 - baseline) + other * (1.0 - other))
    return (spread / effect) ** 2


def pair_size(
    baseline: float, effect: float, alpha: float, power: float, correlation: float = 0.0, accuracy: float = 1.0
) -> float:
    """Return the prompts, each answered by both arms, for a sign test on which answer is better.

    `correlation` is that of the two arms' success on one prompt; 0 is the cautious end. `accuracy` is the chance that a
    judge names the better one of two answers that differ: the effect it sees is 2 accuracy - 1 of the true one.
    Raises ValueError where rates and correlation contradict each other.
    """
    other = baseline + effect
    variances = baseline * (1.0 - baseline) * other * (1.0 - other)
    differ = baseline * (1.0 - other) + other * (1.0 - baseline) - 2.0 * correlation * math.sqrt(variances)
    # The arms differ at least where one succeeds and the other cannot.
    differ = max(differ, effect)
    seen = effect * (2.0 * accuracy - 1.0)
    if not seen > 0.0:
        raise ValueError(f"accuracy is {accuracy}: it must be greater than 0.5, a judge who guesses sees no difference")
    z_alpha, z_power = _quantiles(alpha, power)
    return ((z_alpha * math.sqrt(differ) + z_power * math.sqrt(differ - seen * seen)) / seen) ** 2


def pairs_a_turn(turns: float, arms: int, vary: bool) -> float:
    """Return the turns of two given arms in one block, as pairs by turn, for sessions of `turns` >= `arms` turns on average.

    Sessions are as equal in length as whole turns can be. If they `vary`, it is the least whatever their lengths are.
    """
    if vary:
        # A block of r turns holds a given pair with chance r (r - 1) / (K (K - 1)): less than r / K by this at most.
        return (turns - (arms * arms // 4) / (arms - 1)) / (arms * turns)
    short = math.floor(turns)
    more = turns - short
    return ((1.0 - more) * _pairs_of(short, arms) + more * _pairs_of(short + 1, arms)) / turns


def _pairs_of(turns: int, arms: int) -> float:
    blocks, left = divmod(turns, arms)
    return blocks + left * (left - 1) / (arms * (arms - 1))


@dataclass(frozen=True, slots=True)
class Ending:
    """When a bandit ends; without more, as soon as it is sure. All but the first are counts of outcomes."""

    #: How much better another arm may be and not matter.
    tolerance: float = 0.0
    #: Not before so many of all arms, those on their way included.
    least: float = 0.0
    #: Not before so many are known of every arm.
    least_each: float = 0.0
    #: Only at a multiple of this; 0 is at any time.
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class Flow:
    """What Thompson Sampling is expected to take until it ends."""

    #: Outcomes until then, those included that are not known yet at that moment.
    outcomes: float
    #: Successes lost on the way, against always choosing the best arm.
    regret: float
    #: Outcomes until it is sure, which may be long before it ends.
    sure: float


def thompson_flow(
    arms: int,
    effect: float,
    variance: float,
    delay: float = 0.0,
    floor: float = 0.0,
    ending: Ending | None = None,
) -> Flow:
    """Return the flow of Thompson Sampling from a flat prior; `delay` is the outcomes on their way at any moment.

    `effect` > 0 is what the best arm is better by; `variance` > 0 that of one outcome; `floor` the least share of an arm.
    """
    end = ending or Ending()
    t, best, lost = [0.0], [0.0], [0.0]
    if delay > 0.0:
        # Nothing is known yet: every arm has its share.
        t, best, lost = [0.0, delay], [0.0, delay / arms], [0.0, delay * (arms - 1) / arms]
    sure, outcomes, regret = math.inf, t[-1], lost[-1]
    for _ in range(_MOST_STEPS):
        learned = max(0.0, t[-1] - delay)
        known_best, known_other = _at(learned, t, best), _at(learned, t, lost) / (arms - 1)
        noise = variance / (_PRIOR + known_best), variance / (_PRIOR + known_other)
        if sure == math.inf and _chance(arms, effect + end.tolerance, *noise) >= STOP_AT:
            sure = t[-1]
        # The chance that a run is still going on.
        alive = 1.0
        if sure <= t[-1] >= end.least:
            alive = _chance_of_few(arms - 1, end.least_each - floor * learned, known_other - floor * learned)
        share = floor + (1.0 - arms * floor) * _chance(arms, effect, *(_WIDENING * one for one in noise))
        if alive < _HARDLY:
            waits = _until_a_look(outcomes, end.every)
            return Flow(outcomes + waits, effect * (regret + (1.0 - share) * waits), sure)
        step = max(1.0, _STEP * learned)
        if t[-1] < end.least:
            step = min(step, end.least - t[-1])
        t.append(t[-1] + step)
        best.append(best[-1] + share * step)
        lost.append(lost[-1] + (1.0 - share) * step)
        outcomes += alive * step
        regret += alive * (1.0 - share) * step
    raise ArithmeticError(f"an effect of {effect} at variance {variance} takes more outcomes than the flow follows")


def _chance_of_few(others: int, missing: float, explored: float) -> float:
    """Return the chance that one of the other arms at least has explored less than it is missing."""
    if missing <= 0.0:
        return 0.0
    if explored <= 0.0:
        return 1.0
    x = 2.0 * missing / explored
    return float(-math.expm1(others * (math.log1p(x) - x)))


def _at(x: float, t: list[float], values: list[float]) -> float:
    """Return the value at x in [0, t[-1]], linear between the steps; lists that grow are dear to `np.interp`."""
    i = bisect_left(t, x)
    if t[i] == x:
        return values[i]
    part = (x - t[i - 1]) / (t[i] - t[i - 1])
    return values[i - 1] + part * (values[i] - values[i - 1])


def _until_a_look(t: float, every: float) -> float:
    if every <= 0.0:
        return 0.0
    # A time that is a multiple but for its rounding is one.
    return max(0.0, math.ceil(t / every - 1e-9) * every - t)


def _chance(arms: int, effect: float, best: float, other: float) -> float:
    """Return P(N(effect, best) exceeds arms - 1 independent N(0, other))."""
    rivals = ndtr((effect + math.sqrt(best) * _NODES) / math.sqrt(other)) ** (arms - 1)
    return float(_WEIGHTS @ rivals / _WEIGHTS.sum())


def _quantiles(alpha: float, power: float) -> tuple[float, float]:
    return float(-ndtri(0.5 * alpha)), float(ndtri(power))
