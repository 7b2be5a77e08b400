"""One decision in process, beside other libraries; and what compiling a policy costs.

A decision here is what Route does to choose: `Policy.choice` and one `draw`. The other libraries sample every arm's Beta
distribution at each decision. This router does that work once for each policy version, by quadrature, and then draws one
uniform number from the same distribution over arms. So its price is the compile, which is measured too: it is paid when
evidence moves, off the event loop, and not when a request comes.
"""

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import IO

import numpy as np

from bandit.allocation import draw
from bandit.reward import Evidence
from benchmarks import environment, predictors
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.load import MeasurementError
from router.experiment import Arm, Definition
from router.policy import Policy, compile_policy
from router.rules import reward_rule_of, rules_of

_ARMS = (2, 5, 20, 100)
_FASTER = 5
_COMPILE_MS = {5: 1, 20: 10, 100: 250}
_SECONDS = 0.25
#: (outcomes an arm, means): an arm that stands out, arms that cannot be told apart, and hardly any evidence yet.
_EVIDENCE = (((10, 100_000), (0.3, 0.7)), ((10_000, 100_000), (0.5, 0.505)), ((1, 30), (0.3, 0.7)))


def decision(bench: Bench) -> list[Figure]:
    """Time one decision, ours and each library's, in turn."""
    seconds = _SECONDS / (3 if bench.settings.quick else 1)
    ours: dict[int, list[float]] = {arms: [] for arms in _ARMS}
    theirs: dict[tuple[str, int], list[float]] = {(name, arms): [] for name in predictors.LIBRARIES for arms in _ARMS}
    policies = {arms: _policy(arms) for arms in _ARMS}
    with _others(bench.say) as (versions, time_ns):
        for number in range(bench.settings.rounds):
            for arms in _ARMS:
                bench.say(f"one decision, {arms} arms: round {number + 1} of {bench.settings.rounds}")
                ours[arms].append(_decision_ns(policies[arms], bench.settings.seed, seconds))
                for name in predictors.LIBRARIES:
                    theirs[name, arms].append(time_ns(name, arms, seconds))
    figures = []
    for arms in _ARMS:
        medians = {name: median(theirs[name, arms]) for name in predictors.LIBRARIES}
        fastest = min(medians, key=lambda name: medians[name])
        value, baseline = median(ours[arms]) / 1e3, medians[fastest] / 1e3
        details = {
            "versions": versions,
            "us": {name: round(ns / 1e3, 3) for name, ns in medians.items()},
            "rounds_us": {name: [round(ns / 1e3, 3) for ns in theirs[name, arms]] for name in predictors.LIBRARIES},
            "ours_us": [round(ns / 1e3, 4) for ns in ours[arms]],
        }
        target = f"≥ {_FASTER} × faster than the fastest other ({fastest})"
        ratio = baseline / value
        name = f"one decision in process, {arms} arms"
        figures.append(Figure(name, value, "µs", baseline, ratio, target, ratio / _FASTER, details))
    return figures


def compiling(bench: Bench) -> list[Figure]:
    """Time `compile_policy` on different evidence, as a router does it: with the policy of the evidence before."""
    rng = np.random.default_rng(bench.settings.seed)
    figures = []
    for arms, target_ms in _COMPILE_MS.items():
        bench.say(f"policy compile, {arms} arms")
        definition = _definition(arms)
        policy = compile_policy(definition, 0, {})
        times_ms = []
        for i in range(10 if bench.settings.quick else 60):
            evidence = _evidence(arms, *_EVIDENCE[i % len(_EVIDENCE)], rng)
            began = time.perf_counter()
            policy = compile_policy(definition, i + 1, evidence, policy)
            times_ms.append((time.perf_counter() - began) * 1e3)
        percentiles = {f"p{p}": round(float(np.percentile(times_ms, p)), 3) for p in (50, 90, 99)}
        name = f"policy compile, {arms} arms: p50"
        figures.append(at_most(name, median(times_ms), "ms", target_ms, compile_ms=percentiles))
    return figures


def _decision_ns(policy: Policy, seed: int, seconds: float) -> float:
    uniform = random.Random(f"{seed} draw").random  # noqa: S311 - draws an arm
    calls, began = 0, time.perf_counter_ns()
    while True:
        for _ in range(1_000):
            choice = policy.pooled.choice(None)
            policy.arms[draw(choice.sums, uniform())]
        calls += 1_000
        spent = time.perf_counter_ns() - began
        if spent > seconds * 1e9:
            return spent / calls


def _evidence(
    arms: int, outcomes: tuple[int, int], means: tuple[float, float], rng: np.random.Generator
) -> dict[int, Evidence]:
    n = np.exp(rng.uniform(np.log(outcomes[0]), np.log(outcomes[1]), arms)).astype(int)
    successes = (n * rng.uniform(means[0], means[1], arms)).astype(int)
    return {
        arm: Evidence(int(s) * 1_000_000, int(m - s) * 1_000_000, int(m))
        for arm, (s, m) in enumerate(zip(successes, n, strict=True))
    }


def _definition(count: int) -> Definition:
    arms = tuple(Arm(i, f"arm-{i}", 1, f"model-{i}", "", i == 0, {}, None, None, True) for i in range(count))
    # The default floor of 0.01 is too much for 100 arms.
    rule = {"floor": 0.001}
    now = datetime.now(UTC)
    return Definition(
        incarnation=1,
        experiment_id="bench",
        description="",
        state="running",
        etag="",
        arms=arms,
        allocation=rule,
        assignment={},
        reward_rule={},
        rules=rules_of(rule, {}, {}, arms),
        reward_rule_version=1,
        reward_rules={1: reward_rule_of({})},
        bucket_table=None,
        created_at=now,
        updated_at=now,
        definition_version=1,
    )


def _policy(arms: int) -> Policy:
    successes, failures = predictors.evidence(arms)
    evidence = {
        i: Evidence(s * 1_000_000, f * 1_000_000, s + f) for i, (s, f) in enumerate(zip(successes, failures, strict=True))
    }
    return compile_policy(_definition(arms), 1, evidence)


@contextmanager
def _others(say: Callable[[str], None]) -> Iterator[tuple[dict[str, str], Callable[[str, int, float], float]]]:
    """Run the other libraries in their environment; gives their versions, and what times one of them."""
    command = [environment.python(say), str(Path(predictors.__file__))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None, "asked for above"
        assert stdout is not None, "asked for above"

        def time_ns(name: str, arms: int, seconds: float) -> float:
            stdin.write(f"{name} {arms} {seconds}\n")
            stdin.flush()
            return float(_answer(stdout))

        yield json.loads(_answer(stdout)), time_ns
        stdin.close()


def _answer(stdout: IO[str]) -> str:
    line = stdout.readline()
    if not line:
        raise MeasurementError("the process with the other libraries ended; its error is above")
    return line
