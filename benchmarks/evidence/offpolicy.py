"""Estimates of policies that never ran, from adaptive logs of real outcomes, against the truth that the full table knows.

Model
    5,608 prompts with the outcome of nine LLMs each. A log is one run of Thompson Sampling with a floor of .02 over 5,000
    prompts, drawn with replacement, so that decisions are independent and the truth of a fixed arm is the mean of its
    column. From each log every estimator of `bandit` values each of the nine arms, and the uniform policy.

    Rejection replay: a learner with the same floor lives its first 200 decisions on logs of equal shares, and, as the truth,
    on the table itself.

Assumes
    Fractional scores, 2.6 % of them, are rewards as they are. Errors of the nine arms of one log are not independent: means
    are taken over arms first, standard errors over logs.

Source
    `router/data/llm_outcomes_9arms.csv` for truth and outcomes. Dudik, Langford & Li (2011): `ips` and `dr` are unbiased.
    Li, Chu, Langford & Wang (2011): replay is, too.

Shapes
    L logs, K arms
"""

import math

import numpy as np
from numpy.typing import NDArray

from bandit.arm_estimates import estimate_arms
from bandit.offpolicy import doubly_robust, ips, running_means, snips
from bandit.rejection import ThompsonLearner, rejection_replay
from bandit.targets import target_of, uniform
from benchmarks.evidence.findings import ERRORS, Beside, Finding, Section, mean_of, near, shown
from benchmarks.evidence.lab import Lab
from benchmarks.evidence.logs import thompson_log
from router.demo.data import load

STEPS, FLOOR, BATCH, LEVEL = 5_000, 0.02, 100, 0.95
METHODS = ("ips", "snips", "dr", "adaptive", "raw")
_UNBIASED, _PROMISED, _WITHIN = ("ips", "dr"), ("dr", "adaptive"), 0.02
_LIFE, _EVERY = 200, 10
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Report error and coverage of every estimator, and what a replayed learner earns."""
    truth = load(9).scores.mean(axis=0)
    size, parts = lab.runs(20, 6), 20 if not lab.quick else 2
    results = lab.spread(study, [(size,)] * parts, f"nine arms from adaptive logs: {size * parts} logs")
    estimates = {m: np.concatenate([part[m] for part in results]) for m in results[0]}
    findings: list[Finding] = []
    curves = {}
    for method in METHODS:
        value, lower, upper = np.moveaxis(estimates[method], -1, 0)
        findings += _findings(method, value - truth, (lower <= truth) & (truth <= upper))
        curves[method] = {
            "mean": value.mean(axis=0).tolist(),
            "truth": truth.tolist(),
            "deviation": value.std(axis=0, ddof=1).tolist(),
            "coverage": ((lower <= truth) & (truth <= upper)).mean(axis=0).tolist(),
        }
    for method in ("ips", "snips", "dr"):
        own = estimates[f"uniform {method}"][:, 0, 0]
        value, error = mean_of(own)
        title = f"The uniform policy, {len(own)} logs: {method}"
        beside = Beside(None, float(truth.mean()), "mean of the table")
        findings.append(near(title, value, error, float(truth.mean()), ERRORS * error, "", beside, "3 standard errors"))
    lives, per = (10, lab.runs(12, 8)) if not lab.quick else (2, 8)
    pairs = np.concatenate(lab.spread(live, [(per,)] * lives, f"a learner replayed and let live: {per * lives} of each"))
    replayed, replayed_error = mean_of(pairs[:, 0])
    lived, lived_error = mean_of(pairs[:, 1])
    title = f"Rejection replay: mean of a learner's first {_LIFE} rewards"
    beside = Beside(None, lived, "the learner let live on the full table")
    allowed = ERRORS * math.hypot(replayed_error, lived_error)
    findings.append(near(title, replayed, replayed_error, lived, allowed, "", beside, "3 standard errors of a difference"))
    return Section(findings, curves)


def _findings(method: str, errors: Array, held: NDArray[np.bool_]) -> list[Finding]:
    """Report an estimator's error and coverage over nine arms; errors and held are (L, K)."""
    error, stderr = mean_of(errors.mean(axis=1))
    coverage, coverage_error = mean_of(held.mean(axis=1))
    of_error, of_coverage = (
        f"Nine arms, {len(errors)} logs: error of {method}",
        f"Nine arms: coverage of {method}, floor {FLOOR:g}",
    )
    truth, nominal = Beside(None, 0.0, "means of the full table"), Beside(LEVEL, None, "the nominal level")
    return [
        near(of_error, error, stderr, 0.0, ERRORS * stderr, "", truth, "3 standard errors")
        if method in _UNBIASED
        else shown(of_error, error, stderr, "", truth),
        near(of_coverage, coverage, coverage_error, LEVEL, _WITHIN, "of arms", nominal, f"AIPW at T = {STEPS:,}")
        if method in _PROMISED
        else shown(of_coverage, coverage, coverage_error, "of arms", nominal),
    ]


def study(rng: np.random.Generator, logs: int) -> dict[str, Array]:
    """Return (value, lower, upper) by estimator, (L, K, 3), and of the uniform policy, (L, 1, 3)."""
    table = load(9).scores
    k = table.shape[1]
    found: dict[str, list[list[tuple[float, float, float]]]] = {}
    for _ in range(logs):
        log = thompson_log(rng, table[rng.integers(len(table), size=STEPS)], FLOOR, BATCH)
        given = log.rewards, log.arms, log.propensities
        arms = estimate_arms(*given, k, allocations=log.allocations, level=LEVEL)
        for method in METHODS:
            estimates = [getattr(arm, method) for arm in arms]
            found.setdefault(method, []).append([(e.value, e.lower, e.upper) for e in estimates])
        target, q = target_of(uniform(k), log.arms), running_means(log.rewards, log.arms, k)
        for estimate in (
            ips(log.rewards, log.propensities, target),
            snips(log.rewards, log.propensities, target),
            doubly_robust(*given, uniform(k), q),
        ):
            ends = (estimate.value, estimate.lower, estimate.upper)
            found.setdefault(f"uniform {estimate.method}", []).append([ends])
    return {name: np.array(values) for name, values in found.items()}


class _Diary(ThompsonLearner):
    """A learner that keeps its rewards."""

    def __init__(self, k: int) -> None:
        super().__init__(k, floor=FLOOR, every=_EVERY)
        self.rewards: list[float] = []

    def update(self, arm: int, reward: float) -> None:
        super().update(arm, reward)
        self.rewards.append(reward)


def live(rng: np.random.Generator, lives: int) -> Array:
    """Return the mean of the first rewards of learners, replayed and living, (lives, 2)."""
    table = load(9).scores
    k = table.shape[1]
    found = []
    for _ in range(lives):
        outcomes = table[rng.permutation(len(table))]
        arms = rng.integers(k, size=len(table))
        replayed, living = _Diary(k), _Diary(k)
        rejection_replay(outcomes[np.arange(len(arms)), arms], arms, uniform(k), replayed, rng)
        for row in table[rng.integers(len(table), size=_LIFE)]:
            arm = int(rng.choice(k, p=living.allocate()))
            living.update(arm, float(row[arm]))
        if len(replayed.rewards) < _LIFE:
            raise ValueError(f"a replay accepted {len(replayed.rewards)} decisions: it needs {_LIFE}")
        found.append((np.mean(replayed.rewards[:_LIFE]), np.mean(living.rewards)))
    return np.array(found)
