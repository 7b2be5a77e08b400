"""Intraclass correlation: against a table by hand, an analysis of variance written out, and simulated sessions."""

import numpy as np
import pytest

from bandit.intraclass import ClusterSums, intraclass_correlation


def sums_of(groups: list[list[float]]) -> ClusterSums:
    return ClusterSums(
        len(groups),
        sum(map(len, groups)),
        sum(len(g) ** 2 for g in groups),
        sum(x * x for g in groups for x in g),
        sum(sum(g) ** 2 / len(g) for g in groups),
        sum(map(sum, groups)),
    )


def test_a_table_by_hand() -> None:
    # Means 1, 2, 6; grand mean 3. MSB = 2 (4 + 1 + 9) / 2 = 14, MSW = 6 / 3 = 2, m0 = 2: (14 - 2) / (14 + 2).
    assert intraclass_correlation(sums_of([[0, 2], [1, 3], [5, 7]])) == pytest.approx(0.75)


def test_clusters_of_unequal_sizes() -> None:
    groups = [[1.0, 0.0, 1.0, 1.0], [0.0], [0.0, 0.0, 1.0], [1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    x = np.concatenate([np.array(g) for g in groups])
    sizes = np.array([len(g) for g in groups])
    k, n = len(groups), len(x)
    msb = sum(len(g) * (np.mean(g) - x.mean()) ** 2 for g in groups) / (k - 1)
    msw = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups) / (n - k)
    m0 = (n - (sizes**2).sum() / n) / (k - 1)
    wanted = (msb - msw) / (msb + (m0 - 1) * msw)
    assert intraclass_correlation(sums_of(groups)) == pytest.approx(wanted)
    assert 0.0 < wanted < 1.0


@pytest.mark.parametrize("icc", [0.1, 0.4])
def test_simulated_sessions(icc: float) -> None:
    # Beta-binomial sessions have this correlation. A standard error is about .01; four of them are allowed: 6e-5.
    rng = np.random.default_rng(3)
    strength = 1 / icc - 1
    rates = rng.beta(0.6 * strength, 0.4 * strength, 4000)
    groups = [list((rng.random(int(m)) < p).astype(float)) for p, m in zip(rates, rng.integers(1, 8, 4000), strict=True)]
    assert intraclass_correlation(sums_of(groups)) == pytest.approx(icc, abs=0.04)


def test_what_cannot_be_said() -> None:
    assert intraclass_correlation(sums_of([[0.0, 1.0]])) is None
    assert intraclass_correlation(sums_of([[0.0], [1.0]])) is None
    assert intraclass_correlation(sums_of([[0.5, 0.5], [0.5, 0.5]])) is None
    assert intraclass_correlation(sums_of([])) is None
    assert intraclass_correlation(sums_of([[0.0, 1.0], [0.0, 1.0]])) == 0.0, "never negative"
    assert intraclass_correlation(sums_of([[0.0, 0.0], [1.0, 1.0]])) == 1.0
    with pytest.raises(ValueError, match="clusters is 3: it must be from 0 to the number of outcomes, 2"):
        intraclass_correlation(ClusterSums(3, 2, 4, 1, 1, 1))
