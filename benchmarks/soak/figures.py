"""Figures of the soak: what was promised, what was measured, whether it held."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    target: str
    #: None where nothing was promised, or where this platform could not be asked.
    passed: bool | None
    #: What a reader of a broken promise wants to know.
    note: str = ""

    def row(self) -> dict[str, Any]:
        """The figure as `soak.json` holds it."""
        value = float(f"{self.value:.5g}")
        return {"name": self.name, "value": value, "unit": self.unit, "target": self.target, "pass": self.passed}


def none_of(name: str, value: float, unit: str, note: str = "") -> Figure:
    """Something that must not have happened."""
    return Figure(name, value, unit, "= 0", value == 0, note)


def at_most(name: str, value: float, unit: str, limit: float, note: str = "") -> Figure:
    """Something that must stay under a number."""
    return Figure(name, value, unit, f"≤ {limit:g}", value <= limit, note)


def at_least(name: str, value: float, unit: str, limit: float, note: str = "") -> Figure:
    """Something that must reach a number."""
    return Figure(name, value, unit, f"≥ {limit:g}", value >= limit, note)
