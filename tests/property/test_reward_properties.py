"""The fold for any events: order, batches and repetitions change nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.reward import MICROS, Candidate, Evidence, Rank, Signal, clamp_occurred_at, fold, to_micros

candidates = st.builds(
    Candidate,
    rank=st.sampled_from(list(Rank)).map(int),
    occurred_at_us=st.integers(0, 5),
    event_id=st.text("abc", min_size=1, max_size=2),
    reward_micros=st.integers(0, MICROS),
)
# An event id names one event of its decision.
events = st.lists(candidates, max_size=8, unique_by=lambda c: c.event_id)
times = st.integers(-(10**15), 10**15)


@given(events, st.randoms())
def test_order_and_repetition_change_nothing(given_events, random):
    shuffled = given_events * 2
    random.shuffle(shuffled)
    assert fold(shuffled) == fold(given_events)


@given(events, events)
def test_folding_batches_is_folding_all(first, second):
    parts = [winner for winner in (fold(first), fold(second)) if winner is not None]
    everything = fold([*first, *second])
    assert fold(parts) == everything or everything in parts


@given(events.filter(bool))
def test_evidence_that_moves_by_differences_ends_at_the_outcome(given_events):
    evidence, held = Evidence(), None
    for event in given_events:
        winner = fold([event] if held is None else [held, event])
        if winner is not held:
            evidence += Evidence.of(winner.reward_micros) - (Evidence.of(held.reward_micros) if held else Evidence())
            held = winner
    assert evidence == Evidence.of(fold(given_events).reward_micros)


def test_a_measurement_outranks_a_rating_and_a_rating_outranks_behaviour():
    late_signal = Candidate(Signal.TASK_COMPLETED.rank, 9, "a", MICROS)
    rating = Candidate(Signal.THUMBS_DOWN.rank, 1, "b", 0)
    measured = Candidate(Rank.NUMERIC, 0, "c", 250_000)
    derived = Candidate(Rank.DERIVED, 10, "d", 0)
    assert fold([late_signal, rating, measured, derived]) is measured
    assert fold([late_signal, rating, derived]) is rating
    assert fold([late_signal, derived]) is late_signal


@given(times | st.none(), times, times)
def test_an_event_lies_between_decision_and_receipt(occurred, decided, received):
    at = clamp_occurred_at(occurred, decided, received)
    assert decided <= at <= max(decided, received)
    if occurred is not None and decided <= occurred <= received:
        assert at == occurred


@given(st.floats(0, 1))
def test_a_reward_keeps_six_digits(reward):
    assert abs(to_micros(reward) / MICROS - reward) <= 0.5 / MICROS


@pytest.mark.parametrize("reward", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_reward_outside_is_refused(reward):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        to_micros(reward)
