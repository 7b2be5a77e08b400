"""What must hold of every set of posteriors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandit.posterior import compare, credible_interval, probability_best, value_remaining

Arms = tuple[NDArray[np.float64], NDArray[np.float64]]

parameter = st.one_of(
    st.sampled_from([0.01, 0.5, 1.0, 30.0, 1e6, 1e9]),
    st.floats(-2, 9).map(lambda exponent: float(np.clip(10.0**exponent, 0.01, 1e9))),
)


def arms(smallest: int = 1, largest: int = 8) -> st.SearchStrategy[Arms]:
    pairs = st.lists(st.tuples(parameter, parameter), min_size=smallest, max_size=largest)
    return pairs.map(lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows])))


@settings(deadline=None)
@given(arms())
def test_p_best_is_a_probability_vector(both: Arms) -> None:
    p = probability_best(*both)
    assert p.shape == both[0].shape
    assert (p >= 0).all()
    assert abs(p.sum() - 1) <= 1e-12


@settings(deadline=None)
@given(arms())
def test_expected_loss_is_the_gap_to_one_shared_maximum(both: Arms) -> None:
    alpha, beta = both
    mean = alpha / (alpha + beta)
    loss = compare(alpha, beta).expected_loss
    assert (loss >= 0).all()
    assert np.ptp(loss + mean) <= 1e-8
    assert mean.max() - 1e-8 <= (loss + mean).max() <= 1 + 1e-12


@settings(deadline=None)
@given(arms(2), st.randoms(use_true_random=False))
def test_the_order_of_the_arms_does_not_matter(both: Arms, random: object) -> None:
    order = np.arange(len(both[0]))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight, shuffled = compare(*both), compare(both[0][order], both[1][order])
    np.testing.assert_allclose(shuffled.probability_best, straight.probability_best[order], rtol=0, atol=1e-12)
    np.testing.assert_allclose(shuffled.expected_loss, straight.expected_loss[order], rtol=0, atol=1e-12)


@settings(deadline=None)
@given(arms(2, 2))
def test_mirroring_two_arms_swaps_them(both: Arms) -> None:
    alpha, beta = both
    np.testing.assert_allclose(probability_best(beta, alpha), probability_best(alpha, beta)[::-1], rtol=0, atol=1e-9)


@settings(deadline=None)
@given(arms(1, 6), parameter, parameter)
def test_another_arm_takes_from_all(both: Arms, a: float, b: float) -> None:
    alpha, beta = both
    before, after = probability_best(alpha, beta), probability_best(np.append(alpha, a), np.append(beta, b))
    assert (after[:-1] <= before + 1e-9).all()


@settings(deadline=None)
@given(arms(2, 6))
def test_a_success_helps_its_arm_and_hurts_the_others(both: Arms) -> None:
    alpha, beta = both
    before = probability_best(alpha, beta)
    lucky = alpha.copy()
    lucky[0] += 1.0
    after = probability_best(lucky, beta)
    assert after[0] >= before[0] - 1e-9
    assert (after[1:] <= before[1:] + 1e-9).all()


@settings(deadline=None)
@given(st.lists(parameter, min_size=1, max_size=12))
def test_power_distributions(a: list[float]) -> None:
    p = probability_best(a, np.ones(len(a)))
    np.testing.assert_allclose(p, np.array(a) / sum(a), rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(arms(2, 5), st.floats(0.05, 0.99))
def test_value_remaining_grows_with_its_quantile(both: Arms, q: float) -> None:
    smaller, larger = value_remaining(*both, q=q), value_remaining(*both, q=q + 0.009)
    assert 0.0 <= smaller <= larger
    p = probability_best(*both)
    assert (smaller == 0.0) or p.max() < q + 1e-9


@settings(max_examples=40, deadline=None)
@given(arms(1, 4), st.floats(0.05, 0.9))
def test_intervals_nest_and_mirror(both: Arms, level: float) -> None:
    alpha, beta = both
    lower, upper = credible_interval(alpha, beta, level)
    wide_lower, wide_upper = credible_interval(alpha, beta, level + 0.09)
    assert (wide_lower >= 0).all()
    assert (wide_upper <= 1).all()
    assert (wide_lower <= lower).all()
    assert (lower <= upper).all()
    assert (upper <= wide_upper).all()
    mirror_lower, mirror_upper = credible_interval(beta, alpha, level)
    np.testing.assert_allclose(mirror_lower, 1 - upper, rtol=0, atol=1e-9)
    np.testing.assert_allclose(mirror_upper, 1 - lower, rtol=0, atol=1e-9)
