"""The hash that holds units out: the share it takes, and that it tells nothing of the arm.

Claims and false alarms: each χ² below tests that frequencies equal probabilities. Its hashes are fixed by the ids, so a
run never changes; before the ids were chosen, a right program would have failed each with probability 1e-4.
"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare, kstest

from bandit.assignment import bucket, held_out, rendezvous, unit_number

UNITS = [f"user-{i}" for i in range(40_000)]
FALSE_ALARM = 1e-4


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_holdout_takes_its_share(share):
    held = sum(held_out("support", unit, share) for unit in UNITS)
    n = len(UNITS)
    assert chisquare([held, n - held], [n * share, n * (1 - share)]).pvalue > FALSE_ALARM


def test_the_numbers_of_units_are_uniform():
    assert kstest([unit_number("holdout", "support", unit) for unit in UNITS], "uniform").pvalue > FALSE_ALARM


def test_a_holdout_is_independent_of_the_bucket():
    """Were both one hash, the held out tenth would be the units of the first or the last buckets."""
    counts = Counter((held_out("support", unit, 0.1), bucket("support", unit, 20)) for unit in UNITS)
    table = [[counts[held, i] for i in range(20)] for held in (False, True)]
    assert chi2_contingency(table).pvalue > FALSE_ALARM


def test_a_holdout_is_independent_of_the_rendezvous_draw():
    p = [0.5, 0.3, 0.2]
    counts = Counter((held_out("support", unit, 0.2), rendezvous("support", unit, "abc", p)) for unit in UNITS)
    table = [[counts[held, arm] for arm in "abc"] for held in (False, True)]
    assert chi2_contingency(table).pvalue > FALSE_ALARM


def test_two_uses_and_two_experiments_are_independent():
    for other in (lambda unit: unit_number("shadow", "support", unit), lambda unit: unit_number("holdout", "other", unit)):
        pairs = [(unit_number("holdout", "support", unit), other(unit)) for unit in UNITS]
        counts = np.histogram2d(*np.array(pairs).T, bins=10, range=[[0, 1], [0, 1]])[0]
        assert chisquare(counts.ravel()).pvalue > FALSE_ALARM


def test_a_larger_share_only_adds_units():
    shares = [0.01, 0.05, 0.2, 0.5]
    for smaller, larger in pairwise(shares):
        assert {u for u in UNITS if held_out("support", u, smaller)} < {u for u in UNITS if held_out("support", u, larger)}


def test_the_ends_of_the_range_are_nobody_and_everybody():
    assert not any(held_out("support", unit, 0.0) for unit in UNITS[:1000])
    assert all(held_out("support", unit, 1.0) for unit in UNITS[:1000])
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"share is .*: it must be from 0 to 1"):
            held_out("support", "u", share)
    with pytest.raises(ValueError, match=r"salt is '': it must have 1 to 16 bytes"):
        unit_number("", "support", "u")


def test_ids_with_the_separator_are_told_apart():
    assert unit_number("holdout", "a:b", "c") != unit_number("holdout", "a", "b:c")
    assert unit_number("holdout", "1:a", "b") != unit_number("holdout", "1", "a1:b")
