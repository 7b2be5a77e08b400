"""What one pass over real LLM outcomes costs, beside Thompson Sampling of mabwiser, river and pybandits.

Model
    5,608 prompts in random order, the outcome of nine LLMs on each; a learner sees the one it chose, 64 prompts later.
    Regret is what always choosing the best arm would have earned on the table, .621 a prompt, less what was earned. Every
    learner gets the same passes. Ours is what the router does: before each prompt P(best) of the outcomes so far, by
    quadrature, then the floor, then one draw; once with a floor of .01, which is its default, and once with none, which is
    what the libraries do.

Assumes
    The router learns from fractional scores; the libraries get 0 or 1 by a coin of that chance, on 2.6 % of the scores. A
    router with traffic compiles a policy for several outcomes at once.

Source
    `router/data/llm_outcomes_9arms.csv`; mabwiser, river and pybandits as in `requirements/bench.txt`. The
    independent value of the average, .586 ± .009, is that of another program: floor .01, lag 64; .009 is the deviation of
    one pass.

Shapes
    P passes, T prompts, K arms
"""

import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandit.allocation import apply_floor, cumulative, draw
from bandit.posterior import probability_best
from bandit.simulate import replay_table
from benchmarks import environment, predictors
from benchmarks.evidence import others
from benchmarks.evidence.findings import ERRORS, Beside, Finding, Section, at_most, mean_of, near, shown
from benchmarks.evidence.lab import Lab
from router.demo.data import load

LAG, FLOOR = 64, 0.01
_AVERAGE, _DEVIATION = 0.586, 0.009
_ANOTHER = Beside(None, _AVERAGE, "another program, floor .01, lag 64")
#: How many passes a job plays.
_AT_ONCE = 2
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Compare average and regret with the independent value and the other libraries'."""
    passes = lab.runs(12, 4)
    prompts, best = len(load(9).scores), float(load(9).scores.mean(axis=0).max())
    parts = [(lab.seed, first, _AT_ONCE) for first in range(0, passes, _AT_ONCE)]
    earned: dict[str, Array] = {}
    for floor in (FLOOR, 0.0):
        what = f"{prompts:,} prompts, nine arms, floor {floor:g}: {passes} passes"
        earned[f"floor {floor:g}"] = np.concatenate(lab.spread(ours, [(floor, *part) for part in parts], what))
    python = environment.python(lab.say)
    for name in predictors.LIBRARIES:
        what = f"{prompts:,} prompts, nine arms, {name}: {passes} passes"
        earned[name] = np.concatenate(lab.spread(theirs, [(python, name, *part) for part in parts], what))
    sampled_runs = 50
    sampled = np.concatenate(lab.spread(replayed, [(sampled_runs,)] * 4, f"posterior draws, floor {FLOOR:g}"))
    findings = _averages(earned[f"floor {FLOOR:g}"], sampled)
    regret = {name: prompts * (best - averages) for name, averages in earned.items()}
    beside = Beside(None, prompts * (best - _AVERAGE), _ANOTHER.source)
    with_floor, error = mean_of(regret[f"floor {FLOOR:g}"])
    findings.append(shown(f"Regret of one pass, floor {FLOOR:g}", with_floor, error, "", beside))
    own, error = mean_of(regret["floor 0"])
    findings.append(shown("Regret of one pass, no floor", own, error, ""))
    for name in predictors.LIBRARIES:
        theirs_mean, theirs_error = mean_of(regret[name])
        findings.append(shown(f"Regret of one pass, {name}", theirs_mean, theirs_error, ""))
        # The passes are the same, so that their order adds no noise.
        more, error = mean_of(regret["floor 0"] - regret[name])
        why = f"{ERRORS:g} standard errors: one law"
        findings.append(
            at_most(f"Regret of one pass, no floor, less that of {name}", more, error, ERRORS * error, "", why=why)
        )
    return Section(findings, {"regret": {name: values.tolist() for name, values in regret.items()}})


def _averages(computed: Array, sampled: Array) -> list[Finding]:
    """Compare both ways of obeying one law with the independent average, and with each other."""
    average, error = mean_of(computed)
    other, other_error = mean_of(sampled)
    both = ERRORS * math.hypot(error, other_error)
    return [
        near("Average reward of one pass, floor 0.01", average, error, _AVERAGE, _DEVIATION, "", _ANOTHER, "its deviation"),
        near(
            "The same by posterior draws, `bandit.simulate.replay_table`",
            other,
            other_error,
            average,
            both,
            "",
            Beside(None, average, "P(best) by quadrature"),
            "3 standard errors of a difference",
        ),
    ]


def passes_of(seed: int, first: int, count: int) -> tuple[Array, Array]:
    """Return orders and coins, (P, T) each, of passes `first`, `first` + 1, ...: the same for every learner."""
    prompts = len(load(9).scores)
    orders, coins = [], []
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        orders.append(rng.permutation(prompts))
        coins.append(rng.random(prompts))
    return np.array(orders), np.array(coins)


def ours(rng: np.random.Generator, floor: float, seed: int, first: int, count: int) -> Array:
    """Return what the router's rule earns a prompt in each pass, (P,)."""
    table = load(9).scores
    return np.array([one_pass(rng, table[order], floor) for order in passes_of(seed, first, count)[0]])


def one_pass(rng: np.random.Generator, scores: Array, floor: float) -> float:
    """Return the average reward of one pass over the rows of `scores`, (T, K)."""
    prompts, k = scores.shape
    alpha, beta = np.ones(k), np.ones(k)
    chosen, earned = np.empty(prompts, dtype=np.intp), np.empty(prompts)
    for step in range(prompts):
        if (known := step - LAG - 1) >= 0:
            alpha[chosen[known]] += earned[known]
            beta[chosen[known]] += 1.0 - earned[known]
        allocation = apply_floor(probability_best(alpha, beta), floor)
        chosen[step] = draw(cumulative(allocation), rng.random())
        earned[step] = scores[step, chosen[step]]
    return float(earned.mean())


def theirs(rng: np.random.Generator, python: str, library: str, seed: int, first: int, count: int) -> Array:
    """Return what a library earns a prompt in each pass, (P,)."""
    orders, coins = passes_of(seed, first, count)
    seeds = [str(number) for number in rng.integers(2**31, size=count).tolist()]
    with tempfile.TemporaryDirectory(prefix="bandit-router-evidence-") as directory:
        file = Path(directory) / "passes.npz"
        np.savez(file, scores=load(9).scores, orders=orders, coins=coins)
        command = [python, others.__file__, library, str(file), str(LAG), *seeds]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        raise RuntimeError(f"{library} failed: {done.stderr.strip()[-2000:]}")
    return np.array(json.loads(done.stdout))


def replayed(rng: np.random.Generator, runs: int) -> Array:
    """Return what posterior draws earn a prompt in each of some passes of their own, (R,)."""
    return np.asarray(replay_table(load(9).scores, rng, floor=FLOOR, lag=LAG, runs=runs))
