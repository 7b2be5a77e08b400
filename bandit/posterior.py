"""Which arm is best, and what choosing another would cost, under independent Beta posteriors.

Model
    theta_i ~ Beta(alpha_i, beta_i), independent over arms; the best arm is the one with the largest theta.

Assumes
    Parameters from 0.01 to 1e9 in any mixture, and up to 100 arms, for the accuracies stated below.
    Parameters from 1e-12 to 1e15 and more arms are computed too, with the same method and no promise.

Source
    Thompson (1933), On the likelihood that one unknown probability exceeds another: the probability of being
    best. Scott (2015), Multi-armed bandit experiments in the online service economy: value remaining.
    Stucchio (2015), Bayesian A/B testing at VWO: expected loss as the measure of a wrong choice.

Shapes
    K            number of arms
    alpha, beta  (K,)    parameters of the posteriors
    F, f, S      (K, N)  distribution functions, densities and upper tails at the nodes of `bandit.quadrature`
    G            (N,)    product of F over arms: the distribution function of max_j theta_j

    P(i is best)            = integral of f_i prod_{j != i} F_j  = integral of (f_i / F_i) G
    E[max_j theta_j]        = sum_i integral of x (f_i / F_i) G
    P(theta_max > (1 + v) theta_*) = integral of f_* (1 - prod_{j != *} F_j((1 + v) theta))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from bandit import quadrature

#: Parameters outside these bounds are refused: beyond them the arithmetic overflows.
SMALLEST_PARAMETER: Final = 1e-12
LARGEST_PARAMETER: Final = 1e15
#: A distribution function below this counts as this: it cancels in (f / F) G, and division stays defined.
_TINY: Final = 1e-30
#: Probabilities of being best closer than this are a tie.
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one pass over the grid says about every arm; both arrays have shape (K,) and are read-only."""

    #: P(theta_i is the largest); sums to 1
    probability_best: NDArray[np.float64]
    #: E[max_j theta_j - theta_i], at least 0, in units of reward
    expected_loss: NDArray[np.float64]


def compare(alpha: ArrayLike, beta: ArrayLike) -> Comparison:
    """Return the probability of being best and the expected loss of every arm, from one grid.

    `alpha` and `beta` have shape (K,). Errors are at most 1e-8; equal arms get equal values to 1e-12. An arm
    whose chance is below about 1e-12 may get exactly 0. Raises ValueError naming the argument, its value and
    the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    points = quadrature.breakpoints(a, b)
    # Below the highest lower end the maximum has no mass, so an arm that ends there cannot be the best.
    lower, upper = float(points[:, 0].max()), float(points[:, -1].max())
    live = np.flatnonzero(points[:, -1] > lower)
    a_live, b_live = a[live], b[live]
    bends = quadrature.bends(points[live], a_live + b_live)
    grid = quadrature.panels(points[live], bends, lower, upper)
    f = quadrature.density(quadrature.betas(a_live, b_live), grid.y)
    cdf = np.maximum(1.0 - quadrature.upper_tails(f, grid), _TINY)
    # Dividing one factor out of G is exact enough: the factor is the same number that went in.
    share = f / cdf * (np.prod(cdf, axis=0) * grid.weights)
    mass = share.sum(axis=1)
    total = mass.sum()
    probability = np.zeros_like(a)
    probability[live] = mass / total
    best_mean = float(share.sum(axis=0) @ expit(grid.y)) / total
    loss = np.maximum(best_mean - a / (a + b), 0.0)
    probability.setflags(write=False)
    loss.setflags(write=False)
    return Comparison(probability, loss)


def probability_best(alpha: ArrayLike, beta: ArrayLike) -> NDArray[np.float64]:
    """Return P(theta_i is the largest), shape (K,), for independent theta_i ~ Beta(alpha_i, beta_i).

    Guarantees and errors are those of `compare`: within 1e-8, summing to 1.
    """
    return compare(alpha, beta).probability_best.copy()


def expected_loss(alpha: ArrayLike, beta: ArrayLike) -> NDArray[np.float64]:
    """Return E[max_j theta_j - theta_i], shape (K,): the mean reward that choosing arm i gives up.

    Guarantees and errors are those of `compare`: within 1e-8, never negative.
    """
    return compare(alpha, beta).expected_loss.copy()


def value_remaining(alpha: ArrayLike, beta: ArrayLike, q: float = 0.95) -> float:
    """Return the q-quantile of (theta_max - theta_*) / theta_*, where * is the arm most likely to be best.

    0 < q < 1. The result is a fraction of the leader's own theta: exactly 0 when the leader is the best with
    probability q or more, inf when the quantile exceeds the largest float. Its relative error is at most 1e-6
    for q up to 0.9999 and q - P(* is best) of at least 1e-5. Of leaders that tie within 1e-9 the lowest index
    counts. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    level = _fraction("q", q)
    probability = compare(a, b).probability_best
    star = int(np.flatnonzero(probability >= probability.max() - _TIE)[0])
    if probability[star] >= level:
        return 0.0
    points = quadrature.breakpoints(a, b)
    others = np.delete(np.arange(len(a)), star)
    lower = points[others, 0].max()
    rivals = others[points[others, -1] > lower]
    race = _Race(
        quadrature.betas(a[[star]], b[[star]]),
        quadrature.betas(a[rivals], b[rivals]),
        points[star],
        points[rivals],
        quadrature.bends(points[rivals], a[rivals] + b[rivals]),
    )

    def surplus(log_u: float) -> float:
        return race.exceeds(float(np.exp(log_u))) - (1.0 - level)

    # Start from a plausible gap between the best rival and the leader, on the scale of log log(1 + v).
    middle = points.shape[1] // 2
    gap = _log_x(points[rivals, middle + 1]).max() - _log_x(points[star, middle - 1])
    high = float(np.log(max(gap, 1e-300)))
    low, step = high, 1.0
    while surplus(high) > 0.0:
        low, high, step = high, high + step, 2.0 * step
    while low == high or surplus(low) <= 0.0:
        low, high, step = low - step, low, 2.0 * step
        if low < -740.0:
            return 0.0
    # Imported here: it takes longer to load than everything else together, and no decision needs it.
    from scipy.optimize import brentq

    root = np.exp(brentq(surplus, low, high, xtol=1e-10))
    return float(np.expm1(root)) if root < 709.0 else float("inf")


