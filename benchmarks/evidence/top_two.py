"""How many samples it takes to be sure which arm is the best: top-two Thompson Sampling beside equal shares.

Model
    Five Bernoulli arms with means .1, .2, .3, .4 and .5, priors Beta(1, 1). Before every sample a run ends if some arm is
    the best with probability .95 or more; its length is the number of samples. The arm of a sample is drawn from the
    allocation of `bandit.top_two` at leader share 1/2, no floor; or half each from the two arms likeliest to be the best;
    or from all alike.

Assumes
    P(best) by `benchmarks.evidence.posteriors`, and its allocation by `bandit.top_two.from_log_chances`, compared with
    `bandit.top_two.top_two` itself on states that the runs went through.

Source
    Russo (2020), "Simple Bayesian algorithms for best-arm identification", for the arms, for top-two Thompson Sampling and
    for top-two probability sampling, which halves samples between the two likeliest arms. The values to compare with, about
    384 samples against 583, come without their protocol.

Shapes
    R runs, K arms
"""

import math

import numpy as np
from numpy.typing import NDArray

from bandit.posterior import probability_best
from bandit.top_two import from_log_chances, top_two
from benchmarks.evidence.findings import ERRORS, Beside, Section, at_least, at_most, mean_of, near, share_error
from benchmarks.evidence.lab import Lab
from benchmarks.evidence.posteriors import Posteriors

MEANS = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
LEVEL = 0.95
TOP_TWO, PAIR, UNIFORM = "top-two", "the two likeliest", "equal shares"
_ADAPTIVE, _EVEN = 384.0, 583.0
_SOURCE = "about 384 against 583 samples, protocol not given"
#: States at which allocations are compared with the router's.
_COMPARED_AT = (20, 80, 150, 250)
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Compare the mean lengths with those given, and the allocations with the router's."""
    runs, jobs = (200, 8) if not lab.quick else (50, 2)
    lengths: dict[str, Array] = {}
    right: dict[str, Array] = {}
    off = 0.0
    for kind in (TOP_TWO, PAIR, UNIFORM):
        parts = lab.spread(play, [(kind, runs)] * jobs, f"five arms to P(best) of {LEVEL:g}, {kind}: {runs * jobs} runs")
        lengths[kind] = np.concatenate([part[0] for part in parts])
        right[kind] = np.concatenate([part[1] for part in parts])
        off = max(off, *(part[2] for part in parts))
    adaptive, error = mean_of(lengths[TOP_TWO])
    pair, pair_error = mean_of(lengths[PAIR])
    even, even_error = mean_of(lengths[UNIFORM])
    named = float(right[TOP_TWO].mean())
    findings = [
        at_most(
            "Top-two: samples until P(best) is .95",
            adaptive,
            error,
            _ADAPTIVE,
            "samples",
            Beside(_ADAPTIVE, None, _SOURCE),
            "fewer is better",
        ),
        near(
            "The two likeliest arms, half each: samples until P(best) is .95",
            pair,
            pair_error,
            _ADAPTIVE,
            # How exact the given values are is not known; as exact as ours, say.
            ERRORS * math.sqrt(2.0) * pair_error,
            "samples",
            Beside(_ADAPTIVE, None, _SOURCE),
            f"{ERRORS:g} standard errors of a difference; not what the router runs",
        ),
        near(
            "Equal shares: samples until P(best) is .95",
            even,
            even_error,
            _EVEN,
            ERRORS * math.sqrt(2.0) * even_error,
            "samples",
            Beside(_EVEN, None, _SOURCE),
            f"{ERRORS:g} standard errors of a difference",
        ),
        at_least(
            "Top-two: the arm that is named is the best",
            named,
            share_error(LEVEL, len(right[TOP_TWO])),
            LEVEL - ERRORS * share_error(LEVEL, len(right[TOP_TWO])),
            "of runs",
            why=f"{LEVEL:g} less {ERRORS:g} standard errors",
        ),
        at_most("Top-two: allocation of these runs less the router's, at most", off, None, 1e-3, "of traffic"),
    ]
    return Section(findings, {kind: sorted(values.tolist()) for kind, values in lengths.items()})


def play(rng: np.random.Generator, kind: str, runs: int) -> tuple[Array, NDArray[np.bool_], float]:
    """Return the length of each run, whether it named the best arm, and how far allocations were from the router's."""
    posteriors = Posteriors(runs, MEANS.size)
    live, length, right = np.arange(runs), np.zeros(runs), np.zeros(runs, dtype=bool)
    samples, off = 0, 0.0
    while live.size:
        p = posteriors.best()
        done = p.max(axis=1) >= LEVEL
        length[live[done]] = samples
        right[live[done]] = p[done].argmax(axis=1) == MEANS.argmax()
        live, p = live[~done], p[~done]
        posteriors.keep(~done)
        # Arms that tie, as all do at first, are told apart at random.
        share = allocation(kind, p + 1e-12 * rng.random(p.shape))
        if samples in _COMPARED_AT and live.size:
            off = max(off, _difference(kind, posteriors, p, share))
        arm = (rng.random(live.size)[:, None] >= share.cumsum(axis=1)[:, :-1]).sum(axis=1)
        posteriors.learn(arm, rng.random(live.size) < MEANS[arm])
        samples += 1
    return length, right, off


def allocation(kind: str, p: Array) -> Array:
    """Return the probability of each arm, (R, K), from P(best), (R, K)."""
    if kind == UNIFORM:
        return np.full(p.shape, 1.0 / MEANS.size)
    if kind == PAIR:
        share = np.zeros(p.shape)
        np.put_along_axis(share, np.argsort(p, axis=1)[:, -2:], 0.5, axis=1)
        return share
    return np.array([from_log_chances(row) for row in np.log(np.maximum(p, 1e-300))]).reshape(p.shape)


def _difference(kind: str, posteriors: Posteriors, p: Array, share: Array) -> float:
    """Return the largest difference from what `bandit` says of the first run."""
    alpha, beta = 1.0 + posteriors.counts[:, 0]
    if kind == TOP_TWO:
        return float(np.abs(share[0] - top_two(alpha, beta)).max())
    return float(np.abs(p[0] - probability_best(alpha, beta)).max())
