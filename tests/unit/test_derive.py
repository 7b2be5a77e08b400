"""Signals that follow from the decisions of a session: worked cases, and laws that hold for any session."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bandit.derive import Derived, DeriveRule, SessionDecision, derive_session
from bandit.reward import Candidate, Rank, Signal, fold

S = 1_000_000
RULE = DeriveRule(
    retry_within_us=30 * S,
    abandon_after_us=600 * S,
    rephrased_similarity=0.8,
    rephrased_within_us=120 * S,
    window_us=86_400 * S,
)
NOTHING = DeriveRule(None, None, None, 120 * S, 86_400 * S)
RETRY = replace(NOTHING, retry_within_us=30 * S)
REPHRASED = replace(NOTHING, rephrased_similarity=0.8)
ABANDONED = replace(NOTHING, abandon_after_us=600 * S)


def decision(at_s: float, turn: str = "", rule: DeriveRule | None = RULE, **fields: object) -> SessionDecision:
    """A decision so many seconds into the session; its key is its time."""
    at_us = round(at_s * S)
    values = {"request_id": "", "prompt_similarity": None, **fields}
    return SessionDecision(at_us.to_bytes(16, "big"), at_us, turn, rule=rule, **values)  # type: ignore[arg-type]


def found(decisions: list[SessionDecision], now_s: float) -> list[tuple[float, str, float]]:
    """(decision, signal, when), in seconds."""
    derived = derive_session(decisions, round(now_s * S)).signals
    return sorted((d.decided_at_us / S, d.signal.name.lower(), d.occurred_at_us / S) for d in derived)


# Retries


@pytest.mark.parametrize(
    ("later_s", "turn", "expected"),
    [(20, "t", [(0, "immediate_retry", 20)]), (30, "t", [(0, "immediate_retry", 30)]), (31, "t", []), (20, "u", [])],
)
def test_a_retry_is_another_decision_for_the_same_turn_in_time(later_s: float, turn: str, expected):
    assert found([decision(0, "t", RETRY), decision(later_s, turn, RETRY)], 1_000) == expected


def test_without_a_turn_there_is_no_retry():
    assert found([decision(0, "", RETRY), decision(1, "", RETRY)], 10) == []


def test_each_of_several_retries_is_about_the_one_before():
    turns = [decision(at, "t", RETRY) for at in (0, 10, 25)]
    assert found(turns, 100) == [(0, "immediate_retry", 10), (10, "immediate_retry", 25)]


def test_turns_in_parallel_are_retried_each_for_itself():
    turns = [decision(0, "t", RETRY), decision(1, "u", RETRY), decision(2, "t", RETRY), decision(3, "u", RETRY)]
    assert found(turns, 100) == [(0, "immediate_retry", 2), (1, "immediate_retry", 3)]


def test_the_same_request_again_is_no_retry():
    """One call repeated may have been answered with another arm, and then is in the log twice."""
    first, again = (decision(at, "t", RETRY, request_id="r1") for at in (0, 1))
    assert found([first, again], 100) == []
    later = decision(10, "t", RETRY, request_id="r2")
    assert found([first, again, later], 100) == [(0, "immediate_retry", 10), (1, "immediate_retry", 10)]


def test_the_rule_of_the_earlier_one_applies():
    assert found([decision(0, "t", NOTHING), decision(1, "t", RETRY)], 10) == []
    assert found([decision(0, "t", RETRY), decision(1, "t", None)], 10) == [(0, "immediate_retry", 1)]


# Rephrased queries


@pytest.mark.parametrize(
    ("later_s", "alike", "expected"),
    [
        (60, 0.8, [(0, "rephrased_query", 60)]),
        (60, 0.79, []),
        (60, None, []),
        (120, 1.0, [(0, "rephrased_query", 120)]),
        (121, 1.0, []),
    ],
)
def test_a_rephrased_query_is_a_next_turn_that_is_alike_in_time(later_s: float, alike: float | None, expected):
    turns = [decision(0, "t", REPHRASED), decision(later_s, "u", REPHRASED, prompt_similarity=alike)]
    assert found(turns, 1_000) == expected


def test_the_same_turn_is_never_rephrased_however_alike():
    turns = [decision(0, "t", REPHRASED), decision(9, "t", REPHRASED, prompt_similarity=1.0)]
    assert found(turns, 100) == []


def test_it_is_about_the_last_decision_of_the_turn_before_and_seen_at_the_first_that_is_alike():
    turns = [
        decision(0, "t", REPHRASED),
        decision(5, "t", REPHRASED, prompt_similarity=0.9),
        decision(20, "u", REPHRASED, prompt_similarity=0.1),
        decision(30, "u", REPHRASED, prompt_similarity=0.9),
        decision(40, "u", REPHRASED, prompt_similarity=0.9),
    ]
    assert found(turns, 100) == [(5, "rephrased_query", 30)]


def test_decisions_without_a_turn_are_turns_of_their_own_but_for_repeated_requests():
    alike = {"rule": REPHRASED, "prompt_similarity": 0.9}
    assert found([decision(0, rule=REPHRASED), decision(10, **alike)], 100) == [(0, "rephrased_query", 10)]
    repeated = [decision(0, request_id="r", **alike), decision(1, request_id="r", **alike)]
    assert found(repeated, 100) == []


# Abandoned sessions


def test_a_session_is_abandoned_once_nothing_came_for_so_long():
    one = [decision(0, rule=ABANDONED)]
    waiting = derive_session(one, 600 * S - 1)
    assert (waiting.signals, waiting.look_again_at_us) == ((), 600 * S)
    done = derive_session(one, 600 * S)
    assert done.signals == (Derived(one[0].decision_key, 0, Signal.SESSION_ABANDONED, 600 * S),)
    assert done.look_again_at_us is None


def test_only_the_last_decision_is_abandoned():
    session = [decision(at, rule=ABANDONED) for at in (0, 500, 900)]
    assert found(session, 2_000) == [(900, "session_abandoned", 1_500)]


def test_events_keep_a_session_alive():
    session = [decision(0, rule=ABANDONED, heard_at_us=(400 * S, 900 * S)), decision(100, rule=ABANDONED)]
    assert derive_session(session, 1_499 * S).look_again_at_us == 1_500 * S
    assert found(session, 1_500) == [(100, "session_abandoned", 1_500)]


def test_a_decision_with_an_outcome_is_never_abandoned():
    answered = decision(0, rule=ABANDONED, answered=True, heard_at_us=(5 * S,))
    derivation = derive_session([answered], 5_000 * S)
    assert (derivation.signals, derivation.look_again_at_us) == ((), None)


def test_it_is_the_same_whether_looked_at_in_the_silence_or_after():
    """A leader that was away in the meantime finds what one that was there had found."""
    first, second = decision(0, rule=ABANDONED), decision(2_000, rule=ABANDONED)
    assert found([first], 700) == [(0, "session_abandoned", 600)]
    assert found([first, second], 2_100) == [(0, "session_abandoned", 600)]


# All of them


def test_what_comes_after_the_attribution_window_does_not_follow():
    late = replace(RULE, window_us=25 * S)
    session = [decision(0, "t", late), decision(26, "t", late, prompt_similarity=1.0)]
    assert found(session, 10_000) == []
    assert found([decision(0, "t", late), decision(25, "t", late)], 1_000) == [(0, "immediate_retry", 25)]


def test_what_is_not_there_yet_is_not_looked_at():
    assert found([decision(0, "t"), decision(10, "t")], 9) == []


@pytest.mark.parametrize("field", ["retry_within_us", "abandon_after_us", "rephrased_within_us", "window_us"])
def test_lengths_of_time_are_positive(field: str):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        replace(RULE, **{field: 0})


@pytest.mark.parametrize("similarity", [0.0, -1.0, 1.01, float("nan")])
def test_similarity_is_a_share(similarity: float):
    with pytest.raises(ValueError, match="rephrased_similarity"):
        replace(RULE, rephrased_similarity=similarity)


def some_session(rng: random.Random) -> list[SessionDecision]:
    rule = replace(RULE, retry_within_us=rng.choice([None, 30 * S]), abandon_after_us=rng.choice([None, 100 * S]))
    times = sorted(rng.sample(range(600), rng.randrange(1, 9)))
    return [
        decision(
            at,
            rng.choice(["", "t", "u", "v"]),
            rng.choice([rule, rule, None]),
            request_id=rng.choice(["", "", "r", "s"]),
            prompt_similarity=rng.choice([None, 0.5, 0.9]),
            heard_at_us=tuple((at + rng.randrange(200)) * S for _ in range(rng.randrange(3))),
        )
        for at in times
    ]


def by_definition(made: list[SessionDecision], now_us: int) -> set[tuple[int, Signal, int]]:
    """Each decision by itself, straight from the words: another way, and a slower one."""
    signals = set()
    alive = sorted([d.decided_at_us for d in made] + [h for d in made for h in d.heard_at_us if h <= now_us])
    for i, d in enumerate(made):
        if d.rule is None:
            continue
        others = [o for o in made[i + 1 :] if o.turn_id and o.turn_id == d.turn_id]
        others = [o for o in others if not (o.request_id and o.request_id == d.request_id)]
        if others and d.rule.retry_within_us and others[0].decided_at_us - d.decided_at_us <= d.rule.retry_within_us:
            signals.add((d.decided_at_us, Signal.IMMEDIATE_RETRY, others[0].decided_at_us))
        following = made[i + 1 :]
        for o, before in zip(following, made[i:], strict=False):
            same = (o.turn_id and o.turn_id == before.turn_id) or (o.request_id and o.request_id == before.request_id)
            if bool(same) == (before is d):
                break
            close = o.decided_at_us - d.decided_at_us <= d.rule.rephrased_within_us
            if close and (o.prompt_similarity or 0.0) >= (d.rule.rephrased_similarity or 2.0):
                signals.add((d.decided_at_us, Signal.REPHRASED_QUERY, o.decided_at_us))
                break
        if d.rule.abandon_after_us and not d.answered:
            end = following[0].decided_at_us if following else now_us
            starts = [t for t in alive if d.decided_at_us <= t < end]
            quiet = [t for t in starts if not any(t < a < t + d.rule.abandon_after_us for a in [*alive, end])]
            if quiet:
                signals.add((d.decided_at_us, Signal.SESSION_ABANDONED, quiet[0] + d.rule.abandon_after_us))
    return signals


def test_it_is_what_the_words_say():
    rng = random.Random(7)
    kinds = set()
    for _ in range(1_500):
        session, now_us = some_session(rng), rng.choice([300, 700, 900]) * S
        made = [d for d in session if d.decided_at_us <= now_us]
        signals = {(d.decided_at_us, d.signal, d.occurred_at_us) for d in derive_session(session, now_us).signals}
        assert signals == by_definition(made, now_us), (session, now_us)
        kinds |= {signal for _, signal, _ in signals}
    assert kinds == {Signal.IMMEDIATE_RETRY, Signal.REPHRASED_QUERY, Signal.SESSION_ABANDONED}


def test_the_order_of_what_is_given_does_not_matter_and_nothing_is_said_twice():
    rng = random.Random(8)
    for _ in range(300):
        session = some_session(rng)
        signals = derive_session(session, 900 * S)
        shuffled = rng.sample(session, len(session))
        assert derive_session(shuffled, 900 * S) == signals
        assert len({(d.decision_key, d.signal) for d in signals.signals}) == len(signals.signals)


def test_what_followed_once_follows_later_too():
    """Time that goes by adds signals; it changes none."""
    rng = random.Random(9)
    for _ in range(300):
        session = some_session(rng)
        before: set[Derived] = set()
        for now_s in range(0, 1_000, 50):
            signals = set(derive_session(session, now_s * S).signals)
            assert before <= signals, (session, now_s)
            before = signals


def test_silence_and_inference_yield_to_whatever_is_sent():
    silence = Candidate(Rank.NO_FEEDBACK, 900, "derived:no_feedback", 0)
    inferred = Candidate(Rank.DERIVED, 800, "derived:session_abandoned", 1)
    sent = Candidate(Rank.SIGNAL, 1, "a", 2)
    assert fold([silence, inferred, sent]) == sent
    assert fold([inferred, silence]) == inferred
