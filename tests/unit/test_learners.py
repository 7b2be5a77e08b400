"""Learners for replays: Thompson Sampling as elsewhere, priors of each arm, other strategies; and bad input."""

import numpy as np
import pytest

from bandit.learners import BetaLearner
from bandit.posterior import probability_best
from bandit.rejection import ThompsonLearner
from bandit.top_two import top_two


@pytest.mark.parametrize(("discount", "every"), [(1.0, 1), (0.9, 1), (0.95, 3)])
def test_with_one_prior_it_is_thompson_sampling(discount: float, every: int) -> None:
    one = BetaLearner([(2.0, 3.0)] * 3, floor=0.05, discount=discount, every=every)
    other = ThompsonLearner(3, (2.0, 3.0), 0.05, discount, every)
    rng = np.random.default_rng(6)
    for _ in range(20):
        arm, reward = int(rng.integers(3)), float(rng.random())
        one.update(arm, reward)
        other.update(arm, reward)
        assert one.allocate().tolist() == other.allocate().tolist()


def test_each_arm_has_its_prior() -> None:
    learner = BetaLearner([(6.0, 4.0), (1.0, 1.0)], floor=0.0)
    assert learner.allocate() == pytest.approx(probability_best([6.0, 1.0], [4.0, 1.0]))
    learner.update(1, 0.25)
    assert learner.allocate() == pytest.approx(probability_best([6.0, 1.25], [4.0, 1.75]))


def test_another_strategy() -> None:
    learner = BetaLearner([(1.0, 1.0)] * 3, top_two, floor=0.1)
    learner.update(0, 1.0)
    assert learner.allocate() == pytest.approx(0.1 + 0.7 * top_two([2.0, 1.0, 1.0], [1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priors": [(1.0, 0.0)] * 2}, "alpha and beta of every arm must be positive"),
        ({"priors": [1.0, 2.0, 3.0]}, "priors has shape"),
        ({"priors": [(1.0, float("nan"))] * 2}, r"priors\[0, 1\] is nan"),
        ({"discount": 0.0}, "discount is 0.0"),
        ({"discount": 1.1}, "discount is 1.1"),
        ({"every": 0}, "every is 0"),
        ({"floor": 0.3}, "add up to less than 0.5"),
    ],
)
def test_bad_input_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BetaLearner(**{"priors": [(1.0, 1.0)] * 2, **fields})  # type: ignore[arg-type]
