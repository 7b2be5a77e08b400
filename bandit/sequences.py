"""Confidence sequences on adaptively collected data: intervals of arms and of differences that hold at every look.

Model
    The pseudo-outcome of arm k at decision t, G_tk = q_tk + 1{A_t = k} (r_t - q_tk) / p_t, has arm k's mean reward given
    everything before decision t, whatever the allocation learned from. Its sums around their means are therefore a
    martingale, and with V_t the sum of its conditional variances, estimated by sum (G_s - mean)^2 + 2 (largest 1 / p)^2,

        |mean of G - mean reward|  <=  sqrt(V_t + v) sqrt(log((V_t + v) / v) - 2 log alpha) / t     for all t >= start

    up to a probability that tends to alpha as the start moves out. v sets when the sequence is tightest. The second term of
    V_t stands for one success and one failure more at the largest weight so far. It vanishes against the first; without it
    an arm of few successes has too small a variance just when it has too small a mean: see docs/estimates.md. The same holds
    for the differences G_tk - G_tc: a control c that is drawn from the same vectors at the same times is concurrent, so that
    what moves both arms alike cancels.

    Where rewards drift, the sequence is one for the average over the decisions so far.

    An arm's mean without drift needs no asymptotics. Choosing when to draw an arm looks at the past alone, so each of its
    observations has the mean mu given all before it and that the arm was drawn; the likelihood ratio in
    `bandit.inference.confidence_sequence` stands still at every other decision and remains a supermartingale. `arm_bounds`
    is that sequence, on each arm's own observations.

Assumes
    Rewards in [0, 1]. Decisions in order, each of another unit: keep the first of every sticky unit. Outcomes join in an
    order that does not depend on what they say: see `mature_after` for feedback whose failures arrive first. For the
    asymptotic ones: propensities bounded away from 0, such as by a floor, and predictions from earlier decisions.

Source
    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence
    sequences", for the bound under martingale dependence and pseudo-outcomes; Robbins (1970) for the mixture, here with
    rho^2 = 1 / v; Howard, Ramdas, McAuliffe & Sekhon (2021) for tuning v.

Shapes
    n, K and arguments as in `bandit.logged`
    G    (n, K)   `pseudo_outcomes`
    v    in units of V; V_t is at most about t / (4 floor)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

from bandit.inference import confidence_sequence
from bandit.logged import Vector, arm_indices, fraction, propensity_vector, table, unit_numbers
from bandit.offpolicy import running_means

#: Decisions after which a sequence is tightest, unless the caller plans otherwise.
PLANNED = 10_000
#: Observations that an arm must have before its asymptotic sequence starts.
LEAST_OBSERVATIONS = 30
#: How many squares of the largest weight are added to the variance.
_PSEUDO_SQUARES = 2.0


@dataclass(frozen=True, slots=True)
class Running:
    """One confidence sequence, an entry after each decision, all (n,) and read-only."""

    #: The mean of the pseudo-outcomes so far; it may lie outside the range of the rewards.
    center: Vector
    #: Ends of the interval, within the range that is possible; the whole range before the start.
    lower: Vector
    upper: Vector
    #: The decision, from 0, after which the sequence starts; None if there were too few observations.
    start: int | None


def pseudo_outcomes(
    rewards: ArrayLike, arms: ArrayLike, propensities: ArrayLike, k: int, q: ArrayLike | None = None
) -> Vector:
    """Return G, (n, K): for each decision and arm an unbiased value of the reward that the arm would have had.

    `q` holds predictions from earlier decisions, (n, K) or (K,), by default `running_means`; 0 for every arm is inverse
    propensity weighting. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    r = unit_numbers("rewards", rewards)
    a = arm_indices(arms, k, r.size)
    p = propensity_vector(propensities, r.size)
    model = running_means(r, a, k) if q is None else table("q", q, r.size, k)
    outcomes = np.array(model)
    every = np.arange(r.size)
    outcomes[every, a] += (r - model[every, a]) / p
    return outcomes


