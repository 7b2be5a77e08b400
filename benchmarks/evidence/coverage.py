"""How often each interval holds the truth when Thompson Sampling decides what is observed.

Model
    Logs of 2,000 decisions in three scenes, 95 % intervals. Anytime-valid ones fail if they exclude the truth after *any*
    decision; those for one look are looked at after the last. Every figure is that of the worst arm or difference of its
    scene, except `arm_bounds`, whose promise is about all arms at once.

Assumes
    Bernoulli rewards, one unit each, no drift; the allocation moves every 100 decisions.

Source
    Howard, Ramdas, McAuliffe & Sekhon (2021) and Waudby-Smith et al. (2024) for what holds at every look; Hadad,
    Hirshberg, Zhan, Wager & Athey (2021) for weighted estimates; Nie, Tian, Taylor & Zou (2018), "Why adaptively collected
    data have negative bias and how to correct for it", for the raw mean.

Shapes
    T decisions, K arms, L logs
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence import intervals
from benchmarks.evidence.findings import (
    ERRORS,
    Beside,
    Finding,
    Section,
    at_least,
    at_most,
    mean_of,
    near,
    share_error,
    shown,
)
from benchmarks.evidence.intervals import AIPW, ANYTIME, LEVEL, OTHERS
from benchmarks.evidence.lab import Lab
from benchmarks.evidence.logs import bernoulli, thompson_log

STEPS, BATCH = 2_000, 100
#: By name: means, floor, logs.
SCENES: dict[str, tuple[tuple[float, ...], float, int]] = {
    "close arms": ((0.6, 0.5, 0.4), 0.05, 1_500),
    "equal arms": ((0.5, 0.5, 0.5), 0.01, 1_500),
    "rare successes": ((0.2, 0.1, 0.05), 0.02, 600),
}
#: What doubly robust estimates promise, and the scenes that they promise it for.
_WITHIN, _PROMISED = 0.02, ("close arms", "equal arms")
_NOMINAL = Beside(LEVEL, None, "the nominal level")
Array = NDArray[np.float64]


def measure(lab: Lab) -> Section:
    """Report the coverage of every interval in every scene."""
    findings: list[Finding] = []
    curves = {}
    for scene, (means, floor, logs) in SCENES.items():
        parts = 20 if not lab.quick else 2
        size = lab.runs(logs // parts, 20)
        what = f"coverage, {scene}: means {means}, floor {floor:g}, {STEPS:,} decisions, {size * parts:,} logs"
        results = lab.spread(study, [(means, floor, size)] * parts, what)
        held = {name: np.concatenate([part[0][name] for part in results]) for name in results[0][0]}
        errors = np.concatenate([part[1] for part in results])
        findings += [_finding(name, scene, floor, held[name]) for name in (*ANYTIME, *AIPW, *OTHERS)]
        if scene == "equal arms":
            bias, error = mean_of(errors.mean(axis=1))
            beside = Beside(None, None, "Nie et al. (2018): below 0")
            most = -ERRORS * error
            findings.append(
                at_most(f"Raw mean's error, {scene}", bias, error, most, "", beside, "below 0 by 3 standard errors")
            )
        curves[scene] = {name: {"coverage": h.mean(axis=0).tolist(), "logs": len(h)} for name, h in held.items()}
    return Section(findings, curves)


def _finding(name: str, scene: str, floor: float, held: NDArray[np.bool_]) -> Finding:
    """Report the arm whose coverage is the worst: the lowest, or for a claim of two sides the farthest from nominal."""
    shares = held.mean(axis=0)
    two_sided = name in AIPW and scene in _PROMISED
    worst = float(shares[np.abs(shares - LEVEL).argmax()] if two_sided else shares.min())
    error = share_error(LEVEL, len(held))
    title = f"Coverage, {scene}, floor {floor:g}: {name}"
    if name in ANYTIME:
        why = f"{LEVEL:g} less {ERRORS:g} standard errors, over all times"
        return at_least(title, worst, error, LEVEL - ERRORS * error, "of logs", _NOMINAL, why)
    if two_sided:
        return near(title, worst, error, LEVEL, _WITHIN, "of logs", _NOMINAL, f"AIPW at T = {STEPS:,}")
    return shown(title, worst, error, "of logs", _NOMINAL)


def study(
    rng: np.random.Generator, means: tuple[float, ...], floor: float, logs: int
) -> tuple[dict[str, NDArray[np.bool_]], Array]:
    """Return what held in each of some logs, (L, arms) by interval, and the errors of the raw means, (L, K)."""
    mu = np.array(means)
    found, errors = [], []
    for _ in range(logs):
        log = thompson_log(rng, bernoulli(rng, means, STEPS), floor, BATCH)
        found.append(intervals.held(log, mu))
        s, n = (sums[-1] for sums in log.counts())
        errors.append(np.divide(s, n, out=mu.copy(), where=n > 0.0) - mu)
    return {name: np.array([held[name] for held in found]) for name in found[0]}, np.array(errors)
