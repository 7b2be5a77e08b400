"""prompt_similarity against values worked out by hand, and the properties a caller relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import prompt_similarity

TEXTS = st.text(max_size=60)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # " ab" "abc" "bc " against " ab" "abd" "bd ": one in common of three and three.
        ("abc", "abd", 2 * 1 / 6),
        # " aa" "aaa" "aaa" "aa " against " aa" "aa ": trigrams count as often as they stand there.
        ("aaaa", "aa", 2 * 2 / 6),
        ("How do I reset my password?", "how do i RESET my  password", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("ﬁnd", "find", 1.0),
        ("abc", "xyz", 0.0),
        ("", "?!", 1.0),
        ("", "a", 0.0),
        ("a", "a", 1.0),
    ],
)
def test_by_hand(one: str, other: str, expected: float):
    assert prompt_similarity(one, other) == pytest.approx(expected, abs=1e-12)


@given(TEXTS, TEXTS)
def test_symmetric_and_between_0_and_1(one: str, other: str):
    assert 0.0 <= prompt_similarity(one, other) <= 1.0
    assert prompt_similarity(one, other) == prompt_similarity(other, one)
    assert prompt_similarity(one, one) == 1.0


def test_a_question_in_other_words_is_nearer_than_another_question():
    question = "How do I export my invoices from last year as a PDF?"
    again = "how can I export last year's invoices as PDF"
    other = "Which payment methods do you accept in Switzerland?"
    assert prompt_similarity(question, again) > 0.6 > 0.3 > prompt_similarity(question, other)


def test_long_prompts_are_cut():
    assert prompt_similarity("word " * 4_000 + "a tail", "word " * 4_000 + "another one") == 1.0
