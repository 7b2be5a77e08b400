"""Cross-over analysis: which of two arms did better within the same sessions, dealt by `bandit.turns`.

Model
    Two arms are compared by the outcomes of their two turns in one block, so what is peculiar to a session (its user,
    its task) cancels. Blocks of one session are not independent: standard errors cluster by session.

Assumes
    Sessions are independent; the turns of one need not be. The mean of d estimates the effect of an arm on its own turn
    if there is no carry-over (the answer of one turn does not change the outcome of the next) and no drop-out (the first
    outcome of a block does not decide whether the second is observed). Two arms, for example:

    carry-over of c_a after arm a and c_b after arm b adds -(c_a - c_b) / 2;
    with chances p_a and p_b of a bad answer, after which a share q of sessions ends, drop-out makes
    (p_a - p_b) (2 - q) / (2 - (p_a + p_b) q) of p_a - p_b: less, unless most answers are bad.

    `first_turn_estimate` suffers from neither. The randomisation test keeps its error rate under both, because its null
    is that nothing at all would change if the arms changed places.

Source
    Jones & Kenward (2014), "Design and Analysis of Cross-Over Trials", chapter 2, for the paired analysis and
    carry-over; Liang & Zeger (1986), "Longitudinal data analysis using generalized linear models", for the clustered
    variance; Phipson & Smyth (2010), "Permutation p-values should never be zero", for the p of drawn orders; Kish
    (1965), "Survey Sampling", chapter 5, for 1 + (m - 1) icc, the cost of clusters.

Shapes
    S     number of sessions with such a block
    B     number of blocks in which both arms have an outcome
    d     (B,)   outcome of arm a minus outcome of arm b
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import gammaln, stdtrit

from bandit.turns import LARGEST_TURN, Array, Indices, Turns

#: The randomisation test enumerates up to this many sums of d, and draws beyond.
_MOST_SUMS: Final = 2**20
#: How many signs are drawn at a time.
_CHUNK: Final = 2**22
#: One binomial number takes as long as about this many bits.
_WORTH_A_BINOMIAL: Final = 20
_TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much greater the mean outcome of one arm is than that of another.

    A standard error of 0 means that no difference varied, not that the difference is known.
    """

    estimate: float
    stderr: float
    #: Confidence interval by Student's t, for one look at the end.
    lower: float
    upper: float
    #: How many sessions and blocks it comes from.
    n_sessions: int
    n_blocks: int


def paired_difference(turns: Turns, a: int, b: int, level: float = 0.95) -> Difference:
    """Return the mean over blocks of outcome a minus outcome b, both observed; standard errors cluster by session.

    Each block weighs the same, so long sessions weigh more. With e_s the sum over the blocks of session s of d minus
    its mean, the variance is S / (S - 1) sum e_s^2 / B^2, and t has S - 1 degrees of freedom: with one block a session
    this is the paired t interval. Raises ValueError for unknown arms, for a level outside (0, 1), and for fewer than
    two sessions.
    """
    d, session = _pairs(turns, a, b)
    _check_level(level)
    _, cluster = np.unique(session, return_inverse=True)
    size = np.bincount(cluster)
    if size.size < 2:
        raise ValueError(f"turns has {size.size} sessions with arms {a} and {b} in one block: at least 2 are needed")
    estimate = float(d.mean())
    error = np.bincount(cluster, weights=d) - size * estimate
    stderr = float(np.sqrt(size.size / (size.size - 1) * (error @ error))) / d.size
    return _difference(estimate, stderr, size.size - 1, level, size.size, d.size)


def first_turn_estimate(turns: Turns, a: int, b: int, level: float = 0.95) -> Difference:
    """Return mean outcome a minus mean outcome b over first turns only, with Welch's t interval.

    Nothing came before a first turn, so no carry-over touches it; it costs the whole gain of the design. Each session
    counts as one block. Raises ValueError for unknown arms, for a level outside (0, 1), and for fewer than two sessions
    of either arm.
    """
    _check_arms(turns, a, b)
    _check_level(level)
    means, variances, sizes = [], [], []
    for arm in (a, b):
        outcome = turns.outcome[(turns.turn == 0) & (turns.arm == arm) & turns.observed]
        if outcome.size < 2:
            raise ValueError(f"turns has {outcome.size} first turns of arm {arm}: at least 2 are needed")
        means.append(float(outcome.mean()))
        variances.append(float(outcome.var(ddof=1)) / outcome.size)
        sizes.append(outcome.size)
    total = sum(variances)
    spread = sum(variance**2 / (size - 1) for variance, size in zip(variances, sizes, strict=True))
    freedom = total**2 / spread if spread > 0.0 else 1.0
    return _difference(means[0] - means[1], total**0.5, freedom, level, sum(sizes), sum(sizes))


