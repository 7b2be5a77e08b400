"""The planner's formulas against simulated experiments."""

import numpy as np
import pytest

from bandit.planning import Strategy, plan
from bandit.planning_formulas import STOP_AT, thompson_flow
from bandit.posterior import probability_best
from bandit.simulate import thompson_regret
from bandit.situation import History, Question

#: Together they take minutes; unit tests have the same formulas against independent values.
pytestmark = pytest.mark.slow

RUNS = 4000


def assert_share(rejected: np.ndarray, expected: float, slack: float) -> None:
    """Within `slack`, which the approximation may err by, and 4 standard errors: a false alarm in 1e4 seeds."""
    error = 4 * np.sqrt(expected * (1 - expected) / len(rejected))
    assert abs(rejected.mean() - expected) <= slack + error


def test_the_ab_test_of_a_plan_errs_as_it_says() -> None:
    """Claim: with the planned size 80 % of A/B tests find the effect, and 5 % find one that is not there."""
    found = plan(Question(effect=0.05, baseline=0.62, traffic_per_day=1000.0, feedback_delay_us=0)).of(Strategy.AB).forecast
    assert found is not None
    rng = np.random.default_rng(41)
    for other, expected in ((0.67, 1.0 - found.miss), (0.62, found.false_positive)):
        assert expected is not None
        a, b = rng.binomial(found.per_arm, 0.62, RUNS), rng.binomial(found.per_arm, other, RUNS)
        pooled = (a + b) / (2 * found.per_arm)
        z = (b - a) / found.per_arm / np.sqrt(pooled * (1 - pooled) * 2 / found.per_arm)
        assert_share(np.abs(z) > 1.959964, expected, 0.005)


def test_an_interleaved_test_of_a_plan_errs_as_it_says() -> None:
    """Claim: sessions of 6 turns, a fifth of the variance between them: 80 % of interleaved tests find the effect.

    Sessions have their own rate, Beta with variance .2 p (1 - p), so that two of their outcomes correlate by .2.
    """
    history = History(icc=0.2, turns_per_session=6.0)
    question = Question(effect=0.08, baseline=0.5, traffic_per_day=1000.0, feedback_delay_us=0)
    found = plan(question, history).of(Strategy.INTERLEAVING).forecast
    assert found is not None
    sessions = round(found.sample_size / 6)
    rng = np.random.default_rng(42)
    for effect, expected in ((0.08, 0.8), (0.0, 0.05)):
        found_it = np.empty(1500, dtype=bool)
        for run in range(len(found_it)):
            # Beta(2, 2) has variance .05, a fifth of .25; the arms take half of the effect each, kept inside by clipping.
            rate = rng.beta(2.0, 2.0, sessions)
            better = rng.binomial(3, np.clip(rate + effect / 2, 0, 1))
            worse = rng.binomial(3, np.clip(rate - effect / 2, 0, 1))
            d = (better - worse) / 3
            found_it[run] = abs(d.mean()) > 1.959964 * d.std(ddof=1) / sessions**0.5
        assert_share(found_it, expected, 0.02)


CASES = [(2, 0.5, 0.1, 0), (2, 0.62, 0.05, 0), (5, 0.5, 0.1, 0), (2, 0.1, 0.05, 0), (3, 0.8, 0.1, 0), (2, 0.5, 0.1, 400)]


@pytest.mark.parametrize(("arms", "baseline", "effect", "delay"), CASES)
def test_the_regret_of_the_flow(arms: int, baseline: float, effect: float, delay: int) -> None:
    """Claim: over as many steps as the flow has, Thompson Sampling loses within 20 % of what it says.

    1,000 runs have a standard error below 4 % of the mean, which 20 % and 4 standard errors allow for.
    """
    middle = baseline + 0.5 * effect
    flow = thompson_flow(arms, effect, middle * (1 - middle), float(delay))
    means = [baseline] * (arms - 1) + [baseline + effect]
    regret = thompson_regret(means, round(flow.outcomes), 1000, np.random.default_rng(43), delay=delay)
    error = regret.std() / len(regret) ** 0.5
    assert error < 0.04 * flow.regret
    assert abs(regret.mean() - flow.regret) <= 0.2 * flow.regret + 4 * error


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "baseline", "effect", "delay"), [case for case in CASES if not case[3]])
def test_the_time_of_the_flow(arms: int, baseline: float, effect: float, delay: int) -> None:
    """Claim: looked at five times on the way, Thompson Sampling is sure after .7 to 1.25 times the flow's outcomes.

    That is the mean; it is then right in 95 % of runs or more. 200 runs have a standard error below 9 % of the mean; more
    than 21 wrong ones of 200, at 5 %, come once in 1e3 seeds.
    """
    middle = baseline + 0.5 * effect
    flow = thompson_flow(arms, effect, middle * (1 - middle), float(delay))
    means = np.array([baseline] * (arms - 1) + [baseline + effect])
    rng = np.random.default_rng(44)
    batch, times, wrong = max(1, round(flow.outcomes / 25)), [], 0
    for _ in range(200):
        alpha, beta, done = np.ones(arms), np.ones(arms), 0
        while True:
            for _ in range(5):
                n = rng.multinomial(batch, probability_best(alpha, beta))
                s = rng.binomial(n, means)
                alpha, beta, done = alpha + s, beta + n - s, done + batch
            p = probability_best(alpha, beta)
            if p.max() >= STOP_AT:
                break
        times.append(done)
        wrong += int(p.argmax() != arms - 1)
    assert np.std(times) / 200**0.5 < 0.09 * flow.outcomes
    assert 0.7 <= np.mean(times) / flow.outcomes <= 1.25
    assert wrong <= 21
