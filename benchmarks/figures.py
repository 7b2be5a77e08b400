"""Figures: what was measured, beside its baseline, with what there was to reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.load import Measured


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    #: In the same unit; None where there is nothing to compare with.
    baseline: float | None
    #: What the target is about where it is a ratio, else value / baseline.
    ratio: float | None
    #: What there is to reach, in words.
    target: str
    #: How much of the target was reached: 1 is all of it, 2 is twice as good.
    score: float
    #: For the second file: percentiles, rounds, CPU.
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the target was reached."""
        return self.score >= 1

    def row(self) -> dict[str, Any]:
        """The figure as `bench.json` holds it."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "baseline": _rounded(self.baseline),
            "ratio": _rounded(self.ratio),
            "target": self.target,
            "pass": self.passed,
        }


def at_least(name: str, value: float, unit: str, least: float, **details: Any) -> Figure:
    """A figure that must reach a number."""
    return Figure(name, value, unit, None, None, f"≥ {least:,g} {unit}", value / least, details)


def at_most(name: str, value: float, unit: str, most: float, **details: Any) -> Figure:
    """A figure that must stay under a number."""
    return Figure(name, value, unit, None, None, f"≤ {most:,g} {unit}", most / value, details)


def ratio_at_least(name: str, value: float, unit: str, baseline: float, least: float, of: str, **details: Any) -> Figure:
    """A figure that must reach a part of its baseline."""
    ratio = value / baseline
    return Figure(name, value, unit, baseline, ratio, f"≥ {least:g} × {of}", ratio / least, details)


def ratio_at_most(name: str, value: float, unit: str, baseline: float, most: float, of: str, **details: Any) -> Figure:
    """A figure that must stay under a multiple of its baseline."""
    ratio = value / baseline
    return Figure(name, value, unit, baseline, ratio, f"≤ {most:g} × {of}", most / ratio, details)


def rate(rounds: Sequence[Measured]) -> float:
    """The median rate of some rounds, in calls a second."""
    return median(measured.rate for measured in rounds)


def latency_ms(rounds: Sequence[Measured], percentile: float) -> float:
    """The median over some rounds of a percentile of their latencies."""
    return median(measured.latency_ms(percentile) for measured in rounds)


def described(rounds: Sequence[Measured]) -> dict[str, Any]:
    """Rounds for the second file: rates, percentiles, and CPU microseconds a call by role."""
    roles = sorted({role for measured in rounds for role in measured.cpu_s})
    described: dict[str, Any] = {
        "rates_per_s": [round(measured.rate, 1) for measured in rounds],
        "latency_ms": {
            f"p{percentile:g}": [round(measured.latency_ms(percentile), 3) for measured in rounds]
            for percentile in (50, 90, 99, 99.9)
        },
        "samples": [len(measured.latencies_ns) for measured in rounds],
        "cpu_us_per_call": {
            role: round(median(measured.cpu_s.get(role, 0.0) * 1e6 / measured.calls for measured in rounds), 1)
            for role in roles
        },
        "cores_used": {
            role: round(median(measured.cpu_s.get(role, 0.0) / measured.seconds for measured in rounds), 2) for role in roles
        },
    }
    late = [measured.lateness_ns for measured in rounds if measured.lateness_ns.size]
    if late:
        described["sent_late_ms_p99"] = [
            round(float(lateness[int(0.99 * (lateness.size - 1))]) / 1e6, 3) for lateness in late
        ]
    return described


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
