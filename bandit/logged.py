"""Logged decisions as arrays: what estimators take, and how input that cannot be estimated from is refused.

Model
    A log has n decisions in the order in which they were made: the index of the arm drawn, the allocation it was drawn
    from, the reward that followed, and the unit it was made for.

Assumes
    The caller leaves out forced decisions and those of units held out, whose propensity is 1 whatever the allocation, and
    decisions without an outcome.

Source
    None: checks only.

Shapes
    n            number of decisions
    K            number of arms
    rewards      (n,)     from -1e50 to 1e50, so that squares of sums do not overflow
    arms         (n,)     indices below K
    propensities (n,)     in (0, 1]: that of the arm drawn
    allocations  (n, K)   probability vectors; one vector (K,) where it never moved
    clusters     (n,)     labels of any sortable kind: decisions with the same label are one unit's
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Indices = NDArray[np.intp]

#: No number may be farther from 0 than this.
LARGEST = 1e50
#: By how much the sum of a probability vector may differ from 1.
_ROUNDING = 1e-6


def numbers(name: str, values: ArrayLike | None, n: int | None = None) -> Vector:
    """Return finite numbers, (n,); a single number is repeated `n` times, where that is given.

    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    array = floats(name, values)
    if array.ndim == 0 and n is not None:
        array = np.full(n, float(array))
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: it must be one vector, an entry for every decision")
    if array.size == 0:
        raise ValueError(f"{name} is empty: there is no decision to estimate from")
    if n is not None and array.size != n:
        raise ValueError(f"{name} has {array.size} entries for {n} decisions: it must have one for each")
    bad = np.flatnonzero(~(np.abs(array) <= LARGEST))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}: every entry must be a finite number within ±{LARGEST:g}")
    return array


def unit_numbers(name: str, values: ArrayLike, n: int | None = None) -> Vector:
    """Return numbers in [0, 1], (n,). Raises ValueError as `numbers` does."""
    array = numbers(name, values, n)
    bad = np.flatnonzero((array < 0.0) | (array > 1.0))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {array[bad[0]]}: every entry must be from 0 to 1")
    return array


def propensity_vector(values: ArrayLike | None, n: int) -> Vector:
    """Return propensities of the arms drawn, (n,), in (0, 1]. Raises ValueError as `numbers` does."""
    if values is None:
        raise ValueError("propensities is None: without the probability of each decision its log cannot be weighed")
    array = numbers("propensities", values, n)
    bad = np.flatnonzero((array <= 0.0) | (array > 1.0))
    if bad.size:
        raise ValueError(
            f"propensities[{bad[0]}] is {array[bad[0]]}: an arm that was drawn had a probability above 0 and at most 1; "
            "leave forced decisions out"
        )
    return array


def arm_indices(values: ArrayLike, k: int | None = None, n: int | None = None) -> Indices:
    """Return arms as indices, (n,), below `k` where that is given. Raises ValueError as `numbers` does."""
    given = numbers("arms", values, n)
    if k is not None and k < 1:
        raise ValueError(f"k is {k}: there must be at least 1 arm")
    bad = np.flatnonzero((given != np.floor(given)) | (given < 0) | (given >= (k or np.inf)))
    if bad.size:
        most = f" below {k}" if k else ""
        raise ValueError(f"arms[{bad[0]}] is {given[bad[0]]:g}: it must be the index of an arm, a whole number >= 0{most}")
    return given.astype(np.intp)


def table(name: str, values: ArrayLike, n: int, k: int | None = None) -> Vector:
    """Return finite numbers, (n, K); one row (K,) is repeated `n` times. Raises ValueError as `numbers` does."""
    array = np.atleast_2d(floats(name, values))
    if array.ndim != 2 or array.shape[1] == 0 or array.shape[0] not in (1, n) or (k and array.shape[1] != k):
        raise ValueError(f"{name} has shape {array.shape}: it must have a row for each of {n} decisions, or one for all, "
                         f"and a column for each of {k or 'the'} arms")  # fmt: skip
    bad = np.argwhere(~(np.abs(array) <= LARGEST))
    if bad.size:
        row, column = bad[0]
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}: every entry must be a finite number within ±{LARGEST:g}"
        )
    return np.broadcast_to(array, (n, array.shape[1]))


def probability_table(name: str, values: ArrayLike, n: int, k: int | None = None) -> Vector:
    """Return probability vectors, (n, K); one (K,) is repeated `n` times. Raises ValueError as `numbers` does."""
    array = table(name, values, n, k)
    rows = array[:1] if array.strides[0] == 0 else array
    bad = np.argwhere((rows < 0.0) | (rows > 1.0))
    if bad.size:
        row, column = bad[0]
        raise ValueError(f"{name}[{row}, {column}] is {rows[row, column]}: every entry must be from 0 to 1")
    off = np.flatnonzero(np.abs(rows.sum(axis=1) - 1.0) > _ROUNDING)
    if off.size:
        raise ValueError(f"{name}[{off[0]}] adds up to {rows[off[0]].sum():.6g}: every row must add up to 1")
    return array


def cluster_indices(labels: ArrayLike | None, n: int) -> tuple[Indices, Indices]:
    """Return for each decision the index of its cluster, (n,), and for each cluster its first decision, (G,).

    Without labels every decision is a cluster of its own. Raises ValueError naming the rule that is broken.
    """
    if labels is None:
        every = np.arange(n)
        return every, every
    given = np.asarray(labels)
    if given.shape != (n,):
        raise ValueError(f"clusters has shape {given.shape}: it must have one label for each of {n} decisions")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise ValueError("clusters holds a label that is not finite: every decision must have one")
    try:
        _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
    except TypeError as error:
        raise ValueError("clusters holds labels of different kinds: they must be all text or all numbers") from error
    return inverse.astype(np.intp), first.astype(np.intp)


def fraction(name: str, value: float) -> float:
    """Return a number strictly between 0 and 1, or raise ValueError."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1")
    return float(value)


def floats(name: str, values: ArrayLike | None) -> Vector:
    """Return an array of any shape, or raise ValueError if that is not possible."""
    if values is None:
        raise ValueError(f"{name} is None: it must be numbers, one for every decision")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not made of numbers: {error}") from error
