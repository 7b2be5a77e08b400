"""Segments: a posterior for each slice of traffic, that borrows what the other slices have shown.

Model
    Evidence of the other segments enters the prior of a segment with weight w, as if each of their outcomes were w of one:

        alpha_0' = alpha_0 + w S,   beta_0' = beta_0 + w F,

    with S and F their successes and failures. This is a power prior: the likelihood of the others to the power w. What it
    adds is worth w (S + F) outcomes, and at most `largest`: beyond that w is lowered, so that a segment of its own mind is
    heard after about `largest` outcomes, however much traffic the others have.

    A segment's own evidence is never in its prior: it counts once, in full.

Assumes
    Segments resemble one another, for each arm: at w = 1 they would be one. Arms are treated apart from each other.

Source
    Ibrahim & Chen (2000), "Power prior distributions for regression models", section 2; Morita, Thall & Muller (2008),
    "Determining the effective sample size of a parametric prior", for counting a Beta prior as alpha + beta outcomes.

Shapes
    Evidence is of one arm, by segment, as `bandit.discount.Weighted`: whole or discounted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from bandit.discount import Weighted

DEFAULT_WEIGHT: Final = 0.2
#: Outcomes that the others are worth at most: about what a segment must bring to be heard over them.
DEFAULT_LARGEST: Final = 50.0


def borrowed_prior(
    evidence: Mapping[str, Weighted],
    segment: str,
    prior: tuple[float, float] = (1.0, 1.0),
    weight: float = DEFAULT_WEIGHT,
    largest: float = DEFAULT_LARGEST,
) -> tuple[float, float]:
    """Return alpha and beta of the prior of a segment: `prior`, and the evidence of all other segments at `weight`.

    `weight` is in [0, 1]; 0 borrows nothing. What is borrowed is worth at most `largest` outcomes. A segment without
    evidence of its own is a segment like any other. The result does not depend on the order of the segments.
    Raises ValueError naming the argument, its value and the rule it breaks.
    """
    _check(prior, weight, largest)
    others = [one for name, one in evidence.items() if name != segment]
    for name, one in evidence.items():
        if not (0.0 <= one.successes < math.inf and 0.0 <= one.failures < math.inf):
            raise ValueError(f"evidence[{name!r}] is {one}: its numbers must be finite and at least 0")
    successes = math.fsum(one.successes for one in others)
    failures = math.fsum(one.failures for one in others)
    total = successes + failures
    share = min(weight, largest / total) if total > 0.0 else 0.0
    return prior[0] + share * successes, prior[1] + share * failures


def segment_posterior(
    evidence: Mapping[str, Weighted],
    segment: str,
    prior: tuple[float, float] = (1.0, 1.0),
    weight: float = DEFAULT_WEIGHT,
    largest: float = DEFAULT_LARGEST,
) -> tuple[float, float]:
    """Return alpha and beta of the posterior of a segment: its borrowed prior and its own evidence, each outcome once."""
    return evidence.get(segment, Weighted()).posterior(*borrowed_prior(evidence, segment, prior, weight, largest))


def _check(prior: tuple[float, float], weight: float, largest: float) -> None:
    if not (0.0 < prior[0] < math.inf and 0.0 < prior[1] < math.inf):
        raise ValueError(f"prior is {prior}: both parameters must be positive and finite")
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight is {weight}: it must be at least 0 and at most 1")
    if not 0.0 <= largest < math.inf:
        raise ValueError(f"largest is {largest}: it must be a finite number >= 0")
