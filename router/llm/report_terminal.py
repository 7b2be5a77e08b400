"""A report on a terminal, of any width."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from router.llm.report import Interval, IntervalPlot, Report, Table
from router.llm.report_axis import Axis, axis_of, has_estimate, interval_text, number, tick
from router.llm.report_text import visible

#: Below this many cells a bar says less than it takes.
_LEAST_BAR = 20
_LONGEST_BAR = 60


def render_terminal(report: Report, console: Console) -> None:
    """Print a report. On narrow terminals intervals are numbers only, and tables fold their cells."""

    def say(text: str = "", style: str = "") -> None:
        console.print(Text(visible(text), style=style))

    say(report.title, "bold")
    say(report.summary)
    for warning in report.warnings:
        say(f"warning: {warning}", "yellow")
    if report.facts:
        say()
        console.print(_facts(report))
    for plot in report.plots:
        say()
        console.print(_plot(plot, console))
    for table in report.tables:
        say()
        say(table.title, "bold")
        if table.rows:
            console.print(_table(table))
        else:
            say("nothing", "dim")


def _facts(report: Report) -> RichTable:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    for name, value in report.facts.items():
        grid.add_row(Text(visible(name)), Text(visible(value)))
    return grid


def _plot(plot: IntervalPlot, console: Console) -> RichTable:
    ascii_only = console.options.ascii_only
    labels = max((len(line) for row in plot.rows for line in visible(row.label).split("\n")), default=0)
    numbers = max((len(interval_text(row)) + len(f"  n = {row.n:,}") for row in plot.rows), default=0)
    room = console.width - min(labels, console.width // 3) - numbers - 4
    bar = min(_LONGEST_BAR, room) if room >= _LEAST_BAR else 0
    grid = RichTable.grid(padding=(0, 2))
    grid.title, grid.title_justify, grid.title_style = Text(visible(plot.title), style="bold"), "left", ""
    grid.add_column(overflow="fold")
    if bar:
        grid.add_column(min_width=bar, no_wrap=True)
    grid.add_column(overflow="fold")
    axis = axis_of(plot)
    for row in plot.rows:
        note = f"\n{row.note}" if row.note else ""
        counted = Text.assemble(interval_text(row), (f"  n = {row.n:,}", "dim"), (visible(note), "yellow"))
        drawn = [_bar(row, axis, plot.reference, bar, ascii_only)] if bar else []
        grid.add_row(Text(visible(row.label)), *drawn, counted)
    under = f"{tick(axis.low)}{tick(axis.high):>{max(1, bar - len(tick(axis.low)))}}"
    if bar:
        grid.add_row("", Text(under, style="dim"), Text(visible(plot.axis), style="dim"))
    elif plot.axis:
        grid.add_row("", Text(visible(plot.axis), style="dim"))
    if plot.reference is not None:
        grid.caption = Text(f"{':' if ascii_only else '┊'} {number(plot.reference)}", style="dim")
        grid.caption_justify = "left"
    return grid


def _bar(row: Interval, axis: Axis, reference: float | None, width: int, ascii_only: bool) -> Text:
    left, line, right, point, mark = "|-|o:" if ascii_only else "├─┤●┊"

    def cell(value: float) -> int:
        return round(axis.share(value) * (width - 1))

    cells = [" "] * width
    if reference is not None:
        cells[cell(reference)] = mark
    if has_estimate(row) and row.estimate is not None:
        # NaN fails the comparison: without an interval only the point is drawn.
        if row.lower <= row.upper:
            low, high = cell(row.lower), cell(row.upper)
            cells[low : high + 1] = [line] * (high - low + 1)
            cells[low], cells[high] = left, right
        cells[cell(row.estimate)] = point
    return Text("".join(cells), style="cyan")


def _table(table: Table) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(table.columns):
        numeric = place > 0 and all(_numeric(row[place]) for row in table.rows if place < len(row))
        drawn.add_column(Text(visible(name)), overflow="fold", justify="right" if numeric else "left")
    for row in table.rows:
        drawn.add_row(*(Text(visible(cell)) for cell in row))
    return drawn


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-+$" or cell in ("no estimate", "unknown")
