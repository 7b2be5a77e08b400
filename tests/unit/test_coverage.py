"""The test of equal coverage, against scipy's own."""

import pytest
from scipy.stats import chi2_contingency

from bandit.coverage import coverage_test


@pytest.mark.parametrize(
    ("covered", "decisions"),
    [
        ([40, 60], [100, 100]),
        ([5, 50, 20], [100, 1_000, 300]),
        ([1, 999_999], [1_000_000, 1_000_000]),
        ([50, 50], [100, 100]),
    ],
)
def test_it_is_pearsons(covered, decisions):
    table = [covered, [n - x for x, n in zip(covered, decisions, strict=True)]]
    assert coverage_test(covered, decisions) == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9)


def test_by_hand():
    """40 and 60 of 100: each is 10 from 50, so 4 cells of 100 / 50 = 2 make 8; P(chi-squared(1) > 8) = .00468."""
    assert coverage_test([40, 60], [100, 100]) == pytest.approx(0.004677735, rel=1e-6)


def test_arms_without_decisions_do_not_matter():
    assert coverage_test([40, 0, 60], [100, 0, 100]) == coverage_test([40, 60], [100, 100])


def test_where_nothing_can_be_told():
    assert coverage_test([], []) is None
    assert coverage_test([3], [10]) is None
    assert coverage_test([3, 1], [10, 10]) is None, "2 of 10 are expected"
    assert coverage_test([9, 9], [10, 10]) is None, "1 of 10 is expected without feedback"


def test_all_or_none_is_no_difference():
    assert coverage_test([0, 0], [10, 1_000]) == 1.0
    assert coverage_test([10, 1_000], [10, 1_000]) == 1.0


@pytest.mark.parametrize(
    ("covered", "decisions", "rule"),
    [([1], [1, 2], "aligned"), ([-1], [1], r"covered\[0\] is -1"), ([0, 3], [1, 2], r"covered\[1\] is 3")],
)
def test_what_it_refuses(covered, decisions, rule):
    with pytest.raises(ValueError, match=rule):
        coverage_test(covered, decisions)
