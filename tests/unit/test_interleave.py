"""Team drafts against hand-computed tables, credit and preferences against enumeration and scipy."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import binomtest

from bandit.interleave import (
    Interleaved,
    _below,
    credit,
    keyed_order,
    keyed_orders,
    preference,
    preferences,
    sign_test,
    team_draft,
)

A, B, C = 0, 1, 2
KEY = b"k" * 32


def outcomes(rankings: list[str], length: int | None = None) -> dict[Interleaved, Fraction]:
    """Every list that the draft can deal, with its exact probability: all orders of all rounds, one by one."""
    orders = list(permutations(range(len(rankings))))
    rounds = len(set("".join(rankings)))
    weight = Fraction(1, len(orders) ** rounds)
    dealt: dict[Interleaved, Fraction] = {}
    for chosen in product(orders, repeat=rounds):
        one = team_draft(rankings, chosen.__getitem__, length)
        dealt[one] = dealt.get(one, Fraction(0)) + weight
    return dealt


def expected_credit(rankings: list[str], clicked: str) -> list[Fraction]:
    """The mean credit of each ranker if the user clicks exactly the items in `clicked`."""
    total = [Fraction(0)] * len(rankings)
    for one, chance in outcomes(rankings).items():
        positions = [one.items.index(item) for item in clicked]
        for ranker, value in enumerate(credit(one.teams, positions, len(rankings))):
            total[ranker] += chance * value
    return total


def test_two_rankers_by_hand() -> None:
    """Rounds AB and BA, twice; worked out on paper."""
    half = Fraction(1, 2)
    assert outcomes(["xyzw", "xzwy"]) == {
        Interleaved(tuple("xzyw"), (A, B, A, B), 4): half * half,
        Interleaved(tuple("xzwy"), (A, B, B, A), 4): half * half,
        Interleaved(tuple("xyzw"), (B, A, A, B), 4): half * half,
        Interleaved(tuple("xyzw"), (B, A, B, A), 4): half * half,
    }
    assert expected_credit(["xyzw", "xzwy"], "x") == [half, half]
    assert expected_credit(["xyzw", "xzwy"], "y") == [1, 0]
    assert expected_credit(["xyzw", "xzwy"], "z") == [Fraction(1, 4), Fraction(3, 4)]
    assert expected_credit(["xyzw", "xzwy"], "w") == [Fraction(1, 4), Fraction(3, 4)]


def test_three_rankers_by_hand() -> None:
    """One round, six orders: ABC, ACB, BAC, BCA, CAB, CBA; worked out on paper."""
    sixth = Fraction(1, 6)
    rankings = ["xyz", "yzx", "xzy"]
    assert outcomes(rankings) == {
        Interleaved(tuple("xyz"), (A, B, C), 3): sixth,
        Interleaved(tuple("xzy"), (A, C, B), 3): sixth,
        Interleaved(tuple("yxz"), (B, A, C), 3): sixth,
        Interleaved(tuple("yxz"), (B, C, A), 3): sixth,
        Interleaved(tuple("xyz"), (C, A, B), 3): sixth,
        Interleaved(tuple("xyz"), (C, B, A), 3): sixth,
    }
    assert expected_credit(rankings, "x") == [3 * sixth, 0, 3 * sixth]
    assert expected_credit(rankings, "y") == [sixth, 5 * sixth, 0]
    assert expected_credit(rankings, "z") == [2 * sixth, sixth, 3 * sixth]


def test_a_draft_may_miss_an_improvement() -> None:
    """The known blind spot: B ranks what is clicked one place better, and wins no more often than A."""
    assert expected_credit(["abc", "bca"], "c") == [Fraction(1, 2), Fraction(1, 2)]


def test_a_common_beginning_is_anyones() -> None:
    dealt = outcomes(["pqab", "pqcd"], 4)
    assert {one.items[:2] for one in dealt} == {("p", "q")}
    assert {one.teams for one in dealt} == {(A, B, A, B), (A, B, B, A), (B, A, A, B), (B, A, B, A)}
    assert expected_credit(["pqab", "pqcd"], "pq") == [1, 1]


def test_identical_rankings_tie_on_average() -> None:
    for clicked in ("a", "b", "c", "ac", "abc"):
        assert len(set(expected_credit(["abc"] * 3, clicked))) == 1


def test_longer_rankings_go_on_alone() -> None:
    dealt = outcomes(["a", "bcd"])
    assert dealt == {
        Interleaved(tuple("abcd"), (A, B, B, B), 1): Fraction(1, 2),
        Interleaved(tuple("bacd"), (B, A, B, B), 1): Fraction(1, 2),
    }
    assert team_draft(["", "bc"], lambda _: (0, 1)) == Interleaved(("b", "c"), (B, B), 0)
    assert team_draft(["", ""], lambda _: (0, 1)) == Interleaved((), (), 0)


def test_the_length_cuts_the_last_round() -> None:
    assert team_draft(["abc", "def"], lambda _: (1, 0), 3) == Interleaved(("d", "a", "e"), (B, A, B), 3)
    assert len(team_draft(["abc", "def"], lambda _: (1, 0), 100).items) == 6
    assert team_draft(["ab", "defg"], lambda _: (1, 0), 3).even == 2


def test_each_round_has_an_order_of_its_own() -> None:
    asked: list[int] = []

    def orders(number: int) -> tuple[int, ...]:
        asked.append(number)
        return ((0, 1), (1, 0), (0, 1))[number]

    assert team_draft(["abc", "def"], orders).teams == (A, B, B, A, A, B)
    assert asked == [0, 1, 2]


def test_a_generator_may_decide() -> None:
    rng = np.random.default_rng(1)
    one = team_draft(["abc", "bcd", "dea"], lambda _: rng.permutation(3).tolist(), 4)
    assert len(set(one.items)) == len(one.teams) == 4


def test_a_key_deals_the_same_list_again() -> None:
    rankings = [[f"item-{i * step % 101}" for i in range(50)] for step in (1, 3, 7)]
    first = team_draft(rankings, keyed_orders(3, KEY, "draft-1"))
    assert team_draft(rankings, keyed_orders(3, KEY, "draft-1")) == first
    for others in (keyed_orders(3, KEY, "draft-2"), keyed_orders(3, b"other", "draft-1")):
        assert team_draft(rankings, others) != first


def test_large_drafts() -> None:
    rng = np.random.default_rng(2)
    rankings = [[f"item-{i}" for i in rng.choice(5_000, 1_000, replace=False)] for _ in range(20)]
    one = team_draft(rankings, keyed_orders(20, KEY, "large"))
    assert set(one.items) == set().union(*rankings)
    assert len(set(one.items)) == len(one.items)
    for item, team in zip(one.items, one.teams, strict=True):
        assert item in rankings[team]


@pytest.mark.parametrize(
    ("rankings", "order", "length", "message"),
    [
        (["abc"], (0,), None, "rankings has 1 entries"),
        (["abc", "dad"], (0, 1), None, r"rankings\[1\] holds 'd' twice"),
        (["abc", "d"], (0, 1), 0, "length is 0"),
        (["abc", "d"], (0, 0), None, r"orders gave \(0, 0\)"),
        (["abc", "d"], (0, 1, 2), None, r"orders gave \(0, 1, 2\)"),
    ],
)
def test_bad_drafts_are_refused(rankings: list[str], order: tuple[int, ...], length: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        team_draft(rankings, lambda _: order, length)


def test_clicks_credit_the_team_once() -> None:
    teams = (A, B, B, A, C)
    assert credit(teams, [], 3) == (0, 0, 0)
    assert credit(teams, [1, 2, 2, 1, 0], 3) == (1, 2, 0)
    assert credit(teams, [4, 3, 2, 1, 0], 4) == (2, 2, 1, 0)
    assert credit(teams, [0, 1, 2, 3, 4], 3, even=2) == (1, 1, 0)


@pytest.mark.parametrize(
    ("clicked", "rankers", "message"),
    [
        ([5], 3, "clicked holds 5: the list has the positions 0 to 4"),
        ([-1], 3, "clicked holds -1"),
        ([4], 2, r"teams\[4\] is 2"),
    ],
)
def test_bad_clicks_are_refused(clicked: list[int], rankers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        credit((A, B, B, A, C), clicked, rankers)


def test_the_most_credit_is_preferred() -> None:
    assert preference((0, 2, 1)) == (1,)
    assert preference((2, 0, 2)) == (0, 2)
    assert preference((0, 0, 0)) == (0, 1, 2)


def test_wins_and_ties_are_counted_in_pairs() -> None:
    table = [(1, 0, 2), (1, 1, 0), (0, 0, 0), (3, 0, 2)]
    counted = preferences(table)
    assert counted.wins.tolist() == [[0, 2, 2], [0, 0, 1], [1, 2, 0]]
    assert counted.ties.tolist() == [[0, 2, 1], [2, 0, 1], [1, 1, 0]]
    one = counted.pair(0, 1)
    assert (one.wins, one.losses, one.ties, one.win_rate) == (2, 0, 2, 1.0)
    assert one.p_value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="read-only"):
        counted.wins[0, 0] = 1


def test_no_interleavings_prefer_nobody() -> None:
    assert preferences(np.zeros((0, 2))).pair(0, 1) == sign_test(0, 0)


@pytest.mark.parametrize(
    ("credits", "message"),
    [
        ([1, 2], r"credits has shape \(2,\)"),
        ([[1], [2]], r"credits has shape \(2, 1\)"),
        ([[1, float("nan")]], "credits holds nan"),
        ([[1, -1]], "credits holds -1"),
    ],
)
def test_bad_credits_are_refused(credits: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preferences(credits)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(
    ("wins", "losses"), [(1, 0), (0, 1), (3, 3), (7, 2), (0, 20), (60, 40), (5_200, 4_800), (400_000, 401_234), (30, 0)]
)
def test_the_sign_test_is_scipys(wins: int, losses: int, level: float) -> None:
    mine = sign_test(wins, losses, 17, level)
    theirs = binomtest(wins, wins + losses, 0.5)
    interval = theirs.proportion_ci(level, method="wilson")
    assert mine.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (mine.lower, mine.upper) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)
    assert mine.win_rate == wins / (wins + losses)
    assert mine.ties == 17


def test_without_a_decision_nothing_is_known() -> None:
    one = sign_test(0, 0, 5)
    assert (one.win_rate, one.lower, one.upper, one.p_value) == (None, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0), "wins is -1"), ((0, -2), "losses is -2"), ((0, 0, -3), "ties is -3"), ((1, 1, 0, 1.0), "level is 1.0")],
)
def test_bad_counts_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sign_test(*arguments)


def test_keyed_orders_are_pinned() -> None:
    """Lists already dealt must be dealt again by later versions."""
    assert [keyed_order(4, KEY, "draft", str(number)) for number in range(3)] == [
        (1, 3, 0, 2),
        (2, 1, 3, 0),
        (2, 0, 3, 1),
    ]
    assert keyed_order(1, KEY) == (0,)
    assert sorted(keyed_order(30, b"", "many")) == list(range(30))


def test_words_that_would_favour_small_remainders_are_passed_over() -> None:
    """2**64 = 3 q + 1, so the last word has no complete set of remainders; for a power of two every word counts."""
    assert _below(3, iter([2**64 - 1, 5])) == 2
    assert _below(3, iter([2**64 - 2, 5])) == (2**64 - 2) % 3
    assert _below(4, iter([2**64 - 1, 5])) == 3
