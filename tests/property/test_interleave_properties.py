"""Team drafts and turn-level drafts for any input: fair, complete, and the same whatever stands in another order."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import permutations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.crossover import paired_difference, randomisation_test
from bandit.interleave import Interleaved, credit, keyed_order, keyed_orders, preference, preferences, team_draft
from bandit.reward import Signal
from bandit.turns import Turns, credit_turns, turn_arm

#: Session, turn, arm, outcome, whether observed.
Row = tuple[int, int, int, float, bool]

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
keys = st.binary(max_size=64)


def rankings(k: st.SearchStrategy[int], letters: str = "abcdefgh", least: int = 0) -> st.SearchStrategy[list[list[str]]]:
    ranking = st.lists(st.sampled_from(letters), unique=True, min_size=least, max_size=len(letters))
    return k.flatmap(lambda size: st.lists(ranking, min_size=size, max_size=size))


@given(rankings(st.integers(2, 5)), keys, st.none() | st.integers(1, 12))
def test_a_draft_follows_its_rules(ranked: list[list[str]], key: bytes, length: int | None) -> None:
    """Played back by the letter: search every list from its top for each pick."""
    orders = keyed_orders(len(ranked), key, "draft")
    picks: list[tuple[str, int]] = []
    for number in range(len(set().union(*ranked))):
        for team in orders(number):
            best = [item for item in ranked[team] if item not in dict(picks)]
            if best:
                picks.append((best[0], team))
    picks = picks[:length]
    one = team_draft(ranked, orders, length)
    assert list(zip(one.items, one.teams, strict=True)) == picks
    assert one.even == min([len(picks), *map(len, ranked)])


@given(rankings(st.integers(2, 5)), keys)
def test_rounds_are_fair_as_far_as_they_are_even(ranked: list[list[str]], key: bytes) -> None:
    one = team_draft(ranked, keyed_orders(len(ranked), key))
    for start in range(0, one.even, len(ranked)):
        one_round = one.teams[start : min(start + len(ranked), one.even)]
        assert len(set(one_round)) == len(one_round)


@given(rankings(st.integers(2, 3), "abcd"))
def test_every_even_position_is_anyones_with_equal_chances(ranked: list[list[str]]) -> None:
    """Over all orders, exactly; so a user who clicks without looking gives every ranker the same credit."""
    k, rounds = len(ranked), 4
    orders = list(permutations(range(k)))
    dealt = [
        team_draft(ranked, (*chosen, *[orders[0]] * 9).__getitem__) for chosen in product(orders, repeat=rounds // (k - 1))
    ]
    even = dealt[0].even
    for position in range(min(even, k * (rounds // (k - 1)))):
        owners = Counter(one.teams[position] for one in dealt)
        assert {team: Fraction(n, len(dealt)) for team, n in owners.items()} == dict.fromkeys(range(k), Fraction(1, k))
    assert {one.even for one in dealt} == {even}


@given(rankings(st.integers(2, 4)), st.data())
def test_renaming_the_rankers_renames_the_teams(ranked: list[list[str]], data: st.DataObject) -> None:
    k = len(ranked)
    new_name = data.draw(st.permutations(range(k)))
    orders = keyed_orders(k, b"", "draft")
    renamed = [ranked[new_name.index(team)] for team in range(k)]
    one = team_draft(ranked, orders)
    two = team_draft(renamed, lambda number: [new_name[team] for team in orders(number)])
    assert two == Interleaved(one.items, tuple(new_name[team] for team in one.teams), one.even)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_every_click_is_credited_once(teams: list[int], data: st.DataObject) -> None:
    clicked = data.draw(st.lists(st.integers(0, len(teams) - 1), max_size=20))
    credits = credit(teams, clicked, 4)
    assert sum(credits) == len(set(clicked))
    assert credits == credit(teams, [*reversed(clicked), *clicked], 4)
    assert Counter({team: n for team, n in enumerate(credits) if n}) == Counter(teams[i] for i in set(clicked))


@given(st.integers(2, 5).flatmap(lambda k: st.lists(st.tuples(*[st.integers(0, 3)] * k), min_size=1, max_size=20)))
def test_preferences_agree_with_one_interleaving_at_a_time(table: list[tuple[int, ...]]) -> None:
    counted = preferences(table)
    k = len(table[0])
    for a, b in product(range(k), repeat=2):
        assert counted.wins[a, b] == sum(row[a] > row[b] for row in table)
        assert counted.wins[a, b] + counted.wins[b, a] + counted.ties[a, b] == (len(table) if a != b else 0)
    if k == 2:
        assert counted.wins[0, 1] == sum(preference(row) == (0,) for row in table)


@given(st.integers(1, 40), keys, st.lists(ids, max_size=3), st.lists(ids, max_size=3))
def test_keyed_orders_are_permutations_of_their_own(k: int, key: bytes, parts: list[str], others: list[str]) -> None:
    order = keyed_order(k, key, *parts)
    assert sorted(order) == list(range(k))
    assert order == keyed_order(k, key, *parts)
    if k >= 30 and parts != others:
        assert order != keyed_order(k, key, *others)


def test_long_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        keyed_order(2, b"x" * 65, "draft")


@given(ids, ids, st.lists(ids, unique=True, min_size=1, max_size=8), st.integers(0, 10**9))
def test_blocks_use_every_arm_once(experiment_id: str, session_id: str, arm_ids: list[str], block: int) -> None:
    turns = range(block * len(arm_ids), (block + 1) * len(arm_ids))
    dealt = [turn_arm(experiment_id, session_id, turn, arm_ids) for turn in turns]
    assert sorted(dealt) == list(range(len(arm_ids)))
    listed = sorted(arm_ids, reverse=True)
    assert [listed[turn_arm(experiment_id, session_id, turn, listed)] for turn in turns] == [arm_ids[i] for i in dealt]


implicit = st.sampled_from([signal for signal in Signal if signal.name[:6] != "THUMBS"])


@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(1, n), implicit)))),
    st.randoms(),
)
def test_credit_does_not_depend_on_order_or_repetition(
    session: tuple[int, list[tuple[int, Signal]]], random: Random
) -> None:
    turns, signals = session
    outcome, observed = credit_turns(turns, signals)
    again = signals + signals
    random.shuffle(again)
    assert credit_turns(turns, again) == (outcome, observed)
    assert all(observed[:-1])
    assert all(seen for bad, seen in zip(outcome, observed, strict=True) if bad)


@st.composite
def dealt_turns(draw: st.DrawFn) -> list[Row]:
    """Rows of sessions of two to nine turns and three arms, dealt as designed."""
    rows = []
    for session in range(draw(st.integers(2, 5))):
        for turn in range(draw(st.integers(2, 9))):
            arm = turn_arm("x", str(session), turn, "abc")
            rows.append((session, turn, arm, draw(st.integers(-4, 4)) / 4, draw(st.booleans())))
    return rows


@given(dealt_turns(), st.randoms())
def test_analyses_do_not_depend_on_the_order_of_rows_or_arms(rows: list[Row], random: Random) -> None:
    def turns(given: list[Row], names: str = "i") -> Turns:
        session, *rest = (list(column) for column in zip(*given, strict=True))
        return Turns.of(3, session if names == "i" else [f"{names}{s}" for s in session], *rest)

    shuffled = rows[:]
    random.shuffle(shuffled)
    one, two = turns(rows), turns(shuffled, "session-")
    p, again, mirrored = (
        randomisation_test(given, a, b, np.random.default_rng(0)) for given, a, b in ((one, 0, 1), (two, 0, 1), (one, 1, 0))
    )
    assert 0.0 < p <= 1.0
    assert [again, mirrored] == pytest.approx([p, p])
    blocks = Counter((session, turn // 3) for session, turn, arm, _, seen in rows if seen and arm < 2)
    if len({session for (session, _), both in blocks.items() if both == 2}) < 2:
        with pytest.raises(ValueError, match="at least 2 are needed"):
            paired_difference(one, 0, 1)
        return
    forth, back = paired_difference(one, 0, 1), paired_difference(one, 1, 0)
    assert paired_difference(two, 0, 1).estimate == pytest.approx(forth.estimate)
    assert (back.estimate, back.lower, back.upper) == pytest.approx((-forth.estimate, -forth.upper, -forth.lower))
    assert back.stderr == pytest.approx(forth.stderr)
