"""Interleaving of ranked lists: one list drafted from several rankers, and whose items the user chose.

Model
    Team draft. A list is dealt in rounds. In each round every ranker, in an order drawn anew, adds its best item that
    is not in the list yet, and owns it: the item is of its team. A click credits the owner of the item. A ranker is
    preferred to another in an interleaving where it has more credit; a sign test over many interleavings, ties left
    out, tells preference from chance.

    Whoever picks first gets an item that several rankers like; a common beginning is no exception. Each ranker is
    equally likely to be the one, so common items add noise to credit and no bias.

    At position j at most j items are gone, so that a ranker of more than j items is always able to pick. As far as the
    shortest ranking reaches, each position is therefore owned by each ranker with probability exactly 1 / K, whatever
    the items are: a user who clicks without looking prefers nobody. Further down, longer rankings own more.

Assumes
    Orders are uniform over permutations and independent from round to round. For the test: interleavings are
    independent of one another, so those of one user are added up first.

Source
    Radlinski, Kurup & Joachims (2008), "How does clickthrough data reflect retrieval quality?", algorithm 2, for two
    rankers; Schuth, Sietsma, Whiteson, Lefortier & de Rijke (2014), "Multileaved comparisons for fast online
    evaluation", for more. Chapelle, Joachims, Radlinski & Yue (2012), "Large-scale validation and analysis of
    interleaved search evaluation", for the test over interleavings. The published draft of two ends with the shorter
    ranking; this one goes on and says how far it is even.

Shapes
    K        number of rankers, at least 2; a ranker is named by its index
    N        number of interleavings
    credits  (N, K)
    wins     (K, K)   in how many interleavings the row's ranker had more credit than the column's
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri

#: The order in which rankers pick: round (from 0) to a permutation of range(K).
Orders = Callable[[int], Sequence[int]]

_WORD = 2**64


@dataclass(frozen=True, slots=True)
class Interleaved:
    """One list made of several rankings."""

    #: The items, best first.
    items: tuple[str, ...]
    #: For each item, the ranker that picked it.
    teams: tuple[int, ...]
    #: How many positions from the top every ranker was equally likely to own; credit beyond them is biased.
    even: int


def team_draft(rankings: Sequence[Sequence[str]], orders: Orders, length: int | None = None) -> Interleaved:
    """Deal one list of at most `length` items (all, by default) from two or more rankings, best item first in each.

    `orders` decides everything that chance does: `keyed_orders`, or `lambda _: rng.permutation(K)`. A ranking that has
    run out sits out; an empty one always does. Takes time linear in the items.

    Raises ValueError for fewer than two rankings, an item twice in one ranking, a length below 1, or an order that is
    no permutation.
    """
    for index, ranking in enumerate(rankings):
        _check_distinct(index, ranking)
    if len(rankings) < 2:
        raise ValueError(f"rankings has {len(rankings)} entries: a draft needs at least 2")
    if length is not None and length < 1:
        raise ValueError(f"length is {length}: it must be 1 or more")
    distinct = len(set().union(*rankings))
    size = distinct if length is None else min(length, distinct)
    pools = [iter(ranking) for ranking in rankings]
    owner: dict[str, int] = {}
    for number in count():
        if len(owner) == size:
            break
        for team in _checked_order(orders(number), len(rankings)):
            item = next((item for item in pools[team] if item not in owner), None)
            if item is not None and len(owner) < size:
                owner[item] = team
    return Interleaved(tuple(owner), tuple(owner.values()), min(size, *map(len, rankings)))


def _check_distinct(index: int, ranking: Sequence[str]) -> None:
    if len(set(ranking)) < len(ranking):
        twice = next(item for place, item in enumerate(ranking) if item in ranking[:place])
        raise ValueError(f"rankings[{index}] holds {twice!r} twice: the items of a ranking must be distinct")


def _checked_order(order: Sequence[int], k: int) -> Sequence[int]:
    if sorted(order) != list(range(k)):
        raise ValueError(f"orders gave {order!r}: it must be a permutation of the numbers below {k}")
    return order


def keyed_orders(k: int, key: bytes, *parts: str) -> Orders:
    """Return orders that depend on nothing but `key`, `parts` and the round, so that a retry deals the same list.

    `parts` name the draft, for instance the id of the interleaving. `key` has at most 64 bytes.
    """
    return lambda number: keyed_order(k, key, *parts, str(number))


def keyed_order(k: int, key: bytes, *parts: str) -> tuple[int, ...]:
    """Return a permutation of range(k) from a keyed hash of `parts`, uniform over all k! of them."""
    words = _keyed_words(key, parts)
    order = list(range(k))
    for last in range(k - 1, 0, -1):
        other = _below(last + 1, words)
        order[last], order[other] = order[other], order[last]
    return tuple(order)


def _keyed_words(key: bytes, parts: Iterable[str]) -> Iterator[int]:
    """Yield independent numbers below 2**64. Lengths are hashed too: parts may contain the separator."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    for block in count():
        yield from struct.unpack("<8Q", blake2b(f"{block}:{text}".encode(), key=key, person=b"order").digest())


