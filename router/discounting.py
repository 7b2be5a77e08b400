"""Discounting as the router has it: which rule an experiment states, and posteriors of evidence that is kept by the hour.

Protocol
    `policy_versions.seen_from` is the hour that an experiment's evidence is seen from, and null where nothing is discounted.
    The leader moves it at the beginning of each hour (`router.controllers.discounting`) and raises the policy version with
    it, so that a version means one hour and one set of outcomes: every replica, snapshot and replay of a version gives the
    same posterior. Replicas hear of it as of any other change.

    Evidence without an hour (of dropped days, and of imports) counts for nothing: days must be kept for as long as their
    evidence weighs anything.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bandit.discount import Bucket, Weighted, half_life_evidence, window_evidence
from bandit.reward import Evidence


@dataclass(frozen=True, slots=True)
class Discount:
    """What an experiment forgets: exactly one of these is not None, microseconds."""

    half_life_us: int | None = None
    window_us: int | None = None

    def weighted(self, buckets: Sequence[Bucket], seen_from_us: int) -> Weighted:
        """Return the evidence of one arm as it weighs when seen from an hour."""
        if self.half_life_us is not None:
            return half_life_evidence(buckets, seen_from_us, self.half_life_us)
        assert self.window_us is not None  # noqa: S101 - exactly one
        return window_evidence(buckets, seen_from_us, self.window_us)


@dataclass(frozen=True, slots=True)
class Hours:
    """The evidence of an experiment that discounts it, by the hour of its decisions."""

    #: The beginning of the hour that it is seen from, microseconds.
    seen_from_us: int
    #: By segment and arm number.
    by_segment: Mapping[str, Mapping[int, tuple[Bucket, ...]]]
    #: By arm number, over all segments: an hour may occur several times.
    by_arm: Mapping[int, tuple[Bucket, ...]] = field(init=False)

    def __post_init__(self) -> None:
        found: defaultdict[int, tuple[Bucket, ...]] = defaultdict(tuple)
        for of_arm in self.by_segment.values():
            for arm, buckets in of_arm.items():
                found[arm] += buckets
        object.__setattr__(self, "by_arm", dict(found))


def posterior_of(
    arm: int, counted: Evidence, prior: tuple[float, float], discount: Discount | None, hours: Hours | None
) -> tuple[float, float]:
    """Return alpha and beta of an arm's posterior; ValueError for a discount without hours."""
    if discount is None:
        return counted.posterior(*prior)
    if hours is None:
        raise ValueError(f"the evidence of arm {arm} is discounted, and it was read without its hours")
    return discount.weighted(hours.by_arm.get(arm, ()), hours.seen_from_us).posterior(*prior)
