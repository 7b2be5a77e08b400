"""Estimates of any log that is not refused are finite, and have the degrees of freedom of the clusters with weight."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from bandit.estimate import Estimate, degrees_of_freedom
from bandit.offpolicy import adaptive_doubly_robust, doubly_robust, ips, raw_mean, snips

REWARDS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-1e50, 1e50))
PROPENSITIES = st.one_of(st.floats(0.01, 1.0), st.floats(0.0, 1.0, exclude_min=True))
TARGETS = st.one_of(st.just(0.0), st.floats(0.0, 1.0))
DECISIONS = st.lists(st.tuples(REWARDS, st.integers(0, 1), PROPENSITIES, TARGETS, st.integers(0, 3)), min_size=2, max_size=8)


@given(DECISIONS, st.floats(0.0, 1.0), REWARDS)
def test_every_estimate_is_finite_or_refused(
    decisions: list[tuple[float, int, float, float, int]], share: float, q: float
) -> None:
    r, a, p, target, clusters = (np.array(column) for column in zip(*decisions, strict=True))
    vectors = np.stack([np.where(a == 0, p, 1 - p), np.where(a == 0, 1 - p, p)], axis=1)
    policy, model = [share, 1.0 - share], [q, 0.5]
    for estimate in (
        lambda: raw_mean(r, clusters),
        lambda: ips(r, p, target, clusters),
        lambda: snips(r, p, target, clusters),
        lambda: doubly_robust(r, a, p, policy, model, clusters),
        lambda: adaptive_doubly_robust(r, a, vectors, policy, model, clusters),
    ):
        try:
            found: Estimate = estimate()
        except ValueError:
            continue
        numbers = (found.value, found.stderr, found.lower, found.upper, found.ess, found.df)
        assert all(math.isfinite(number) for number in numbers), found
        assert found.lower <= found.value <= found.upper
        assert 1.0 <= found.df <= max(1, found.clusters - 1)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=30))
def test_degrees_of_freedom_are_of_those_with_weight_in_any_order(weights: list[float]) -> None:
    assume(sum(weights) > 1e-3)
    h = np.array(weights) / sum(weights)
    found = degrees_of_freedom(h)
    assert 1.0 <= found <= max(1, np.count_nonzero(h) - 1) * (1 + 1e-9)
    assert math.isclose(degrees_of_freedom(np.sort(np.append(h, 0.0))), found, rel_tol=1e-6)
