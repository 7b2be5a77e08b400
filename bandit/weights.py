"""Importance weights: how far a log speaks for another policy, and when it hardly does.

Model
    A decision that the logging policy made with probability p and the target policy would make with probability pi weighs
    w = pi / p. Its mean over the log is 1 in expectation, whatever the target, if the logging policy could draw every arm
    that the target draws. The effective sample size (sum w)^2 / sum w^2 is the number of equally weighted decisions that
    would have the same variance.

    Clipping replaces w by min(w, c): less variance, and a bias that no interval shows.

    Decisions of one cluster err together, so alarms look at the weights' sums by cluster as well as at decisions.

Assumes
    Propensities are those that the decisions were drawn with.

Source
    Horvitz & Thompson (1952); Kish (1965), Survey Sampling, §11.2, for the effective sample size; Ionides (2008),
    "Truncated importance sampling", for clipping.

Shapes
    n   number of decisions
    w   (n,)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit.logged import LARGEST, Indices, Vector

#: Below this share of the decisions the effective sample size is alarming.
LEAST_ESS_SHARE = 0.1
#: Above this share of all weight, one decision's weight is alarming.
LARGEST_WEIGHT_SHARE = 0.05
#: The mean weight is alarming this many of its standard errors from 1: 6e-7 of correct logs, if it is normal.
_MEAN_WEIGHT_ERRORS = 5.0


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a log's decisions under a target policy."""

    #: The weights, after clipping, (n,).
    w: Vector
    #: Share of decisions whose weight was clipped.
    clipped: float
    #: What makes them doubtful, in words, other than how unevenly they are spread: see `weight_alarms`.
    warnings: tuple[str, ...]


def importance_weights(target: Vector, propensities: Vector, clusters: Indices, clip: float | None) -> Weights:
    """Return the weights target / propensities, at most `clip`.

    Raises ValueError if every weight is 0, since the log then holds nothing of the target policy, or if one is over 1e50.
    """
    if clip is not None and not clip > 0.0:
        raise ValueError(f"clip is {clip}: it must be greater than 0, or None for no clipping")
    with np.errstate(over="ignore"):
        raw = target / propensities
    beyond = np.flatnonzero(raw > LARGEST)
    if beyond.size:
        row = beyond[0]
        raise ValueError(
            f"propensities[{row}] is {propensities[row]:g} where the target is {target[row]:g}: "
            f"their ratio, the weight, must be at most {LARGEST:g}"
        )
    if not raw.any():
        raise ValueError("target is 0 for every decision: the policy draws only arms that the log never tried")
    w = raw if clip is None else np.minimum(raw, clip)
    clipped = float((raw > w).mean())
    warnings: tuple[str, ...] = ()
    if clipped:
        warnings = (
            f"clip {clip:g} cut the weights of {clipped:.2%} of the decisions: biased, and no interval shows by how much",
        )
    return Weights(w, clipped, warnings + _mean_alarm(raw, clusters))


def effective_size(w: Vector) -> float:
    """Return (sum w)^2 / sum w^2, from 1 to n; `w` must not be all 0."""
    # Scaled first, so that squares of tiny weights do not underflow.
    scaled = w / w.max()
    return float(scaled.sum() ** 2 / (scaled @ scaled))


def weight_alarms(w: Vector, clusters: Indices) -> tuple[str, ...]:
    """Return what is alarming about how evenly the weight is spread over decisions, and over clusters if there are fewer."""
    sums = np.bincount(clusters, w).astype(np.float64)
    return _alarms(w, "decision") + (_alarms(sums, "cluster") if sums.size < w.size else ())


def _alarms(w: Vector, kind: str) -> tuple[str, ...]:
    ess, n, largest = effective_size(w), w.size, float(w.max() / w.sum())
    found = []
    if ess < LEAST_ESS_SHARE * n:
        found.append(f"the effective sample size is {ess:.1f} of {n} {kind}s, less than {LEAST_ESS_SHARE:.0%}")
    if largest > LARGEST_WEIGHT_SHARE:
        found.append(f"one {kind} has {largest:.1%} of the weight, more than {LARGEST_WEIGHT_SHARE:.0%}")
    return tuple(found)


def _mean_alarm(w: Vector, clusters: Indices) -> tuple[str, ...]:
    """Return an alarm if the mean weight is too far from 1 for chance."""
    sums = np.bincount(clusters, w - w.mean())
    error = float(np.sqrt(sums @ sums)) / w.size
    mean = float(w.mean())
    if abs(mean - 1.0) <= max(_MEAN_WEIGHT_ERRORS * error, 1e-6):
        return ()
    return (
        f"the weights average {mean:.4g} instead of 1: the target draws arms that the log hardly tried, or propensities "
        "or decisions are wrong or missing",
    )
