"""A report as one HTML file: no script, nothing loaded from elsewhere, pictures inside it.

Pictures are SVG whose horizontal places are percentages, so that they fill any width while their text keeps its size.
Models write some of the text: everything is escaped, and the page forbids itself to run or load anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from router.llm.report import Interval, IntervalPlot, Report
from router.llm.report_axis import Axis, alternative_text, axis_of, has_estimate, interval_text, number, tick
from router.llm.report_text import shortened, visible

#: Per cent of the width left free on either side, for the numbers at the ends of the axis.
_MARGIN = 5.0
_HEAD, _LINE, _TRACK, _FOOT = 6, 18, 22, 40
#: As many characters as a telephone shows on a line.
_PHONE = 44


@dataclass(frozen=True, slots=True)
class _Row:
    """An interval, placed: heights in pixels from the top, x in per cent."""

    label: str
    numbers: str
    #: The height of the label and of the numbers; equal where both fit on a line.
    label_y: int
    numbers_y: int
    y: int
    #: None where there is nothing to draw.
    x: str | None
    low: str | None
    high: str | None


def render_html(report: Report) -> str:
    """Return the page. It fits telephones and paper, and follows the reader's choice of light or dark."""
    plots = [_picture(plot) for plot in report.plots]
    return str(_environment().get_template("report_page.html").render(report=report, plots=plots))


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("router.llm", package_path="")
    # Text from outside passes `visible` wherever the template prints it, then the escaping.
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )


def _finalize(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _picture(plot: IntervalPlot) -> dict[str, Any]:
    axis = axis_of(plot)
    rows, top = [], _HEAD
    for row in plot.rows:
        placed = _row(row, axis, top)
        rows.append(placed)
        top = placed.y + _TRACK - 4
    return {
        "plot": plot,
        "alt": alternative_text(plot),
        "rows": rows,
        "bottom": top,
        "height": top + _FOOT,
        "reference": None if plot.reference is None else _x(axis, plot.reference),
        "reference_text": number(plot.reference),
        "ticks": [(_x(axis, value), tick(value)) for value in axis.ticks],
    }


def _row(row: Interval, axis: Axis, top: int) -> _Row:
    numbers = f"{interval_text(row)}, n = {row.n:,}" + (f", {row.note}" if row.note else "")
    one_line = len(row.label) + len(numbers) <= _PHONE
    label_y = top + _LINE - 4
    numbers_y = label_y if one_line else label_y + _LINE
    drawn = has_estimate(row) and row.estimate is not None
    # NaN fails the comparison: without an interval only the point is drawn.
    ranged = drawn and row.lower <= row.upper
    return _Row(
        label=shortened(row.label, 60),
        numbers=numbers,
        label_y=label_y,
        numbers_y=numbers_y,
        y=numbers_y + 14,
        x=_x(axis, row.estimate) if drawn and row.estimate is not None else None,
        low=_x(axis, row.lower) if ranged else None,
        high=_x(axis, row.upper) if ranged else None,
    )


def _x(axis: Axis, value: float) -> str:
    return f"{_MARGIN + (100.0 - 2.0 * _MARGIN) * axis.share(value):.3f}%"
