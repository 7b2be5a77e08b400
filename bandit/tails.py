"""Tails: how unlikely it is that an arm is the best, where the chance is far below what a float resolves beside 1.

Model
    theta_i ~ Beta(alpha_i, beta_i), independent. In the logit y the density f_i is log-concave, so its distribution
    function F_i is too, and so is the integrand of

        P(i is best) = integral of exp(g_i(y)) dy,   g_i = log f_i + sum over j != i of log F_j.

    g_i therefore has one peak. It is found, and exp(g_i - max g_i) is integrated around it: nothing underflows, however
    unlikely the arm. Log F is the incomplete Beta function where that is a float, and below it log f plus the logarithm
    of the continued fraction for F / f.

Assumes
    What `bandit.posterior` assumes.

Source
    Prekopa (1973), "On logarithmic concave measures and functions", for F; DLMF, §8.17.22, for the continued fraction,
    evaluated by the method of Lentz (1976); `bandit.quadrature` for the panels.

Shapes
    K, N, y, f, F   as in `bandit.quadrature`
    g               (N,)   logarithm of the integrand of one arm
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincc, expit

from bandit import quadrature
from bandit.posterior import compare, parameters
from bandit.quadrature import Array

#: From here on down the chances of `bandit.posterior.compare`, which are right to 1e-8 or better, are computed anew.
_RARE: Final = 1e-3
#: The incomplete Beta function is trusted down to this; below it the continued fraction converges in a few steps.
_DEEP: Final = 1e-250
#: e^y underflows a little below.
_FAR: Final = -700.0
#: exp(-_DROP) of its peak is where an integrand is cut off.
_DROP: Final = 40.0
#: How finely a bracket is divided in the search for the peak, and each flank of it for the integral.
_CELLS: Final = 16
_FLANK: Final = 10
#: A continued fraction whose last step changed it by no more than this has converged.
_SETTLED: Final = 1e-14
_MOST_STEPS: Final = 10_000


def log_cdf(alpha: Array, beta: Array, y: Array) -> Array:
    """Return log P(logit theta <= y) for theta ~ Beta(alpha, beta); the three are of one shape.

    Absolute error about 1e-10, and 1e-15 of the result's size where that is more; it never underflows.
    """
    below = y <= np.log(alpha / beta)
    above = ~below
    result = np.empty(y.shape)
    result[below] = _log_lower(alpha[below], beta[below], y[below])
    # Right of the mean the other tail is the small one, and keeps its digits.
    result[above] = np.log1p(-np.exp(_log_lower(beta[above], alpha[above], -y[above])))
    return result


def log_probability_best(alpha: ArrayLike, beta: ArrayLike) -> Array:
    """Return log P(theta_i is the largest), shape (K,), however small: differences of the logarithms are right to 1e-6.

    That is, any two arms' chances have the right ratio, whether they are 1e-3 or exp(-1e6); for parameters up to 1e6 to
    1e-8. Rounding adds about 1e-15 of the logarithm's own size. The logarithms are of numbers that add up to 1.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    a, b = parameters(alpha, beta)
    p = compare(a, b).probability_best
    result = np.log(np.maximum(p, 1e-300))
    points = quadrature.breakpoints(a, b)
    known: dict[tuple[float, float], float] = {}
    for arm in np.flatnonzero(p < _RARE):
        pair = (float(a[arm]), float(b[arm]))
        if pair not in known:
            known[pair] = _Integrand(a, b, points, int(arm)).log_integral()
        result[arm] = known[pair]
    return np.asarray(result - np.logaddexp.reduce(result))


