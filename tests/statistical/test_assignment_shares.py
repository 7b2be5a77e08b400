"""Hashed assignments share traffic as they should, and move as few units as they claim.

Claims and false alarms: each χ² below tests that frequencies equal probabilities. Its hashes are fixed by the ids, so a
run never changes; before the ids were chosen, a right program would have failed each with probability 1e-4.
"""

from collections import Counter

import pytest
from scipy.stats import chisquare

from bandit.assignment import bucket, rendezvous

UNITS = [f"user-{i}" for i in range(40_000)]
FALSE_ALARM = 1e-4


def test_rendezvous_gives_each_arm_its_probability():
    p = [0.5, 0.3, 0.15, 0.05]
    counts = Counter(rendezvous("support", unit, "abcd", p) for unit in UNITS)
    assert chisquare([counts[arm] for arm in "abcd"], [len(UNITS) * share for share in p]).pvalue > FALSE_ALARM


def test_buckets_are_used_evenly():
    counts = Counter(bucket("support", unit, 100) for unit in UNITS)
    assert chisquare([counts[i] for i in range(100)]).pvalue > FALSE_ALARM


def test_two_experiments_assign_independently():
    counts = Counter((bucket("one", unit, 2), bucket("two", unit, 2)) for unit in UNITS)
    assert chisquare([counts[a, b] for a in (0, 1) for b in (0, 1)]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("delta", [0.01, 0.1, 0.3])
def test_moving_weight_moves_no_more_units_than_the_bound(delta):
    """Moving delta of weight moves at most 2 delta / (1 + delta) of units, here within 4 standard errors."""
    before, after = [0.5, 0.5], [0.5 - delta, 0.5 + delta]
    moved = sum(rendezvous("x", unit, "ab", before) != rendezvous("x", unit, "ab", after) for unit in UNITS)
    bound = 2 * delta / (1 + delta)
    assert moved / len(UNITS) <= bound + 4 * (bound * (1 - bound) / len(UNITS)) ** 0.5
