"""The outcomes of turns as the service reads them are those that `bandit.turns` defines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bandit.reward import Signal
from bandit.turns import credit_turns
from router.services.turns import turn_outcomes
from router.storage.turns import TurnTable

# A session: for each turn, whether its answer was bad and whether the task was completed with it.
sessions = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6), max_size=6)


@given(sessions, st.randoms(use_true_random=False))
def test_outcomes_are_those_of_credit_turns(sessions, rng):
    rows, expected = [], {}
    for number, turns in enumerate(sessions, start=1):
        signals = [(t + 1, Signal.IMMEDIATE_RETRY) for t, (bad, _) in enumerate(turns) if bad]
        signals += [(t + 1, Signal.TASK_COMPLETED) for t, (_, completed) in enumerate(turns) if completed]
        outcome, observed = credit_turns(len(turns), signals)
        for t, (bad, completed) in enumerate(turns):
            rows.append((number, t, bad, completed))
            expected[number, t] = (outcome[t], observed[t])
    rng.shuffle(rows)
    session, turn, bad, completed = (np.array([row[i] for row in rows], dtype=d) for i, d in enumerate("qq??"))
    nothing = np.zeros(len(rows), dtype=np.int64)
    outcome, observed = turn_outcomes(TurnTable(session, turn, nothing, nothing == 0, bad, completed))
    found = dict(zip(zip(session, turn, strict=True), zip(outcome, observed, strict=True), strict=True))
    assert found == expected
