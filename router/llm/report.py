"""Reports: what a judge run or an offline evaluation found, for terminals, programs and browsers alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled estimate."""

    label: str
    #: None where there is nothing to tell it from.
    estimate: float | None
    lower: float
    upper: float
    n: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """Estimates with their intervals, one below the other."""

    title: str
    rows: Sequence[Interval]
    #: Where no difference lies, for example 0 or .5; None for none.
    reference: float | None = None
    #: What the axis shows, with its unit.
    axis: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text, numbers already formatted."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    title: str
    #: The finding in a sentence.
    summary: str
    #: What it rests on: settings and counts, in order.
    facts: Mapping[str, str]
    plots: Sequence[IntervalPlot] = ()
    tables: Sequence[Table] = ()
    #: What makes the finding worth less.
    warnings: Sequence[str] = ()
    #: Every number behind it, as JSON has them.
    data: Mapping[str, Any] = field(default_factory=dict)
