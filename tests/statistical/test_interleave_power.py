"""Drafts give every arm its share, the analyses hold their error rates, and both gain what they are said to gain.

Everything is seeded or hashed from fixed ids, so a run never changes. Each test states how often a right program would
have failed it before the seed was chosen.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, chisquare, f

from bandit.crossover import Difference, first_turn_estimate, paired_difference, randomisation_test, sensitivity_gain
from bandit.interleave import credit, keyed_order, keyed_orders, preferences, team_draft
from bandit.turns import Turns, turn_arm

Array = NDArray[np.float64]
FALSE_ALARM = 1e-5


def dealt_orders(rng: np.random.Generator, sessions: int, blocks: int, k: int = 2) -> NDArray[np.int64]:
    """The arms of sessions of `blocks` blocks, (sessions, blocks * k), by numpy instead of the hash."""
    return rng.permuted(np.tile(np.arange(k), (sessions, blocks, 1)), axis=2).reshape(sessions, blocks * k)


def as_turns(arm: NDArray[np.int64], outcome: Array, kept: NDArray[np.bool_] | None = None, k: int = 2) -> Turns:
    """Arms and outcomes of shape (sessions, turns) as turns; those not kept never happened."""
    rows = np.ones(arm.shape, dtype=np.bool_) if kept is None else kept
    session, turn = np.nonzero(rows)
    return Turns.of(k, session, turn, arm[rows], outcome[rows])


def report(paired: Difference, first: Difference) -> str:
    figures = (f"{name} {one.estimate:.3f} ± {one.stderr:.3f}" for name, one in (("paired", paired), ("first turns", first)))
    return f"true 0.200, {', '.join(figures)}"


@pytest.mark.parametrize("k", [2, 3, 4])
def test_orders_are_uniform_over_permutations(k: int) -> None:
    """χ² over all k! orders: a false alarm in 1e5 keys."""
    counts = Counter(keyed_order(k, b"secret", "draft", str(i)) for i in range(24_000))
    assert chisquare([counts[order] for order in permutations(range(k))]).pvalue > FALSE_ALARM


def test_turns_are_uniform_and_blocks_independent() -> None:
    """χ² of each turn's arm, of the orders of two blocks together, and of two sessions together: 3 in 1e5 each."""
    arms = ("haiku", "sonnet", "opus")
    dealt = np.array([[turn_arm("support", f"s-{s}", turn, arms) for turn in range(6)] for s in range(12_000)])
    for turn in range(6):
        assert chisquare(np.bincount(dealt[:, turn], minlength=3)).pvalue > FALSE_ALARM
    pairs = Counter(map(tuple, dealt[:, [0, 1, 3, 4]]))
    assert len(pairs) == 36
    assert chisquare(list(pairs.values())).pvalue > FALSE_ALARM
    neighbours = Counter(zip(dealt[:-1:2, 0].tolist(), dealt[1::2, 0].tolist(), strict=True))
    assert chisquare([neighbours[a, b] for a in range(3) for b in range(3)]).pvalue > FALSE_ALARM


def test_clicks_without_looking_prefer_nobody() -> None:
    """Claim: the user who clicks by position alone prefers neither ranker.

    Rankings overlap in part; a binomial count within its FALSE_ALARM quantiles.
    """
    rng = np.random.default_rng(31)
    rankings = [list("abcdefgh"), list("bcxayzdw")]
    examined = 1 / np.arange(1, 9)
    credits = []
    for i in range(20_000):
        one = team_draft(rankings, keyed_orders(2, b"secret", str(i)), 8)
        credits.append(credit(one.teams, np.flatnonzero(rng.random(8) < examined).tolist(), 2))
    result = preferences(credits).pair(0, 1)
    assert result.p_value > FALSE_ALARM
    assert result.upper - result.lower < 0.02


