"""The simulations of the evidence, where their results are known without them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from bandit.discount import BUCKET_US
from bandit.inference import lower_bound, upper_bound
from bandit.posterior import probability_best
from bandit.sequences import arm_bounds
from bandit.stopping import StoppingRule
from bandit.top_two import top_two
from benchmarks.evidence import delay, drift, intervals, lai_robbins, offpolicy, others, outcomes, stopping
from benchmarks.evidence import top_two as samples
from benchmarks.evidence.logs import bernoulli, thompson_log
from benchmarks.evidence.posteriors import Posteriors


def best_of_ten() -> float:
    """The mean of the largest of ten draws of Beta(4, 4), by its distribution function."""
    x = (np.arange(20_000) + 0.5) / 20_000
    return float((1 - beta(4, 4).cdf(x) ** 10).mean())


def test_before_anything_is_known_arms_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: with a lag of all the steps regret a step is E[largest of ten means] - 1/2.

    2,000 runs of 20 steps have a standard error of .0036: 5 of them, a false alarm in 1.7e6 seeds.
    """
    monkeypatch.setattr(delay, "REPLACED", 0.0)
    regret = delay.regrets(np.random.default_rng(1), (20,), 20, 2_000)[0] / 20
    assert regret.mean() == pytest.approx(best_of_ten() - 0.5, abs=5 * regret.std() / np.sqrt(2_000))


def test_a_lag_delays_and_replacement_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: over 300 steps a lag of 100 costs more than one of 1, and arms that come and go more than arms that stay.

    Means differ by 10 standard errors and more.
    """
    monkeypatch.setattr(delay, "REPLACED", 0.0)
    prompt, late = delay.regrets(np.random.default_rng(2), (1, 100), 300, 100).mean(axis=1)
    assert prompt < 0.8 * late
    monkeypatch.setattr(delay, "REPLACED", 0.05)
    moving = delay.regrets(np.random.default_rng(2), (1, 100), 300, 100).mean(axis=1)
    assert moving[0] > 1.2 * prompt


def test_an_arm_that_comes_brings_no_evidence_and_gets_none_of_the_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an arm is replaced at every step and feedback takes 40, next to nothing arrives: arms are drawn nearly alike.

    An outcome survives 40 replacements of ten arms with probability .9^40 = .015.
    """
    monkeypatch.setattr(delay, "REPLACED", 1.0)
    regret = delay.regrets(np.random.default_rng(3), (40,), 150, 60)[0] / 150
    # 60 runs of 150 steps have a standard error of .0018.
    assert regret.mean() == pytest.approx(best_of_ten() - 0.5, abs=0.009)


def test_the_least_slope_is_that_of_the_formula() -> None:
    # 9 (.1) / (.4 ln .8 + .6 ln 1.2)
    assert lai_robbins.least_slope(10, 0.1) == pytest.approx(0.9 / (0.4 * np.log(0.8) + 0.6 * np.log(1.2)))


def test_regret_of_the_first_batch_is_that_of_equal_shares() -> None:
    """Claim: 100 decisions before anything is known cost 9, where nine tenths of the arms are worse by .1.

    200 runs have a standard error of .021; within .09: a false alarm in 5e4 seeds.
    """
    rng = np.random.default_rng(4)
    first = np.array([lai_robbins.regret_at(rng, 10, 0.1, np.array([100]))[0] for _ in range(200)])
    assert first.mean() == pytest.approx(9.0, abs=0.09)
    later = lai_robbins.regret_at(rng, 10, 0.1, np.array([100, 1_000, 30_000]))
    assert (np.diff(later) > 0).all()
    assert later[2] < 30_000 * 0.09 / 4


def test_a_run_stops_at_the_first_evening_that_the_rule_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "RATES", (0.0, 1.0))
    rule = StoppingRule(least_outcomes=10)
    assert stopping.stop(np.random.default_rng(5), rule) == (14, 1)
    monkeypatch.setattr(stopping, "RATES", (1.0, 0.0))
    assert stopping.stop(np.random.default_rng(5), rule) == (14, 0)


def test_densities_on_a_grid_give_the_routers_chances() -> None:
    rng = np.random.default_rng(6)
    posteriors = Posteriors(20, 5)
    for _ in range(150):
        arm = rng.integers(5, size=20)
        posteriors.learn(arm, rng.random(20) < 0.2 * arm)
    posteriors.keep(np.arange(20) % 2 == 0)
    p = posteriors.best()
    for run in range(10):
        a, b = 1 + posteriors.counts[:, run]
        np.testing.assert_allclose(p[run], probability_best(a, b), atol=1e-4)
        np.testing.assert_allclose(samples.allocation(samples.TOP_TWO, p)[run], top_two(a, b), atol=1e-4)


def test_the_two_likeliest_get_half_each() -> None:
    p = np.array([[0.1, 0.5, 0.0, 0.3, 0.1], [0.9, 0.04, 0.03, 0.02, 0.01]])
    assert samples.allocation(samples.PAIR, p).tolist() == [[0, 0.5, 0, 0.5, 0], [0.5, 0.5, 0, 0, 0]]
    assert samples.allocation(samples.UNIFORM, p).tolist() == [[0.2] * 5] * 2


