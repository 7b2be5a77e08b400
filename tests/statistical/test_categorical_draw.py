"""The computed P(best) is the law of Thompson Sampling's choice, and its quantiles are those of simulated draws."""

import numpy as np
import pytest
from scipy.stats import binom, chi2, chi2_contingency

from bandit.posterior import compare, credible_interval, probability_best, value_remaining
from bandit.simulate import largest_draw

POSTERIORS = {
    "ordinary": ([12, 15, 9], [20, 22, 12]),
    "first-steps": ([1, 2, 1, 1], [2, 1, 1, 3]),
    "two-points": ([0.01, 0.01], [0.01, 0.01]),
    "tiny-beside-huge": ([0.01, 1e9, 1], [0.01, 1e9, 1]),
    "huge": ([1e9, 999_970_000], [1e9, 1e9]),
    "twenty": (np.arange(20) + 30, np.arange(20)[::-1] + 25),
}
DRAWS = 200_000


def _cells(expected: np.ndarray) -> np.ndarray:
    """Number the arms' cells; arms expected under 20 times join the most frequent one's."""
    home = np.where(expected < 20, np.argmax(expected), np.arange(len(expected)))
    return np.unique(home, return_inverse=True)[1]


@pytest.mark.parametrize("name", POSTERIORS)
def test_largest_draws_follow_p_best(name: str) -> None:
    """Claim: the arm with the largest posterior draw is arm i with probability P(best)_i.

    Goodness-of-fit chi-square above 1e-6: a false alarm in 1e6 seeds for each posterior.
    """
    alpha, beta = (np.asarray(side, dtype=np.float64) for side in POSTERIORS[name])
    columns = (np.broadcast_to(side[:, None], (len(side), DRAWS)) for side in (alpha, beta))
    chosen = largest_draw(*columns, np.random.default_rng(21))
    expected = probability_best(alpha, beta) * DRAWS
    cells = _cells(expected)
    mean = np.bincount(cells, weights=expected)
    observed = np.bincount(cells[chosen], minlength=len(mean))
    assert chi2.sf(((observed - mean) ** 2 / mean).sum(), len(mean) - 1) > 1e-6


@pytest.mark.parametrize("name", POSTERIORS)
def test_categorical_and_largest_draws_have_equal_frequencies(name: str) -> None:
    """Claim: one draw from the P(best) vector chooses arms as often as the largest of K Beta draws does.

    Homogeneity chi-square of two samples above 1e-6: a false alarm in 1e6 seeds for each posterior.
    """
    alpha, beta = (np.asarray(side, dtype=np.float64) for side in POSTERIORS[name])
    seeds = np.random.default_rng(22).spawn(2)
    columns = (np.broadcast_to(side[:, None], (len(side), DRAWS)) for side in (alpha, beta))
    largest = largest_draw(*columns, seeds[0])
    p = probability_best(alpha, beta)
    categorical = seeds[1].choice(len(p), DRAWS, p=p)
    cells = _cells(p * DRAWS)
    table = [np.bincount(cells[arms], minlength=cells.max() + 1) for arms in (largest, categorical)]
    assert chi2_contingency(table).pvalue > 1e-6


@pytest.mark.parametrize("name", ["ordinary", "first-steps", "tiny-beside-huge", "twenty"])
def test_expected_loss_is_the_mean_shortfall(name: str) -> None:
    """Claim: the average of max theta - theta_i over draws is the expected loss.

    Every arm within 6 standard errors: a false alarm in 5e8 / K seeds.
    """
    alpha, beta = (np.asarray(side, dtype=np.float64)[:, None] for side in POSTERIORS[name])
    theta = np.random.default_rng(23).beta(alpha, beta, (len(alpha), DRAWS))
    shortfall = theta.max(axis=0) - theta
    error = shortfall.std(axis=1) / np.sqrt(DRAWS)
    loss = compare(alpha[:, 0], beta[:, 0]).expected_loss
    assert (np.abs(shortfall.mean(axis=1) - loss) <= 6 * error + 1e-12).all()


@pytest.mark.parametrize("q", [0.7, 0.95])
@pytest.mark.parametrize("name", ["ordinary", "first-steps", "huge", "twenty"])
def test_value_remaining_is_the_quantile_of_draws(name: str, q: float) -> None:
    """Claim: (theta_max - theta_*) / theta_* is at most the value remaining with probability q.

    Binomial count between its 5e-7 quantiles: a false alarm in 1e6 seeds for each case.
    """
    alpha, beta = (np.asarray(side, dtype=np.float64)[:, None] for side in POSTERIORS[name])
    theta = np.random.default_rng(24).beta(alpha, beta, (len(alpha), DRAWS))
    star = int(np.argmax(probability_best(alpha[:, 0], beta[:, 0])))
    below = ((theta.max(axis=0) - theta[star]) / theta[star] <= value_remaining(alpha[:, 0], beta[:, 0], q)).sum()
    assert binom.ppf(5e-7, DRAWS, q) <= below <= binom.isf(5e-7, DRAWS, q)


def test_intervals_hold_their_share_of_draws() -> None:
    """Claim: each tail outside a 90 % interval holds 5 % of the draws.

    Binomial counts between their 5e-7 quantiles, 12 of them: a false alarm in 8e4 seeds.
    """
    alpha, beta = np.array([0.3, 1, 12, 700, 1e6, 1e9]), np.array([4, 1, 0.5, 300, 3e6, 1e5])
    theta = np.random.default_rng(25).beta(alpha[:, None], beta[:, None], (6, DRAWS))
    lower, upper = credible_interval(alpha, beta, 0.9)
    low, high = binom.ppf(5e-7, DRAWS, 0.05), binom.isf(5e-7, DRAWS, 0.05)
    for outside in ((theta < lower[:, None]).sum(axis=1), (theta > upper[:, None]).sum(axis=1)):
        assert ((low <= outside) & (outside <= high)).all()
