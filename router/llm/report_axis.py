"""The axis of an interval plot: its range, its ticks, and numbers as people read them. What has no value is said so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from router.llm.report import Interval, IntervalPlot

NO_ESTIMATE = "no estimate"


@dataclass(frozen=True, slots=True)
class Axis:
    """What a plot spans."""

    low: float
    high: float
    ticks: Sequence[float]

    def share(self, value: float) -> float:
        """Where a value lies, from 0 (the left end) to 1; what lies beyond an end is drawn at it."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis_of(plot: IntervalPlot) -> Axis:
    """Return an axis that holds every finite number of a plot and its reference; 0 to 1 if there is none."""
    values = [value for row in plot.rows if has_estimate(row) for value in (row.estimate, row.lower, row.upper)]
    finite = [value for value in [*values, plot.reference] if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    # A single value gets room on both sides; so does a range too small for doubles to divide.
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):
        room = 0.5 * (abs(low) or 1.0)
        low, high = low - room, high + room
    step = _step((high - low) / 4.0)
    # Half a step of room at most: an interval that ends close to a tick ends the axis there.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return Axis(min(low, ticks[0]), max(high, ticks[-1]), ticks)


def has_estimate(row: Interval) -> bool:
    """Whether there is a number to draw."""
    return row.estimate is not None and math.isfinite(row.estimate)


def number(value: float | None) -> str:
    """Return a number for people: three decimals where that says something, else three digits."""
    if value is None or math.isnan(value):
        return NO_ESTIMATE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0.0 or 0.00995 <= abs(value) < 1_000.0:
        # Rounding may leave a zero with a sign.
        return f"{value:.3f}".replace("-0.000", "0.000")
    return f"{value:.3g}" if abs(value) < 1_000.0 else f"{value:,.0f}"


def tick(value: float) -> str:
    """Return the number at a tick."""
    return f"{value:.6g}"


def interval_text(row: Interval) -> str:
    """Return an estimate with its interval, as in "0.500 [0.400, 0.600]"."""
    if not has_estimate(row):
        return NO_ESTIMATE
    known = not (math.isnan(row.lower) or math.isnan(row.upper))
    return number(row.estimate) + (f" [{number(row.lower)}, {number(row.upper)}]" if known else " (no interval)")


def alternative_text(plot: IntervalPlot) -> str:
    """Return a plot in words, for those who cannot see it."""
    rows = [
        f"{row.label}: {interval_text(row)}, n = {row.n:,}" + (f" ({row.note})" if row.note else "") for row in plot.rows
    ]
    reference = "" if plot.reference is None else f" The reference line is at {number(plot.reference)}."
    return f"{plot.title}. " + "; ".join(rows) + "." + reference


def _step(least: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1.0 - 1e-9))
