"""Quadrature over independent Beta posteriors: one grid that resolves every arm, densities and tails on it.

Model
    theta_i ~ Beta(alpha_i, beta_i), independent. Everything is integrated in the logit y = log(x / (1 - x)),
    where the density f_i(y) = x^alpha_i (1 - x)^beta_i / B(alpha_i, beta_i) is smooth and log-concave for
    every alpha, beta > 0. The singularities that a small parameter has at x = 0 or x = 1 become exponential
    tails, as long as 30 / alpha.

Assumes
    alpha and beta are positive, finite float64; the callers in `bandit.posterior` check it.

Source
    Panels with Gauss-Legendre nodes: Davis and Rabinowitz (1984), Methods of Numerical Integration, §2.7.
    Saddle-point form of the density, free of cancellation: Loader (2000), Fast and Accurate Computation of
    Binomial Probabilities.

Shapes
    K        number of arms
    P        number of panels;  M = NODES nodes in each;  N = P M nodes in all
    y        (N,)       nodes, ascending, logit scale
    f        (K, N)     densities with respect to y
    S        (K, N)     upper tails, S_i(y) = P(logit theta_i > y)
    b        (K, B)     an arm's own breakpoints: between neighbours one panel resolves its density
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

Array = NDArray[np.float64]
#: Start and stop on the logit scale.
Stretch = tuple[float, float]

#: Nodes of a panel.
NODES: Final = 16
#: exp(-_DEPTH) of the peak is where a density is cut off; the mass beyond is below 1e-13.
_DEPTH: Final = 30.0
#: Breakpoints on each side of a peak; a bell-shaped density then has panels of about 1.1 standard deviations.
_LEVELS: Final = 7
#: Longest panel where a term like log(1 + e^y), which has poles at +-i pi, still bends by more than 1e-10.
_BEND: Final = 4.0
_BEND_REACH: Final = 28.0
#: e^s overflows a little above; beyond it the deviance is linear to the last digit.
_LINEAR: Final = 700.0
_HALF_LOG_2PI: Final = 0.9189385332046727


def _integration_matrix(nodes: Array) -> Array:
    """Return A with (A g)_m = integral from nodes[m] to 1 of the polynomial through g at the nodes."""
    degree = np.arange(len(nodes))
    legendre = np.polynomial.legendre.legvander(nodes, len(nodes))
    tails = np.empty((len(nodes), len(nodes)))
    tails[:, 0] = 1.0 - nodes
    inner = degree[1:]
    tails[:, 1:] = (legendre[:, inner - 1] - legendre[:, inner + 1]) / (2 * inner + 1)
    weights = np.polynomial.legendre.leggauss(len(nodes))[1]
    coefficients = (degree[:, None] + 0.5) * legendre[:, :-1].T * weights
    return np.asarray(tails @ coefficients, dtype=np.float64)


_NODES, _WEIGHTS = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(NODES))
_TO_RIGHT_END: Final = _integration_matrix(_NODES)
#: Log-density drops at which an arm has a breakpoint: equal steps if it were Gaussian.
_DROPS: Final[Array] = 0.5 * (np.sqrt(2 * _DEPTH) * np.arange(1, _LEVELS + 1) / _LEVELS) ** 2


@dataclass(frozen=True, slots=True)
class Betas:
    """Beta densities on the logit scale, each written around its own peak; every array has shape (K, 1)."""

    #: logit of the mean, which on this scale is also the mode
    peak: Array
    #: +1 where alpha <= beta, else -1: deviances are computed from the side of the smaller parameter
    sign: Array
    #: min(alpha, beta)
    minor: Array
    #: alpha + beta
    total: Array
    #: log density at the peak
    log_height: Array


@dataclass(frozen=True, slots=True)
class Grid:
    """Gauss-Legendre panels side by side on the logit scale."""

    #: (N,) nodes
    y: Array
    #: (N,) weights: integral of g is about weights @ g(y)
    weights: Array
    #: (P,) half lengths of the panels
    half: Array


def _stirling_error(a: Array) -> Array:
    """Return log Gamma(a) less Stirling's (a - 1/2) log a - a + log(2 pi) / 2, to 1e-14 for every a."""
    square = 1.0 / (a * a)
    series = (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))) / a
    small = np.minimum(a, 16.0)
    direct = gammaln(small) - (xlogy(small - 0.5, small) - small + _HALF_LOG_2PI)
    return np.where(a < 16.0, direct, series)


