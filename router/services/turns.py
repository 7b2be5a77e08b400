"""Comparing turns: from what the log says of them to `bandit.crossover`, without the blocks that do not follow the draft."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.crossover import Difference, first_turn_estimate, paired_difference, randomisation_test
from bandit.turns import LARGEST_TURN, Turns
from router.storage.turns import TurnTable
from router.v1 import interleave_pb2 as pb


def compared_turns(table: TurnTable, numbers: Sequence[int], a: int, b: int) -> pb.CompareTurnsResponse:
    """Compare the arms of index `a` and `b` in `numbers`, the arms of a block."""
    k = len(numbers)
    arm = np.full(table.arm.size, -1)
    for i, number in enumerate(numbers):
        arm[table.arm == number] = i
    drafted = table.drafted & (arm >= 0)
    kept = drafted & ~_spoiled(table, arm, drafted, k)
    outcome, observed = turn_outcomes(table)

    def turns(of: NDArray[np.bool_]) -> Turns:
        return Turns.of(k, table.session[of], table.turn[of], arm[of], outcome[of], observed[of])

    paired = turns(kept)
    return pb.CompareTurnsResponse(
        paired=_difference(paired_difference, paired, a, b),
        # A first turn was dealt by lot, whatever became of its block later.
        first_turn=_difference(first_turn_estimate, turns(drafted & (table.turn == 0)), a, b),
        p_value=randomisation_test(paired, a, b, np.random.default_rng(0)),
        excluded_turns=int(np.count_nonzero(~kept)),
    )


def turn_outcomes(table: TurnTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the outcome of each turn, 1 for bad, and whether it was observed, as `bandit.turns.credit_turns` does.

    Events name the decision that they are about, so that nothing is to be moved to the turn before.
    """
    last = np.zeros(table.session.max(initial=0) + 1, dtype=np.int64)
    np.maximum.at(last, table.session, table.turn)
    return table.bad.astype(np.float64), table.bad | table.completed | (table.turn < last[table.session])


def _spoiled(table: TurnTable, arm: NDArray[np.int64], drafted: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Return which turns are in a block that does not follow the design: not all drafted, or one arm twice."""
    _, block = np.unique(table.session * (LARGEST_TURN + 1) + table.turn // k, return_inverse=True)
    _, entry, times = np.unique(block * (k + 1) + arm, return_inverse=True, return_counts=True)
    at_fault = block[~drafted | (times[entry] > 1)]
    return np.isin(block, at_fault)


def _difference(estimate: Callable[[Turns, int, int], Difference], turns: Turns, a: int, b: int) -> pb.TurnDifference:
    try:
        found = estimate(turns, a, b)
    except ValueError:  # of too few sessions, the arms being what they are
        return pb.TurnDifference()
    return pb.TurnDifference(
        estimate=found.estimate, stderr=found.stderr, lower=found.lower, upper=found.upper, sessions=found.n_sessions
    )