def _below(bound: int, words: Iterator[int]) -> int:
    """Return a uniform number below `bound`: words past the last whole multiple would favour small remainders."""
    whole = _WORD - _WORD % bound
    return next(word for word in words if word < whole) % bound


def credit(teams: Sequence[int], clicked: Iterable[int], rankers: int, even: int | None = None) -> tuple[int, ...]:
    """Return how many of each ranker's items were clicked, (K,).

    `clicked` holds positions from 0, in any order; a position clicked again counts once. Clicks from position `even`
    on credit nobody: pass `Interleaved.even` to keep what is unbiased. Raises ValueError for a position outside the
    list or a team outside range(rankers).
    """
    credits = [0] * rankers
    reach = len(teams) if even is None else even
    for position in set(clicked):
        if not 0 <= position < len(teams):
            raise ValueError(f"clicked holds {position}: the list has the positions 0 to {len(teams) - 1}")
        if not 0 <= teams[position] < rankers:
            raise ValueError(f"teams[{position}] is {teams[position]}: with {rankers} rankers it must be below {rankers}")
        if position < reach:
            credits[teams[position]] += 1
    return tuple(credits)


def preference(credits: Sequence[int]) -> tuple[int, ...]:
    """Return the rankers with the most credit; several are a tie, and without a click all of them are."""
    most = max(credits, default=0)
    return tuple(ranker for ranker, value in enumerate(credits) if value == most)


@dataclass(frozen=True, slots=True)
class SignTest:
    """Whether one ranker is preferred to another, from the interleavings that preferred either."""

    #: In how many interleavings the first, the second, or neither was preferred.
    wins: int
    losses: int
    ties: int
    #: wins / (wins + losses), or None before either has won.
    win_rate: float | None
    #: Wilson interval of the win rate; from 0 to 1 before either has won.
    lower: float
    upper: float
    #: Two-sided exact binomial p for a win rate of 1/2.
    p_value: float


@dataclass(frozen=True, slots=True)
class Preferences:
    """Wins and ties of each ranker against each other; the arrays are read-only."""

    #: (K, K): interleavings in which the row's ranker had more credit; losses are the transpose.
    wins: NDArray[np.int64]
    #: (K, K), symmetric: interleavings in which both had the same credit; 0 on the diagonal.
    ties: NDArray[np.int64]

    def pair(self, a: int, b: int, level: float = 0.95) -> SignTest:
        """Compare ranker `a` with ranker `b`; a win rate above 1/2 favours `a`."""
        return sign_test(int(self.wins[a, b]), int(self.wins[b, a]), int(self.ties[a, b]), level)


def preferences(credits: ArrayLike) -> Preferences:
    """Return who won how often against whom, from the credits (N, K) of all interleavings.

    Credits may be fractions, as in sums over the interleavings of a user with weights. Raises ValueError unless they
    are finite, not negative, and of K >= 2 columns.
    """
    table = np.asarray(credits, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"credits has shape {table.shape}: it must have a row for each interleaving and 2 or more columns")
    bad = table[~(np.isfinite(table) & (table >= 0.0))]
    if bad.size:
        raise ValueError(f"credits holds {bad[0]}: every credit must be finite and not negative")
    wins = np.stack([(table[:, [ranker]] > table).sum(axis=0) for ranker in range(table.shape[1])])
    ties = len(table) - wins - wins.T
    np.fill_diagonal(ties, 0)
    wins.setflags(write=False)
    ties.setflags(write=False)
    return Preferences(wins, ties)


def sign_test(wins: int, losses: int, ties: int = 0, level: float = 0.95) -> SignTest:
    """Test whether wins and losses are equally likely; ties say nothing about that and are left out.

    For one look at the end: neither p nor interval holds if they are watched until they please. Raises ValueError for
    a negative count or a level outside (0, 1).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", for the interval.
    """
    for name, value in (("wins", wins), ("losses", losses), ("ties", ties)):
        if value < 0:
            raise ValueError(f"{name} is {value}: it must be 0 or more")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: it must be above 0 and below 1")
    n = wins + losses
    if n == 0:
        return SignTest(wins, losses, ties, None, 0.0, 1.0, 1.0)
    # A fair coin is symmetric, so twice the smaller tail is the exact two-sided p.
    p_value = min(1.0, 2.0 * float(bdtr(min(wins, losses), n, 0.5)))
    rate, z = wins / n, float(ndtri(0.5 + 0.5 * level))
    middle = rate + z * z / (2 * n)
    half = z * sqrt(rate * (1.0 - rate) / n + (z / (2 * n)) ** 2)
    scale = 1.0 + z * z / n
    return SignTest(wins, losses, ties, rate, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale), p_value)
