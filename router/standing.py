"""What is believed of every arm of an experiment: one computation for replies, snapshots and replays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.allocation import Vector
from bandit.posterior import Comparison, compare
from bandit.reward import Evidence
from router.discounting import Discount, Hours, posterior_of
from router.experiment import Arm, Definition
from router.policy import compile_policy


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


def standing_of(
    definition: Definition, policy_version: int, evidence: Mapping[int, Evidence], hours: Hours | None = None
) -> Standing:
    """Return the posteriors that evidence (by arm number) gives. Takes what P(best) takes, twice.

    `hours` is the evidence by the hour, where it is discounted.
    """
    arms = tuple(arm for arm in definition.arms if not (arm.active and arm.is_shadow))
    none = Evidence()
    counted = tuple(evidence.get(arm.number, none) for arm in arms)
    priors = tuple(definition.rules.prior_of(arm) for arm in arms)
    discount = definition.rules.discount
    alpha, beta = posteriors_of(arms, counted, priors, discount, hours)
    competing = np.array([arm.active for arm in arms], dtype=bool)
    comparison = compared(alpha, beta, competing)
    allocation = np.zeros(len(arms))
    everyone = compile_policy(definition, policy_version, evidence, hours=hours).everyone
    if everyone is not None:
        allocation[competing] = everyone.probabilities
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
        discount,
        None if discount is None or hours is None else hours.seen_from_us,
    )


def posteriors_of(
    arms: Sequence[Arm],
    evidence: Sequence[Evidence],
    priors: Sequence[tuple[float, float]],
    discount: Discount | None = None,
    hours: Hours | None = None,
) -> tuple[Vector, Vector]:
    """Return (alpha, beta), (N,) each: prior plus evidence, or what it weighs."""
    parameters = np.array(
        [
            posterior_of(arm.number, counted, prior, discount, hours)
            for arm, counted, prior in zip(arms, evidence, priors, strict=True)
        ]
    )
    return parameters[:, 0].copy(), parameters[:, 1].copy()


def compared(alpha: Vector, beta: Vector, competing: np.ndarray) -> Comparison:
    """Compare the arms that compete; the others get 0 in everything."""
    best, loss = np.zeros(len(alpha)), np.zeros(len(alpha))
    if competing.any():
        found = compare(alpha[competing], beta[competing])
        best[competing], loss[competing] = found.probability_best, found.expected_loss
    return Comparison(best, loss)
