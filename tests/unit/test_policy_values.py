"""The value of policies that never ran: the estimators side by side, and what a log cannot tell."""

import numpy as np
import pytest
from adaptive_logs import thompson_logs

from bandit.offpolicy import adaptive_doubly_robust, doubly_robust, ips, running_means, snips
from bandit.policy_values import policy_value
from bandit.targets import fixed_arm, target_of, uniform, with_floor

LOGS = thompson_logs([0.6, 0.5, 0.4], 600, 1, 0.1, np.random.default_rng(5))
REWARDS, ARMS, PROPENSITIES, VECTORS = LOGS.rewards[0], LOGS.arms[0], LOGS.propensities[0], LOGS.allocations[0]


@pytest.mark.parametrize(
    "policy", [uniform(3), fixed_arm(2, 3), with_floor(VECTORS, 0.1, 0.15)], ids=["uniform", "arm", "floor"]
)
@pytest.mark.parametrize("units", [None, np.arange(600) // 4], ids=["decisions", "units"])
def test_every_estimator_is_that_of_offpolicy(policy: np.ndarray, units: np.ndarray | None) -> None:
    found = policy_value(REWARDS, ARMS, PROPENSITIES, VECTORS, policy, units)
    target, q = target_of(policy, ARMS), running_means(REWARDS, ARMS, 3, clusters=units)
    assert found.insufficient == ""
    assert found.ips == ips(REWARDS, PROPENSITIES, target, units)
    assert found.snips == snips(REWARDS, PROPENSITIES, target, units)
    assert found.dr == doubly_robust(REWARDS, ARMS, PROPENSITIES, policy, q, units)
    assert found.adaptive == adaptive_doubly_robust(REWARDS, ARMS, VECTORS, policy, q, units)


def test_what_the_log_cannot_tell_is_said() -> None:
    even = np.full((4, 3), 1 / 3)
    never = policy_value([1, 0, 1, 0], [0, 1, 0, 1], [1 / 3] * 4, even, uniform(3))
    assert never.insufficient == "arm 2 was never tried, and the policy draws it"
    assert (never.ips, never.snips, never.dr, never.adaptive) == (None,) * 4
    part = np.array([[0.5, 0.5, 0.0], *even[:3]])
    barred = policy_value([1, 0, 1, 0], [0, 1, 2, 2], [0.5, *[1 / 3] * 3], part, fixed_arm(2, 3))
    assert barred.insufficient == "arm 2 could not be drawn in 1 of 4 decisions, and the policy draws it"
    tiny = part.copy()
    tiny[0, 2] = 1e-60
    hardly = policy_value([1, 0, 1, 0], [0, 1, 2, 2], [0.5, *[1 / 3] * 3], tiny, uniform(3))
    assert hardly.insufficient == "arm 2 could not be drawn in 1 of 4 decisions, and the policy draws it"
    assert policy_value([1, 0, 1, 0], [0, 1, 0, 2], [0.5, *[1 / 3] * 3], part, [0.5, 0.5, 0.0]).insufficient == ""
    one = policy_value([1, 0, 1, 0], [0, 0, 1, 1], [1 / 3] * 4, even, fixed_arm(0, 3), ["u", "u", "v", "w"])
    assert one.insufficient == "the log has decisions of 1 clusters that the policy would make: it needs at least 2"


@pytest.mark.parametrize(
    ("propensities", "policy", "message"),
    [
        ([0.0, 0.5], [0.5, 0.5], r"propensities\[0\] is 0"),
        ([0.5, 0.5], [0.5, 0.6], "policy adds up to|policy\\[0\\] adds up to"),
        ([0.5, 0.5], [1.0], "policy has shape"),
        (None, [0.5, 0.5], "propensities is None"),
    ],
)
def test_bad_input_is_named(propensities: list[float], policy: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_value([1.0, 0.0], [0, 1], propensities, np.full((2, 2), 0.5), policy)
