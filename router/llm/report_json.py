"""A report as JSON, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.llm.report import Interval, IntervalPlot, Report, Table

#: Goes up when a key changes its meaning or goes away.
SCHEMA_VERSION: Final = 1


def render_json(report: Report) -> str:
    """Return a report as one JSON document, the same for the same report.

    A number that is not there, or not finite, is null: an interval without an estimate has three of them, one that is
    open on a side has a bound of null. Keys of `data` are sorted. Raises TypeError for a value that JSON cannot hold.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "summary": report.summary,
        "warnings": list(report.warnings),
        "facts": dict(report.facts),
        "plots": [_plot(plot) for plot in report.plots],
        "tables": [_table(table) for table in report.tables],
        "data": _plain(report.data, "data"),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode() + "\n"


def _plot(plot: IntervalPlot) -> dict[str, Any]:
    rows = [_interval(row) for row in plot.rows]
    return {"title": plot.title, "axis": plot.axis, "reference": _finite(plot.reference), "rows": rows}


def _interval(row: Interval) -> dict[str, Any]:
    estimate = _finite(row.estimate)
    lower, upper = (None, None) if estimate is None else (_finite(row.lower), _finite(row.upper))
    return {"label": row.label, "estimate": estimate, "lower": lower, "upper": upper, "n": int(row.n), "note": row.note}


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: Any, path: str) -> Any:
    """Return a value in JSON's own types."""
    if hasattr(value, "tolist"):
        # numpy's scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key], f"{path}.{key}") for key in sorted(value, key=str)}
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(one, f"{path}[{i}]") for i, one in enumerate(value)]
    raise TypeError(f"{path} is {type(value).__name__}: a report holds numbers, text, lists and mappings")
