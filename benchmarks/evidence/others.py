"""Other libraries' Thompson Sampling on a table of outcomes, in the environment of `requirements/bench.txt`.

Imports nothing of ours.

Each is asked and told the way its manual says, one prompt after another:

    mabwiser   MAB(arms, ThompsonSampling(), seed): predict(), then partial_fit([arm], [reward])
    river      ThompsonSampling(Beta, seed): pull(arms), then update(arm, reward)
    pybandits  SmabBernoulli(actions): predict(n_samples=1), then update([action], [reward])

The caller holds rewards back, so every library is told of a prompt's outcome `lag` prompts later. All start from Beta(1, 1).
mabwiser refuses to predict before it was told anything: until then its arms are drawn alike, as its equal priors would.

    python others.py LIBRARY FILE LAG SEED...

FILE is a numpy archive: `scores` (T, K), `orders` (P, T), `coins` (P, T) uniform numbers. Scores that are fractions become
0 or 1 by the prompt's coin, because river and pybandits take nothing else. Prints the average score of each pass, as JSON.
"""

import json
import random
import sys
from typing import Any, Protocol

import numpy as np

# These are in that environment alone, where no type checker looks: hence what is ignored below.


class Learner(Protocol):
    def choose(self) -> int: ...

    def learn(self, arm: int, reward: int) -> None: ...


class Mabwiser:
    def __init__(self, arms: int, seed: int) -> None:
        from mabwiser.mab import MAB, LearningPolicy  # type: ignore[import-not-found]

        self._bandit = MAB(list(range(arms)), LearningPolicy.ThompsonSampling(), seed=seed)
        self._alike: random.Random | None = random.Random(seed)  # noqa: S311 - draws an arm
        self._arms = arms

    def choose(self) -> int:
        return int(self._bandit.predict()) if self._alike is None else self._alike.randrange(self._arms)

    def learn(self, arm: int, reward: int) -> None:
        self._alike = None
        self._bandit.partial_fit([arm], [reward])


class River:
    def __init__(self, arms: int, seed: int) -> None:
        from river import bandit, proba  # type: ignore[import-not-found]

        self._policy = bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=seed)
        self._arms = list(range(arms))

    def choose(self) -> int:
        return int(self._policy.pull(self._arms))

    def learn(self, arm: int, reward: int) -> None:
        self._policy.update(arm, bool(reward))


class Pybandits:
    def __init__(self, arms: int, seed: int) -> None:
        from pybandits.model import Beta  # type: ignore[import-not-found]
        from pybandits.smab import SmabBernoulli  # type: ignore[import-not-found]

        np.random.seed(seed % 2**32)
        random.seed(seed)
        self._bandit = SmabBernoulli(actions={str(arm): Beta() for arm in range(arms)})

    def choose(self) -> int:
        actions: Any = self._bandit.predict(n_samples=1)[0]
        return int(actions[0])

    def learn(self, arm: int, reward: int) -> None:
        self._bandit.update([str(arm)], [reward])


LEARNERS: dict[str, type[Mabwiser] | type[River] | type[Pybandits]] = {
    "mabwiser": Mabwiser,
    "river": River,
    "pybandits": Pybandits,
}


def play(learner: Learner, scores: Any, rewards: Any, lag: int) -> float:
    """Return the average score of one pass over the rows of `scores`."""
    chosen: list[int] = []
    earned = 0.0
    for step in range(len(scores)):
        known = step - lag - 1
        if known >= 0:
            learner.learn(chosen[known], int(rewards[known, chosen[known]]))
        arm = learner.choose()
        chosen.append(arm)
        earned += float(scores[step, arm])
    return earned / len(scores)


def main(name: str, file: str, lag: int, seeds: list[int]) -> None:
    """Play one pass for each seed and print what they earned."""
    given = np.load(file)
    averages = []
    for seed, order, coins in zip(seeds, given["orders"], given["coins"], strict=True):
        scores = given["scores"][order]
        averages.append(play(LEARNERS[name](scores.shape[1], seed), scores, coins[:, None] < scores, lag))
    print(json.dumps(averages))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(seed) for seed in sys.argv[4:]])
