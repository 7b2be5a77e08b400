"""Paired comparisons against scipy's tests, closed testing by brute force, and figures worked out by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test, t

from bandit.inference import rate_interval
from bandit.paired import compare, holm, items_needed, mean_interval, paired_means


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def binary(wins: int, losses: int, both: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither
    b = [0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * neither
    return a, b


@pytest.mark.parametrize(("wins", "losses", "ties"), [(9, 2, 30), (1, 0, 0), (0, 7, 3), (40, 20, 500), (5, 5, 0)])
def test_scores_of_0_and_1(wins: int, losses: int, ties: int) -> None:
    a, b = binary(wins, losses, ties // 2, ties - ties // 2)
    found = compare(a, b, rng())
    n = wins + losses + ties
    assert found.p == pytest.approx(binomtest(wins, wins + losses).pvalue, rel=1e-9)
    assert (found.n, found.wins, found.losses) == (n, wins, losses)
    assert found.estimate == pytest.approx((wins - losses) / n)
    if n > 1:
        # Bonett and Price, with t for z.
        p, q = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
        half = t.ppf(0.975, n - 1) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
        assert found.lower == pytest.approx(max(-1.0, p - q - half))
        assert found.upper == pytest.approx(min(1.0, p - q + half))
        assert found.deviation == pytest.approx(math.sqrt(p + q - (p - q) ** 2))


def test_graded_scores_of_few_items() -> None:
    a, b = np.array([0.9, 0.4, 0.75, 0.6, 1.0, 0.2, 0.55]), np.array([0.7, 0.5, 0.3, 0.6, 0.2, 0.1, 0.45])
    found = compare(a, b, rng())
    # Every order, by another program.
    other = permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(other.pvalue, rel=1e-9)
    assert found.estimate == pytest.approx(1.55 / 7)
    # By hand: d is .2, -.1, .45, 0, .8, .1, .1 and then .8 and -.8; their mean is 1.55 / 9 = .17222,
    # their squares add up to .04 + .01 + .2025 + .64 + .01 + .01 + 1.28 = 2.1925.
    half = 2.446912 * math.sqrt(2.1925 / 9 - 0.1722222**2) / 3
    assert found.lower == pytest.approx(0.1722222 - half, abs=1e-5)
    assert found.upper == pytest.approx(0.1722222 + half, abs=1e-5)
    assert (found.wins, found.losses) == (5, 1)


def test_many_graded_scores_are_drawn_with_a_seed() -> None:
    source = np.random.default_rng(3)
    a, b = source.random(60), source.random(60)
    first, again = compare(a, b, rng()), compare(a, b, rng())
    assert first == again
    d = a - b
    # The normal approximation of the sum of fair signs.
    z = abs(d.sum()) / math.sqrt((d**2).sum())
    assert first.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_equal_arms() -> None:
    found = compare([0.5] * 30, [0.5] * 30, rng())
    assert (found.estimate, found.p, found.wins, found.losses) == (0.0, 1.0, 0, 0)
    # That no difference was seen in 30 items does not make it 0 everywhere.
    assert -0.2 < found.lower < 0.0 < found.upper < 0.2


def test_one_item_says_nothing_about_others() -> None:
    found = compare([1.0], [0.0], rng())
    assert (found.lower, found.upper, found.p) == (-1.0, 1.0, 1.0)


def test_swapping_the_arms_mirrors_the_result() -> None:
    a, b = [0.9, 0.4, 0.75, 0.6, 1.0], [0.7, 0.5, 0.3, 0.6, 0.2]
    one, other = compare(a, b, rng()), compare(b, a, rng())
    assert one.estimate == pytest.approx(-other.estimate)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower))
    assert one.p == other.p


def test_samples_of_an_item_count_as_one() -> None:
    a = {"q1": [1.0, 0.0], "q2": [1.0], "q3": [], "q5": [0.1, 0.2, 0.3]}
    b = {"q2": [0.0, 1.0, 1.0, 0.0], "q1": [0.0], "q3": [1.0], "q4": [1.0], "q5": [0.3, 0.2, 0.1]}
    items, of_a, of_b = paired_means(a, b)
    assert items == ["q1", "q2", "q5"]
    assert of_a.tolist() == pytest.approx([0.5, 1.0, 0.2])
    assert of_b.tolist() == pytest.approx([0.0, 0.5, 0.2])
    # The means of .1, .2, .3 in either order differ by rounding: that is a tie.
    assert compare(of_a, of_b, rng()).wins == 2


def test_intervals_of_means() -> None:
    assert mean_interval([]) == (0.0, 1.0)
    assert mean_interval([1.0] * 8 + [0.0] * 2) == pytest.approx(rate_interval(8, 10))
    assert mean_interval([0.7] * 10) == pytest.approx(rate_interval(7, 10))
    scores = [0.6, 0.7, 0.8, 0.7]
    half = t.ppf(0.975, 3) * math.sqrt(4 * 0.1**2 / 6) / math.sqrt(6)
    assert mean_interval(scores) == pytest.approx((0.7 - half, 0.7 + half))
    assert mean_interval([0.4]) == pytest.approx(rate_interval(0.4, 1))


def test_several_comparisons_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).size == 0
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_several_comparisons_by_closed_testing() -> None:
    """An adjusted p is the largest Bonferroni p of all the sets of comparisons that it belongs to."""
    source = np.random.default_rng(7)
    for _ in range(50):
        p = source.random(5) ** 3
        closed = [
            max(
                min(1.0, size * min(p[list(group)]))
                for size in range(1, 6)
                for group in combinations(range(5), size)
                if i in group
            )
            for i in range(5)
        ]
        assert holm(p).tolist() == pytest.approx(closed)


def test_how_many_items_show_an_effect() -> None:
    # (1.959964 + .841621)^2 = 7.84888; times (.5 / .1)^2 it is 196.2.
    assert items_needed(0.5, 0.1) == 197
    assert items_needed(0.5, 0.1, level=0.99, power=0.9) == math.ceil(25 * (2.575829 + 1.281552) ** 2)
    assert items_needed(0.0, 0.5) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([0.5], [0.5, 0.5], rng()), "b has 2 items and a has 1"),
        (lambda: compare([], [], rng()), "no items"),
        (lambda: compare([1.5], [0.5], rng()), "a has 1.5"),
        (lambda: compare([0.5], [math.nan], rng()), "b has nan"),
        (lambda: compare([[0.5]], [0.5], rng()), "a has shape"),
        (lambda: compare([0.5], [0.5], rng(), level=1.0), "level is 1.0"),
        (lambda: compare([0.5, 0.2], [0.5, 0.1], rng(), draws=0), "draws is 0"),
        (lambda: mean_interval([-0.1]), "scores has -0.1"),
        (lambda: holm([1.1]), "p has 1.1"),
        (lambda: paired_means({"x": [2.0]}, {"x": [1.0]}), r"a\['x'\] has 2.0"),
        (lambda: items_needed(0.5, 0.0), "effect is 0.0"),
        (lambda: items_needed(0.5, math.nan), "effect is nan"),
        (lambda: items_needed(1.5, 0.1), "deviation is 1.5"),
        (lambda: items_needed(0.5, 0.1, power=1.0), "power is 1.0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
