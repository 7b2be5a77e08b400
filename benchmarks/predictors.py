"""Other libraries' Thompson Sampling, timed in the environment of `requirements/bench.txt`; imports nothing of ours.

Each library is asked for one arm the way its manual says, Beta-Bernoulli, with the same evidence:

    mabwiser   MAB(arms, ThompsonSampling()).predict(): draws from each arm's Beta with numpy, takes the largest
    river      ThompsonSampling(Beta).pull(arms): draws from each arm's Beta with random.betavariate, takes the largest
    pybandits  SmabBernoulli(actions).predict(n_samples=1): draws one sample for each arm, takes the largest; validates its
               arguments with pydantic and returns the samples too

Protocol, on standard input and output, one line each: first out, the versions as JSON; then for `LIBRARY K SECONDS` in, the
nanoseconds of one call out, the mean over at least so many seconds.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

LIBRARIES = ("mabwiser", "river", "pybandits")
# They are in that environment alone, where no type checker looks: hence what is ignored below.


def _mabwiser(successes: list[int], failures: list[int]) -> Callable[[], Any]:
    from mabwiser.mab import MAB, LearningPolicy  # type: ignore[import-not-found]

    bandit = MAB(list(range(len(successes))), LearningPolicy.ThompsonSampling())
    decisions = [arm for arm, (s, f) in enumerate(zip(successes, failures, strict=True)) for _ in range(s + f)]
    rewards = [r for s, f in zip(successes, failures, strict=True) for r in [1] * s + [0] * f]
    bandit.fit(decisions, rewards)
    return bandit.predict  # type: ignore[no-any-return]


def _river(successes: list[int], failures: list[int]) -> Callable[[], Any]:
    from river import bandit, proba  # type: ignore[import-not-found]

    policy = bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=1)
    arms = list(range(len(successes)))
    for arm in arms:
        for reward in [True] * successes[arm] + [False] * failures[arm]:
            policy.update(arm, reward)
    return lambda: policy.pull(arms)


def _pybandits(successes: list[int], failures: list[int]) -> Callable[[], Any]:
    from pybandits.model import Beta  # type: ignore[import-not-found]
    from pybandits.smab import SmabBernoulli  # type: ignore[import-not-found]

    actions = {
        f"arm-{arm}": Beta(n_successes=s + 1, n_failures=f + 1)
        for arm, (s, f) in enumerate(zip(successes, failures, strict=True))
    }
    bandit = SmabBernoulli(actions=actions)
    return lambda: bandit.predict(n_samples=1)


def _time_ns(call: Callable[[], Any], seconds: float) -> float:
    for _ in range(20):
        call()
    calls, began = 0, time.perf_counter_ns()
    while True:
        for _ in range(20):
            call()
        calls += 20
        spent = time.perf_counter_ns() - began
        if spent > seconds * 1e9:
            return spent / calls


def evidence(arms: int) -> tuple[list[int], list[int]]:
    """Return (successes, failures) of each arm: 50 outcomes each, with means from .3 to .7."""
    successes = [round(50 * (0.3 + 0.4 * arm / (arms - 1))) for arm in range(arms)]
    return successes, [50 - s for s in successes]


def main() -> None:
    """Time what is asked for until standard input ends."""
    made: dict[tuple[str, int], Callable[[], Any]] = {}
    makers = {"mabwiser": _mabwiser, "river": _river, "pybandits": _pybandits}
    print(json.dumps({name: importlib.metadata.version(name) for name in LIBRARIES}), flush=True)
    for line in sys.stdin:
        name, arms, seconds = line.split()
        key = (name, int(arms))
        if key not in made:
            made[key] = makers[name](*evidence(int(arms)))
        print(_time_ns(made[key], float(seconds)), flush=True)


if __name__ == "__main__":
    main()
