"""Sample ratio mismatch: whether decisions are split among the arms as they were meant to be.

Model
    Under the null, decision t draws its arm from its own allocation p_t. An alternative q_t, fixed before decision t, makes
    q_t(A_t) / p_t(A_t) a bet of expectation 1 at most, so the product over decisions is an e-process: it ever reaches
    1 / alpha with probability at most alpha, however the allocations move and whenever one looks.

    The alternatives here tilt one arm: its odds are e^lambda times those of p_t, the others keep their proportions. The
    e-value is the average over arms and a geometric grid of lambda, from 0.5 % to 13 times either way. A loss of
    1 - e^lambda of one arm's decisions *is* such a tilt, and any lasting mismatch makes some arm's share too small or too
    large, which the gentle tilts of that arm pick up. A Dirichlet mixture over multinomials, which serves a fixed
    allocation, has no closed form where p_t moves.

Assumes
    Decisions in order, each of them a new draw. Keep the first decision of every sticky unit and leave out forced ones,
    those of units held out, and repetitions: that is the caller's filter. A mismatch that begins late first has to win back
    what the bets lost before; begin the log where the question begins.

Source
    Pearson (1900) for `srm_test`; Ville (1939); Lindon & Malek (2022), "Anytime-valid inference for multinomial count
    data", for sequential tests of sample ratios by mixtures; Fabijan et al. (2019), "Diagnosing sample ratio mismatch in
    online controlled experiments", for why to test.

Shapes
    n            number of decisions
    K            number of arms
    counts       (K,)
    expected     (K,)     in any unit: shares or counts
    propensities (n, K) or (K,) allocations, or (n,) of the arms drawn
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from bandit.logged import Indices, Vector, arm_indices, floats, numbers, probability_table, propensity_vector

#: Sizes of the tilts, in log odds; each is tried up and down.
_TILTS: Final = 0.005 * 2.0 ** np.arange(10)
#: E-values above this are given as this.
LARGEST: Final = 1e300
#: An index beyond this is refused where no vector says how many arms there are.
_MOST_ARMS: Final = 1000
#: By how much numbers may differ and be taken for the same.
_ROUNDING: Final = 1e-6
#: A guessed allocation gives no arm less than this.
_LEAST_GUESS: Final = 1e-4


def srm_test(counts: ArrayLike, expected: ArrayLike) -> float:
    """Return p of Pearson's chi-squared test that `counts` are a sample in the proportions of `expected`, at one look.

    Where allocations moved, `expected` is their sum over decisions, and the test errs on the quiet side. It is rough where
    fewer than 5 are expected of an arm. An arm that was to get nothing and got something gives 0.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    observed = _amounts("counts", counts)
    share = _amounts("expected", expected)
    if observed.size != share.size:
        raise ValueError(f"expected has {share.size} entries for {observed.size} counts: every arm needs one of each")
    possible = share > 0.0
    if possible.sum() < 2:
        raise ValueError(f"expected is {share.tolist()}: at least two arms must have a share")
    if observed[~possible].any():
        return 0.0
    observed, share = observed[possible], share[possible]
    mean = share / share.sum() * observed.sum()
    return float(chdtrc(mean.size - 1, float(((observed - mean) ** 2 / mean).sum())))


def srm_sequential(arms: ArrayLike, propensities: ArrayLike) -> Vector:
    """Return the e-value after each decision, (n,): 1 / alpha or more, ever, has probability alpha at most if all is well.

    `propensities` are best the whole vectors drawn from, (n, K), or one (K,) for all. With those of the drawn arms alone,
    (n,), two arms lose nothing. For more arms the vector is then guessed as the last propensities logged, which keeps the
    guarantee and loses power as far as allocations move. Where n = K, numbers that add up to 1 may be one vector or drawn
    arms' own: they are refused if that makes a difference, and a row for each decision says which. Values end at 1e300.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    a = arm_indices(arms)
    null, own = _allocations(a, propensities)
    every = np.arange(a.size)
    base = (np.log(null[every, a]) - np.log(own)).cumsum()
    log_e = np.full(a.size, -np.inf)
    # Of two arms, tilting one up is tilting the other down.
    tilted = 1 if null.shape[1] == 2 else null.shape[1]
    for arm in range(tilted):
        drawn = (a == arm).cumsum()
        for tilt in (*_TILTS, *-_TILTS):
            spent = np.log1p(null[:, arm] * np.expm1(tilt)).cumsum()
            log_e = np.logaddexp(log_e, tilt * drawn - spent)
    log_e += base - np.log(2 * _TILTS.size * tilted)
    return np.asarray(np.exp(np.minimum(log_e, np.log(LARGEST))))


def _allocations(a: Indices, propensities: ArrayLike) -> tuple[Vector, Vector]:
    """Return what the alternatives tilt, (n, K), known before each draw, and the probability of each arm drawn, (n,)."""
    n = a.size
    given = floats("propensities", propensities)
    if given.shape != (n,):
        null = probability_table("propensities", given, n)
        arm_indices(a, null.shape[1])
        return null, propensity_vector(null[np.arange(n), a], n)
    own = propensity_vector(given, n)
    arm_indices(a, _MOST_ARMS)
    _check_drawn(a, own)
    if a.max() <= 1:
        first = np.where(a == 0, own, 1.0 - own)
        return np.stack([first, 1.0 - first], axis=1), own
    return _guesses(a, own), own


def _check_drawn(a: Indices, own: Vector) -> None:
    """Refuse numbers that may be one vector for all decisions and say something else as such."""
    # The sum first: the indices are then few enough to read the numbers as a vector.
    if abs(own.sum() - 1.0) <= _ROUNDING and a.max() < a.size and not np.allclose(own[a], own, rtol=0.0, atol=_ROUNDING):
        raise ValueError(
            f"propensities has {a.size} entries for {a.size} decisions, which add up to 1: it may be one vector for "
            f"{a.size} arms or the propensities of the arms drawn; give a row for each decision"
        )


def _guesses(a: Indices, own: Vector) -> Vector:
    """Return for each decision the last propensity seen of each arm before it, made to sum to 1, (n, K)."""
    n, k = a.size, int(a.max()) + 1
    guess = np.empty((n, k))
    for arm in range(k):
        drawn = a == arm
        # The number of draws before a decision points to the last of them; nan stands before the first.
        values = np.concatenate([[np.nan], own[drawn]])
        guess[:, arm] = values[drawn.cumsum() - drawn]
    unseen = np.isnan(guess)
    rest = np.maximum(1.0 - np.nansum(guess, axis=1), 0.0) / np.maximum(unseen.sum(axis=1), 1)
    guess = np.maximum(np.where(unseen, rest[:, None], guess), _LEAST_GUESS)
    return np.asarray(guess / guess.sum(axis=1, keepdims=True))


def _amounts(name: str, values: ArrayLike) -> Vector:
    array = numbers(name, values)
    if array.min() < 0.0:
        arm = int(array.argmin())
        raise ValueError(f"{name}[{arm}] is {array[arm]:g}: it must be 0 or more")
    if not array.any():
        raise ValueError(f"{name} is {array.tolist()}: they are all 0, and there is nothing to test")
    return array
