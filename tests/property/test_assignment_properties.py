"""Assignments for any ids and weights: stable, exact in their shares, and moving no unit without need."""

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.assignment import BUCKETS, bucket, bucket_counts, deal_buckets, keyed_number, rendezvous

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def weights(draw):
    raw = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any))
    return {arm: value / sum(raw) for arm, value in enumerate(raw)}


@given(ids, ids)
def test_a_bucket_is_the_documented_hash(experiment_id, unit_id):
    assert bucket(experiment_id, unit_id) == int(sha256(f"{experiment_id}:{unit_id}".encode()).hexdigest(), 16) % 10_000


@given(weights())
def test_buckets_follow_the_weights_within_one(shares):
    counts = bucket_counts(shares)
    assert sum(counts.values()) == BUCKETS
    assert all(abs(counts[arm] - weight * BUCKETS) < 1 + 1e-6 for arm, weight in shares.items())
    assert Counter(deal_buckets(shares)) == Counter({arm: n for arm, n in counts.items() if n})


@given(weights(), weights())
def test_changing_shares_moves_no_bucket_without_need(before, after):
    old = deal_buckets(before)
    new = deal_buckets(after, old)
    had, wanted = Counter(old), Counter(new)
    moved = sum(a != b for a, b in zip(old, new, strict=True))
    assert moved == sum(max(0, had[arm] - wanted[arm]) for arm in had)


@given(ids, ids, st.lists(st.tuples(ids, st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda pair: pair[0]))
def test_rendezvous_is_stable_whatever_the_order_and_takes_no_impossible_arm(experiment_id, unit_id, arms):
    names, p = [name for name, _ in arms], [weight for _, weight in arms]
    if not any(p):
        with pytest.raises(ValueError, match="at least one probability must be positive"):
            rendezvous(experiment_id, unit_id, names, p)
        return
    winner = rendezvous(experiment_id, unit_id, names, p)
    assert p[names.index(winner)] > 0
    assert rendezvous(experiment_id, unit_id, names[::-1], p[::-1]) == winner


@given(ids, st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.1, 5))
def test_an_arm_that_gains_weight_loses_no_unit(unit_id, p, factor):
    names = [f"arm-{i}" for i in range(len(p))]
    before = rendezvous("x", unit_id, names, p)
    grown = [weight * (1 + factor) if name == before else weight for name, weight in zip(names, p, strict=True)]
    assert rendezvous("x", unit_id, names, grown) == before


@given(st.binary(min_size=32, max_size=32), st.lists(ids, max_size=3), st.lists(ids, max_size=3))
def test_keyed_numbers_depend_on_every_part(key, parts, others):
    number = keyed_number(key, *parts)
    assert 0 <= number < 1
    assert (number == keyed_number(key, *others)) == (parts == others)


def test_unaligned_arms_are_refused():
    with pytest.raises(ValueError, match="must be aligned"):
        rendezvous("x", "u", ["a"], [0.5, 0.5])
