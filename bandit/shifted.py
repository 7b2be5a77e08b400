"""Shifted Beta posteriors: which arm is best once something is taken off each arm's reward.

Model
    theta_i ~ Beta(alpha_i, beta_i), independent; arm i scores theta_i - d_i. In the logit y of arm i,

        P(i scores most) = integral of f_i(y) prod_{j != i} F_j(x(y) + d_j - d_i) dy,

    where F_j(x) is 0 below x = 0 and 1 above x = 1. Where another arm's support ends, the integrand has a kink or a step:
    the integral begins at the last such start, and panels shrink towards every such end until a step is within 1e-16.
    Where a density is cut off long before its support ends, there is nothing to see at that end.

    Where no density is infinite at an end or so high that the last digit of a score matters, all arms share one grid in the
    score s: P(i scores most) = integral of g_i(s) prod_{j != i} F_j(s + d_j) ds, with g_i the density of arm i's score.
    That takes K values of F at each node instead of K (K - 1).

Assumes
    What `bandit.posterior` assumes.

Source
    `bandit.quadrature` for the panels; Davis and Rabinowitz (1984), Methods of Numerical Integration, §2.9, for panels that
    shrink geometrically towards a singular end.

Shapes
    K, N, y, f, F, b   as in `bandit.quadrature`
    d                  (K,)   in units of reward
    J                  rivals of an arm
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit

from bandit import quadrature
from bandit.quadrature import Array

#: Distances from a singular end at which panels end: down to where floats do, a factor of e^2 apart.
_TOWARDS: Final[Array] = np.exp(-2.0 * np.arange(19))
#: A density that is cut off before this logit does not see the end of its support.
_NEAR_END: Final = 3.0
#: e^y underflows a little below.
_FAR: Final = -700.0
#: An arm with a standard deviation from here on has a density of its score that rounding of it moves by 1e-10 at most.
_WIDE: Final = 1e-6
#: Scores this close are told apart on the logit scale alone.
_CLOSE: Final = 1e-9


def probability_largest(alpha: Array, beta: Array, shift: Array) -> Array:
    """Return P(theta_i - shift_i is the largest), shape (K,), for valid parameters and finite shifts, each of shape (K,).

    Errors are at most 1e-8, and the result sums to 1. With equal shifts it is P(theta_i is the largest).
    """
    return Contest(alpha, beta).probability_largest(shift)


class Contest:
    """Posteriors that are compared at many shifts: what does not depend on these is computed once."""

    def __init__(self, alpha: Array, beta: Array) -> None:
        """`alpha` and `beta` are valid parameters, (K,)."""
        self._alpha, self._beta = alpha, beta
        self._points = quadrature.breakpoints(alpha, beta)
        self._ends = expit(self._points[:, [0, -1]])
        total = alpha + beta
        sd = np.sqrt(alpha / total * (beta / total) / (total + 1.0))
        self._smooth = (alpha >= 1.0) & (beta >= 1.0) & (sd >= _WIDE)

    def probability_largest(self, shift: Array) -> Array:
        """As the function of this name."""
        scores = self._ends - shift[:, None]
        # Below the highest start no arm wins, so an arm that ends there neither wins nor keeps another from it.
        alive = np.flatnonzero(scores[:, 1] > scores[:, 0].max() - _CLOSE)
        mass = np.zeros(len(shift))
        if self._smooth[alive].all():
            mass[alive] = self._masses(shift, alive, float(scores[alive, 0].max()), float(scores[alive, 1].max()))
        else:
            for arm in alive.tolist():
                mass[arm] = self._mass(shift, arm, alive[alive != arm])
        return np.asarray(mass / mass.sum())

    def _masses(self, shift: Array, arms: NDArray[np.intp], lower: float, upper: float) -> Array:
        """Return the integrals of several arms on one grid in their scores."""
        d, points = shift[arms, None], self._points[arms]
        starts, ends = points[:, 0] < -_NEAR_END, points[:, -1] > _NEAR_END
        rows = [*(expit(points) - d), *(_TOWARDS[::-1] - d[starts]), *(1.0 - _TOWARDS - d[ends])]
        grid = quadrature.panels([_distinct(row) for row in rows], [], lower, upper)
        y = _logits(grid.y + d)
        inside = np.isfinite(y)
        at = np.where(inside, y, 0.0)
        f = quadrature.betas(self._alpha[arms], self._beta[arms])
        # The density of the score is that of the logit over x (1 - x).
        g = np.where(inside, quadrature.density(f, at) / (expit(at) * expit(-at)), 0.0)
        below = self._below(arms, y)
        before = np.cumprod(np.vstack((np.ones_like(grid.y), below[:-1])), axis=0)
        after = np.cumprod(np.vstack((np.ones_like(grid.y), below[:0:-1])), axis=0)[::-1]
        return np.asarray((g * before * after) @ grid.weights)

    def _mass(self, shift: Array, arm: int, rivals: NDArray[np.intp]) -> float:
        """Return the integral of one arm."""
        own, gap = self._points[arm], (shift[rivals] - shift[arm])[:, None]
        seen = _moved(self._points[rivals], -gap)
        lower, upper = float(max(own[0], seen[:, 0].max(initial=-np.inf))), float(own[-1])
        if lower >= upper:
            return 0.0
        # Beyond its upper end a rival's F is 1 to the last digits.
        felt = seen[:, -1] > lower
        rivals, gap, seen = rivals[felt], gap[felt], seen[felt]
        alpha, beta = self._alpha[[arm]], self._beta[[arm]]
        bends = quadrature.bends(self._points[[arm]], alpha + beta)
        grid = quadrature.panels([own, *self._rows(rivals, gap, seen)], bends, lower, upper)
        below = self._below(rivals, _moved(grid.y, gap)).prod(axis=0)
        return float((quadrature.density(quadrature.betas(alpha, beta), grid.y)[0] * below) @ grid.weights)

    def _rows(self, rivals: NDArray[np.intp], gap: Array, seen: Array) -> list[Array]:
        """Return the rivals' breakpoints on the logit scale of the arm, and those towards the ends of their supports."""
        starts, ends = self._points[rivals, 0] < -_NEAR_END, self._points[rivals, -1] > _NEAR_END
        rows = [*seen, *_logit(_TOWARDS[::-1] - gap[starts]), *_logit(1.0 - gap[ends] - _TOWARDS)]
        inside = (_distinct(row[np.isfinite(row)]) for row in rows)
        return [row for row in inside if len(row) > 1]

    def _below(self, arms: NDArray[np.intp], y: Array) -> Array:
        """Return F of each arm at a row of logits each, (J, N), which may be infinite."""
        below = np.where(y == -np.inf, 0.0, 1.0)
        # Beyond its upper end an arm's F is 1 to the last digits.
        row, node = np.nonzero((y > -np.inf) & (y < self._points[arms, -1:]))
        below[row, node] = _cdf(self._alpha[arms[row]], self._beta[arms[row]], y[row, node])
        return below


