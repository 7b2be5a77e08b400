"""The shipped tables: their sizes, what one can earn on them, and that the simulator earns what is published."""

import numpy as np
import pytest

from bandit.simulate import replay_table
from router.demo.data import family, load


def test_the_nine_arms_have_the_published_baselines() -> None:
    table = load(9)
    assert table.scores.shape == (5608, 9)
    assert len(set(table.tasks)) == 14
    assert table.costs is None
    baselines = table.baselines()
    assert baselines.uniform == pytest.approx(0.429, abs=5e-4)
    assert baselines.best_fixed == pytest.approx(0.621, abs=5e-4)
    assert baselines.best_fixed_arm == "llama-3.1-nemotron-51b-instruct"
    assert baselines.oracle == pytest.approx(0.802, abs=5e-4)
    fractional = (table.scores > 0.0) & (table.scores < 1.0)
    assert fractional.mean() == pytest.approx(0.026, abs=5e-4)


def test_the_three_arms_have_rewards_and_costs() -> None:
    table = load(3)
    assert table.scores.shape == (1785, 3)
    assert table.arm_ids == ("gemini-2.5-pro", "llama-3.1-8b-instruct", "mistral-large-2512")
    assert table.models[0] == "google/gemini-2.5-pro"
    assert table.costs is not None
    assert table.costs.shape == table.scores.shape
    assert (table.costs > 0.0).all()
    assert table.baselines().best_fixed_arm == "gemini-2.5-pro"


@pytest.mark.parametrize("arms", [9, 3])
def test_scores_are_rewards_and_cannot_be_changed(arms: int) -> None:
    scores = load(arms).scores
    assert ((scores >= 0.0) & (scores <= 1.0)).all()
    with pytest.raises(ValueError, match="read-only"):
        scores[0, 0] = 0.5


def test_a_shuffle_keeps_rows_whole_and_follows_its_seed() -> None:
    table = load(3)
    shuffled = table.shuffled(np.random.default_rng(4), 100)
    assert len(shuffled.scores) == len(shuffled.tasks) == 100
    assert shuffled.costs is not None
    assert table.costs is not None
    rows = {(*scores, *costs) for scores, costs in zip(table.scores.tolist(), table.costs.tolist(), strict=True)}
    for scores, costs in zip(shuffled.scores.tolist(), shuffled.costs.tolist(), strict=True):
        assert (*scores, *costs) in rows
    again = table.shuffled(np.random.default_rng(4), 100)
    assert (again.scores == shuffled.scores).all()


def test_every_model_has_a_family() -> None:
    families = {model: family(model) for arms in (9, 3) for model in load(arms).models}
    assert all(families.values()), families
    assert families["google/gemini-2.5-pro"] == "google"
    assert families["llama-3.1-nemotron-51b-instruct"] == "nvidia"


def test_thompson_sampling_earns_what_is_published() -> None:
    # 48 runs of standard deviation .006: their mean strays from its own by .009 in far less than one of 1e9 seeds.
    averages = replay_table(load(9).scores, np.random.default_rng(20), floor=0.01, lag=64, runs=48)
    assert averages.mean() == pytest.approx(0.586, abs=0.009)
