"""Confidence sequences under Thompson Sampling with a floor: does the truth ever leave them, over all looks at once?"""

import numpy as np
import pytest
from adaptive_logs import Logs, thompson_logs

from bandit import sequences
from bandit.inference import confidence_sequence, rate_interval
from bandit.offpolicy import ips
from bandit.sequences import arm_sequence, difference_sequence

#: Together they take minutes; unit tests have the same formulas against independent values.
pytestmark = pytest.mark.slow


def missed(logs: Logs, truth: np.ndarray, q: list[float] | None, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """How often the arms' sequences, (K,), and the differences to arm 0, (K - 1,), ever exclude `truth`, (T, K)."""
    runs, steps = logs.arms.shape
    k = truth.shape[1]
    arms, differences = np.zeros(k), np.zeros(k - 1)
    for run in range(runs):
        log = logs.rewards[run], logs.arms[run], logs.propensities[run]
        for arm in range(k):
            found = arm_sequence(*log, arm, k, q, alpha=alpha, planned=steps)
            arms[arm] += ((found.lower > truth[:, arm]) | (found.upper < truth[:, arm])).any() / runs
            if arm:
                found = difference_sequence(*log, arm, 0, k, q, alpha=alpha, planned=steps)
                gap = truth[:, arm] - truth[:, 0]
                differences[arm - 1] += ((found.lower > gap) | (found.upper < gap)).any() / runs
    return arms, differences


def still(means: list[float], steps: int) -> np.ndarray:
    return np.tile(means, (steps, 1))


#: Means, floor; and what the sequences are hard put to: close arms, a starved arm, rare successes, rare failures.
SCENES = [
    ([0.6, 0.5, 0.4], 0.05),
    ([0.6, 0.5, 0.4], 0.01),
    ([0.2, 0.1, 0.05], 0.02),
    ([0.95, 0.9, 0.99], 0.05),
]


@pytest.mark.parametrize(("means", "floor"), SCENES)
def test_asymptotic_sequences_hold_at_every_look(means: list[float], floor: float) -> None:
    """Claim: each 95 % sequence ever misses with probability .05 at most, from doubly robust pseudo-outcomes.

    200 logs of 1,500 decisions: 5 sequences may each miss 3 standard errors, .0154, more often. One that missed at .05 would
    do so in 1 seed of 500; these measure .02 or less.
    """
    logs = thompson_logs(means, 1500, 200, floor, np.random.default_rng(1))
    arms, differences = missed(logs, still(means, 1500), None, 0.05)
    assert max(arms.max(), differences.max()) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200), (arms, differences)


@pytest.mark.slow
@pytest.mark.parametrize("q", [None, [0.0, 0.0, 0.0]], ids=["aipw", "ipw"])
@pytest.mark.parametrize(("means", "floor"), [*SCENES, ([0.5, 0.5, 0.5], 0.005)])
def test_asymptotic_sequences_hold_at_every_look_at_length(means: list[float], floor: float, q: list[float] | None) -> None:
    """Claim: the same over 800 logs of 4,000 decisions, by both kinds of pseudo-outcomes.

    The standard error is .0077: a sequence that missed at .05 would fail 1 seed in 700. Takes half a minute each.
    """
    logs = thompson_logs(means, 4000, 800, floor, np.random.default_rng(2), batch=40)
    arms, differences = missed(logs, still(means, 4000), q, 0.05)
    assert max(arms.max(), differences.max()) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 800), (arms, differences)


def test_without_the_pseudo_observations_rare_successes_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: with the variance as observed, 95 % sequences of arms of few successes ever miss in more than 10 % of logs.

    So the added squares are needed, and these tests can tell: 200 logs of 3,000 decisions, measured .2, standard error .03.
    """
    monkeypatch.setattr(sequences, "_PSEUDO_SQUARES", 0.0)
    means = [0.2, 0.1, 0.05]
    arms, _ = missed(thompson_logs(means, 3000, 200, 0.02, np.random.default_rng(6)), still(means, 3000), None, 0.05)
    assert arms.max() > 0.1, arms


def test_sequences_follow_means_that_drift() -> None:
    """Claim: where all means fall and rise by .2, sequences hold the averages so far, and differences to the control hold.

    200 logs, as above. The raw running mean of an arm does not: it weighs the times at which the arm was drawn.
    """
    means, steps = [0.5, 0.4], 1500
    drift = 0.2 * np.cos(np.linspace(0, 4 * np.pi, steps))
    logs = thompson_logs(means, steps, 200, 0.05, np.random.default_rng(3), drift=drift)
    so_far = (np.array(means) + drift[:, None]).cumsum(axis=0) / np.arange(1, steps + 1)[:, None]
    arms, differences = missed(logs, so_far, None, 0.05)
    assert max(arms.max(), differences.max()) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200), (arms, differences)


def test_what_one_look_allows_is_not_what_many_do() -> None:
    """Claim: the 95 % interval for one look, looked at 60 times, misses three times as often as 5 % and more.

    So the test can tell: 120 logs, measured .375, standard error .044; a false alarm in 1e6 seeds.
    """
    logs = thompson_logs([0.5, 0.5], 1500, 120, 0.05, np.random.default_rng(4))
    ever = 0
    for rewards, arms, p in zip(logs.rewards, logs.arms, logs.propensities, strict=True):
        looks = [ips(rewards[:t], p[:t], arms[:t] == 0) for t in range(25, 1501, 25) if (arms[:t] == 0).any()]
        ever += any(not look.lower <= 0.5 <= look.upper for look in looks)
    assert ever / 120 > 0.15


def test_an_arms_own_observations_hold_at_every_look_under_adaptive_sampling() -> None:
    """Claim: the 80 % beta-binomial sequence, on observations of an arm that the allocation chose when to draw, ever misses
    with probability .2 at most; the 80 % Wilson interval misses more than half of the time.

    100 logs of 250 decisions, two arms, every look: .2 + 3 x .04, and .5 + 3 x .05. Measured .15 and .9: if the first were
    .2, a false alarm in 700 seeds.
    """
    means = [0.6, 0.4]
    logs = thompson_logs(means, 250, 100, 0.05, np.random.default_rng(5), batch=1, draws=40)
    ever, wilson = np.zeros(2), np.zeros(2)
    for rewards, arms in zip(logs.rewards, logs.arms, strict=True):
        for arm, mean in enumerate(means):
            own = rewards[arms == arm].cumsum()
            bounds = [confidence_sequence(s, n + 1, 0.2) for n, s in enumerate(own)]
            ever[arm] += any(not low <= mean <= high for low, high in bounds) / 100
            looks = [rate_interval(s, n + 1, 0.8) for n, s in enumerate(own)]
            wilson[arm] += any(not low <= mean <= high for low, high in looks) / 100
    assert (ever <= 0.2 + 3 * 0.04).all(), ever
    assert wilson.max() > 0.5 + 3 * 0.05, wilson
