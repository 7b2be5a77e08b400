"""Discounting where an arm changes abruptly, and what it costs where none does.

Model
    Three Bernoulli arms of means .5, .3 and .4 for 10,000 decisions; the third has .9 from decision 3,000 to 5,000. Thompson
    Sampling by posterior draws over evidence that is kept by the hour and weighed by `bandit.discount` at the beginning of
    each hour, 50 decisions an hour; no floor. Beside it the same without a discount, and both again where nothing changes.

Assumes
    A half-life of 10 hours, 500 decisions; a window of 20 hours, 1,000 decisions: chosen for changes this often, as one who
    asks for a discount would. Outcomes are known at once.

Source
    Garivier & Moulines (2011), "On upper-confidence bound policies for switching bandit problems", section 5, first
    experiment, for the arms; Raj & Kalyani (2017), "Taming non-stationary bandits: a Bayesian approach", for discounted
    Thompson Sampling. Both draw regret as curves, discounted ones below the others, without figures.

Shapes
    H hours, K arms, R runs
    kept       (H, K, R)   successes, and failures alike, by the hour of their decision
    weights    (H,)        by age in hours
"""

import math

import numpy as np
from numpy.typing import NDArray

from bandit.discount import BUCKET_US, half_life_evidence, window_evidence
from bandit.reward import MICROS, Evidence
from bandit.simulate import largest_draw
from benchmarks.evidence.findings import ERRORS, NOTHING, Section, at_least, at_most, mean_of, shown
from benchmarks.evidence.lab import Lab

MEANS, JUMPED = np.array([0.5, 0.3, 0.4]), np.array([0.5, 0.3, 0.9])
STEPS, BEGINS, ENDS, PER_HOUR = 10_000, 3_000, 5_000, 50
KEEP_ALL, HALF_LIFE, WINDOW = "all evidence", "half-life of 10 hours", "window of 20 hours"
_HOURS = {HALF_LIFE: 10, WINDOW: 20}
#: "Follows": has at least half of the traffic on the new best arm 500 decisions after the change.
_AFTER, _FOLLOWS = 500, 0.5
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Compare regret with and without a discount, with and without a change."""
    runs, jobs = (100, 4) if not lab.quick else (15, 2)
    found: dict[tuple[str, bool], tuple[Array, NDArray[np.bool_]]] = {}
    for kind in (KEEP_ALL, HALF_LIFE, WINDOW):
        for jumps in (True, False):
            what = f"{kind}, {'an arm jumps and falls back' if jumps else 'nothing changes'}: {runs * jobs} runs"
            parts = lab.spread(play, [(kind, jumps, runs)] * jobs, what)
            found[kind, jumps] = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts], axis=1)
    plain, plain_error = mean_of(found[KEEP_ALL, True][0])
    findings = [
        shown(f"An arm jumps: regret with {KEEP_ALL}", plain, plain_error, ""),
        shown(f"Nothing changes: regret with {KEEP_ALL}", *mean_of(found[KEEP_ALL, False][0]), ""),
    ]
    for kind in (HALF_LIFE, WINDOW):
        regret, error = mean_of(found[kind, True][0])
        findings.append(
            at_most(
                f"An arm jumps: regret with a {kind}",
                regret,
                error,
                plain - ERRORS * math.hypot(error, plain_error),
                "",
                NOTHING,
                f"the {plain:,.0f} of all evidence less {ERRORS:g} standard errors",
            )
        )
        followed = found[kind, True][1][BEGINS + _AFTER : ENDS].mean(axis=0)
        share, error = mean_of(followed)
        findings.append(
            at_least(f"An arm jumps: traffic on it from {_AFTER} decisions later, {kind}", share, error, _FOLLOWS, "")
        )
        still, error = mean_of(found[kind, False][0])
        even = float((MEANS.max() - MEANS).mean()) * STEPS
        findings.append(
            at_most(f"Nothing changes: regret with a {kind}", still, error, even / 2.0, "", why="half of equal shares'")
        )
    curves = {
        "share_of_the_jumping_arm": {kind: _hourly(found[kind, True][1]) for kind in (KEEP_ALL, HALF_LIFE, WINDOW)},
        "best_in_hours": (BEGINS // PER_HOUR, ENDS // PER_HOUR),
        "regret": {f"{kind}, {'jump' if jumps else 'still'}": mean_of(f[0]) for (kind, jumps), f in found.items()},
    }
    return Section(findings, curves)


def play(rng: np.random.Generator, kind: str, jumps: bool, runs: int) -> tuple[Array, NDArray[np.bool_]]:
    """Return the regret of each run, (R,), and whether each decision went to the third arm, (T, R)."""
    hours = STEPS // PER_HOUR
    weight = weights(kind, hours)
    successes, failures = np.zeros((hours, MEANS.size, runs)), np.zeros((hours, MEANS.size, runs))
    regret, third = np.zeros(runs), np.empty((STEPS, runs), dtype=bool)
    run = np.arange(runs)
    for hour in range(hours):
        # Of the hours before; what comes within this hour has age 0 and counts in full.
        older = weight[1 : hour + 1][::-1]
        alpha = 1.0 + np.tensordot(older, successes[:hour], 1)
        beta = 1.0 + np.tensordot(older, failures[:hour], 1)
        for step in range(hour * PER_HOUR, (hour + 1) * PER_HOUR):
            mu = JUMPED if jumps and BEGINS <= step < ENDS else MEANS
            arm = largest_draw(alpha, beta, rng)
            won = rng.random(runs) < mu[arm]
            regret += mu.max() - mu[arm]
            third[step] = arm == 2
            alpha[arm, run] += won
            beta[arm, run] += ~won
            successes[hour, arm, run] += won
            failures[hour, arm, run] += ~won
    return regret, third


def weights(kind: str, hours: int) -> Array:
    """Return what one outcome counts for at each age in hours, (H,), by `bandit.discount`."""
    one = [(0, Evidence(MICROS, 0, 1))]
    if kind == KEEP_ALL:
        return np.ones(hours)
    weighted = half_life_evidence if kind == HALF_LIFE else window_evidence
    span = _HOURS[kind] * BUCKET_US
    return np.array([weighted(one, age * BUCKET_US, span).successes for age in range(hours)])


def _hourly(third: NDArray[np.bool_]) -> list[float]:
    return third.reshape(-1, PER_HOUR, third.shape[1]).mean(axis=(1, 2)).round(4).tolist()  # type: ignore[no-any-return]
