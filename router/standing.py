"""What is believed of every arm of an experiment: one computation for replies, snapshots and replays."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.allocation import NoEligibleArmError, Vector
from bandit.posterior import Comparison, compare
from bandit.reward import Evidence
from router.discounting import Discount, Hours, posterior_of
from router.experiment import Arm, Definition
from router.policy import allocation_of
from router.pricing import Price
from router.segments import BySegment, Segment, Weights, over_all, weights_of


@dataclass(frozen=True, slots=True)
class Standing:
    """Posteriors of the arms of one experiment at one policy version; every sequence is aligned with `arms`."""

    policy_version: int
    #: Active arms in the order of the definition, then retired ones; those of role shadow are left out.
    arms: tuple[Arm, ...]
    evidence: tuple[Evidence, ...]
    #: (alpha, beta) of each prior.
    priors: tuple[tuple[float, float], ...]
    #: (N,) parameters of the posteriors.
    alpha: Vector
    beta: Vector
    #: (N,) each 0 for retired arms.
    probability_best: Vector
    expected_loss: Vector
    allocation: Vector
    #: How evidence lost weight, and the beginning of the hour it was seen from, microseconds; None where it did not.
    discount: Discount | None = None
    seen_from_us: int | None = None
    #: The segment that this is of; None of all traffic. Then evidence is its own, and priors are without what they borrow.
    segment: Segment | None = None
    #: The price that the allocation was made at; None where cost is not weighed, and of a snapshot.
    price: Price | None = None


def standing_of(
    definition: Definition, policy_version: int, by_segment: BySegment, hours: Hours | None = None, segment: str = ""
) -> Standing:
    """Return the posteriors that evidence gives, of all traffic or of a segment that the rules name.

    Takes what P(best) takes, twice. `hours` is the evidence by the hour, where it is discounted.
    """
    return standings_of(definition, policy_version, by_segment, hours, (segment,))[0]


def standings_of(
    definition: Definition, policy_version: int, by_segment: BySegment, hours: Hours | None, segments: Sequence[str]
) -> list[Standing]:
    """As `standing_of` of each of these segments, "" standing for all traffic. What evidence weighs is computed once."""
    rules = definition.rules
    of = [rules.segments.segment(name) if name and rules.segments is not None else None for name in segments]
    weights = weights_of(by_segment, rules.discount, hours) if any(of) else {}
    return [_standing(definition, policy_version, by_segment, hours, segment, weights) for segment in of]


def _standing(
    definition: Definition,
    policy_version: int,
    by_segment: BySegment,
    hours: Hours | None,
    of: Segment | None,
    weights: Weights,
) -> Standing:
    arms = tuple(arm for arm in definition.arms if not (arm.active and arm.is_shadow))
    rules = definition.rules
    counted = evidence_of(arms, by_segment, of)
    priors = tuple(rules.prior_of(arm) for arm in arms)
    if of is None:
        alpha, beta = posteriors_of(arms, counted, priors, rules.discount, hours)
    else:
        alpha, beta = posteriors_in(of, arms, priors, weights)
    competing = np.array([arm.active for arm in arms], dtype=bool)
    comparison = compared(alpha, beta, competing)
    allocation, price = np.zeros(len(arms)), None
    with contextlib.suppress(NoEligibleArmError):
        allocation[competing], price = allocation_of(
            rules, alpha[competing], beta[competing], definition.bucket_table, definition.active_arms
        )
    return Standing(
        policy_version,
        arms,
        counted,
        priors,
        alpha,
        beta,
        comparison.probability_best,
        comparison.expected_loss,
        allocation,
        rules.discount,
        None if rules.discount is None or hours is None else hours.seen_from_us,
        of,
        price,
    )


def evidence_of(arms: Sequence[Arm], by_segment: BySegment, segment: Segment | None = None) -> tuple[Evidence, ...]:
    """Return what is counted of each arm, in all traffic or in a segment."""
    counted = over_all(by_segment) if segment is None else by_segment.get(segment.name, {})
    none = Evidence()
    return tuple(counted.get(arm.number, none) for arm in arms)


def posteriors_of(
    arms: Sequence[Arm],
    evidence: Sequence[Evidence],
    priors: Sequence[tuple[float, float]],
    discount: Discount | None = None,
    hours: Hours | None = None,
) -> tuple[Vector, Vector]:
    """Return (alpha, beta), (N,) each: prior plus evidence, or what it weighs."""
    return _vectors(
        posterior_of(arm.number, counted, prior, discount, hours)
        for arm, counted, prior in zip(arms, evidence, priors, strict=True)
    )


def posteriors_in(
    segment: Segment, arms: Sequence[Arm], priors: Sequence[tuple[float, float]], weights: Weights
) -> tuple[Vector, Vector]:
    """Return (alpha, beta), (N,) each, in a segment: prior plus what it borrows plus what its own evidence weighs."""
    return _vectors(segment.posterior(arm.number, prior, weights) for arm, prior in zip(arms, priors, strict=True))


def _vectors(posteriors: Iterable[tuple[float, float]]) -> tuple[Vector, Vector]:
    parameters = np.array(list(posteriors))
    return parameters[:, 0].copy(), parameters[:, 1].copy()


def compared(alpha: Vector, beta: Vector, competing: np.ndarray) -> Comparison:
    """Compare the arms that compete; the others get 0 in everything."""
    best, loss = np.zeros(len(alpha)), np.zeros(len(alpha))
    if competing.any():
        found = compare(alpha[competing], beta[competing])
        best[competing], loss[competing] = found.probability_best, found.expected_loss
    return Comparison(best, loss)
