"""Turn-level drafts: whole blocks, credit to the answer before, and what is refused."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from bandit.reward import Signal
from bandit.turns import Turns, credit_turns, turn_arm

ARMS = ("haiku", "sonnet", "opus")
RETRY, REPHRASED, ABANDONED = Signal.IMMEDIATE_RETRY, Signal.REPHRASED_QUERY, Signal.SESSION_ABANDONED
COMPLETED, FOLLOW_UP = Signal.TASK_COMPLETED, Signal.FOLLOW_UP_QUESTION


def test_each_block_has_every_arm_once() -> None:
    for arms in (ARMS, ARMS[:2], ARMS[:1], tuple(f"arm-{i}" for i in range(30))):
        dealt = np.array([turn_arm("support", "s-1", turn, arms) for turn in range(5 * len(arms))])
        assert (np.sort(dealt.reshape(5, -1), axis=1) == np.arange(len(arms))).all()


def test_turns_are_pinned() -> None:
    """A session that is under way must go on as it began, whatever replica or later version answers."""
    assert [turn_arm("support", "s-1", turn, ARMS) for turn in range(9)] == [1, 0, 2, 1, 2, 0, 2, 0, 1]


def test_the_order_in_which_arms_are_listed_changes_nothing() -> None:
    turned = ARMS[1:] + ARMS[:1]
    for turn in range(30):
        assert turned[turn_arm("x", "s", turn, turned)] == ARMS[turn_arm("x", "s", turn, ARMS)]


def test_experiments_and_sessions_do_not_run_together() -> None:
    """The parts are hashed with their lengths: (ab, c) is not (a, bc)."""
    one, two = ([turn_arm(*ids, turn, ARMS) for turn in range(60)] for ids in (("ab", "c"), ("a", "bc")))
    assert one != two


@pytest.mark.parametrize(
    ("turn", "arms", "message"),
    [(-1, ARMS, "turn is -1"), (0, (), r"arm_ids is \[\]"), (0, ("a", "b", "a"), "must hold one or more distinct")],
)
def test_bad_turns_are_refused(turn: int, arms: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        turn_arm("x", "s", turn, arms)


@pytest.mark.parametrize(
    ("turns", "signals", "outcome", "observed"),
    [
        pytest.param(1, [], [0], [False], id="one-turn-and-silence"),
        pytest.param(3, [], [0, 0, 0], [True, True, False], id="the-last-turn-is-unknown"),
        pytest.param(3, [(1, RETRY)], [1, 0, 0], [True, True, False], id="a-retry-blames-the-answer-before"),
        pytest.param(3, [(2, REPHRASED), (1, FOLLOW_UP)], [0, 1, 0], [True, True, False], id="a-follow-up-is-neutral"),
        pytest.param(3, [(3, ABANDONED)], [0, 0, 1], [True, True, True], id="abandonment-blames-the-last-turn"),
        pytest.param(2, [(2, COMPLETED)], [0, 0], [True, True], id="completion-clears-the-last-turn"),
        pytest.param(2, [(2, ABANDONED), (2, COMPLETED)], [0, 1], [True, True], id="bad-wins"),
        pytest.param(2, [(2, COMPLETED), (2, ABANDONED)], [0, 1], [True, True], id="in-any-order"),
        pytest.param(2, [(1, RETRY), (1, RETRY), (1, REPHRASED)], [1, 0], [True, False], id="bad-once"),
        pytest.param(2, [(1, ABANDONED)], [1, 0], [True, False], id="gone-and-come-back"),
        pytest.param(2, [(2, RETRY)], [0, 1], [True, True], id="a-retry-that-was-never-answered"),
        pytest.param(2, [(2, FOLLOW_UP)], [0, 0], [True, False], id="neutral-at-the-end"),
    ],
)
def test_signals_credit_the_answer_before(
    turns: int, signals: list[tuple[int, Signal]], outcome: list[int], observed: list[bool]
) -> None:
    assert credit_turns(turns, signals) == (tuple(outcome), tuple(observed))


@pytest.mark.parametrize(
    ("turns", "signals", "message"),
    [
        (0, [], "turns is 0"),
        (2, [(0, RETRY)], "signals holds turn 0: a signal about one of 2 turns is seen at 1 to 2"),
        (2, [(3, ABANDONED)], "signals holds turn 3"),
        (2, [(1, Signal.THUMBS_DOWN)], "signals holds THUMBS_DOWN"),
        (2, [(1, Signal.THUMBS_UP)], "signals holds THUMBS_UP"),
    ],
)
def test_bad_signals_are_refused(turns: int, signals: list[tuple[int, Signal]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        credit_turns(turns, signals)


def test_dealt_and_credited_turns_are_accepted() -> None:
    sessions = {"s-1": [(1, RETRY)], "s-2": [(5, ABANDONED)], "s-3": []}
    credited = [credit_turns(5, signals) for signals in sessions.values()]
    turns = Turns.of(
        arms=3,
        session=np.repeat(list(sessions), 5),
        turn=np.tile(np.arange(5), 3),
        arm=[turn_arm("support", name, turn, ARMS) for name in sessions for turn in range(5)],
        outcome=list(chain.from_iterable(outcome for outcome, _ in credited)),
        observed=list(chain.from_iterable(observed for _, observed in credited)),
    )
    assert turns.session.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert turns.observed.tolist() == [*[True] * 4, False, *[True] * 5, *[True] * 4, False]
    assert np.flatnonzero(turns.outcome).tolist() == [0, 9]
    with pytest.raises(ValueError, match="read-only"):
        turns.outcome[0] = 3.0


def test_what_is_not_observed_may_be_anything_and_inputs_are_copied() -> None:
    outcome = np.array([1.0, np.nan])
    turns = Turns.of(2, [7, 7], [0, 1], [1, 0], outcome, [True, False])
    outcome[0] = 5.0
    assert turns.outcome[0] == 1.0
    assert Turns.of(2, [], [], [], []).session.size == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": 1}, "arms is 1"),
        ({"session": [[1, 1, 2]]}, "session has shape"),
        ({"session": [1.0, 1.0, 2.0]}, "session has shape .* float64"),
        ({"turn": [0, 1]}, r"turn has shape \(2,\): session has 3"),
        ({"turn": [0, 0, 0], "arm": [0, 1, 0]}, "turn holds 0 twice in session 1"),
        ({"turn": [0, -1, 0]}, "turn holds -1"),
        ({"turn": [0, 2**31, 0]}, "turn holds 2147483648"),
        ({"turn": [0.0, 1.0, 0.0]}, "turn has type float64"),
        ({"arm": [0, 2, 0]}, "arm holds 2: it must be from 0 to 1"),
        ({"arm": [1, 1, 0]}, "arm holds 1 twice in a block of session 1"),
        ({"outcome": [0.0, float("nan"), 1.0]}, "outcome holds nan"),
        ({"outcome": [0.0, float("inf"), 1.0]}, "outcome holds inf"),
        ({"outcome": [0.0]}, r"outcome has shape \(1,\)"),
        ({"observed": [1, 1, 0]}, "observed has shape .* int64"),
        ({"observed": [True]}, r"observed has shape \(1,\)"),
    ],
)
def test_bad_turns_are_named(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"arms": 2, "session": [1, 1, 2], "turn": [0, 1, 0], "arm": [0, 1, 0], "outcome": [0.0, 1.0, 1.0]}
    Turns.of(**good)
    with pytest.raises(ValueError, match=message):
        Turns.of(**(good | changed))
