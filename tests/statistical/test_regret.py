"""Regret of simulated Thompson Sampling against known figures, and what delay and a floor cost."""

import numpy as np
import pytest

from bandit.simulate import beta_logits, largest_draw, matching_regret, replay_table, thompson_regret


@pytest.mark.slow
def test_three_arms_for_a_thousand_steps() -> None:
    """Claim: at .7, .8, .9 and 1,000 steps the mean regret is 11.05 +- .3.

    20,000 runs have a standard error of .065 around 11.09 (+- .03, from 100,000 runs): a false alarm in 1e4 seeds.
    """
    regret = thompson_regret([0.7, 0.8, 0.9], 1000, 20_000, np.random.default_rng(11))
    assert regret.mean() == pytest.approx(11.05, abs=0.3)
    assert regret.min() >= 0.0


@pytest.mark.slow
def test_ten_close_arms_for_a_hundred_thousand_steps() -> None:
    """Claim: the best at .5 and nine at .4 over 1e5 steps cost 253 +- 8.

    1,000 runs have a standard error of 2.0; from a mean of 253, a false alarm in 1.5e4 seeds. Takes 90 seconds.
    """
    regret = thompson_regret([0.5] + [0.4] * 9, 100_000, 1000, np.random.default_rng(20240611))
    assert regret.mean() == pytest.approx(253.0, abs=8.0)


@pytest.mark.parametrize(("delay", "batch"), [(0, 1), (7, 5)])
def test_drawing_from_p_best_costs_the_same(delay: int, batch: int) -> None:
    """Claim: a draw from the P(best) vector and the largest posterior draw have the same mean regret.

    Two-sample z within 5: a false alarm in 1.7e6 seeds.
    """
    seeds = np.random.default_rng(5).spawn(2)
    drawn = matching_regret([0.3, 0.6], 25, 1500, seeds[0], delay=delay, batch=batch)
    sampled = thompson_regret([0.3, 0.6], 25, 20_000, seeds[1], delay=delay, batch=batch)
    error = np.sqrt(drawn.var() / len(drawn) + sampled.var() / len(sampled))
    assert abs(drawn.mean() - sampled.mean()) <= 5 * error


def test_delay_and_batches_cost_regret() -> None:
    """Claim: learning 100 steps late, or only every 100 steps, costs more than learning at once.

    The means are 9.3, 18.5 and 15.5 with standard errors under .2, so a gap of 1 is missed once in 1e90 seeds.
    """
    seeds = np.random.default_rng(6).spawn(3)
    prompt = thompson_regret([0.7, 0.8, 0.9], 500, 2000, seeds[0])
    late = thompson_regret([0.7, 0.8, 0.9], 500, 2000, seeds[1], delay=100)
    batched = thompson_regret([0.7, 0.8, 0.9], 500, 2000, seeds[2], batch=100)
    assert prompt.mean() + 1 < min(late.mean(), batched.mean())


def test_nothing_is_learned_before_the_delay_is_over() -> None:
    """Claim: with a delay of all the steps the arms are chosen uniformly.

    The mean regret per step of two arms .1 apart is .05 with standard error 1.1e-4; 5 of them: 1 in 1.7e6 seeds.
    """
    regret = thompson_regret([0.5, 0.4], 200, 1000, np.random.default_rng(7), delay=200) / 200
    assert abs(regret.mean() - 0.05) <= 5 * 0.1 * 0.5 / np.sqrt(200 * 1000)


def test_equal_arms_cost_nothing() -> None:
    assert thompson_regret([0.4, 0.4], 50, 10, np.random.default_rng(0)).tolist() == [0.0] * 10


