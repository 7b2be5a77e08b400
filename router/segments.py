"""Segments as the router has them: evidence by segment, and the posterior of one of them.

Protocol
    Evidence, outcomes and events have the segment of their decision, if the rules in force when the event came named it, and
    "" otherwise. All of it together is the evidence of all traffic, whichever segments are named: that posterior decides
    whatever is in no named segment, and knows nothing of segments.

    A segment's posterior has its own evidence in full, and in its prior that of all other traffic, at a weight. Other
    traffic is everything else: other named segments, "", and names that the rules name no longer. So a name that is taken
    out, and put back in, has lost nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bandit.discount import Weighted
from bandit.reward import Evidence
from bandit.segments import segment_posterior
from router.discounting import Discount, Hours

#: Evidence by segment and arm number.
BySegment = Mapping[str, Mapping[int, Evidence]]
#: What it weighs, likewise.
Weights = Mapping[str, Mapping[int, Weighted]]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment with a posterior of its own."""

    name: str
    #: What an outcome of other traffic is worth in its prior, in [0, 1].
    weight: float
    #: Outcomes that the other traffic is worth at most.
    largest: float

    def posterior(self, arm: int, prior: tuple[float, float], weights: Weights) -> tuple[float, float]:
        """Return alpha and beta of an arm in this segment."""
        none = Weighted()
        evidence = {name: of_arm.get(arm, none) for name, of_arm in weights.items()}
        return segment_posterior(evidence, self.name, prior, self.weight, self.largest)


def over_all(by_segment: BySegment) -> dict[int, Evidence]:
    """Return the evidence of all traffic, by arm number."""
    none = Evidence()
    total: dict[int, Evidence] = {}
    for of_arm in by_segment.values():
        for arm, counted in of_arm.items():
            total[arm] = total.get(arm, none) + counted
    return total


def weights_of(by_segment: BySegment, discount: Discount | None, hours: Hours | None) -> Weights:
    """Return what evidence weighs; ValueError for a discount without hours."""
    if discount is None:
        return {name: {arm: Weighted.of(counted) for arm, counted in of_arm.items()} for name, of_arm in by_segment.items()}
    if hours is None:
        raise ValueError("evidence is discounted, and it was read without its hours")
    return {
        name: {arm: discount.weighted(buckets, hours.seen_from_us) for arm, buckets in of_arm.items()}
        for name, of_arm in hours.by_segment.items()
    }
