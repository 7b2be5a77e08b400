"""Paired comparison: which of two arms scores better on the same items, each of which both of them answered.

Model
    Both arms answer the same items, so what makes an item hard cancels in the difference of their scores. An item that
    was answered several times counts once, with the mean of its scores: answers to one item are not independent, items
    are. With n items, d_i = a_i - b_i, and their mean D the estimate:

    interval   Student's t over d_1 .. d_n and two more items, one at +m and one at -m, m the largest |d_i| (1 if all are
               0). For scores of 0 and 1 with any difference this is the interval of Bonett & Price, with t for z. It
               repairs what the plain t interval lacks where most d_i are 0 or all are alike: a width. Its loss where
               differences are many and even is a factor of about 1 + (m / sd)^2 / n.
    p          the sign test's relative for graded scores: had the arms changed places on any item, d_i would have been
               -d_i. For scores of 0 and 1 this is the exact test of McNemar.
    holm       p of each of several comparisons such that all those below alpha are right with probability 1 - alpha.

Assumes
    Items are a random sample of those that the conclusion is about. Nothing else for p, whose null is that the arms'
    scores on each item are exchangeable. The interval is approximate below some 20 items. A missing score is missing
    for a reason that has nothing to do with the score.

Source
    Bonett & Price (2012), "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37; McNemar (1947), "Note on the sampling error of the
    difference between correlated proportions"; Fisher (1935), "The Design of Experiments", section 21, for changed
    places; Holm (1979), "A simple sequentially rejective multiple test procedure"; Wilson (1927), "Probable inference".

Shapes
    a, b   (n,)   mean scores of the items, in [0, 1], in the same order
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from bandit.crossover import randomisation_test
from bandit.inference import rate_interval
from bandit.turns import Turns

Array = NDArray[np.float64]
Item = TypeVar("Item", bound=str | int)

#: Means of several samples that differ by rounding alone are equal.
_DECIMALS: Final = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better an arm scored than another on the same items."""

    #: The mean of the items' differences.
    estimate: float
    #: Confidence interval for one look at the end, within [-1, 1].
    lower: float
    upper: float
    #: Two-sided, of the null that nothing would change if the arms changed places.
    p: float
    #: How many items both arms have a score for.
    n: int
    #: On how many of them the arm scored better, and worse; the rest are ties.
    wins: int
    losses: int
    #: The standard deviation of the differences, with the two items that the interval adds.
    deviation: float


def paired_means(a: Mapping[Item, Sequence[float]], b: Mapping[Item, Sequence[float]]) -> tuple[list[Item], Array, Array]:
    """Return the items that both arms have scores for, in order, and the mean score of each of them.

    `a` and `b` hold each item's scores. Raises ValueError for a score outside [0, 1].
    """
    items = sorted(item for item in a.keys() & b.keys() if len(a[item]) and len(b[item]))
    return items, _means("a", a, items), _means("b", b, items)


def compare(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, level: float = 0.95, draws: int = 20_000) -> Comparison:
    """Compare two arms by the mean scores of the same items.

    p is exact for scores of 0 and 1 and for few items, else from `draws` random orders, and then at least
    1 / (draws + 1). With one item the interval is [-1, 1].
    Raises ValueError for scores outside [0, 1], for arrays of different or no length, and for a level outside (0, 1).
    """
    of_a, of_b = _scores("a", a), _scores("b", b)
    if of_a.size != of_b.size:
        raise ValueError(f"b has {of_b.size} items and a has {of_a.size}: they must be the same items")
    if of_a.size == 0:
        raise ValueError("a and b have no items: at least 1 is needed")
    d = np.round(of_a - of_b, _DECIMALS)
    largest = float(np.abs(d).max()) or 1.0
    padded = np.append(d, [largest, -largest])
    half = _t(d.size, level) * float(padded.std(ddof=0)) / math.sqrt(padded.size)
    middle = float(padded.mean())
    return Comparison(
        estimate=float(d.mean()),
        lower=max(-1.0, middle - half),
        upper=min(1.0, middle + half),
        p=_exchange_p(d, rng, draws),
        n=d.size,
        wins=int(np.count_nonzero(d > 0.0)),
        losses=int(np.count_nonzero(d < 0.0)),
        deviation=float(padded.std(ddof=0)),
    )