def _cdf(alpha: Array, beta: Array, y: Array) -> Array:
    """Return P(logit theta <= y) for theta ~ Beta(alpha, beta); the three are of one shape, y finite."""
    left = y <= 0.0
    # From the nearer end, whose distance keeps its digits.
    near, other, y = np.where(left, alpha, beta), np.where(left, beta, alpha), -np.abs(y)
    mass = betainc(near, other, expit(y))
    if (far := y < _FAR).any():
        mass[far] = np.exp(near[far] * y[far] - np.log(near[far]) - betaln(near[far], other[far]))
    return np.asarray(np.where(left, mass, 1.0 - mass))


def _moved(y: Array, gap: Array) -> Array:
    """Return the logit of x(y) + gap, (J, N): exactly y without a gap, -inf below 0 and inf above 1.

    `gap` is (J, 1); `y` has shape (N,) or (J, N).
    """
    x, rest = expit(y) + gap, expit(-y) - gap  # each keeps its digits at its end
    inside = (x > 0.0) & (rest > 0.0)
    logit = np.where(inside, _log(x) - _log(rest), np.where(x <= 0.0, -np.inf, np.inf))
    return np.where(gap == 0.0, y, logit)


def _distinct(row: Array) -> Array:
    """Return an ascending row without repetitions."""
    return row[np.concatenate(([True], row[1:] > row[:-1]))] if len(row) else row


def _logits(x: Array) -> Array:
    """Return the logit of x: -inf at 0 and below, inf at 1 and above."""
    return np.where(x <= 0.0, -np.inf, np.where(x >= 1.0, np.inf, _logit(x)))


def _logit(x: Array) -> Array:
    return np.where((x > 0.0) & (x < 1.0), _log(x) - _log(1.0 - x), np.nan)


def _log(x: Array) -> Array:
    return np.log(np.where(x > 0.0, x, 1.0))
