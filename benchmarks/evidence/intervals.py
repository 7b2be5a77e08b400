"""Which intervals of one log hold the truth: at every look where they promise that, else at the last one.

Model
    An interval by likelihood ratio excludes the truth exactly when the ratio against the truth reaches 1 / alpha. So the
    function under test is called after the decision where that ratio is largest; the ratio is computed here, by `scipy`:

    arm_bounds                 B(s + 1, f + 1) / (mu^s (1 - mu)^f)
    lower_bound, upper_bound   B(s + 1, f + 1) P(theta > mu | s, f) / (mu^s (1 - mu)^(f + 1)), and its mirror image

Source
    That of `bandit.inference` and `bandit.sequences`.

Shapes
    T decisions, K arms
    s, n   (T, K)   successes and observations of each arm after each decision
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, betaln, xlog1py, xlogy

from bandit.arm_estimates import estimate_arms
from bandit.inference import lower_bound, rate_interval, upper_bound
from bandit.posterior import credible_interval
from bandit.sequences import arm_bounds, arm_sequence, difference_sequence
from benchmarks.evidence.logs import Log

LEVEL = 0.95
ANYTIME = ("arm_bounds", "lower_bound", "upper_bound", "arm_sequence", "difference_sequence")
#: Doubly robust, and the same with evened out variances.
AIPW = ("dr", "adaptive")
OTHERS = ("ips", "snips", "raw", "credible_interval", "rate_interval", "rate_interval at every look")
#: "Every look" of an interval that must be computed anew each time: after so many decisions.
_EVERY = 40
Array = NDArray[np.float64]


def held(log: Log, mu: Array) -> dict[str, NDArray[np.bool_]]:
    """Return for each interval whether it held the means `mu`, (K,), arm by arm; all arms at once for `arm_bounds`."""
    k = mu.size
    s, n = log.counts()
    given = log.rewards, log.arms, log.propensities
    found: dict[str, list[bool]] = {"arm_bounds": [_bounds_hold(s, n, mu)]}
    worst = [_counts(s, n, arm, _one_sided(s[:, arm], n[:, arm], mu[arm])) for arm in range(k)]
    found["lower_bound"] = [lower_bound(*at) <= m for at, m in zip(worst, mu, strict=True)]
    worst = [_counts(s, n, arm, _one_sided(n[:, arm] - s[:, arm], n[:, arm], 1.0 - mu[arm])) for arm in range(k)]
    found["upper_bound"] = [upper_bound(*at) >= m for at, m in zip(worst, mu, strict=True)]
    steps = len(log.arms)
    sequences = [arm_sequence(*given, arm, k, planned=steps) for arm in range(k)]
    found["arm_sequence"] = [_inside(q.lower, q.upper, m) for q, m in zip(sequences, mu, strict=True)]
    gaps = [difference_sequence(*given, arm, 0, k, planned=steps) for arm in range(1, k)]
    found["difference_sequence"] = [_inside(q.lower, q.upper, m - mu[0]) for q, m in zip(gaps, mu[1:], strict=True)]
    arms = estimate_arms(*given, k, allocations=log.allocations, level=LEVEL)
    for method in (*AIPW, "ips", "snips", "raw"):
        estimates = [getattr(of_arm, method) for of_arm in arms]
        # An arm of fewer than two decisions has no estimate: that is a miss.
        found[method] = [e is not None and _inside(e.lower, e.upper, m) for e, m in zip(estimates, mu, strict=True)]
    looks = range(_EVERY - 1, steps, _EVERY)
    found["rate_interval"] = [_rate_holds(s, n, arm, [steps - 1], mu[arm]) for arm in range(k)]
    found["rate_interval at every look"] = [_rate_holds(s, n, arm, looks, mu[arm]) for arm in range(k)]
    lower, upper = credible_interval(1.0 + s[-1], 1.0 + n[-1] - s[-1], LEVEL)
    found["credible_interval"] = [_inside(*ends) for ends in zip(lower, upper, mu, strict=True)]
    return {name: np.array(values) for name, values in found.items()}


def _bounds_hold(s: Array, n: Array, mu: Array) -> bool:
    """Return whether no interval of any arm ever excludes its mean."""
    for arm, mean in enumerate(mu.tolist()):
        ratio = _two_sided(s[:, arm], n[:, arm], mean)
        at = int(ratio.argmax())
        if not _inside(*arm_bounds(s[at].tolist(), n[at].tolist(), 1.0 - LEVEL)[arm], mean):
            return False
    return True


def _two_sided(s: Array, n: Array, mean: float) -> Array:
    return np.asarray(betaln(s + 1.0, n - s + 1.0) - xlogy(s, mean) - xlog1py(n - s, -mean))


def _one_sided(s: Array, n: Array, mean: float) -> Array:
    # Where the tail underflows the ratio is far from its largest value.
    above = np.maximum(betaincc(s + 1.0, n - s + 1.0, mean), 1e-300)
    return np.asarray(_two_sided(s, n, mean) + np.log(above) - np.log1p(-mean))


def _counts(s: Array, n: Array, arm: int, ratio: Array) -> tuple[float, float]:
    """Return successes and observations of an arm after the decision where `ratio` is largest."""
    at = int(ratio.argmax())
    return float(s[at, arm]), float(n[at, arm])


def _rate_holds(s: Array, n: Array, arm: int, looks: Sequence[int], mean: float) -> bool:
    return all(_inside(*rate_interval(float(s[at, arm]), float(n[at, arm]), LEVEL), mean) for at in looks)


def _inside(lower: float | Array, upper: float | Array, mean: float) -> bool:
    return bool(np.all((lower <= mean) & (mean <= upper)))