def test_a_list_draft_needs_fewer_impressions_than_an_ab_test() -> None:
    """Claim: in this population a draft needs at most half of the impressions of an A/B test of clicks.

    The two rankers see relevance through noise of 1 and 0.5; users examine position j with probability 1 / j and click
    what is relevant as often as their appetite says, which varies a lot. The gain is the ratio of (mean / sd)^2 per
    impression. It is about 5.4 (seven seeds gave 5.1 to 6.2); its square root has a standard error of about 0.15, so 2 is
    nearly 6 of them away: a false alarm in 5e8 seeds.
    """
    rng = np.random.default_rng(32)
    impressions, shown = 250_000, 10
    relevant = (rng.random((impressions, shown)) < 0.2).astype(np.float64)
    appetite = np.minimum(1.0, rng.gamma(0.25, 2.0, (impressions, 1))) / np.arange(1, shown + 1)
    orders = [np.argsort(-(relevant + rng.normal(0.0, noise, relevant.shape)), axis=1) for noise in (1.0, 0.5)]
    clicks = [(rng.random(order.shape) < np.take_along_axis(relevant, order, 1) * appetite).sum(axis=1) for order in orders]
    by_ab = (clicks[1].mean() - clicks[0].mean()) ** 2 / (2 * (clicks[0].var() + clicks[1].var()))
    names = [str(item) for item in range(shown)]
    signs = np.zeros(15_000)
    for i in range(len(signs)):
        rankings = [[names[item] for item in order[i].tolist()] for order in orders]
        one = team_draft(rankings, keyed_orders(2, b"", str(i)), shown)
        chance = relevant[i, [int(item) for item in one.items]] * appetite[i]
        a, b = credit(one.teams, np.flatnonzero(rng.random(shown) < chance).tolist(), 2)
        signs[i] = np.sign(b - a)
    gain = signs.mean() ** 2 / signs.var() / by_ab
    print(f"list draft against A/B: {gain:.1f} times fewer impressions")
    assert signs.mean() > 0
    assert gain > 2.0


@pytest.mark.parametrize(("m", "icc"), [(4, 0.2), (10, 0.1), (10, 0.5), (20, 0.8)])
def test_the_gain_over_ab_by_session_is_the_formula(m: int, icc: float) -> None:
    """Claim: the variances of the two estimators have the ratio (1 + (m - 1) icc) / (1 - icc).

    40,000 experiments of each kind with normal outcomes: the ratio over the formula is F with (39,999, 39,999) degrees
    of freedom, here between its 5e-6 quantiles, which are 4.5 % from 1: a false alarm in 1e5 seeds for each case.
    """
    rng = np.random.default_rng(33)
    runs, sessions = 40_000, 4

    def outcomes() -> Array:
        between = rng.normal(0.0, icc**0.5, (runs, sessions, 1))
        return np.asarray(between + rng.normal(0.0, (1 - icc) ** 0.5, (runs, sessions, m)))

    by_session = outcomes().mean(axis=2)
    ab = by_session[:, ::2].mean(axis=1) - by_session[:, 1::2].mean(axis=1)
    y, arm = outcomes(), dealt_orders(rng, runs * sessions, m // 2).reshape(runs, sessions, m)
    paired = np.where(arm == 0, y, -y).sum(axis=(1, 2)) / (sessions * m // 2)
    for run in range(5):
        assert paired_difference(as_turns(arm[run], y[run]), 0, 1).estimate == pytest.approx(paired[run])
    ratio = ab.var(ddof=1) / paired.var(ddof=1)
    print(f"m = {m}, icc = {icc}: simulated {ratio:.2f}, formula {sensitivity_gain(m, icc):.2f}")
    low, high = f.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], runs - 1, runs - 1)
    assert low < ratio / sensitivity_gain(m, icc) < high
    assert 0.95 < low < high < 1.05


