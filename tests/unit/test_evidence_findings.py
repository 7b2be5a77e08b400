"""Findings: what passes, what misses, and what their rows hold."""

from __future__ import annotations

import math

import pytest

from benchmarks.evidence.findings import Beside, at_least, at_most, mean_of, near, share_error, shown


@pytest.mark.parametrize(
    ("finding", "passed"),
    [
        (near("x", 10.3, 0.1, 10.0, 0.3001, ""), True),
        (near("x", 10.31, 0.1, 10.0, 0.3, ""), False),
        (near("x", 9.69, 0.1, 10.0, 0.3, ""), False),
        (at_least("x", 0.95, 0.01, 0.95, ""), True),
        (at_least("x", 0.9499, 0.01, 0.95, ""), False),
        (at_most("x", 384.0, None, 384.0, ""), True),
        (at_most("x", 384.1, None, 384.0, ""), False),
        (shown("x", 1.0, None, ""), None),
    ],
)
def test_a_target_decides(finding: object, passed: bool | None) -> None:
    assert finding.passed is passed  # type: ignore[attr-defined]
    assert finding.row()["pass"] is (passed is not False)  # type: ignore[attr-defined]


def test_a_row_holds_what_programs_read() -> None:
    finding = near("regret", 9_512.345678, 40.0, 9_500.0, 120.0, "steps", Beside(9_105.0, 9_500.0, "a paper"), "why")
    assert finding.row() == {
        "name": "regret",
        "value": 9512.3,
        "published": 9105.0,
        "target": "9,500 ± 120 (why)",
        "pass": True,
        "unit": "steps",
        "stderr": 40.0,
        "independent": 9500.0,
        "source": "a paper",
    }
    assert shown("x", 1.0, None, "", Beside(None, 2.0, "")).row()["published"] == 2.0, "falls back on the independent value"
    assert shown("x", 1.0, None, "").row()["published"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_finding(value: float) -> None:
    with pytest.raises(ValueError, match=r"x is .* must be finite"):
        at_most("x", value, None, 1.0, "")
    with pytest.raises(ValueError, match="must be finite"):
        shown("x", 1.0, value, "")


def test_means_have_the_standard_error_of_the_mean() -> None:
    # Deviation of 1, 2, 3, 4 is sqrt(5/3); over sqrt(4).
    assert mean_of([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3) / 2))
    assert share_error(0.95, 1_900) == pytest.approx(0.005)
    for runs in ([1.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="2 independent runs"):
            mean_of(runs)