def randomisation_test(turns: Turns, a: int, b: int, rng: np.random.Generator, draws: int = 10_000) -> float:
    """Return the two-sided p of the null that no outcome would differ had a and b changed places in any block.

    Given the places that the other arms have, the design puts a and b in either order with probability 1/2, anew in
    each block: under the null every d might as well have been -d. p is the share of these orders in which the mean of
    d is at least as far from 0 as it is. It is exact if d takes few values (0 and 1 outcomes always do) or there are
    few blocks; otherwise orders are drawn, and the true one counts among them, so that p is at least 1 / (draws + 1).

    Valid whatever the sessions look like; 1 without any block. Raises ValueError for unknown arms and for draws below 1.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}: it must be 1 or more")
    d, _ = _pairs(turns, a, b)
    size = np.abs(d[d != 0.0])
    values, counts = np.unique(size, return_counts=True)
    # Orders that differ from the true one by rounding alone are as far from 0.
    least = abs(float(d.sum())) - 1e-9 * float(size.sum())
    if np.log1p(counts).sum() <= np.log(_MOST_SUMS):
        sums, chance = _all_sums(values, counts)
        return min(1.0, max(float(chance[np.abs(sums) >= least].sum()), _TINY))
    hits, done, step = 0, 0, max(1, _CHUNK // size.size)
    while done < draws:
        now = min(step, draws - done)
        hits += int(np.count_nonzero(np.abs(_drawn_sums(size, values, counts, rng, now)) >= least))
        done += now
    return (hits + 1) / (draws + 1)


def _all_sums(values: Array, counts: Indices) -> tuple[Array, Array]:
    """Return the sums that fair signs can give, `counts` times each value, and their probabilities.

    Values of one size are exchangeable, so it only matters how many of them are positive.
    """
    sums, chance = np.zeros(1), np.ones(1)
    for value, count in zip(values, counts, strict=True):
        k = np.arange(count + 1)
        fair = np.exp(gammaln(count + 1.0) - gammaln(k + 1.0) - gammaln(count - k + 1.0) - count * np.log(2.0))
        sums = np.add.outer(sums, value * (2.0 * k - count)).ravel()
        chance = np.multiply.outer(chance, fair).ravel()
    return sums, chance


def _drawn_sums(size: Array, values: Array, counts: Indices, rng: np.random.Generator, draws: int) -> Array:
    """Return sums of `size`, (B,), with fair signs: a binomial for each value where many are equal, else a bit for each."""
    if _WORTH_A_BINOMIAL * values.size < size.size:
        return np.asarray((2.0 * rng.binomial(counts, 0.5, (draws, values.size)) - counts) @ values)
    columns = -(-size.size // 8)
    drawn = np.frombuffer(rng.bytes(draws * columns), dtype=np.uint8).reshape(draws, columns)
    positive = np.unpackbits(drawn, axis=1, count=size.size)
    return np.asarray(2.0 * (positive.astype(np.float64) @ size) - size.sum())


def sensitivity_gain(m: int, icc: float) -> float:
    """Return how many times more sessions an A/B test by session needs than turn-level drafts, for equal precision.

    `m` turns a session, a multiple of the number of arms; `icc` in [0, 1) is the share of the variance of outcomes that
    lies between sessions. Write an outcome as arm effect + u_s + e_t, with variances icc and 1 - icc.

    By session, the mean of a session's m outcomes has variance icc + (1 - icc) / m = (1 + (m - 1) icc) / m. With S / K
    sessions an arm, the difference of two arms has variance 2 K / S times that.

    By turn, every session has m / K turns of each arm and u_s cancels in the difference, which has variance
    2 K (1 - icc) / (m S) over S sessions. The ratio is (1 + (m - 1) icc) / (1 - icc).

    Raises ValueError for m below 2 or icc outside [0, 1).
    """
    if m < 2:
        raise ValueError(f"m is {m}: a comparison within a session needs 2 turns or more")
    if not 0.0 <= icc < 1.0:
        raise ValueError(f"icc is {icc}: it must be at least 0 and below 1")
    return (1.0 + (m - 1) * icc) / (1.0 - icc)


def _pairs(turns: Turns, a: int, b: int) -> tuple[Array, Indices]:
    """Return d, (B,), and the session of each block, (B,)."""
    _check_arms(turns, a, b)
    of_a, of_b = (np.flatnonzero(turns.observed & (turns.arm == arm)) for arm in (a, b))
    block = turns.session * (LARGEST_TURN + 1) + turns.turn // turns.arms
    _, at_a, at_b = np.intersect1d(block[of_a], block[of_b], assume_unique=True, return_indices=True)
    return turns.outcome[of_a[at_a]] - turns.outcome[of_b[at_b]], turns.session[of_a[at_a]]


def _difference(estimate: float, stderr: float, freedom: float, level: float, sessions: int, blocks: int) -> Difference:
    half = float(stdtrit(freedom, 0.5 + 0.5 * level)) * stderr
    return Difference(estimate, stderr, estimate - half, estimate + half, sessions, blocks)


def _check_arms(turns: Turns, a: int, b: int) -> None:
    for name, arm in (("a", a), ("b", b)):
        if not 0 <= arm < turns.arms:
            raise ValueError(f"{name} is {arm}: with {turns.arms} arms it must be from 0 to {turns.arms - 1}")
    if a == b:
        raise ValueError(f"a and b are both {a}: an arm is compared with another")


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: it must be above 0 and below 1")