def test_intervals_cover_although_arms_differ_by_session() -> None:
    """Claim: the 95 % interval covers the mean difference, where its size differs from session to session.

    2,000 experiments of 40 sessions of 2 to 16 turns: the count lies between the FALSE_ALARM quantiles for coverage 93.5 %
    (clusters are few and unequal) and 95.5 %. Intervals that take blocks for independent cover 69 %.
    """
    rng = np.random.default_rng(34)
    covered = 0
    for _ in range(2_000):
        arm = dealt_orders(rng, 40, 8)
        kept = np.arange(16) < 2 * rng.integers(1, 9, (40, 1))
        effect = rng.normal(0.3, 0.8, (40, 1))
        y = rng.normal(0.0, 1.0, (40, 1)) + effect * (arm == 0) + rng.normal(0.0, 0.5, arm.shape)
        one = paired_difference(as_turns(arm, y, kept), 0, 1)
        covered += one.lower <= 0.3 <= one.upper
    print(f"coverage {covered / 2_000:.3f}")
    assert binom.ppf(FALSE_ALARM, 2_000, 0.935) <= covered <= binom.isf(FALSE_ALARM, 2_000, 0.955)


def test_carry_over_biases_the_paired_estimate_and_not_the_first_turns() -> None:
    """Claim: with effects .2 and carry-over of .3 after arm 0, the paired estimate is .2 - .3 / 2, the first turns' .2.

    Both within 5 of their own standard errors: a false alarm in 1.7e6 seeds each. The
    paired estimate stays 20 of them below .2.
    """
    rng = np.random.default_rng(35)
    arm = dealt_orders(rng, 40_000, 3)
    before = np.concatenate((np.ones((len(arm), 1)), arm[:, :-1]), axis=1)
    y = 0.2 * (arm == 0) + 0.3 * (before == 0) + rng.normal(0.0, 1.0, (len(arm), 1)) + rng.normal(0.0, 0.7, arm.shape)
    turns = as_turns(arm, y)
    paired, first = paired_difference(turns, 0, 1), first_turn_estimate(turns, 0, 1)
    print(report(paired, first))
    assert abs(paired.estimate - (0.2 - 0.15)) <= 5 * paired.stderr
    assert paired.estimate + 20 * paired.stderr < 0.2
    assert abs(first.estimate - 0.2) <= 5 * first.stderr


def with_drop_out(rng: np.random.Generator, sessions: int, p: tuple[float, float], q: float) -> Turns:
    """Sessions of up to 6 turns; arm k answers badly with probability p[k], and a share q of bad answers ends a session."""
    arm = dealt_orders(rng, sessions, 3)
    bad = rng.random(arm.shape) < np.array(p)[arm]
    ends = bad & (rng.random(arm.shape) < q)
    kept = np.concatenate((np.zeros((sessions, 1), dtype=int), np.cumsum(ends, axis=1)[:, :-1]), axis=1) == 0
    return as_turns(arm, bad.astype(np.float64), kept)


def test_drop_out_shrinks_the_paired_estimate_and_not_the_first_turns() -> None:
    """Claim: bad answers of .4 and .2, half of which end the session, leave (.2)(2 - q) / (2 - .6 q), q = .5, of .2.

    Both within 5 of their own standard errors: a false alarm in 1.7e6 seeds each. The
    paired estimate stays 7 of them below .2.
    """
    turns = with_drop_out(np.random.default_rng(36), 60_000, (0.4, 0.2), 0.5)
    paired, first = paired_difference(turns, 0, 1), first_turn_estimate(turns, 0, 1)
    print(report(paired, first))
    assert abs(paired.estimate - 0.2 * 1.5 / 1.7) <= 5 * paired.stderr
    assert paired.estimate + 7 * paired.stderr < 0.2
    assert abs(first.estimate - 0.2) <= 5 * first.stderr


def test_the_randomisation_test_holds_its_level_under_drop_out() -> None:
    """Claim: equal arms give p <= .05 in at most 5 % of experiments, and different ones are found.

    1,000 experiments, under the FALSE_ALARM quantile of the count at 5 %.
    """
    rng = np.random.default_rng(37)
    p = [randomisation_test(with_drop_out(rng, 80, (0.4, 0.4), 0.7), 0, 1, rng) for _ in range(1_000)]
    assert sum(value <= 0.05 for value in p) <= binom.isf(FALSE_ALARM, 1_000, 0.05)
    assert randomisation_test(with_drop_out(rng, 2_000, (0.4, 0.2), 0.7), 0, 1, rng) < 1e-6
