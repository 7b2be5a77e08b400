"""What users tell folds to the real score, whatever happens to it on the way."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bandit.reward import DEFAULT_SIGNAL_MICROS, Candidate, Rank, clamp_occurred_at, fold, to_micros
from router.demo.users import LONGEST_LAG, Event, feedback, micros, units

DECIDED_US = 1_700_000_000_000_000
SCORES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0).map(lambda score: round(score, 3)))


def candidate(event: Event, answered_us: int, received_us: int) -> Candidate | None:
    """What the router makes of an event; None if it maps to no reward."""
    if event.reward is not None:
        rank, reward = Rank.NUMERIC, to_micros(event.reward)
    elif event.signal is not None and DEFAULT_SIGNAL_MICROS[event.signal] is not None:
        rank, reward = event.signal.rank, DEFAULT_SIGNAL_MICROS[event.signal]
    else:
        return None
    occurred_us = None if event.after_us is None else answered_us + event.after_us
    assert reward is not None
    return Candidate(rank, clamp_occurred_at(occurred_us, DECIDED_US, received_us), event.event_id, reward)


@given(SCORES, st.integers(0, 2**32), st.booleans(), st.integers(0, 5_000), st.data())
def test_any_order_and_any_repetition_fold_to_the_score(
    score: float, seed: int, costs: bool, answered_after_us: int, data: st.DataObject
) -> None:
    events = feedback("p", score, 0.01 if costs else None, np.random.default_rng(seed))
    answered_us = DECIDED_US + answered_after_us
    sendings = data.draw(st.permutations([event for event in events for _ in event.lags]))
    received_us = answered_us
    stored: dict[str, Candidate | None] = {}
    for event in sendings:
        # Never before it happened, and each later than the one before.
        received_us = max(received_us, answered_us + (event.after_us or 0)) + data.draw(st.integers(0, 3_000))
        stored.setdefault(event.event_id, candidate(event, answered_us, received_us))
    winner = fold(found for found in stored.values() if found is not None)
    assert winner is not None
    assert winner.reward_micros == micros(score) == to_micros(score)
    for event in events:
        assert event.counts == (stored[event.event_id] is not None)


@given(SCORES, st.integers(0, 2**32))
def test_event_ids_are_distinct_and_lags_bounded(score: float, seed: int) -> None:
    events = feedback("p", score, 0.01, np.random.default_rng(seed))
    assert len({event.event_id for event in events}) == len(events)
    assert all(0 <= lag <= LONGEST_LAG for event in events for lag in event.lags)
    assert all(len(event.lags) in (1, 2) for event in events)


def test_every_kind_of_feedback_turns_up() -> None:
    def told(score: float) -> list[tuple[Event, ...]]:
        return [feedback(f"p{i}", score, 0.01, np.random.default_rng((7, i))) for i in range(2_000)]

    def share(found: Sequence[bool]) -> float:
        return sum(found) / len(found)

    for score in (0.0, 0.4, 1.0):
        all_of_them = told(score)
        contradicted = [sum(event.counts for event in events) == 2 for events in all_of_them]
        # Six standard deviations of 2,000 draws: fewer than one of 1e8 seeds fails.
        assert abs(share(contradicted) - 0.12) < 0.045
        assert 0.05 < share([any(len(event.lags) == 2 for event in events) for events in all_of_them]) < 0.3
        assert any(event.after_us is None for events in all_of_them for event in events)
        assert any(event.cost_usd is not None for events in all_of_them for event in events)
        assert {event.batched for events in all_of_them for event in events} == {True, False}
    signals = {event.signal.name for events in told(0.0) for event in events if event.signal is not None}
    assert signals == {
        "REPHRASED_QUERY",
        "IMMEDIATE_RETRY",
        "SESSION_ABANDONED",
        "TASK_COMPLETED",
        "FOLLOW_UP_QUESTION",
        "THUMBS_DOWN",
    }


def test_the_same_seed_tells_the_same() -> None:
    first = [feedback("p", 1.0, None, np.random.default_rng((1, i))) for i in range(50)]
    assert first == [feedback("p", 1.0, None, np.random.default_rng((1, i))) for i in range(50)]


def test_users_ask_several_prompts_each_over_the_whole_run() -> None:
    names = units(5_608, 1, np.random.default_rng(1))
    assert len(names) == 5_608
    per_user = Counter(names)
    assert 700 < len(per_user) < 900
    # New users still turn up in the second half, or nothing learned could help anybody.
    assert len(set(names[2_804:]) - set(names[:2_804])) > 200
    assert units(10, 1, np.random.default_rng(1))[0].startswith("user-1-")
