"""How regret grows with the logarithm of time, against the least slope that any consistent policy can have.

Model
    The best of K arms pays with probability 0.5, the others with 0.5 - e. Between updates the arms of a batch are a
    multinomial draw from P(best), by the quadrature that the router compiles policies with: the law of so many decisions
    under one policy version. Batches are of 100 decisions, and of 1/100 of the time so far once that is more.

    The least slope: regret grows at least as log(t) sum_i (p* - p_i) / KL(p_i, p*).

Assumes
    Prior Beta(1, 1), no floor, outcomes known at the end of their batch. The bound is about the limit: at ten million steps
    the slope may still be above it, or below where arms are close and the run has not come to tell them apart.

Source
    Chapelle & Li (2011), section 3, figure 1: K = 10 and 100, e = 0.1 and 0.02, batches of 100, slopes drawn beside the
    bound's and found to be close. Lai & Robbins (1985) for the bound; Kaufmann, Korda & Munos (2012) for Thompson Sampling
    reaching it.

Shapes
    marks   (M,)   steps at which regret is noted
    R       runs
"""

import math

import numpy as np
from numpy.typing import NDArray

from bandit.posterior import probability_best
from benchmarks.evidence.findings import ERRORS, Beside, Finding, Section, mean_of, near
from benchmarks.evidence.lab import Lab

#: Arms, gap, runs: those of 100 arms take longer and differ less.
SETUPS = ((10, 0.1, 32), (10, 0.02, 32), (100, 0.1, 12), (100, 0.02, 12))
BEST, BATCH, GROWTH = 0.5, 100, 100
#: "Close", for a limit that is seen from a finite time.
_CLOSE = 0.25
_SOURCE = "Lai & Robbins (1985), as drawn by Chapelle & Li (2011), figure 1"
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Compare the slope over the last decade with the bound's, for each setup."""
    steps = 10_000_000 if not lab.quick else 300_000
    marks = np.unique(np.geomspace(100, steps, 41).astype(int))
    decade = int(np.searchsorted(marks, steps // 10))
    findings: list[Finding] = []
    curves = {}
    for arms, gap, full in SETUPS:
        runs = lab.runs(full, 4)
        what = f"figure 1 of Chapelle & Li: {arms} arms, gap {gap:g}, {steps:,} steps, {runs} runs"
        regret = np.array(lab.spread(regret_at, [(arms, gap, marks)] * runs, what))
        bound = least_slope(arms, gap)
        slope, error = mean_of((regret[:, -1] - regret[:, decade]) / math.log(marks[-1] / marks[decade]) / bound)
        findings.append(
            near(
                f"Regret's slope over the least slope, {arms} arms, gap {gap:g}",
                slope,
                error,
                1.0,
                _CLOSE + ERRORS * error,
                "×",
                Beside(1.0, None, _SOURCE),
                f"{_CLOSE:g} and {ERRORS:g} standard errors",
            )
        )
        curves[f"{arms} arms, gap {gap:g}"] = {
            "steps": marks.tolist(),
            "regret": regret.mean(axis=0).tolist(),
            "stderr": (regret.std(axis=0, ddof=1) / math.sqrt(runs)).tolist(),
            "least_slope": bound,
        }
    return Section(findings, curves)


def least_slope(arms: int, gap: float) -> float:
    """Return the constant of the Lai-Robbins bound."""
    p = BEST - gap
    divergence = p * math.log(p / BEST) + (1.0 - p) * math.log((1.0 - p) / (1.0 - BEST))
    return (arms - 1) * gap / divergence


def regret_at(rng: np.random.Generator, arms: int, gap: float, marks: NDArray[np.int64]) -> Array:
    """Return the regret of one run at each of `marks`, shape (M,)."""
    mu = np.full(arms, BEST - gap)
    mu[0] = BEST
    successes, failures = np.zeros(arms), np.zeros(arms)
    step, regret = 0, 0.0
    noted = np.empty(len(marks))
    for place, mark in enumerate(marks.tolist()):
        while step < mark:
            size = min(max(BATCH, step // GROWTH), mark - step)
            drawn = rng.multinomial(size, probability_best(1.0 + successes, 1.0 + failures))
            won = rng.binomial(drawn, mu)
            successes += won
            failures += drawn - won
            regret += float((BEST - mu) @ drawn)
            step += size
        noted[place] = regret
    return noted
