"""Discounting: evidence that counts for less the older it is, so that a posterior can follow an arm that changes.

Model
    Evidence is kept by the hour of its decisions. Seen from the hour `now`, the bucket of the hour t has the weight

        half-life h   2^(-(now - t) / h)
        window w      1 if now - t < w, else 0

    and the posterior is Beta(alpha_0 + sum of w_t s_t, beta_0 + sum of w_t f_t): without new evidence it returns to the
    prior. With a steady n outcomes an hour a half-life of h hours holds about n h / log 2 of them.

    Every replica gets the same numbers: `now` is the beginning of the hour, whatever the minute; evidence of one hour is
    added up as integers before it is weighted; and the weighted sum is correctly rounded, so that its order is immaterial.
    A replay years later differs by the last digit of 2^x at most.

Assumes
    Means drift slowly against the half-life, or jump at most once within a window. Outcomes count at the hour of their
    decision, however late they arrive.

Source
    Raj & Kalyani (2017), "Taming non-stationary bandits: a Bayesian approach", for discounted Thompson Sampling; Garivier &
    Moulines (2011), "On upper-confidence bound policies for switching bandit problems", for window and discount;
    Shewchuk (1997), "Adaptive precision floating-point arithmetic", for `math.fsum`.

Shapes
    buckets   pairs of the hour's beginning, in microseconds, and its `bandit.reward.Evidence`, in any order; an hour may
              occur several times
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

from bandit.reward import MICROS, Evidence

#: The width of a bucket.
BUCKET_US: Final = 3_600_000_000

Bucket = tuple[int, Evidence]


@dataclass(frozen=True, slots=True)
class Weighted:
    """Evidence as real numbers, since weights are; never includes the prior."""

    #: Weighted sum of the rewards.
    successes: float = 0.0
    #: Weighted sum of 1 - reward.
    failures: float = 0.0

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """The evidence as it is, every outcome counting 1."""
        return cls(evidence.success_micros / MICROS, evidence.failure_micros / MICROS)

    def posterior(self, prior_alpha: float, prior_beta: float) -> tuple[float, float]:
        """Return alpha and beta of the posterior: prior plus evidence."""
        return prior_alpha + self.successes, prior_beta + self.failures


def half_life_evidence(buckets: Iterable[Bucket], now_us: int, half_life_us: int) -> Weighted:
    """Return the evidence of one arm with every half-life halving its weight.

    Hours after `now_us`, which a clock that runs fast can produce, count in full. Evidence without an hour, of dropped
    days, goes in at the hour of the oldest day that is kept, or not at all: it then counts for too much, or for nothing.
    Raises ValueError for a half-life under an hour, and for a bucket that does not begin on the hour or cannot be evidence.
    """
    _duration("half_life_us", half_life_us)
    return _weighted(buckets, now_us, lambda age_us: 2.0 ** (-age_us / half_life_us))


def window_evidence(buckets: Iterable[Bucket], now_us: int, window_us: int) -> Weighted:
    """Return the evidence of one arm from the last `window_us`, the hour of `now_us` being the first of them.

    As `half_life_evidence` otherwise; evidence without an hour is left out.
    """
    _duration("window_us", window_us)
    return _weighted(buckets, now_us, lambda age_us: 1.0 if age_us < window_us else 0.0)


def bucket_start(at_us: int) -> int:
    """Return the beginning of the hour that holds `at_us`: all times of one hour see the same evidence."""
    return at_us - at_us % BUCKET_US


def by_hour(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Return the buckets in the order of time, one for each hour; ValueError for what cannot be one."""
    hours: dict[int, Evidence] = {}
    for start_us, evidence in buckets:
        if start_us % BUCKET_US:
            raise ValueError(f"bucket {start_us} does not begin on the hour: it must be a multiple of {BUCKET_US}")
        if min(evidence.success_micros, evidence.failure_micros, evidence.n) < 0:
            raise ValueError(f"bucket {start_us} holds {evidence}: none of its numbers may be negative")
        known = hours.get(start_us)
        hours[start_us] = evidence if known is None else known + evidence
    return sorted(hours.items())


def _weighted(buckets: Iterable[Bucket], now_us: int, weight: Callable[[int], float]) -> Weighted:
    now = bucket_start(now_us)
    hours = [(weight(max(0, now - start_us)), evidence) for start_us, evidence in by_hour(buckets)]
    return Weighted(
        math.fsum(w * evidence.success_micros for w, evidence in hours) / MICROS,
        math.fsum(w * evidence.failure_micros for w, evidence in hours) / MICROS,
    )


def _duration(name: str, value: int) -> None:
    if not value >= BUCKET_US:
        raise ValueError(f"{name} is {value}: it must be at least an hour, {BUCKET_US}, the width of a bucket")
