"""The split of a log: counts by hand, the e-value's verdict, and bad input."""

import math

import numpy as np
import pytest

from bandit.split import split_of
from bandit.srm import srm_sequential


def test_counts_are_beside_what_the_vectors_say() -> None:
    vectors = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]
    found = split_of([0, 0, 2, 1], vectors)
    assert (found.n, found.observed) == (4, (2, 1, 1))
    assert found.expected == pytest.approx((1.4, 1.6, 1.0))
    spread = [math.sqrt(2 * 0.25 + 2 * 0.16), math.sqrt(2 * 0.25 + 2 * 0.21), math.sqrt(2 * 0.25)]
    assert found.deviations == pytest.approx((0.6 / spread[0], -0.6 / spread[1], 0.0))
    assert not found.mismatch


def test_the_verdict_is_that_of_the_e_value() -> None:
    rng = np.random.default_rng(1)
    vectors = np.tile([0.5, 0.3, 0.2], (4_000, 1))
    arms = rng.choice(3, size=4_000, p=vectors[0])
    sound = split_of(arms, vectors)
    assert not sound.mismatch
    assert sound.found_at is None
    kept = (arms != 1) | (rng.random(4_000) < 0.7)
    found = split_of(arms[kept], vectors[kept])
    e = srm_sequential(arms[kept], vectors[kept])
    assert found.mismatch
    assert (found.e_value, found.largest) == (e[-1], e.max())
    assert found.found_at is not None
    assert e[found.found_at] >= 100 > e[: found.found_at].max()
    assert np.argmax(np.abs(found.deviations)) == 1
    assert found.deviations[1] < -5
    # A mismatch that was there once stays one, whatever came after.
    later = rng.choice(3, size=30_000, p=vectors[0])
    after = split_of(np.concatenate([arms[kept], later]), np.tile([0.5, 0.3, 0.2], (kept.sum() + 30_000, 1)))
    assert after.e_value < after.largest
    assert after.found_at == found.found_at


def test_a_stricter_alpha_takes_more() -> None:
    arms, vectors = np.zeros(12, dtype=int), np.full((12, 2), 0.5)
    assert split_of(arms, vectors, alpha=0.05).found_at is not None
    assert split_of(arms, vectors, alpha=1e-6).found_at is None


def test_decisions_that_nothing_was_left_to_chance_in_say_nothing() -> None:
    found = split_of([0, 0], [[1.0, 0.0], [1.0, 0.0]])
    assert (found.deviations, found.largest, found.mismatch) == ((0.0, 0.0), pytest.approx(1.0), False)


@pytest.mark.parametrize(
    ("arms", "vectors", "alpha", "message"),
    [
        ([], np.zeros((0, 2)), 0.01, "arms is empty"),
        ([0, 2], np.full((2, 2), 0.5), 0.01, r"arms\[1\] is 2"),
        ([0, 1], [[1.0, 0.0], [1.0, 0.0]], 0.01, r"propensities\[1\] is 0"),
        ([0, 1], np.full((2, 2), 0.4), 0.01, "adds up to 0.8"),
        ([0, 1], np.full((2, 2), 0.5), 0.0, "alpha is 0"),
    ],
)
def test_bad_input_is_named(arms: list[int], vectors: object, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_of(arms, vectors, alpha)  # type: ignore[arg-type]
