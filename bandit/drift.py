"""Drift: whether an arm's mean is still what it was, judged as often as one likes.

Model
    The null is that all outcomes of an arm have one mean, whatever it is. Against it stands, for every hour k of the arm's
    life, counted by the clock, that the mean changed when the k-th hour began. With s, f the successes and failures before
    and s', f' those since, both means drawn from Beta(1, 1),

        e_k = B(s + 1, f + 1) B(s' + 1, f' + 1) / max_mu mu^(s + s') (1 - mu)^(f + f').

    Whatever mu is, the denominator is at least what mu gives, so e_k is at most a non-negative martingale that starts at 1;
    so is the average over k = 2, 3, ... with weights 1 / (k (k - 1)). It ever reaches 1 / alpha with probability at most
    alpha (Ville): an alarm is false with probability at most alpha over the whole life of the arm, however often it is
    looked at.

    Within hours whose evidence is known as one sum only (`base`) no change can be looked for. Changes since then keep the
    weights that they have among all hours, and those before have none: the average only becomes smaller, so an alarm is
    false no more often, however much is summed up as time goes by.

Assumes
    Outcomes of an arm are independent given its mean; a unit that comes back often makes alarms too frequent. Which arm a
    decision got may depend on everything before it. *When* an outcome becomes known must not depend on what it says: where
    failures are heard of sooner, the youngest hours look worse than they are, and `mature_after_us` leaves them out.
    Outcomes are in [0, 1], not only 0 or 1: the ratio is convex in each, so fractions only make alarms rarer.

Source
    Ville (1939); Wasserman, Ramdas & Balakrishnan (2020), "Universal inference", for the maximum in the denominator; Turner,
    Ly & Grunwald (2024), "Generic E-variables for exact sequential k-sample tests", for two samples; Shin, Ramdas &
    Rinaldo (2024), "E-detectors", for mixtures over the time of the change.

Shapes
    H         hours of the arm with evidence
    e, s, f   (H - 1,)   for the changes between two of them; as s', f'
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, logsumexp, xlogy

from bandit.discount import BUCKET_US, Bucket, bucket_start, by_hour
from bandit.reward import MICROS


@dataclass(frozen=True, slots=True)
class Drift:
    """What the evidence of one arm says of a change of its mean."""

    #: Whether the mean changed; wrong with probability at most alpha over the arm's life.
    alarm: bool
    #: log of the e-value: the evidence against a constant mean; an alarm from log(1 / alpha) on.
    log_e: float
    #: The hour that separates the two samples best, microseconds; None with less than two hours of evidence.
    since_us: int | None
    #: Mean before that hour, and from it on.
    before: float | None
    after: float | None
    #: Outcomes before that hour, and from it on.
    n_before: float
    n_after: float


def drift(
    buckets: Iterable[Bucket], now_us: int, alpha: float = 0.01, mature_after_us: int = 0, base: Bucket | None = None
) -> Drift:
    """Return whether the mean of one arm has changed.

    Give all the evidence since the arm began, or since an alarm that was acted on, never a window of it: what was looked at
    and left out is no chance any more. `base` is what came before the buckets and is no longer known by the hour, with the
    hour when it began. For K arms give each alpha / K. Hours that ended less than `mature_after_us` before `now_us` are left
    out, the current one always.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}: it must be greater than 0 and less than 1")
    if not mature_after_us >= 0:
        raise ValueError(f"mature_after_us is {mature_after_us}: it must be at least 0")
    last = bucket_start(now_us - mature_after_us) - BUCKET_US
    known = [(at, e) for at, e in by_hour(buckets) if at <= last and e.success_micros + e.failure_micros > 0]
    has_base = base is not None and base[1].success_micros + base[1].failure_micros > 0
    if base is not None and has_base:
        # A clock that runs slow may have decided before the arm was there.
        known.append((min([base[0], *(at for at, _ in known)]), base[1]))
    hours = by_hour(known)
    s = np.cumsum([0, *(e.success_micros for _, e in hours)], dtype=np.int64) / MICROS
    f = np.cumsum([0, *(e.failure_micros for _, e in hours)], dtype=np.int64) / MICROS
    n = float(s[-1] + f[-1])
    if len(hours) < 2:
        mean = float(s[-1]) / n if n else None
        return Drift(False, 0.0, None, mean, None, n, 0.0)
    # Before the change and after it, for a change between two hours with evidence.
    before_s, before_f = s[1:-1], f[1:-1]
    after_s, after_f = s[-1] - before_s, f[-1] - before_f
    null = float(xlogy(s[-1], s[-1] / n) + xlogy(f[-1], f[-1] / n))
    log_e = betaln(before_s + 1.0, before_f + 1.0) + betaln(after_s + 1.0, after_f + 1.0) - null
    # Changes in a stretch of hours without evidence are one case; the sum of their weights telescopes.
    k = np.array([(at - hours[0][0]) // BUCKET_US + 1 for at, _ in hours])
    weights = 1.0 / k[:-1] - 1.0 / k[1:]
    if has_base:
        # No change is looked for before the second hour that is known: a base may hold every hour until then.
        weights[0] = 1.0 / (k[1] - 1.0) - 1.0 / k[1]
    # Changes still to come have seen one sample only.
    one_sample = float(betaln(s[-1] + 1.0, f[-1] + 1.0)) - null
    total = float(logsumexp(np.append(log_e + np.log(weights), one_sample - np.log(k[-1]))))
    at = int(np.argmax(log_e))
    n_before = float(before_s[at] + before_f[at])
    return Drift(
        alarm=total >= -math.log(alpha),
        log_e=total,
        since_us=hours[at + 1][0],
        before=float(before_s[at]) / n_before,
        after=float(after_s[at]) / (n - n_before),
        n_before=n_before,
        n_after=n - n_before,
    )