def mean_interval(scores: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return (lower, upper) for the mean of the items' scores, each in [0, 1]; (0, 1) without items.

    Scores that are all 0 or 1, or all alike, have Wilson's interval. Others have Student's t over the items and two
    more, as far above and below the mean as the farthest item. Raises ValueError as `compare`.
    """
    values = np.round(_scores("scores", scores), _DECIMALS)
    total, n = float(values.sum()), values.size
    mean = total / n if n else 0.0
    farthest = float(np.abs(values - mean).max()) if n else 0.0
    if farthest <= 10.0**-_DECIMALS or bool(np.isin(values, (0.0, 1.0)).all()):
        return rate_interval(total, n, level)
    padded = np.append(values, [mean + farthest, mean - farthest])
    half = _t(n, level) * float(padded.std(ddof=0)) / math.sqrt(padded.size)
    return max(0.0, mean - half), min(1.0, mean + half)


def holm(p: ArrayLike) -> Array:
    """Return p of each comparison, (k,), adjusted for there being k of them. Raises ValueError outside [0, 1]."""
    values = _scores("p", p)
    order = np.argsort(values, kind="stable")
    factors = values.size - np.arange(values.size)
    adjusted = np.empty(values.size)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted


def items_needed(deviation: float, effect: float, level: float = 0.95, power: float = 0.8) -> int:
    """Return how many items in all show a true difference of `effect` with probability `power`.

    `deviation` is that of the items' differences; the normal approximation, at least 2. Raises ValueError unless effect
    is in (0, 1], deviation in [0, 1], level and power in (0, 1).
    """
    if not 0.0 < effect <= 1.0:
        raise ValueError(f"effect is {effect}: it must be greater than 0 and at most 1")
    if not 0.0 <= deviation <= 1.0:
        raise ValueError(f"deviation is {deviation}: it must be at least 0 and at most 1")
    _check_fraction("power", power)
    _check_fraction("level", level)
    z = float(ndtri(0.5 + 0.5 * level) + ndtri(power))
    return max(2, math.ceil((z * deviation / effect) ** 2))


def _exchange_p(d: Array, rng: np.random.Generator, draws: int) -> float:
    """Return p of the null that each d_i might as well have been -d_i: an item is a session of one block."""
    if not d.any():
        return 1.0
    items = np.arange(d.size)
    turns = Turns.of(
        2,
        session=np.tile(items, 2),
        turn=np.repeat([0, 1], d.size),
        arm=np.repeat([0, 1], d.size),
        outcome=np.concatenate((d, np.zeros(d.size))),
    )
    return randomisation_test(turns, 0, 1, rng, draws)


def _t(n: int, level: float) -> float:
    """Return Student's t of n - 1 degrees of freedom; with one item nothing is known."""
    _check_fraction("level", level)
    return float(stdtrit(n - 1, 0.5 + 0.5 * level)) if n > 1 else math.inf


def _means(name: str, scores: Mapping[Item, Sequence[float]], items: Sequence[Item]) -> Array:
    return np.array([float(_scores(f"{name}[{item!r}]", scores[item]).mean()) for item in items], dtype=np.float64)


def _scores(name: str, values: ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"{name} has shape {found.shape}: it must have one dimension")
    # Written so that NaN fails it too.
    wrong = found[~((found >= 0.0) & (found <= 1.0))]
    if wrong.size:
        raise ValueError(f"{name} has {wrong[0]}: it must be at least 0 and at most 1")
    return found


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1")