def betas(alpha: Array, beta: Array) -> Betas:
    """Return the logit-scale densities of Beta(alpha_i, beta_i), for alpha and beta of shape (K,)."""
    total = alpha + beta
    errors = _stirling_error(np.stack((alpha, beta, total)))
    # log B is near 1e10 at the largest parameters; relative to the peak only the O(1) remainder is left.
    log_height = 0.5 * np.log(alpha / total * beta) - _HALF_LOG_2PI - (errors[0] + errors[1] - errors[2])
    columns = (
        np.log(alpha / beta),
        np.where(alpha <= beta, 1.0, -1.0),
        np.minimum(alpha, beta),
        total,
        log_height,
    )
    return Betas(*(column[:, None] for column in columns))


def _deviance(offset: Array, minor: Array, total: Array) -> Array:
    """Return log f(peak) - log f(peak + offset); offsets point away from the boundary nearest to the peak."""
    share = minor / total
    inner = np.minimum(offset, _LINEAR)
    return total * (np.log1p(share * np.expm1(inner)) + (offset - inner)) - minor * offset


def density(arms: Betas, y: Array) -> Array:
    """Return f of shape (K, N), relative error below 1e-10; `y` has shape (N,) or (K, N)."""
    return np.exp(log_density(arms, y))


def log_density(arms: Betas, y: Array) -> Array:
    """Return log f of shape (K, N), as far down as floats reach: about 1e-15 of its own size is rounding."""
    return np.asarray(arms.log_height - _deviance(arms.sign * (y - arms.peak), arms.minor, arms.total))


def _reach(drop: Array, toward: Array, away: Array) -> Array:
    """Return t > 0 with log f(peak + t) = log f(peak) - drop, or up to 1 % beyond.

    `toward` is the parameter whose factor decays on this side (beta to the right, alpha to the left), `away`
    the other. Both guesses are bounds from outside, and from outside Newton's step on a concave function
    stays outside.
    """
    total = toward + away
    share = away / total
    ratio = drop / (toward * share)
    t = 0.5 * (ratio + np.sqrt(ratio * (ratio + 8.0)))
    # A double-exponential cut-off (tiny `away`) leaves that bound far out; this fixed point draws it in.
    for _ in range(2):
        level = (drop + away * t) / total
        t = np.minimum(t, level + np.log1p(-(toward / total) * np.exp(-level)) - np.log(share))
    flip = np.where(away <= toward, 1.0, -1.0)
    minor = np.minimum(toward, away)
    share = minor / total
    offset = flip * t
    grown = share * np.expm1(np.minimum(offset, _LINEAR))
    slope = flip * total * (1.0 - share) * grown / (1.0 + grown)
    return t - (_deviance(offset, minor, total) - drop) / slope


def breakpoints(alpha: Array, beta: Array) -> Array:
    """Return b of shape (K, B), ascending, from one end of the density to the other."""
    toward = np.concatenate((alpha, beta))[:, None]
    away = np.concatenate((beta, alpha))[:, None]
    reach = _reach(_DROPS, toward, away)
    k = len(alpha)
    peak = np.log(alpha / beta)[:, None]
    return np.concatenate((peak - reach[:k, ::-1], peak, peak + reach[k:]), axis=1)


def bends(b: Array, total: Array) -> list[Stretch]:
    """Return where total_i * log(1 + e^y) differs from its straight asymptotes, for each arm as wide as that.

    `b` has shape (K, B) and `total`, alpha + beta, shape (K,). Narrower arms have shorter panels anyway.
    """
    wide = np.flatnonzero((b[:, 1:] - b[:, :-1]).max(axis=1) > _BEND)
    reach = _BEND_REACH + np.log(total[wide])
    starts, stops = np.maximum(b[wide, 0], -reach), np.minimum(b[wide, -1], reach)
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def bend(total: float, centre: float) -> Stretch:
    """Return where total * log(1 + e^(y - centre)) differs from its two straight asymptotes."""
    reach = _BEND_REACH + max(0.0, math.log(total))
    return centre - reach, centre + reach


