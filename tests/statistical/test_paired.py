"""Paired comparisons are as sure as they say.

Claims
    The interval of the difference holds the true one with probability .95 or nearly, whatever the number of items, and p
    is below alpha with probability at most alpha where the arms are alike, also over several comparisons at once.

Method
    Scores of 0 and 1 by enumeration of all tables, which has no false alarms. Graded scores by seeded simulation of REPEATS
    evaluations: a claim that holds with equality fails with probability ALARM for each test.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, multinomial

from bandit.paired import compare, holm, items_needed, mean_interval

#: Together they take minutes; unit tests have the same formulas against independent values.
pytestmark = pytest.mark.slow

REPEATS = 2_000
ALARM = 1e-4
Floats = NDArray[np.float64]


def fewest(chance: float, repeats: int = REPEATS) -> int:
    """Fewer successes than this are a false alarm with probability at most ALARM."""
    return int(binom.ppf(ALARM, repeats, chance))


@pytest.mark.parametrize("n", [5, 12, 30])
@pytest.mark.parametrize(("win", "lose"), [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1), (0.6, 0.05), (0.45, 0.45)])
def test_tables_of_0_and_1(n: int, win: float, lose: float) -> None:
    covered = small = 0.0
    for wins in range(n + 1):
        for losses in range(n + 1 - wins):
            chance = float(multinomial.pmf([wins, losses, n - wins - losses], n, [win, lose, 1 - win - lose]))
            if chance < 1e-9:
                covered += chance
                continue
            a = [1.0] * wins + [0.0] * (n - wins)
            b = [0.0] * wins + [1.0] * losses + [0.0] * (n - wins - losses)
            found = compare(a, b, np.random.default_rng(0))
            covered += chance * (found.lower <= win - lose <= found.upper)
            small += chance * (found.p <= 0.05)
    assert covered >= 0.945
    if win == lose:
        assert small <= 0.05


def rare_losses(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """The arms are alike but for a tenth of the items, where one is worse by half on average."""
    same = rng.beta(5, 2, n)
    return same, np.where(rng.random(n) < 0.1, same * rng.beta(2, 2, n), same)


def judged(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Grades of 0, .25, .5, .75 and 1; hard items are hard for both."""
    ease = rng.normal(0.6, 0.2, n)
    grades = [np.round(4 * np.clip(ease + gain + rng.normal(0, 0.15, n), 0, 1)) / 4 for gain in (0.05, 0.0)]
    return grades[0], grades[1]


def sampled(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Three answers to each item, right or wrong."""
    ease = rng.beta(2, 1, n)
    return rng.binomial(3, ease) / 3, rng.binomial(3, 0.8 * ease) / 3


@pytest.mark.parametrize("draw", [rare_losses, judged, sampled])
@pytest.mark.parametrize("n", [8, 25, 80])
def test_graded_scores(draw, n: int) -> None:
    big = np.random.default_rng(1)
    a, b = draw(big, 4_000_000)
    truth, mean = float((a - b).mean()), float(a.mean())
    rng = np.random.default_rng(2)
    held = held_mean = 0
    for _ in range(REPEATS):
        a, b = draw(rng, n)
        found = compare(a, b, rng, draws=1)
        held += found.lower <= truth <= found.upper
        low, high = mean_interval(a)
        held_mean += low <= mean <= high
    assert held >= fewest(0.945)
    assert held_mean >= fewest(0.945)


def test_plain_t_would_not_do() -> None:
    """Why two items are added: without them the interval misses far too often where differences are rare."""
    rng, held, n = np.random.default_rng(3), 0, 25
    truth = float(np.subtract(*rare_losses(np.random.default_rng(1), 4_000_000)).mean())
    for _ in range(REPEATS):
        d = np.subtract(*rare_losses(rng, n))
        half = 2.063899 * d.std(ddof=1) / math.sqrt(n)
        held += abs(d.mean() - truth) <= half
    assert held < 0.9 * REPEATS


def test_alike_arms_are_seldom_told_apart() -> None:
    """Four challengers as good as the control: any of them is called different with probability at most .05."""
    rng, wrong, repeats = np.random.default_rng(4), 0, 400
    for _ in range(repeats):
        ease = rng.beta(2, 1, 20)
        control, *others = (rng.binomial(3, ease) / 3 for _ in range(5))
        wrong += bool((holm([compare(other, control, rng, draws=999).p for other in others]) <= 0.05).any())
    assert wrong <= binom.isf(ALARM, repeats, 0.05)


def test_the_number_of_items_keeps_its_word() -> None:
    """As many items as `items_needed` says show the effect about as often as they should."""
    gain, deviation = 0.1, math.sqrt(0.2 + 0.1 - 0.1**2)
    n, rng, shown, repeats = items_needed(deviation, gain), np.random.default_rng(5), 0, 1_000
    for _ in range(repeats):
        u = rng.random(n)
        found = compare((u < 0.2).astype(float), ((u >= 0.2) & (u < 0.3)).astype(float), rng)
        shown += found.p <= 0.05
    # The exact test is a little less powerful than the approximation: .77 in truth.
    assert fewest(0.74, repeats) <= shown <= binom.isf(ALARM, repeats, 0.83)