def arm_sequence(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    arm: int,
    k: int,
    q: ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    planned: int = PLANNED,
) -> Running:
    """Return the asymptotic confidence sequence for the mean reward of `arm`, averaged over the decisions so far.

    It is tightest after about `planned` decisions, which must be chosen without looking at the log. For K arms at once
    use alpha / K. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    outcomes = pseudo_outcomes(rewards, arms, propensities, k, q)
    _check_arm("arm", arm, k)
    seen = _seen(arms, propensities, arm)
    return _sequence(outcomes[:, arm], (seen,), (0.0, 1.0), alpha, 0.25 * k * _at_least_one(planned))


def difference_sequence(
    rewards: ArrayLike,
    arms: ArrayLike,
    propensities: ArrayLike,
    arm: int,
    control: int,
    k: int,
    q: ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    planned: int = PLANNED,
) -> Running:
    """Return the asymptotic confidence sequence for the mean reward of `arm` minus that of the concurrent `control`.

    Arguments and errors are those of `arm_sequence`.
    """
    outcomes = pseudo_outcomes(rewards, arms, propensities, k, q)
    _check_arm("arm", arm, k)
    _check_arm("control", control, k)
    if arm == control:
        raise ValueError(f"control is {control}, the arm itself: it must be another arm")
    differences = outcomes[:, arm] - outcomes[:, control]
    seen = (_seen(arms, propensities, arm), _seen(arms, propensities, control))
    return _sequence(differences, seen, (-1.0, 1.0), alpha, 0.5 * k * _at_least_one(planned))


def arm_bounds(successes: Sequence[float], n: Sequence[float], alpha: float = 0.05) -> tuple[tuple[float, float], ...]:
    """Return (lower, upper) of every arm's mean reward from its own observations, all of them valid at every look at once.

    `successes` and `n` are sums of rewards and numbers of outcomes by arm, (K,). alpha is shared among the arms: with
    probability 1 - alpha no interval of any arm ever misses. Not asymptotic; needs means that do not drift.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    if len(successes) != len(n) or not len(n):
        raise ValueError(f"successes has {len(successes)} entries and n has {len(n)}: every arm needs one of each")
    share = fraction("alpha", alpha) / len(n)
    return tuple(confidence_sequence(s, count, share) for s, count in zip(successes, n, strict=True))


def mixture_scale(variance: float, alpha: float) -> float:
    """Return v for which the sequence is tightest where the variance V is `variance`.

    Minimising (V + v) (log((V + v) / v) + c) over v, c = -2 log alpha, gives V + v = y v with y - log y = 1 + c.
    """
    y = -float(lambertw(-(alpha**2) / math.e, -1).real)
    return variance / (y - 1.0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What had been seen of one arm after each decision."""

    #: The decision after which it has enough observations, or None.
    start: int | None
    #: The largest 1 / p among its own decisions so far, (n,).
    largest_weight: Vector


def _seen(arms: ArrayLike, propensities: ArrayLike, arm: int) -> _Seen:
    of_arm = np.asarray(arms) == arm
    drawn = np.flatnonzero(of_arm)
    start = int(drawn[LEAST_OBSERVATIONS - 1]) if drawn.size >= LEAST_OBSERVATIONS else None
    return _Seen(start, np.maximum.accumulate(of_arm / np.asarray(propensities, dtype=np.float64)))


def _sequence(
    terms: Vector, seen: tuple[_Seen, ...], possible: tuple[float, float], alpha: float, tightest_at: float
) -> Running:
    t = np.arange(1, terms.size + 1)
    center = terms.cumsum() / t
    level = fraction("alpha", alpha)
    # Deviations are taken from the first term, so that the squares do not cancel.
    shifted = terms - terms[0]
    variance = np.maximum((shifted**2).cumsum() - shifted.cumsum() ** 2 / t, 0.0)
    for arm in seen:
        variance += _PSEUDO_SQUARES * arm.largest_weight**2
    v = mixture_scale(tightest_at, level)
    half = np.sqrt((variance + v) * (np.log1p(variance / v) - 2.0 * math.log(level))) / t
    lower, upper = (np.clip(center + side * half, *possible) for side in (-1.0, 1.0))
    starts = [arm.start for arm in seen if arm.start is not None]
    start = max(starts) if len(starts) == len(seen) else None
    early = terms.size if start is None else start
    lower[:early], upper[:early] = possible
    for array in (center, lower, upper):
        array.setflags(write=False)
    return Running(center, lower, upper, start)


def _check_arm(name: str, arm: int, k: int) -> None:
    if not 0 <= arm < k:
        raise ValueError(f"{name} is {arm}: it must be the index of an arm, from 0 to {k - 1}")


def _at_least_one(planned: int) -> int:
    if planned < 1:
        raise ValueError(f"planned is {planned}: it must be 1 decision or more")
    return planned
