"""Discounted and windowed evidence: hand-computed weights, and the same numbers on every replica."""

import random

import pytest

from bandit.discount import BUCKET_US, Bucket, Weighted, bucket_start, half_life_evidence, window_evidence
from bandit.reward import MICROS, Evidence

DAY_US = 24 * BUCKET_US
NOW = 480_000 * BUCKET_US


def hour(age: int, successes: int, failures: int) -> Bucket:
    return NOW - age * BUCKET_US, Evidence(successes * MICROS, failures * MICROS, successes + failures)


def test_weights_halve_with_every_half_life() -> None:
    buckets = [hour(0, 8, 2), hour(24, 8, 0), hour(48, 0, 8), hour(12, 4, 0)]
    found = half_life_evidence(buckets, NOW, DAY_US)
    assert found.successes == pytest.approx(8 + 4 + 4 / 2**0.5, rel=1e-15)
    assert found.failures == 2 + 2
    assert found.posterior(1.0, 3.0) == (found.successes + 1.0, 7.0)


def test_a_window_counts_whole_hours() -> None:
    buckets = [hour(age, 1, 0) for age in range(10)]
    assert window_evidence(buckets, NOW, 3 * BUCKET_US).successes == 3.0
    assert window_evidence(buckets, NOW, 3 * BUCKET_US + 1).successes == 4.0
    assert window_evidence(buckets, NOW, BUCKET_US).successes == 1.0
    assert window_evidence(buckets, NOW, DAY_US) == Weighted(10.0, 0.0)


def test_old_evidence_is_forgotten() -> None:
    assert half_life_evidence([hour(24 * 2000, 5, 5)], NOW, DAY_US) == Weighted(0.0, 0.0)


def test_a_steady_arm_holds_rate_times_half_life_over_log_2() -> None:
    found = half_life_evidence([hour(age, 10, 0) for age in range(2000)], NOW, 100 * BUCKET_US)
    # Sum of 10 2^(-k/100), the geometric series.
    assert found.successes == pytest.approx(10 * (1 - 2**-20) / (1 - 2**-0.01), rel=1e-12)


@pytest.mark.parametrize("evidence", [half_life_evidence, window_evidence])
def test_order_and_splitting_change_no_digit(evidence) -> None:
    rng = random.Random(4)
    whole = [(NOW - age * BUCKET_US, Evidence(rng.randrange(10**12), rng.randrange(10**12), 10**6)) for age in range(500)]
    split: list[Bucket] = []
    for start, e in whole:
        part = Evidence(rng.randrange(e.success_micros + 1), rng.randrange(e.failure_micros + 1), 10)
        split += [(start, part), (start, e - part)]
    rng.shuffle(split)
    expected = evidence(whole, NOW, 37 * BUCKET_US)
    assert evidence(split, NOW, 37 * BUCKET_US) == expected
    # The same from any minute of the hour, and so on any replica.
    assert evidence(split, NOW + BUCKET_US - 1, 37 * BUCKET_US) == expected
    assert evidence(split, NOW + BUCKET_US, 37 * BUCKET_US) != expected


def test_hours_ahead_count_in_full() -> None:
    assert half_life_evidence([hour(-2, 3, 1)], NOW, DAY_US) == Weighted(3.0, 1.0)
    assert window_evidence([hour(-2, 3, 1)], NOW, DAY_US) == Weighted(3.0, 1.0)


def test_an_hour_begins_on_the_hour() -> None:
    assert bucket_start(NOW) == NOW
    assert bucket_start(NOW + BUCKET_US - 1) == NOW
    assert Weighted.of(Evidence(2_500_000, 500_000, 3)) == Weighted(2.5, 0.5)


def test_bad_input_is_named() -> None:
    for name, evidence in (("half_life_us", half_life_evidence), ("window_us", window_evidence)):
        with pytest.raises(ValueError, match=f"{name} is {BUCKET_US - 1}: it must be at least an hour"):
            evidence([], NOW, BUCKET_US - 1)
        with pytest.raises(ValueError, match="bucket 17 does not begin on the hour"):
            evidence([(17, Evidence())], NOW, DAY_US)
        with pytest.raises(ValueError, match="may be negative"):
            evidence([(NOW, Evidence(-1, 1, 0))], NOW, DAY_US)
