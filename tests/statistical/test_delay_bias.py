"""Delay bias: where successes take longer than failures, naive updating prefers the arm whose successes are quick.

The setting: two arms that succeed with probability .6 and .5, one decision a second, uniform priors. Failures are known
after 2 s. Successes of the better arm are known after 10 minutes, those of the worse one after 1 minute: say, because the
better one solves longer tasks. All of it is simulated with fixed seeds, so a test that passes once passes always; the
probabilities below are those of another seed failing.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bandit.simulate import delayed_choices

MEANS = (0.6, 0.5)
WORSE = 1
FAILURE_S = (2, 2)
SUCCESS_S = (600, 60)
RUNS = 200
HALF_AN_HOUR = 1_800


def play(
    steps: int = HALF_AN_HOUR, seed: int = 1, success: tuple[int, int] = SUCCESS_S, mature_after: int = 0
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return delayed_choices(MEANS, FAILURE_S, success, steps, RUNS, rng, mature_after=mature_after)


def locked(chosen: np.ndarray) -> float:
    """The share of runs in which most of the last tenth of the decisions went to the worse arm."""
    return float(((chosen[-len(chosen) // 10 :] == WORSE).mean(axis=0) > 0.5).mean())


def test_naive_updating_locks_onto_the_worse_arm_in_most_runs():
    """In at least 80 % of runs after half an hour. Measured over 4,000 runs: in every one, so that 41 of 200 that do not
    would have a probability below 1e-100. After an hour it is still half of the runs.
    """
    chosen = play()
    assert locked(chosen) >= 0.8
    assert (chosen == WORSE).mean() > 0.8, "and most of all traffic went there"


def test_outcomes_that_mature_are_not_biased():
    """As soon as every success is known when it counts, fewer than 5 % of runs end up with the worse arm.

    Measured over 4,000 runs: 0.15 % do, so that 10 of 200 or more would have a probability below 1e-11.
    """
    assert locked(play(mature_after=600)) < 0.05


def test_maturing_is_the_delay_and_nothing_else():
    """With `mature_after` the law is that of one delay for all: the shares of the worse arm agree, at z < 4.5 (7e-6)."""
    matured = (play(seed=2, mature_after=600) == WORSE).mean(axis=0)
    delayed = (play(seed=3, success=(600, 600), mature_after=600) == WORSE).mean(axis=0)
    z = (matured.mean() - delayed.mean()) / np.sqrt((matured.var(ddof=1) + delayed.var(ddof=1)) / RUNS)
    assert abs(z) < 4.5


def test_maturing_must_cover_the_slow_successes():
    """At 5 minutes those of the better arm are missing: the worse one gets 60 % of the traffic, and at 10 minutes 22 %.

    The standard deviation of each mean is below .005, so that .5 and .3 are 20 and 16 of them away.
    """
    assert (play(mature_after=300) == WORSE).mean() > 0.5
    assert (play(mature_after=600) == WORSE).mean() < 0.3


def test_equal_delays_slow_learning_and_lock_nothing():
    """Failures that are known before successes do no harm by themselves where all arms are alike in it."""
    assert locked(play(steps=3_600, success=(300, 300))) < 0.05


# The simulator itself


def test_nothing_is_known_before_its_time():
    """Until the first outcome can be known, arms are drawn from the prior: each step is a fair coin.

    Under that, the z of 200 runs of 500 steps exceeds 4.5 with probability 7e-6.
    """
    chosen = play(steps=500, mature_after=500)
    z = (chosen.mean() - 0.5) / np.sqrt(0.25 / chosen.size)
    assert abs(z) < 4.5


def test_what_is_known_at_once_counts_from_the_next_step_on():
    """An arm that always succeeds and one that always fails, from Beta(1, 1): after one success of arm 0 the posterior is
    Beta(2, 1) against Beta(1, 1), after one failure of arm 1 Beta(1, 1) against Beta(1, 2): arm 0 is next with 2/3.
    """
    runs = 20_000
    chosen = delayed_choices((1.0, 0.0), (0, 0), (0, 0), 2, runs, np.random.default_rng(4))
    hits = int((chosen[1] == 0).sum())
    # A two-sided exact test at 1e-6.
    assert stats.binomtest(hits, runs, 2 / 3).pvalue > 1e-6
    assert stats.binomtest(int((chosen[0] == 0).sum()), runs, 0.5).pvalue > 1e-6


def test_a_delay_of_two_is_one_step_later():
    chosen = delayed_choices((1.0, 0.0), (2, 2), (2, 2), 3, 20_000, np.random.default_rng(5))
    for step, expected in ((1, 1 / 2), (2, 2 / 3)):
        assert stats.binomtest(int((chosen[step] == 0).sum()), 20_000, expected).pvalue > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_delay": (1,)}, "failure_delay is"),
        ({"success_delay": (1, -1)}, "success_delay is"),
        ({"success_delay": (1.5, 1.0)}, "success_delay is"),
        ({"means": (0.5, 1.5)}, "means holds 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"runs": 0}, "runs is 0"),
        ({"mature_after": -1}, "mature_after is -1"),
        ({"prior": (0.0, 1.0)}, "prior is"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str):
    given = {"means": MEANS, "failure_delay": (1, 1), "success_delay": (1, 1), "steps": 2, "runs": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        delayed_choices(rng=np.random.default_rng(1), **given)  # type: ignore[arg-type]
