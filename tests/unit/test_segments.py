"""Borrowed priors against the power prior by hand, and that nothing counts twice."""

import pytest

from bandit.discount import Weighted
from bandit.segments import borrowed_prior, segment_posterior

EVIDENCE = {"de": Weighted(30.0, 10.0), "fr": Weighted(6.0, 14.0), "jp": Weighted(1.5, 0.5)}


def test_the_power_prior_by_hand() -> None:
    # Others of jp: 36 successes and 24 failures, a fifth of each.
    assert borrowed_prior(EVIDENCE, "jp", (1.0, 2.0), 0.2, 50.0) == pytest.approx((8.2, 6.8))
    assert segment_posterior(EVIDENCE, "jp", (1.0, 2.0), 0.2, 50.0) == pytest.approx((9.7, 7.3))


def test_what_is_borrowed_is_worth_so_many_outcomes_at_most() -> None:
    alpha, beta = borrowed_prior(EVIDENCE, "jp", (1.0, 1.0), 0.5, 10.0)
    assert (alpha, beta) == pytest.approx((1 + 6.0, 1 + 4.0))
    assert borrowed_prior(EVIDENCE, "jp", (1.0, 1.0), 1.0, 0.0) == (1.0, 1.0)


def test_the_weight_ends_are_a_pooled_and_a_separate_posterior() -> None:
    pooled = (1 + 37.5, 1 + 24.5)
    for segment in EVIDENCE:
        assert segment_posterior(EVIDENCE, segment, weight=1.0, largest=1e9) == pytest.approx(pooled)
        own = EVIDENCE[segment]
        assert segment_posterior(EVIDENCE, segment, weight=0.0) == (1 + own.successes, 1 + own.failures)


def test_own_evidence_is_not_in_the_prior() -> None:
    more = EVIDENCE | {"jp": Weighted(500.0, 500.0)}
    assert borrowed_prior(more, "jp") == borrowed_prior(EVIDENCE, "jp")
    assert borrowed_prior(more, "de") != borrowed_prior(EVIDENCE, "de")


def test_a_new_segment_begins_with_what_all_others_know() -> None:
    assert segment_posterior(EVIDENCE, "br", (1.0, 1.0), 0.1, 100.0) == pytest.approx((1 + 3.75, 1 + 2.45))
    assert segment_posterior({}, "br") == (1.0, 1.0)


def test_the_order_of_segments_changes_no_digit() -> None:
    many = {str(i): Weighted(0.1 * i, 1.0 / (i + 1)) for i in range(50)}
    assert borrowed_prior(dict(reversed(many.items())), "7") == borrowed_prior(many, "7")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prior": (0.0, 1.0)}, r"prior is \(0.0, 1.0\)"),
        ({"weight": 1.5}, "weight is 1.5: it must be at least 0 and at most 1"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"largest": -1.0}, "largest is -1.0"),
        ({"largest": float("inf")}, "largest is inf"),
    ],
)
def test_bad_input_is_named(keywords, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        borrowed_prior(EVIDENCE, "jp", **keywords)


def test_bad_evidence_is_named() -> None:
    with pytest.raises(ValueError, match=r"evidence\['de'\] is .*nan"):
        borrowed_prior({"de": Weighted(float("nan"), 1.0)}, "fr")