@pytest.mark.parametrize("parameter", [1e-12, 0.01, 0.3, 1.0])
def test_ties_do_not_favour_the_first_arm(parameter: float) -> None:
    """Claim: of two arms with one posterior, each draws the larger value half of the time, however small the prior.

    200,000 draws within 5 standard errors of 1/2: a false alarm in 1.7e6 seeds.
    """
    shape = np.full((2, 200_000), parameter)
    second = largest_draw(shape, shape, np.random.default_rng(8)).mean()
    assert abs(second - 0.5) <= 5 * 0.5 / np.sqrt(200_000)


def test_logit_draws_have_the_law_of_beta_draws() -> None:
    """Claim: draws made as logits and numpy's own Beta draws are as often below .1, .2, ..., .9.

    27 differences within 5 standard errors: a false alarm in 6e4 seeds.
    """
    levels = np.arange(1, 10) / 10
    for alpha, beta in ((0.4, 0.4), (0.4, 3.0), (2.0, 0.1)):
        draws = np.random.default_rng(9)
        x = 1 / (1 + np.exp(-beta_logits(np.full(100_000, alpha), np.full(100_000, beta), draws)))
        plain = np.random.default_rng(10).beta(alpha, beta, 100_000)
        share, other = ((values[:, None] <= levels).mean(axis=0) for values in (x, plain))
        pooled = (share + other) / 2
        assert (np.abs(share - other) <= 5 * np.sqrt(2 * pooled * (1 - pooled) / 100_000)).all()


def test_a_replay_finds_the_paying_arm_and_keeps_the_floor() -> None:
    """Claim: where one of three arms always pays 1 and the others 0, a floor of .01 leaves at most .98.

    The price of learning brings the mean to .969; 50 runs have a standard error of .0004: a false alarm in 1e90 seeds.
    """
    scores = np.zeros((4000, 3))
    scores[:, 1] = 1.0
    earned = replay_table(scores, np.random.default_rng(12), runs=50)
    assert earned.shape == (50,)
    assert 0.96 < earned.mean() < 0.98


def test_a_replay_learns_from_fractions() -> None:
    """Claim: constant scores .2 and .6 are told apart; the average is near .6, and no more.

    The mean is .591; 50 runs have a standard error of .00014: a false alarm in 1e90 seeds.
    """
    scores = np.tile([0.2, 0.6], (3000, 1))
    earned = replay_table(scores, np.random.default_rng(13), runs=50)
    assert 0.58 < earned.mean() < 0.6


def test_a_replay_reads_every_row_once() -> None:
    scores = np.repeat(np.arange(100)[:, None] / 100, 2, axis=1)
    np.testing.assert_allclose(replay_table(scores, np.random.default_rng(14), runs=3), scores[:, 0].mean())


def test_progress_is_reported_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    thompson_regret([0.1, 0.2], 250, 2, np.random.default_rng(0), progress=lambda *at: seen.append(at))
    assert seen[-1] == (250, 250)
    assert 100 <= len(seen) <= 130


def test_the_seed_decides_everything() -> None:
    one, two = (thompson_regret([0.1, 0.2], 50, 20, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": [0.2, 1.2]}, r"means holds 1[.]2"),
        ({"means": [float("nan")]}, "means holds nan"),
        ({"means": []}, "means has shape"),
        ({"steps": 0}, "steps is 0"),
        ({"runs": 0}, "runs is 0"),
        ({"delay": -1}, "delay is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"prior": (0.0, 1.0)}, r"prior is \(0[.]0, 1[.]0\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"means": [0.2, 0.3], "steps": 2, "runs": 2, "rng": np.random.default_rng(0)}
    for function in (thompson_regret, matching_regret):
        with pytest.raises(ValueError, match=message):
            function(**(good | arguments))  # type: ignore[arg-type]


def test_bad_tables_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"scores holds -0[.]5"):
        replay_table([[0.1, -0.5]], rng)
    with pytest.raises(ValueError, match="scores has shape"):
        replay_table([0.1, 0.5], rng)
    with pytest.raises(ValueError, match="lag is -1"):
        replay_table([[0.1, 0.5]], rng, lag=-1)
