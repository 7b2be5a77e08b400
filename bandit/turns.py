"""Turn-level drafts: the arms of an experiment take turns within a session.

Model
    The turns 0, 1, 2, ... of a session are cut into blocks of K. Each block uses each of the K arms once, in an order
    that is a hash of experiment, session and block: uniform over the K! orders, independent between blocks. Each turn
    has each arm with probability 1 / K; given the turns before it in its block, with 1 / (arms not used yet).

    What the user does next tells of the answer before. `credit_turns` turns that into one outcome a turn; `Turns` holds
    the outcomes of many sessions for `bandit.crossover` to analyse.

Assumes
    BLAKE2b behaves as a random function. The arms stay the same throughout a session, and every turn takes any of them.

Source
    Jones & Kenward (2014), "Design and Analysis of Cross-Over Trials", chapter 1, for units that receive every
    treatment in an order drawn by lot.

Shapes
    K     number of arms; an arm is named by its index
    n     number of turns in all, of all sessions
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit.interleave import keyed_order
from bandit.reward import Signal

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

#: What says that the answer before it was a bad one.
NEGATIVE: Final = frozenset({Signal.REPHRASED_QUERY, Signal.IMMEDIATE_RETRY, Signal.SESSION_ABANDONED})

#: Larger numbers are refused: session and turn share 63 bits.
LARGEST_TURN: Final = 2**31 - 1


def turn_arm(experiment_id: str, session_id: str, turn: int, arm_ids: Sequence[str]) -> int:
    """Return the index in `arm_ids` of the arm that answers turn `turn` (from 0) of a session.

    Depends on nothing but its arguments, and not on the order of `arm_ids`. An experiment whose arms change deals anew:
    do not compare within the blocks of sessions that were under way. Raises ValueError for a negative turn, and unless
    the arms are one or more and distinct.
    """
    if turn < 0:
        raise ValueError(f"turn is {turn}: it must be 0 or more")
    if not arm_ids or len(set(arm_ids)) < len(arm_ids):
        raise ValueError(f"arm_ids is {list(arm_ids)!r}: it must hold one or more distinct ids")
    block, place = divmod(turn, len(arm_ids))
    order = keyed_order(len(arm_ids), b"", "turns", experiment_id, session_id, str(block))
    return arm_ids.index(sorted(arm_ids)[order[place]])


def credit_turns(turns: int, signals: Iterable[tuple[int, Signal]]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Return the outcome of each turn of one session, 1 for bad and 0 for good, and whether it was observed.

    `turns` counts the session's turns. A signal seen at turn t is about the answer of turn t - 1, so it has 1 <= t <=
    `turns`, where `turns` stands for the turn that never came: an abandonment at the end of the session is seen there. A
    turn that another one follows is observed: without a negative signal it was good. The last turn is observed only if
    a negative signal (bad) or task_completed (good) was seen after it; bad wins.

    Raises ValueError for a turn out of range and for ratings, which name their own answer.
    """
    if turns < 1:
        raise ValueError(f"turns is {turns}: a session has 1 turn or more")
    outcome, observed = [0.0] * turns, [True] * (turns - 1) + [False]
    for turn, signal in signals:
        if not 1 <= turn <= turns:
            raise ValueError(f"signals holds turn {turn}: a signal about one of {turns} turns is seen at 1 to {turns}")
        if signal in (Signal.THUMBS_UP, Signal.THUMBS_DOWN):
            raise ValueError(f"signals holds {signal.name}: a rating is about its own turn, not the one before")
        if signal in NEGATIVE:
            outcome[turn - 1] = 1.0
        if signal in NEGATIVE or signal is Signal.TASK_COMPLETED:
            observed[turn - 1] = True
    return tuple(outcome), tuple(observed)


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of many sessions, in any order; made by `Turns.of`. The arrays have shape (n,) and are read-only."""

    #: K.
    arms: int
    #: The session, numbered from 0.
    session: Indices
    #: The turn's place in its session, from 0.
    turn: Indices
    #: The arm that answered.
    arm: Indices
    #: What the answer led to; meaningless where not observed.
    outcome: Array
    #: Whether the outcome is known.
    observed: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        arms: int,
        session: ArrayLike,
        turn: ArrayLike,
        arm: ArrayLike,
        outcome: ArrayLike,
        observed: ArrayLike | None = None,
    ) -> Self:
        """Check and keep what happened; sessions are whole numbers or strings, `observed` is True everywhere by default.

        Raises ValueError naming the argument, its value and the rule it breaks: shapes differ, a number is out of its
        range, an observed outcome is not finite, or an arm comes twice in one block, which `turn_arm` never deals.
        """
        if arms < 2:
            raise ValueError(f"arms is {arms}: a comparison needs 2 or more")
        names = np.asarray(session)
        if names.ndim != 1 or (names.size and names.dtype.kind not in "iuUO"):
            raise ValueError(
                f"session has shape {names.shape} and type {names.dtype}: it must list whole numbers or strings"
            )
        numbered = np.unique(names, return_inverse=True)[1].astype(np.int64)
        turn_, arm_ = _whole("turn", turn, names.size, LARGEST_TURN), _whole("arm", arm, names.size, arms - 1)
        seen = np.ones(names.size, dtype=np.bool_) if observed is None else np.array(observed)
        if seen.shape != names.shape or seen.dtype != np.bool_:
            raise ValueError(f"observed has shape {seen.shape} and type {seen.dtype}: it must be {names.size} booleans")
        value = np.array(outcome, dtype=np.float64)
        if value.shape != names.shape:
            raise ValueError(f"outcome has shape {value.shape}: session has {names.size} entries")
        if not np.isfinite(value[seen]).all():
            raise ValueError(f"outcome holds {value[seen & ~np.isfinite(value)][0]}: what is observed must be finite")
        if (at := _repeated(numbered, turn_)) is not None:
            raise ValueError(f"turn holds {turn_[at]} twice in session {names[at]}: a turn has one answer")
        if (at := _repeated(numbered, turn_ // arms * arms + arm_)) is not None:
            raise ValueError(f"arm holds {arm_[at]} twice in a block of session {names[at]}: `turn_arm` deals it once")
        for array in (numbered, turn_, arm_, value, seen):
            array.setflags(write=False)
        return cls(arms, numbered, turn_, arm_, value, seen)


def _whole(name: str, values: ArrayLike, size: int, largest: int) -> Indices:
    array = np.asarray(values)
    if array.shape != (size,):
        raise ValueError(f"{name} has shape {array.shape}: session has {size} entries")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} has type {array.dtype}: it must hold whole numbers")
    bad = array[(array < 0) | (array > largest)]
    if bad.size:
        raise ValueError(f"{name} holds {bad[0]}: it must be from 0 to {largest}")
    return array.astype(np.int64)


def _repeated(session: Indices, key: Indices) -> int | None:
    """Return where a key is that comes twice in one session, if any does."""
    order = np.lexsort((key, session))
    twice = np.flatnonzero((np.diff(session[order]) == 0) & (np.diff(key[order]) == 0))
    return int(order[twice[0]]) if twice.size else None
