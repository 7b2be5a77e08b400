"""Sample ratio tests against scipy, exact enumeration and plain products; and bad input."""

import math

import numpy as np
import pytest
from histories import histories
from scipy import stats

from bandit.srm import LARGEST, srm_sequential, srm_test


def test_pearson_agrees_with_scipy_in_any_unit() -> None:
    counts = [480, 530, 90]
    share = np.array([0.45, 0.45, 0.1])
    expected = stats.chisquare(counts, share * 1100).pvalue
    for unit in (1.0, 100.0, 1100.0):
        assert srm_test(counts, share * unit) == pytest.approx(expected, rel=1e-9)


def test_pearson_by_hand() -> None:
    # (60 - 50)^2 / 50 twice is 4; with 1 degree of freedom p = P(|Z| > 2).
    assert srm_test([60, 40], [1, 1]) == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-9)
    assert srm_test([50, 50], [1, 1]) == 1.0


def test_an_arm_that_was_to_get_nothing() -> None:
    assert srm_test([50, 50, 1], [1, 1, 0]) == 0.0
    assert srm_test([60, 40, 0], [1, 1, 0]) == srm_test([60, 40], [1, 1])


def test_expectation_is_one_under_any_moving_allocation() -> None:
    """Exact, over all 1,296 histories of four decisions among three arms whose allocation learns from the rewards."""
    expected = np.zeros((2, 4))
    for history in histories([0.5, 0.25, 0.75], 4):
        probability = float(history.probability)
        expected[0] += probability * srm_sequential(history.arms, history.allocations)
        if max(history.arms) == 2:
            expected[1] += probability * srm_sequential(history.arms, history.propensities)
    assert expected[0] == pytest.approx(np.ones(4), abs=1e-12)
    # From the drawn arms' propensities alone: a part of the histories, and never more than all of it.
    assert (expected[1] > 0.1).all()
    assert (expected[1] <= 1.0).all()


@pytest.mark.parametrize("k", [2, 3])
def test_e_values_by_plain_products(k: int) -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet([2] * k, 12)
    arms = [int(rng.choice(k, p=row)) for row in p]
    tilts = [sign * 0.005 * 2**i for i in range(10) for sign in (1, -1)]
    for length in (1, 5, 12):
        bets = []
        for arm in range(k):
            for tilt in tilts:
                bet = 1.0
                for t in range(length):
                    odds = [p[t][i] * (math.exp(tilt) if i == arm else 1.0) for i in range(k)]
                    bet *= odds[arms[t]] / sum(odds) / p[t][arms[t]]
                bets.append(bet)
        assert srm_sequential(arms, p)[length - 1] == pytest.approx(sum(bets) / len(bets), rel=1e-12)


def test_ways_to_give_the_same_allocation() -> None:
    rng = np.random.default_rng(2)
    arms = rng.integers(0, 2, 300)
    p = rng.uniform(0.2, 0.8, 300)
    vectors = np.stack([p, 1 - p], axis=1)
    np.testing.assert_allclose(srm_sequential(arms, vectors[np.arange(300), arms]), srm_sequential(arms, vectors))
    np.testing.assert_allclose(srm_sequential(arms, [0.4, 0.6]), srm_sequential(arms, np.tile([0.4, 0.6], (300, 1))))


def test_numbers_that_may_be_a_vector_are_taken_where_it_makes_no_difference() -> None:
    np.testing.assert_allclose(srm_sequential([0, 1], [0.9, 0.1]), srm_sequential([0, 1], [[0.9, 0.1]] * 2))
    # As many decisions as there are arms, all alike: the first guess is the vector itself.
    assert srm_sequential([0, 1, 2], [1 / 3] * 3)[0] == pytest.approx(srm_sequential([0, 1, 2], [[1 / 3] * 3] * 3)[0])
    # A row for each decision says what is meant.
    assert srm_sequential([0, 0], [[0.9, 0.1]] * 2)[1] < srm_sequential([0, 0], [[0.9, 0.1], [0.1, 0.9]])[1]


def test_drawn_propensities_of_a_fixed_split_cost_only_the_first_guesses() -> None:
    rng = np.random.default_rng(3)
    shares = np.array([0.5, 0.3, 0.2])
    arms = np.r_[0, 1, 2, rng.choice(3, p=[0.4, 0.4, 0.2], size=3000)]
    full, own = srm_sequential(arms, shares), srm_sequential(arms, shares[arms])
    # Guesses: thirds; then .5, .25, .25; then .5, .3, .2 from there on.
    cost = (1 / 3) / 0.5 * 0.25 / 0.3 * 0.2 / 0.2
    # The bets on the first decisions differ a little too; they are under 1 % on average.
    assert own[-1] / full[-1] == pytest.approx(cost, rel=0.05)
    assert full[-1] > 1e6


def test_values_end_instead_of_overflowing() -> None:
    e = srm_sequential(np.zeros(20_000), [0.5, 0.5])
    assert e[-1] == pytest.approx(LARGEST)
    assert np.isfinite(e).all()
    assert e[9] < e[99] < e[999]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: srm_test([1, 2], [1, 1, 1]), "expected has 3 entries for 2 counts"),
        (lambda: srm_test([1, -2], [1, 1]), r"counts\[1\] is -2: it must be 0 or more"),
        (lambda: srm_test([0, 0], [1, 1]), "counts is .* all 0, and there is nothing to test"),
        (lambda: srm_test([1, 1], [0, 0]), "expected is .* all 0"),
        (lambda: srm_test([1, 1], [1, 0]), "at least two arms must have a share"),
        (lambda: srm_test([1, float("nan")], [1, 1]), r"counts\[1\] is nan"),
        (lambda: srm_sequential([], []), "arms is empty"),
        (lambda: srm_sequential([0, 1], None), "propensities is None"),
        (lambda: srm_sequential([0, 1, 0], [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]), r"propensities\[1\] is 0\.0: an arm that"),
        (lambda: srm_sequential([0, 1, 0], [0.5, 0.0, 0.5]), r"propensities\[1\] is 0\.0"),
        (lambda: srm_sequential([0, 1, 0], [0.5, 0.6]), r"propensities\[0\] adds up to 1\.1"),
        (lambda: srm_sequential([0, 2, 0], [0.5, 0.5]), r"arms\[1\] is 2: .* below 2"),
        (lambda: srm_sequential([0, 1, 0], [[0.5, 0.5]] * 2), r"propensities has shape \(2, 2\)"),
        (lambda: srm_sequential([0, 1, 10**12], [0.5, 0.5, 0.5]), r"arms\[2\] is 1e\+12: .* below 1000"),
        (
            lambda: srm_sequential([0, 0], [0.9, 0.1]),
            "propensities has 2 entries for 2 decisions, which add up to 1: it may",
        ),
        (lambda: srm_sequential([2, 0, 1], [0.5, 0.3, 0.2]), "propensities has 3 entries for 3 decisions"),
        (lambda: srm_sequential([0, 1, 0], "many"), "propensities is not made of numbers"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
