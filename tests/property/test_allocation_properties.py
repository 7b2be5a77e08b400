"""Allocations for any evidence, floor, caps and subset: they sum to 1 and keep their bounds."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bandit.allocation import (
    AllocationKind,
    AllocationRule,
    NoEligibleArmError,
    allocate,
    apply_caps,
    apply_floor,
    cumulative,
    draw,
    limited,
    restrict,
)
from bandit.top_two import top_two

probabilities = (
    st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda p: sum(p) > 0).map(lambda p: np.array(p) / sum(p))
)


@st.composite
def experiments(draw_value):
    k = draw_value(st.integers(1, 8))
    floor = draw_value(st.floats(0, 0.49)) / k
    caps = tuple(draw_value(st.lists(st.floats(0.01, 1), min_size=k, max_size=k)))
    assume(sum(caps) >= 1)
    weights = draw_value(st.lists(st.floats(0, 1), min_size=k, max_size=k))
    assume(sum(weights) > 0)
    rule = AllocationRule(
        kind=draw_value(st.sampled_from(AllocationKind)),
        floor=floor,
        caps=caps,
        control=draw_value(st.none() | st.integers(0, k - 1)),
        weights=tuple(w / sum(weights) for w in weights),
    )
    parameters = st.lists(st.floats(0.01, 1e5), min_size=k, max_size=k).map(np.array)
    subset = draw_value(st.none() | st.sets(st.integers(0, k - 1), min_size=1))
    return rule, draw_value(parameters), draw_value(parameters), subset


# top_two takes tenths of a second.
@given(experiments())
@settings(deadline=None)
def test_an_allocation_sums_to_one_and_keeps_its_bounds(experiment):
    rule, alpha, beta, subset = experiment
    eligible = sorted(subset) if subset is not None else list(range(len(rule.caps)))
    try:
        p = allocate(rule, alpha, beta, None if subset is None else eligible)
    except NoEligibleArmError:
        assert rule.kind is AllocationKind.FIXED
        assert all(rule.weights[i] == 0 for i in eligible)
        return
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p >= 0).all()
    assert all(p[i] == 0 for i in range(len(p)) if i not in eligible)
    caps = np.array([rule.caps[i] for i in eligible])
    if caps.sum() >= 1:
        assert (p[eligible] <= caps + 1e-9).all(), (p, rule)
        floors = np.minimum(rule.floor, caps)
        assert (p[eligible] >= floors - 1e-9).all(), (p, rule)


@given(probabilities, st.floats(0, 0.49))
def test_the_floor_is_the_stated_mixture(p, total):
    floor = total / len(p)
    np.testing.assert_allclose(apply_floor(p, floor), floor + (1 - len(p) * floor) * p)


@pytest.mark.parametrize("floor", [0.25, -0.01, [0.3, 0.3]])
def test_floors_that_leave_too_little_are_refused(floor):
    with pytest.raises(ValueError, match=r"less than 0\.5"):
        apply_floor([0.5, 0.5], floor)


def test_what_a_cap_cuts_goes_to_the_control():
    np.testing.assert_allclose(apply_caps([0.2, 0.5, 0.3], (1, 0.1, 1), control=0), [0.6, 0.1, 0.3])


def test_without_a_control_it_goes_to_the_others_in_proportion():
    np.testing.assert_allclose(apply_caps([0.2, 0.5, 0.3], (1, 0.1, 1), control=None), [0.36, 0.1, 0.54])


def test_a_control_that_is_full_passes_the_rest_on():
    np.testing.assert_allclose(apply_caps([0.2, 0.6, 0.2], (0.3, 0.1, 1), control=0), [0.3, 0.1, 0.6])


@given(probabilities, st.floats(0, 1, exclude_max=True))
def test_the_draw_follows_the_running_sums_and_never_takes_an_impossible_arm(p, u):
    sums = cumulative(p)
    i = draw(sums, u)
    assert p[i] > 0
    assert (sums[i - 1] if i else 0.0) <= u < sums[i]


def test_an_impossible_last_arm_is_not_drawn_at_the_very_end():
    p = np.array([0.1] * 10 + [0.0])  # ten tenths add up to a little less than 1
    assert draw(cumulative(p), np.nextafter(1, 0)) == 9


def test_restricting_to_impossible_arms_is_refused():
    with pytest.raises(NoEligibleArmError):
        restrict(np.array([1.0, 0.0]), [1])


def test_a_subset_gets_its_own_probability_of_being_best():
    alpha, beta = np.array([60.0, 50.0, 20.0]), np.array([40.0, 50.0, 80.0])
    rule = AllocationRule(AllocationKind.THOMPSON, 0.0, (1.0, 1.0, 1.0))
    alone = allocate(AllocationRule(AllocationKind.THOMPSON, 0.0, (1.0, 1.0)), alpha[1:], beta[1:])
    np.testing.assert_allclose(allocate(rule, alpha, beta, [1, 2])[1:], alone)


@settings(deadline=None)
@given(experiments(), st.data())
def test_a_limited_arm_keeps_its_limits_and_the_others_their_own(experiment, data):
    rule, alpha, beta, _ = experiment
    arm = data.draw(st.integers(0, len(rule.caps) - 1))
    cap = data.draw(st.just(0.0) | st.floats(0.001, 1))
    floor = 0.5 * cap
    within = limited(rule, arm, floor, cap)
    assume(sum(within.caps) >= 1)
    try:
        p = allocate(within, alpha, beta)
    except NoEligibleArmError:
        assert rule.kind is AllocationKind.FIXED
        return
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p <= np.array(within.caps) + 1e-9).all()
    assert p[arm] <= cap + 1e-9
    if cap == 0.0:
        assert p[arm] == 0.0
    others = [i for i in range(len(p)) if i != arm]
    assert (p[others] >= np.minimum(rule.floor, np.array(rule.caps))[others] - 1e-9).all() or cap == 0.0
    if rule.kind is AllocationKind.THOMPSON:
        room = max(0.49 - (len(p) - 1) * rule.floor, rule.floor)
        assert p[arm] >= min(floor, room, within.caps[arm]) - 1e-9
        assert within.least().sum() < 0.5


def test_a_limited_arm_of_thompson_sampling_moves_between_its_limits():
    rule = limited(AllocationRule(AllocationKind.THOMPSON, 0.01, (1.0, 1.0), control=0), 1, 0.1, 0.2)
    for wins, expected in ((0.0, 0.1), (200.0, 0.2)):
        p = allocate(rule, np.array([100.0, 1.0 + wins]), np.array([100.0, 201.0 - wins]))
        assert p[1] == pytest.approx(expected, abs=1e-6)
    even = allocate(rule, np.array([100.0, 75.0]), np.array([100.0, 100.0]))[1]
    assert 0.1 < even < 0.2


@pytest.mark.parametrize("cap", [0.0, 0.01, 0.3])
def test_a_limit_holds_where_the_other_caps_add_up_to_less_than_one(cap):
    """Scaled up together with the others, 1 % would be 2 %."""
    rule = AllocationRule(AllocationKind.THOMPSON, 0.01, (0.3, 1.0, 0.2), control=0)
    alpha, beta = np.array([20.0, 90.0, 30.0]), np.array([80.0, 10.0, 70.0])
    p = allocate(limited(rule, 1, cap / 2, cap), alpha, beta)
    assert p[1] == pytest.approx(cap)
    assert p[2] <= 0.2 + 1e-12


def test_a_floor_of_half_of_all_traffic_leaves_room():
    rule = limited(AllocationRule(AllocationKind.THOMPSON, 0.01, (1.0,) * 3), 2, 0.5, 1.0)
    np.testing.assert_allclose(rule.least(), [0.01, 0.01, 0.47])


def test_stated_propensities_get_no_floor_and_give_to_the_control():
    fixed = AllocationRule(AllocationKind.FIXED, 0.0, (1.0, 1.0, 1.0), control=0, weights=(0.3, 0.5, 0.2))
    nothing = np.zeros(0)
    for cap, expected in ((0.1, [0.7, 0.1, 0.2]), (0.9, [0.3, 0.5, 0.2]), (0.0, [0.8, 0.0, 0.2])):
        np.testing.assert_allclose(allocate(limited(fixed, 1, cap / 2, cap), nothing, nothing), expected)
    uniform = AllocationRule(AllocationKind.UNIFORM, 0.0, (1.0, 1.0, 1.0), control=0)
    for cap, expected in ((0.1, [17 / 30, 0.1, 1 / 3]), (1.0, [1 / 3] * 3), (0.0, [0.5, 0.0, 0.5])):
        np.testing.assert_allclose(allocate(limited(uniform, 1, cap / 2, cap), nothing, nothing), expected)


def test_an_arm_that_may_not_be_drawn_does_not_compete():
    """Else what it would win goes to the control, however bad that is."""
    alpha, beta = np.array([20.0, 95.0, 60.0]), np.array([80.0, 5.0, 40.0])
    rule = AllocationRule(AllocationKind.THOMPSON, 0.0, (1.0, 1.0, 1.0), control=0)
    p = allocate(limited(rule, 1, 0.0, 0.0), alpha, beta)
    assert p[1] == 0.0
    assert p[2] > 0.999


@pytest.mark.parametrize("kind", AllocationKind)
def test_arms_that_may_not_be_drawn_alone_are_refused(kind):
    rule = limited(AllocationRule(kind, 0.0, (1.0, 1.0), weights=(0.5, 0.5)), 1, 0.0, 0.0)
    with pytest.raises(NoEligibleArmError):
        allocate(rule, np.ones(2), np.ones(2), [1])


def test_top_two_is_its_own_strategy_with_floor_and_subsets():
    alpha, beta = np.array([31.0, 6.0, 2.0]), np.array([11.0, 13.0, 2.0])
    rule = AllocationRule(AllocationKind.TOP_TWO, 0.02, (1.0,) * 3, leader_share=0.7)
    np.testing.assert_allclose(allocate(rule, alpha, beta), 0.02 + 0.94 * top_two(alpha, beta, 0.7), atol=1e-12)
    pair = allocate(rule, alpha, beta, [0, 2])
    np.testing.assert_allclose(pair[[0, 2]], 0.02 + 0.96 * top_two(alpha[[0, 2]], beta[[0, 2]], 0.7), atol=1e-12)
    assert pair[1] == 0


def test_a_ramp_raises_the_floor_of_top_two_as_of_thompson():
    rule = limited(AllocationRule(AllocationKind.TOP_TWO, 0.01, (1.0, 1.0), control=0), 1, 0.1, 0.2)
    assert rule.floors == (0.01, 0.1)
    assert rule.caps == (1.0, 0.2)


def test_what_rounding_leaves_over_needs_no_room():
    """The control takes all but a last digit, and then every arm is at its cap."""
    bounded = apply_caps([0.33, 0.67], (3.4443897275658104e-165, 1.0), 1)
    np.testing.assert_allclose(bounded, [0.0, 1.0], atol=1e-15)
