"""Shifted Beta posteriors: which arm is best once something is taken off each arm's reward.

Model
    theta_i ~ Beta(alpha_i, beta_i), independent; arm i scores theta_i - d_i. In the logit y of arm i,

        P(i scores most) = integral of f_i(y) prod_{j != i} F_j(x(y) + d_j - d_i) dy,

    where F_j(x) is 0 below x = 0 and 1 above x = 1. Where another arm's support ends, the integrand has a kink or a step:
    the integral begins at the last such start, and panels shrink towards every such end until a step is within 1e-16.

Assumes
    What `bandit.posterior` assumes.

Source
    `bandit.quadrature` for the panels and `bandit.tails` for F; Davis and Rabinowitz (1984), Methods of Numerical
    Integration, §2.9, for panels that shrink geometrically towards a singular end.

Shapes
    K, N, y, f, F, b   as in `bandit.quadrature`
    d                  (K,)   in units of reward
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bandit import quadrature
from bandit.quadrature import Array
from bandit.tails import log_cdf

#: Distances from a singular end at which panels end: down to where floats do, a factor of e^2 apart.
_TOWARDS: Final[Array] = np.exp(-2.0 * np.arange(19))


def probability_largest(alpha: Array, beta: Array, shift: Array) -> Array:
    """Return P(theta_i - shift_i is the largest), shape (K,), for valid parameters and finite shifts, each of shape (K,).

    Errors are at most 1e-8, and the result sums to 1. With equal shifts it is P(theta_i is the largest).
    """
    points = quadrature.breakpoints(alpha, beta)
    mass = np.array([_mass(alpha, beta, shift, points, arm) for arm in range(len(alpha))])
    return np.asarray(mass / mass.sum())


def _mass(alpha: Array, beta: Array, shift: Array, points: Array, arm: int) -> float:
    """Return the integral of one arm."""
    gap = np.delete(shift, arm) - shift[arm]
    rivals = np.delete(np.arange(len(alpha)), arm)
    own = quadrature.betas(alpha[[arm]], beta[[arm]])
    lowest = [_moved(points[[j], 0], -g)[0] for j, g in zip(rivals, gap, strict=True)]
    lower, upper = float(max([points[arm, 0], *lowest])), float(points[arm, -1])
    if lower >= upper:
        return 0.0
    rows = [points[arm], *_rows(points[rivals], gap)]
    grid = quadrature.panels(rows, quadrature.bends(points[[arm]], alpha[[arm]] + beta[[arm]]), lower, upper)
    at = np.stack([_moved(grid.y, g) for g in gap]) if len(gap) else np.empty((0, len(grid.y)))
    with_rivals = np.exp(quadrature.log_density(own, grid.y)[0] + _log_product(alpha, beta, points, rivals, at))
    return float(with_rivals @ grid.weights)


def _rows(points: Array, gap: Array) -> Iterator[Array]:
    """Yield the breakpoints of the rivals on the logit scale of the arm, and those towards the ends of their supports."""
    for own, g in zip(points, gap, strict=True):
        for row in (_moved(own, -g), _logit(_TOWARDS - g), _logit(1.0 - g - _TOWARDS)):
            inside = np.unique(row[np.isfinite(row)])
            if len(inside) > 1:
                yield inside


def _moved(y: Array, gap: float) -> Array:
    """Return the logit of x(y) + gap: exactly y without a gap, -inf below 0 and inf above 1."""
    if gap == 0.0:
        return y
    x, rest = expit(y) + gap, expit(-y) - gap
    return np.where(x <= 0.0, -np.inf, np.where(rest <= 0.0, np.inf, _log(x) - _log(rest)))


def _logit(x: Array) -> Array:
    return np.where((x > 0.0) & (x < 1.0), _log(x) - _log(1.0 - x), np.nan)


def _log(x: Array) -> Array:
    return np.log(np.where(x > 0.0, x, 1.0))


def _log_product(alpha: Array, beta: Array, points: Array, rivals: NDArray[np.intp], y: Array) -> Array:
    """Return the sum over rivals of log F_j at a row of y each, (J, N), which may be infinite; shape (N,)."""
    logs = np.where(y == -np.inf, -np.inf, 0.0)
    # Beyond its upper end a rival's F is 1 to the last digits.
    rival, node = np.nonzero((y > -np.inf) & (y < points[rivals, -1:]))
    logs[rival, node] = log_cdf(alpha[rivals[rival]], beta[rivals[rival]], y[rival, node])
    return np.asarray(logs.sum(axis=0))
