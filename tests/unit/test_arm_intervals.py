"""Intervals of arms at every look: those of the sequences, on the decisions that say something; and bad input."""

import numpy as np
import pytest
from adaptive_logs import thompson_logs

from bandit.arm_intervals import arm_intervals
from bandit.sequences import arm_bounds, arm_sequence, difference_sequence

LOGS = thompson_logs([0.6, 0.5, 0.4], 900, 1, 0.1, np.random.default_rng(3))
REWARDS, ARMS, PROPENSITIES, VECTORS = LOGS.rewards[0], LOGS.arms[0], LOGS.propensities[0], LOGS.allocations[0]


def test_they_are_the_ends_of_the_sequences() -> None:
    found = arm_intervals(REWARDS, ARMS, PROPENSITIES, VECTORS, control=1)
    own = [REWARDS[arm == ARMS] for arm in range(3)]
    bounds = arm_bounds([x.sum() for x in own], [len(x) for x in own])
    for arm, one in enumerate(found):
        assert one.arm == arm
        assert (one.exact.lower, one.exact.upper) == bounds[arm]
        assert (one.exact.value, one.exact.n) == (pytest.approx(own[arm].mean()), own[arm].size)
        mean = arm_sequence(REWARDS, ARMS, PROPENSITIES, arm, 3, alpha=0.05 / 3)
        assert (one.average.value, one.average.lower, one.average.upper) == (mean.center[-1], mean.lower[-1], mean.upper[-1])
        assert one.average.n == 900
        if arm == 1:
            assert one.less_control is None
            continue
        gap = difference_sequence(REWARDS, ARMS, PROPENSITIES, arm, 1, 3, alpha=0.05 / 2)
        assert one.less_control is not None
        assert (one.less_control.lower, one.less_control.upper) == (gap.lower[-1], gap.upper[-1])
    assert all(one.less_control is None for one in arm_intervals(REWARDS, ARMS, PROPENSITIES, VECTORS))


def test_of_each_unit_the_first_decision_counts() -> None:
    """Every decision thrice, each later one with the opposite reward."""
    units = np.repeat(np.arange(900), 3)
    r = np.repeat(REWARDS, 3)
    r[1::3] = 1.0 - REWARDS
    thrice = arm_intervals(r, np.repeat(ARMS, 3), np.repeat(PROPENSITIES, 3), np.repeat(VECTORS, 3, axis=0), 1, units)
    assert thrice == arm_intervals(REWARDS, ARMS, PROPENSITIES, VECTORS, 1)


@pytest.mark.parametrize("chance", [0.0, 1e-320, 9e-5])
def test_decisions_that_could_hardly_draw_an_arm_say_nothing_of_it(chance: float) -> None:
    rng = np.random.default_rng(4)
    extra = 400
    arms = np.concatenate([ARMS, rng.integers(2, size=extra)])
    rewards = np.concatenate([REWARDS, (rng.random(extra) < 0.9).astype(float)])
    vectors = np.concatenate([VECTORS, np.tile([0.5, 0.5 - chance, chance], (extra, 1))])
    own = vectors[np.arange(arms.size), arms]
    before, after = arm_intervals(REWARDS, ARMS, PROPENSITIES, VECTORS, 1), arm_intervals(rewards, arms, own, vectors, 1)
    assert after[2] == before[2]
    assert after[0].average.n == 1_300
    assert after[0].less_control is not None
    assert after[0].less_control.n == 1_300


def test_an_arm_of_few_outcomes_has_what_it_can_have() -> None:
    arms = np.array([0] * 40 + [1] * 29)
    found = arm_intervals(np.ones(69), arms, np.full(69, 1 / 3), np.full((69, 3), 1 / 3), control=0)
    assert found[0].average.insufficient == ""
    assert found[1].average.insufficient == "arm 1 has 29 outcomes that count here: it needs 30"
    assert found[1].exact.insufficient == ""
    assert found[1].less_control is not None
    assert found[1].less_control.insufficient == found[1].average.insufficient
    assert found[2].exact.insufficient == "arm 2 has no outcome"


@pytest.mark.parametrize(
    ("rewards", "control", "alpha", "message"),
    [
        ([0.0, 2.0], 0, 0.05, r"rewards\[1\] is 2"),
        ([], 0, 0.05, "rewards is empty"),
        ([0.0, 1.0], 2, 0.05, "control is 2: it must be the index of an arm"),
        ([0.0, 1.0], 0, 1.0, "alpha is 1"),
    ],
)
def test_bad_input_is_named(rewards: list[float], control: int, alpha: float, message: str) -> None:
    n = len(rewards)
    with pytest.raises(ValueError, match=message):
        arm_intervals(rewards, [0, 1][:n], np.full(n, 0.5), np.full((n, 2), 0.5), control, alpha=alpha)
