"""Findings: one figure of ours each, beside what was published or found independently, with what it must satisfy.

Tolerances are multiples of standard errors, or constants that the section states; a figure that is not finite is an error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: How many standard errors a figure may be off: chance alone does that to one in 370.
ERRORS = 3.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What a figure stands beside; each None where there is none."""

    #: What the source printed.
    published: float | None = None
    #: What another program gave, or a calculation by other means.
    independent: float | None = None
    #: Where they are from, in words.
    source: str = ""


NOTHING = Beside()


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    value: float
    unit: str
    #: Standard error of `value`; None where it is not a mean of random runs.
    stderr: float | None
    beside: Beside
    #: What `value` must satisfy, in words.
    target: str
    #: Whether it does; None where nothing is asked of it.
    passed: bool | None

    def __post_init__(self) -> None:
        given = (self.value, self.stderr, self.beside.published, self.beside.independent)
        if not all(number is None or math.isfinite(number) for number in given):
            raise ValueError(f"{self.name} is {self.value} +- {self.stderr}: a finding must be finite")

    def row(self) -> dict[str, Any]:
        """The finding as `evidence.json` holds it.

        `published` falls back on the independent value; `pass` is false for a miss alone.
        """
        beside = self.beside
        return {
            "name": self.name,
            "value": rounded(self.value),
            "published": rounded(beside.independent if beside.published is None else beside.published),
            "target": self.target,
            "pass": self.passed is not False,
            "unit": self.unit,
            "stderr": rounded(self.stderr),
            "independent": rounded(beside.independent),
            "source": beside.source,
        }


@dataclass(frozen=True, slots=True)
class Section:
    """What one section found."""

    findings: Sequence[Finding]
    #: Series for the pictures and for whoever wants to look further; lists and numbers only.
    curves: Mapping[str, Any] = field(default_factory=dict)


def near(
    name: str,
    value: float,
    stderr: float | None,
    to: float,
    allowed: float,
    unit: str,
    beside: Beside = NOTHING,
    why: str = "",
) -> Finding:
    """A figure that must lie within `allowed` of `to`."""
    off = f"{allowed:,.0f}" if allowed >= 100 else f"{allowed:.3g}"
    target = f"{to:,.6g} ± {off}" + (f" ({why})" if why else "")
    return Finding(name, value, unit, stderr, beside, target, abs(value - to) <= allowed)


def at_least(
    name: str, value: float, stderr: float | None, least: float, unit: str, beside: Beside = NOTHING, why: str = ""
) -> Finding:
    """A figure that must reach a number."""
    target = f"≥ {least:,.4g}" + (f" ({why})" if why else "")
    return Finding(name, value, unit, stderr, beside, target, value >= least)


def at_most(
    name: str, value: float, stderr: float | None, most: float, unit: str, beside: Beside = NOTHING, why: str = ""
) -> Finding:
    """A figure that must stay under a number."""
    target = f"≤ {most:,.4g}" + (f" ({why})" if why else "")
    return Finding(name, value, unit, stderr, beside, target, value <= most)


def shown(name: str, value: float, stderr: float | None, unit: str, beside: Beside = NOTHING) -> Finding:
    """A figure of which nothing is asked, because no source promises anything."""
    return Finding(name, value, unit, stderr, beside, "shown as measured", None)


def mean_of(values: ArrayLike) -> tuple[float, float]:
    """Return the mean of independent runs, at least 2, and its standard error."""
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim != 1 or runs.size < 2:
        raise ValueError(f"values has shape {runs.shape}: a standard error needs 2 independent runs or more")
    return float(runs.mean()), float(runs.std(ddof=1)) / math.sqrt(runs.size)


def share_error(share: float, runs: int) -> float:
    """Return the standard error of a share of `runs` runs whose true value is `share`."""
    return math.sqrt(share * (1.0 - share) / runs)


def rounded(value: float | None) -> float | None:
    """Five digits that count: what a program reads."""
    return None if value is None else float(f"{value:.5g}")
