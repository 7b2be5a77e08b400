"""The drift alarm against its formula in exact fractions, and what it leaves out."""

from fractions import Fraction
from math import factorial, log

import pytest

from bandit.discount import BUCKET_US, Bucket
from bandit.drift import drift
from bandit.reward import MICROS, Evidence

START = 480_000 * BUCKET_US


def hour(k: int, successes: int, failures: int) -> Bucket:
    return START + (k - 1) * BUCKET_US, Evidence(successes * MICROS, failures * MICROS, successes + failures)


def now(hours: int) -> int:
    return START + hours * BUCKET_US


def evidence(s: int, f: int) -> Fraction:
    """B(s + 1, f + 1)."""
    return Fraction(factorial(s) * factorial(f), factorial(s + f + 1))


def by_definition(hours: dict[int, tuple[int, int]]) -> float:
    """log e: the average of e_k over k, hour by hour of the clock, changes still to come with the weight that is left."""
    last = max(hours)
    s, f = (sum(pair[i] for pair in hours.values()) for i in (0, 1))
    null = Fraction(s, s + f) ** s * Fraction(f, s + f) ** f
    total, left = Fraction(0), Fraction(1)
    for k in range(2, last + 1):
        before = [sum(pair[i] for at, pair in hours.items() if at < k) for i in (0, 1)]
        weight = Fraction(1, k * (k - 1))
        total += weight * evidence(*before) * evidence(s - before[0], f - before[1]) / null
        left -= weight
    return log(total + left * evidence(s, f) / null)


@pytest.mark.parametrize(
    "hours",
    [
        {1: (3, 1), 2: (1, 4)},
        {1: (9, 1), 2: (8, 2), 3: (2, 8), 4: (1, 9)},
        {1: (5, 5), 4: (6, 4), 9: (0, 9), 10: (3, 0)},
        {1: (20, 0), 2: (0, 20)},
        {1: (4, 0), 2: (7, 0)},
    ],
)
def test_the_e_value_is_that_of_the_definition(hours: dict[int, tuple[int, int]]) -> None:
    found = drift([hour(k, *pair) for k, pair in hours.items()], now(max(hours)))
    assert found.log_e == pytest.approx(by_definition(hours), abs=1e-12)


def test_a_base_gives_no_weight_to_changes_within_it() -> None:
    """By the definition, hour by hour, with the weights of hours 2 to 5 taken out: they are known as one sum."""
    hours = {1: (4, 3), 3: (5, 1), 5: (2, 2), 6: (6, 1), 8: (1, 7), 9: (2, 5)}
    s, f = (sum(pair[i] for pair in hours.values()) for i in (0, 1))
    null = Fraction(s, s + f) ** s * Fraction(f, s + f) ** f
    total = Fraction(1, 9) * evidence(s, f) / null
    for k in range(6, 10):
        before = [sum(pair[i] for at, pair in hours.items() if at < k) for i in (0, 1)]
        total += Fraction(1, k * (k - 1)) * evidence(*before) * evidence(s - before[0], f - before[1]) / null
    kept = [hour(k, *pair) for k, pair in hours.items() if k >= 6]
    found = drift(kept, now(9), base=hour(1, 11, 6))
    assert found.log_e == pytest.approx(log(total), abs=1e-12)
    full = drift([hour(k, *pair) for k, pair in hours.items()], now(9))
    assert found.log_e < full.log_e, "what is summed up never adds an alarm"
    assert found.n_before + found.n_after == full.n_before + full.n_after == s + f


def test_a_base_of_the_first_hour_or_of_nothing() -> None:
    buckets = [hour(1, 8, 2), hour(2, 2, 8)]
    assert drift(buckets, now(2), base=hour(1, 0, 0)) == drift(buckets, now(2))
    assert drift(buckets[1:], now(2), base=buckets[0]) == drift(buckets, now(2))
    assert drift(buckets, now(2), base=hour(1, 4, 0)) == drift([hour(1, 12, 2), buckets[1]], now(2))
    # A base that is said to begin after evidence that is known began with it.
    assert drift(buckets, now(2), base=hour(2, 4, 0)) == drift([hour(1, 12, 2), buckets[1]], now(2))
    assert drift([], now(2), base=hour(1, 4, 1)).n_before == 5


def test_a_clear_change_is_an_alarm_that_says_when() -> None:
    buckets = [hour(k, 16, 4) for k in range(1, 7)] + [hour(k, 4, 16) for k in range(7, 11)]
    found = drift(buckets, now(10))
    assert found.alarm
    assert found.since_us == hour(7, 0, 0)[0]
    assert (found.before, found.after, found.n_before, found.n_after) == (0.8, 0.2, 120, 80)
    assert drift(list(reversed(buckets)), now(10)) == found


def test_the_alarm_is_the_comparison_with_alpha() -> None:
    buckets = [hour(1, 15, 5), hour(2, 3, 17)]
    log_e = drift(buckets, now(2)).log_e
    assert drift(buckets, now(2), alpha=1.001 / 2.718281828459045**log_e).alarm
    assert not drift(buckets, now(2), alpha=0.999 / 2.718281828459045**log_e).alarm


def test_hours_that_are_not_mature_are_left_out() -> None:
    buckets = [hour(1, 8, 2), hour(2, 8, 2), hour(3, 0, 10)]
    full = drift(buckets, now(3))
    assert full.n_before + full.n_after == 30
    for at, mature in ((now(3) - 1, 0), (now(3), 1), (now(4), BUCKET_US + 1)):
        found = drift(buckets, at, mature_after_us=mature)
        assert found.n_before + found.n_after == 20
    assert drift(buckets, now(4), mature_after_us=BUCKET_US) == full


def test_one_hour_or_none_is_no_evidence() -> None:
    for buckets in ([], [hour(1, 5, 5)], [hour(1, 5, 5), hour(2, 0, 0)]):
        found = drift(buckets, now(9))
        assert (found.alarm, found.log_e, found.since_us, found.after) == (False, 0.0, None, None)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="alpha is 0"):
        drift([], 0, alpha=0.0)
    with pytest.raises(ValueError, match="alpha is nan"):
        drift([], 0, alpha=float("nan"))
    with pytest.raises(ValueError, match="mature_after_us is -1"):
        drift([], 0, mature_after_us=-1)
    with pytest.raises(ValueError, match="does not begin on the hour"):
        drift([(1, Evidence())], 0)