def panels(b: Sequence[Array] | Array, stretches: list[Stretch], lower: float, upper: float) -> Grid:
    """Return a grid on [lower, upper] that is nowhere coarser than the breakpoints of any arm.

    In the `stretches` (starts and stops) panels are at most `_BEND` long, whatever the breakpoints say.
    """
    cuts = np.sort(np.concatenate((*b, *stretches, (lower, upper))).clip(lower, upper))
    middle = 0.5 * (cuts[1:] + cuts[:-1])
    # Panels per unit length that the most demanding arm wants; equal shares of its integral become panels.
    wanted = np.zeros_like(middle)
    for row in b:
        rate = np.zeros(len(row) + 1)
        rate[1:-1] = 1.0 / (row[1:] - row[:-1])
        np.maximum(wanted, rate[row.searchsorted(middle)], out=wanted)
    for start, stop in stretches:
        np.maximum(wanted, 1.0 / _BEND, out=wanted, where=(middle > start) & (middle < stop))
    done = np.zeros_like(cuts)
    np.cumsum(wanted * (cuts[1:] - cuts[:-1]), out=done[1:])
    count = math.ceil(done[-1])
    edges = np.interp(np.arange(count + 1) * (done[-1] / count), done, cuts)
    half = 0.5 * (edges[1:] - edges[:-1])
    y = (0.5 * (edges[1:] + edges[:-1]))[:, None] + half[:, None] * _NODES
    return Grid(y.ravel(), (half[:, None] * _WEIGHTS).ravel(), half)


def upper_tails(f: Array, grid: Grid) -> Array:
    """Return S of shape (K, N), taking the mass right of the grid as zero."""
    panelled = f.reshape(len(f), -1, NODES)
    mass = (panelled @ _WEIGHTS) * grid.half
    right = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1] - mass
    return np.asarray((panelled @ _TO_RIGHT_END.T * grid.half[:, None] + right[:, :, None]).reshape(f.shape))


def lower_quantile(alpha: Array, beta: Array, probability: float) -> Array:
    """Return the (K,) logits below which each Beta(alpha_i, beta_i) has the given mass.

    Not by `scipy.special.betaincinv`: for Beta(1e3, 1e9), scipy 1.17 returns a quantile of the wrong mass.
    """
    arms = betas(alpha, beta)
    start, length, missing = (np.empty_like(alpha) for _ in range(3))
    b = breakpoints(alpha, beta)
    for arm, own in enumerate(b):
        one = slice(arm, arm + 1)
        grid = panels(b[one], bends(b[one], alpha[one] + beta[one]), own[0], own[-1])
        f = density(Betas(*(getattr(arms, name)[one] for name in Betas.__slots__)), grid.y)
        mass = (f.reshape(-1, NODES) @ _WEIGHTS) * grid.half
        below = np.cumsum(mass)
        panel = min(int(np.searchsorted(below, probability)), len(mass) - 1)
        length[arm] = 2.0 * grid.half[panel]
        start[arm] = grid.y[panel * NODES : (panel + 1) * NODES].mean() - grid.half[panel]
        missing[arm] = probability - (below[panel] - mass[panel])
    # Newton's steps on the part of the panel that is still missing, kept inside a shrinking bracket.
    low, high, t = np.zeros_like(length), length, 0.5 * length
    for _ in range(60):
        inside = start[:, None] + 0.5 * t[:, None] * (1.0 + _NODES)
        part = 0.5 * t * (density(arms, inside) @ _WEIGHTS)
        low, high = np.where(part < missing, t, low), np.where(part < missing, high, t)
        newton = t + (missing - part) / density(arms, (start + t)[:, None])[:, 0]
        previous, t = t, np.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        if np.all(np.abs(t - previous) <= 1e-13 * length):
            break
    return np.asarray(start + t, dtype=np.float64)
