"""Regret where feedback is late and arms come and go: the table of Chapelle & Li.

Model
    Ten arms whose means are drawn from Beta(4, 4). At each step, with probability 1e-3, one of them, any alike, is replaced
    by a new one: a new mean, and the prior for a posterior; what is still to come from the old one is dropped. Thompson
    Sampling from Beta(1, 1), no floor; the outcome of a step is known d steps later, a fixed lag, and d = 1 is the next
    step. Regret is the best mean at the time less that of the arm chosen, summed over a million steps.

Assumes
    Arms are drawn as the largest of posterior draws (`bandit.simulate.largest_draw`), which is the law of a draw from
    P(best): a million steps of seven lags leave no time for P(best) itself. `bandit-router` computes it once for each
    policy version; `tests/statistical/test_categorical_draw.py` and the section `lai-robbins` are about that form.

Source
    Chapelle & Li (2011), "An empirical evaluation of Thompson Sampling", section 3, table 1: 100 runs, with feedback
    "every d steps". Whether that is a batch or a lag, and what becomes of a retired arm's feedback, is not said. The
    independent values are those of another program with the fixed lag.

Shapes
    K   arms; R runs; C = R times the number of lags, columns that share their steps and nothing else
    alpha, beta, mu   (K, C)
"""

import math

import numpy as np
from numpy.typing import NDArray

from bandit.simulate import largest_draw
from benchmarks.evidence.findings import ERRORS, Beside, Finding, Section, mean_of, near
from benchmarks.evidence.lab import Lab

LAGS = (1, 3, 10, 32, 100, 316, 1000)
#: Theirs: Thompson Sampling.
PUBLISHED = (9_105, 9_199, 9_049, 9_451, 11_550, 21_594, 59_256)
INDEPENDENT = (9_500, 9_576, 9_484, 10_260, 13_289, 24_700, 59_266)
ARMS, STEPS, REPLACED = 10, 1_000_000, 1e-3
#: Random numbers are drawn for so many steps at once.
_CHUNK = 1_000
_SOURCE = "Chapelle & Li (2011), table 1; independent: another program, fixed lag"
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Compare the mean regret of every lag with the independent program's."""
    steps, runs, jobs = (STEPS, 10, 2) if not lab.quick else (STEPS // 50, 4, 2)
    parts = lab.spread(regrets, [(LAGS, steps, runs)] * jobs, f"Chapelle & Li, table 1: {steps:,} steps, {runs * jobs} runs")
    regret = np.concatenate(parts, axis=1)
    findings: list[Finding] = []
    for lag, own, published, independent in zip(LAGS, regret, PUBLISHED, INDEPENDENT, strict=True):
        mean, error = mean_of(own)
        findings.append(
            near(
                f"Chapelle & Li table 1, delay {lag}: regret",
                mean,
                error,
                independent,
                # The other program's error is not known; it is taken to be as large as ours.
                ERRORS * math.sqrt(2.0) * error,
                "",
                Beside(published, independent, _SOURCE),
                f"{ERRORS:g} standard errors of a difference",
            )
        )
    return Section(
        findings, {"lags": list(LAGS), "ours": regret.tolist(), "published": PUBLISHED, "independent": INDEPENDENT}
    )


def regrets(rng: np.random.Generator, lags: tuple[int, ...], steps: int, runs: int) -> Array:
    """Return the regret of every run, shape (lags, R)."""
    lag = np.repeat(np.array(lags), runs)
    columns = lag.size
    column = np.arange(columns)
    mu = rng.beta(4.0, 4.0, (ARMS, columns))
    best = mu.max(axis=0)
    alpha, beta = np.ones((ARMS, columns)), np.ones((ARMS, columns))
    # What is on its way, by the step it was made at: the arm, and what it adds. Each entry is read once.
    length = max(lags) + 1
    sent = np.zeros((length, columns), dtype=np.intp)
    success, failure = np.zeros((length, columns)), np.zeros((length, columns))
    regret = np.zeros(columns)
    for start in range(0, steps, _CHUNK):
        size = min(_CHUNK, steps - start)
        uniform = rng.random((size, columns))
        retiring = _by_step(rng.random((size, columns)) < REPLACED)
        for i in range(size):
            step = start + i
            for c in retiring.get(i, ()):
                gone = int(rng.integers(ARMS))
                mu[gone, c] = rng.beta(4.0, 4.0)
                best[c] = mu[:, c].max()
                alpha[gone, c] = beta[gone, c] = 1.0
                dropped = sent[:, c] == gone
                success[dropped, c] = failure[dropped, c] = 0.0
            known = (step - lag) % length
            arm = sent[known, column]
            alpha[arm, column] += success[known, column]
            beta[arm, column] += failure[known, column]
            arm = largest_draw(alpha, beta, rng)
            mean = mu[arm, column]
            regret += best - mean
            won = uniform[i] < mean
            place = step % length
            sent[place], success[place], failure[place] = arm, won, ~won
    return regret.reshape(len(lags), runs)


def _by_step(hits: NDArray[np.bool_]) -> dict[int, list[int]]:
    """Return the columns that are hit at each step, for the steps that have any."""
    found: dict[int, list[int]] = {}
    for step, column in np.argwhere(hits).tolist():
        found.setdefault(step, []).append(column)
    return found