def credible_interval(
    alpha: ArrayLike, beta: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (lower, upper), each (K,): the ends of equal-tailed intervals of mass `level` for every theta_i.

    0 < level < 1. The mass of each tail is right to 1e-10. Raises ValueError naming the argument, its value
    and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    tail = 0.5 * (1.0 - _fraction("level", level))
    # The upper end is the mirror image of a lower one, so both tails keep their own digits.
    lower = expit(quadrature.lower_quantile(a, b, tail))
    upper = expit(-quadrature.lower_quantile(b, a, tail))
    return lower, upper


@dataclass(frozen=True, slots=True)
class _Race:
    """The leader against its rivals, for P(max of the rivals > e^u theta_*)."""

    star: quadrature.Betas
    rivals: quadrature.Betas
    star_points: NDArray[np.float64]
    rival_points: NDArray[np.float64]
    rival_bends: list[quadrature.Stretch]

    def exceeds(self, u: float) -> float:
        """Return P(max over rivals of theta_j > e^u theta_*), u > 0.

        Integrates over m = e^u theta_* below 1 on the logit scale of m, where the rivals' distribution
        functions need no change and only the leader's density is carried over; m above 1 beats every rival.
        """
        moved = _log_x(self.star_points) + u
        moved = moved[moved < 0.0]
        upper = float(self.rival_points[:, -1].max())
        if len(moved) == 0 or _logit(moved[0]) >= upper:
            return 0.0
        # Around `turn` log(1 - m e^-u) bends from one asymptote to the other, as log m does around 0.
        turn = -float(np.log(-np.expm1(-u)))
        total = self.star.total.item()
        bends = [*self.rival_bends, quadrature.bend(total, 0.0), quadrature.bend(total, turn)]
        points = [*self.rival_points, _logit(moved)]
        grid = quadrature.panels(points, bends, float(_logit(moved[0])), upper)
        log_x = _log_x(grid.y) - u
        jacobian = np.exp(_log_x(-grid.y) - np.log(-np.expm1(log_x)))
        leader = quadrature.density(self.star, _logit(log_x))[0] * jacobian
        tails = quadrature.upper_tails(quadrature.density(self.rivals, grid.y), grid)
        return float((leader * (1.0 - np.prod(np.maximum(1.0 - tails, 0.0), axis=0))) @ grid.weights)


def _log_x(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log x of the logit y; log(1 - x) is the same function of -y."""
    return -np.logaddexp(0.0, -y)


def _logit(log_x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logit of x from log x < 0, also where x or 1 - x underflows."""
    return log_x - np.log(-np.expm1(log_x))


def parameters(alpha: ArrayLike, beta: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return alpha and beta as float64 vectors of one length, or raise ValueError."""
    a, b = _vector("alpha", alpha), _vector("beta", beta)
    if a.shape != b.shape:
        raise ValueError(f"beta has {len(b)} entries and alpha has {len(a)}: every arm needs one of each")
    return a, b


def _vector(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {values!r}: it must be numbers, one for every arm") from error
    if vector.ndim != 1:
        raise ValueError(f"{name} has shape {vector.shape}: it must be one vector, an entry for every arm")
    if vector.size == 0:
        raise ValueError(f"{name} is empty: it must have an entry for at least one arm")
    # Written so that NaN fails it too.
    bad = np.flatnonzero(~((vector >= SMALLEST_PARAMETER) & (vector <= LARGEST_PARAMETER)))
    if bad.size:
        rule = f"must be positive and finite, from {SMALLEST_PARAMETER:g} to {LARGEST_PARAMETER:g}"
        raise ValueError(f"{name}[{bad[0]}] is {vector[bad[0]]}: every {name} {rule}")
    return vector


def _fraction(name: str, value: float) -> float:
    try:
        fraction = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}: it must be a number between 0 and 1") from error
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1")
    return fraction