class _Integrand:
    """g of one arm, with what is needed to find its peak."""

    def __init__(self, alpha: Array, beta: Array, points: Array, arm: int) -> None:
        others = np.arange(len(alpha)) != arm
        self._own = quadrature.betas(alpha[[arm]], beta[[arm]])
        self._alpha, self._beta = alpha[others], beta[others]
        self._ends = points[others, -1]
        self._points = points
        # The peak of g is between the arm's own peak and where every other arm's F is 1.
        middle = points.shape[1] // 2
        last = int(points[:, -1].argmax())
        self._start = np.unique(np.concatenate((points[arm, middle:], points[last])))
        self._reach = 28.0 + float(np.log(max(1.0, (alpha + beta).max())))

    def __call__(self, y: Array) -> Array:
        # Beyond its upper end an arm's F is 1 to the last digits.
        arm, node = np.nonzero(y < self._ends[:, None])
        logs = log_cdf(self._alpha[arm], self._beta[arm], y[node])
        return np.asarray(quadrature.log_density(self._own, y)[0] + np.bincount(node, logs, len(y)))

    def log_integral(self) -> float:
        low, peak, high = self._bracket()
        lower, upper = (self._end(peak, step) for step in (low - peak, high - peak))
        flanks = np.concatenate((np.linspace(lower, peak, _FLANK)[:-1], np.linspace(peak, upper, _FLANK)))
        grid = quadrature.panels([*self._points, flanks], [(-self._reach, self._reach)], lower, upper)
        g = self(grid.y)
        return float(g.max() + np.log(np.exp(g - g.max()) @ grid.weights))

    def _bracket(self) -> tuple[float, float, float]:
        """Return three points, the middle one at most 1 above the others in g, with the peak between the outer ones."""
        y = self._start
        while True:
            g = self(y)
            top = int(g.argmax())
            low, high = max(top - 1, 0), min(top + 1, len(y) - 1)
            flat = g[top] - min(g[low], g[high]) < 1.0
            if (flat and low < top < high) or y[high] - y[low] <= 1e-14 * max(1.0, abs(y[top])):
                return float(y[low]), float(y[top]), float(y[high])
            y = np.linspace(y[low], y[high], _CELLS + 1)

    def _end(self, peak: float, step: float) -> float:
        """Return where g has dropped by about `_DROP`, from `peak` in the direction of `step`."""
        level = float(self(np.array([peak]))[0]) - _DROP
        step = step or np.copysign(1e-14 * max(1.0, abs(peak)), step)
        while self(np.array([peak + step]))[0] > level:
            step *= 2.0
        y = np.linspace(peak + 0.5 * step, peak + step, _CELLS + 1)
        return float(y[int(np.flatnonzero(self(y) <= level)[0])])


def _log_lower(a: Array, b: Array, y: Array) -> Array:
    """Return log F at y at most the logit of the mean; all of shape (N,)."""
    # 1 - x holds the digits of an x near 1.
    left = y < 0.0
    right = ~left
    mass = np.empty(y.shape)
    mass[left] = betainc(a[left], b[left], expit(y[left]))
    mass[right] = betaincc(b[right], a[right], expit(-y[right]))
    deep = (mass < _DEEP) | (y < _FAR)
    result = np.log(np.where(deep, 1.0, mass))
    if deep.any():
        one = quadrature.betas(a[deep], b[deep])
        log_f = quadrature.log_density(one, y[deep][:, None])[:, 0]
        result[deep] = log_f + np.log(_ratio(a[deep], b[deep], y[deep]))
    return np.asarray(np.minimum(result, 0.0))


def _ratio(a: Array, b: Array, y: Array) -> Array:
    """Return F / f at y below the logit of the mean, by the even part of the continued fraction.

    It is 1 / (t_0 + s_1 / (t_1 + s_2 / (t_2 + ...))), written with both x and 1 - x: it holds its digits at either end.
    """
    x, rest = expit(y), expit(-y)
    above = a * rest - b * x
    c = value = a * (above + 1.0) / (a + 1.0)
    d = np.zeros_like(x)
    for n in range(1, _MOST_STEPS):
        s = (a + n - 1) * (a + b + n - 1) * n * (b - n) * (x / (a + 2 * n - 1)) ** 2
        t = n + n * (b - n) * x / (a + 2 * n - 1) + (a + n) * (above + 1.0 + n * (1.0 + rest)) / (a + 2 * n + 1)
        d = 1.0 / (t + s * d)
        c = t + s / c
        step = c * d
        value = value * step
        if np.all(np.abs(step - 1.0) <= _SETTLED):
            return np.asarray(1.0 / value)
    raise ArithmeticError(f"the continued fraction of Beta({a[0]}, {b[0]}) did not converge at the logit {y[0]}")