def test_a_discount_weighs_by_age() -> None:
    assert drift.weights(drift.KEEP_ALL, 3).tolist() == [1, 1, 1]
    np.testing.assert_allclose(drift.weights(drift.HALF_LIFE, 31)[[0, 10, 20, 30]], [1, 0.5, 0.25, 0.125])
    assert drift.weights(drift.WINDOW, 25).tolist() == [1.0] * 20 + [0.0] * 5
    assert BUCKET_US == 3_600_000_000, "an hour"


def test_a_log_holds_what_was_drawn_from() -> None:
    rng = np.random.default_rng(7)
    log = thompson_log(rng, bernoulli(rng, (0.9, 0.1, 0.5), 300), 0.05, 100)
    np.testing.assert_allclose(log.allocations.sum(axis=1), 1)
    assert log.allocations.min() >= 0.05
    np.testing.assert_allclose(log.allocations[:100], 1 / 3)
    s, n = (sums[99] for sums in log.counts())
    expected = 0.05 + 0.85 * probability_best(1 + s, 1 + n - s)
    np.testing.assert_allclose(log.allocations[100], expected)
    np.testing.assert_allclose(log.propensities[150], log.allocations[150, log.arms[150]])
    assert log.counts()[1][-1].tolist() == np.bincount(log.arms, minlength=3).tolist()


def test_the_worst_time_is_the_worst_of_all_times() -> None:
    """The intervals are called at one time of each arm; called at every time they say the same."""
    rng = np.random.default_rng(8)
    verdicts = set()
    for mu in (np.array([0.6, 0.4]), np.array([0.35, 0.65]), np.array([0.45, 0.2])):
        for _ in range(3):
            log = thompson_log(rng, bernoulli(rng, (0.6, 0.4), 80), 0.1, 40)
            s, n = log.counts()
            found = intervals.held(log, mu)
            every = range(80)
            bounds = [arm_bounds(s[t].tolist(), n[t].tolist(), 0.05) for t in every]
            assert found["arm_bounds"] == all(low <= m <= high for b in bounds for (low, high), m in zip(b, mu, strict=True))
            for arm in range(2):
                lower = all(lower_bound(s[t, arm], n[t, arm]) <= mu[arm] for t in every)
                upper = all(upper_bound(s[t, arm], n[t, arm]) >= mu[arm] for t in every)
                assert (found["lower_bound"][arm], found["upper_bound"][arm]) == (lower, upper)
                verdicts |= {lower, upper}
    assert verdicts == {True, False}, "both happen"


def test_no_interval_holds_what_is_far_from_the_truth() -> None:
    rng = np.random.default_rng(9)
    log = thompson_log(rng, bernoulli(rng, (0.6, 0.5), 2_000), 0.2, 100)
    assert set(intervals.held(log, np.array([0.6, 0.5]))) == {*intervals.ANYTIME, *intervals.AIPW, *intervals.OTHERS}
    far = intervals.held(log, np.array([0.2, 0.9]))
    # One-sided bounds hold the mean that is far on their other side.
    assert (far.pop("lower_bound").tolist(), far.pop("upper_bound").tolist()) == ([False, True], [True, False])
    for name, held in far.items():
        assert not held.any(), name


def test_every_estimator_values_every_arm() -> None:
    found = offpolicy.study(np.random.default_rng(10), 2)
    assert {name: values.shape for name, values in found.items()} == {
        **dict.fromkeys(offpolicy.METHODS, (2, 9, 3)),
        **dict.fromkeys(("uniform ips", "uniform snips", "uniform dr"), (2, 1, 3)),
    }
    value, lower, upper = np.moveaxis(found["dr"], -1, 0)
    assert (lower < value).all()
    assert (value < upper).all()


class Diary:
    """A learner of another library: what it was told, and when."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def choose(self) -> int:
        self.events.append("choose")
        return len(self.events) % 2

    def learn(self, arm: int, reward: int) -> None:
        self.events.append((arm, reward))


def test_others_are_told_as_late_as_ours() -> None:
    """With a lag of 2 the outcome of row 0 comes before the choice on row 3: as in `bandit.simulate.replay_table`."""
    scores = np.array([[0.0, 1.0]] * 4)
    diary = Diary()
    earned = others.play(diary, scores, scores > 0.5, 2)
    assert diary.events == ["choose", "choose", "choose", (1, 1), "choose"]
    assert earned == pytest.approx(scores[np.arange(4), [1, 0, 1, 1]].mean())


def test_passes_are_the_same_for_everyone() -> None:
    orders, coins = outcomes.passes_of(1, 0, 3)
    again, _ = outcomes.passes_of(1, 2, 1)
    np.testing.assert_array_equal(orders[2], again[0])
    assert (np.sort(orders[0]) == np.arange(5_608)).all()
    assert not (orders[0] == orders[1]).all()
    assert ((coins >= 0) & (coins < 1)).all()


def test_one_pass_learns_what_pays_and_keeps_the_floor() -> None:
    """Of a constant table the average is known, but for what learning costs after the 65 prompts without any feedback."""
    table = np.tile([0.0, 1.0, 0.0], (400, 1))
    rng = np.random.default_rng(11)
    # A third of 65 and nearly all of the rest; with a floor of .1, .8 of that.
    assert outcomes.one_pass(rng, table, 0.0) == pytest.approx((65 / 3 + 335) / 400, abs=0.05)
    assert outcomes.one_pass(rng, table, 0.1) == pytest.approx((65 / 3 + 0.8 * 335) / 400, abs=0.07)
