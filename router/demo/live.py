"""What a demo shows while it runs: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from router.demo.data import Baselines

#: Plain output has a line for about so many decisions.
_LINE_EVERY = 500
#: Cells of the drawings; narrow terminals get small ones.
_WIDE = 104
_DRAWING, _SMALL_DRAWING = 28, 16
_BAR, _SMALL_BAR = 12, 0
_SMALL_NAME = 22


@dataclass(frozen=True, slots=True)
class Standing:
    """One arm at a moment."""

    arm_id: str
    #: Decisions so far.
    chosen: int
    #: Its propensity now.
    allocation: float
    #: Outcomes counted.
    n: int
    mean: float
    #: The 95 % interval.
    lower: float
    upper: float
    probability_best: float


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a demo is."""

    standings: Sequence[Standing]
    decisions: int
    total: int
    #: Feedback messages acknowledged.
    events: int
    average_reward: float
    policy_version: int
    seconds: float

    @property
    def rate(self) -> float:
        """Decisions a second since the start."""
        return self.decisions / self.seconds if self.seconds > 0 else 0.0


class View(Protocol):
    """Shows moments."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, moment: Moment) -> None:
        """Show this one, if it is time."""


class PlainView:
    """A line every few hundred decisions."""

    def __init__(self, console: Console, baselines: Baselines) -> None:
        self._console = console
        self._baselines = baselines
        self._next = _LINE_EVERY
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def show(self, moment: Moment) -> None:
        """Print a line if enough decisions were made since the last, or all of them."""
        last = moment.decisions >= moment.total
        if self._ended or (moment.decisions < self._next and not last):
            return
        self._ended = last
        self._next = moment.decisions - moment.decisions % _LINE_EVERY + _LINE_EVERY
        leader = max(moment.standings, key=lambda standing: standing.probability_best)
        self._console.print(
            f"{moment.decisions:>6,} of {moment.total:,} decisions  {moment.rate:5,.0f}/s  average reward"
            f" {moment.average_reward:.3f} (uniform {self._baselines.uniform:.3f})  leading {leader.arm_id}:"
            f" {leader.mean:.3f} [{leader.lower:.3f}, {leader.upper:.3f}], P(best) {leader.probability_best:.2f}",
            highlight=False,
            soft_wrap=True,
        )


class LiveView:
    """A table that is drawn anew several times a second."""

    def __init__(self, console: Console, baselines: Baselines, title: str) -> None:
        self._baselines = baselines
        self._title = title
        self._live = Live(console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, moment: Moment) -> None:
        """Draw the table."""
        self._live.update(drawn(moment, self._baselines, self._title, self._live.console.width))


def drawn(moment: Moment, baselines: Baselines, title: str, width: int) -> RenderableType:
    """Return the picture of a moment for a terminal of `width` cells."""
    numbers = Text.assemble(
        ("average reward ", "dim"),
        (f"{moment.average_reward:.3f}", "bold green"),
        (f"   uniform {baselines.uniform:.3f}   best fixed arm {baselines.best_fixed:.3f}", "dim"),
        (f"   {moment.rate:,.0f} decisions/s   {moment.events:,} events   policy {moment.policy_version:,}", "dim"),
    )
    progress = Table.grid(padding=(0, 1))
    progress.add_row(
        ProgressBar(total=moment.total, completed=moment.decisions, width=min(60, width - 30)),
        f"{moment.decisions:,} of {moment.total:,} decisions",
    )
    return Group(Rule(title, align="left", style="cyan"), progress, numbers, standings_table(moment.standings, width))


def standings_table(standings: Sequence[Standing], width: int) -> Table:
    """Return the arms with their traffic and their posteriors drawn on one scale, for a terminal of `width` cells."""
    wide = width >= _WIDE
    drawing, bar = (_DRAWING, _BAR) if wide else (_SMALL_DRAWING, _SMALL_BAR)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("arm", no_wrap=True, max_width=None if wide else _SMALL_NAME)
    table.add_column("chosen", justify="right", no_wrap=True)
    table.add_column("traffic now" if wide else "now", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column(f"0{'95 % interval' if wide else '95 %':^{drawing - 2}}1", no_wrap=True)
    table.add_column("P(best)", justify="right", no_wrap=True)
    leader = max(standings, key=lambda standing: standing.probability_best)
    for standing in standings:
        filled = "█" * round(standing.allocation * bar)
        table.add_row(
            standing.arm_id,
            f"{standing.chosen:,}",
            Text.assemble((f"{filled:<{bar}}", "cyan"), f"{standing.allocation:6.1%}"),
            f"{standing.mean:.3f}",
            Text(
                interval(standing.lower, standing.mean, standing.upper, drawing),
                style="green" if standing is leader else "yellow",
            ),
            f"{standing.probability_best:.3f}",
            style="bold" if standing is leader else "",
        )
    return table


def interval(lower: float, mean: float, upper: float, cells: int) -> str:
    """Draw an interval in [0, 1] and its mean on so many cells of text."""
    first, middle, last = (min(int(value * cells), cells - 1) for value in (lower, mean, upper))
    line = [" "] * cells
    line[first : last + 1] = "─" * (last + 1 - first)
    line[middle] = "●"
    return "".join(line)


class Stopwatch:
    """Seconds of named stretches of work."""

    def __init__(self) -> None:
        self._started = self._lap = time.monotonic()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> float:
        """Name the time since the last lap, and return it."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._lap, 3)
        self._lap = now
        return self.seconds[name]

    def total(self) -> float:
        """Return the seconds since the start."""
        return round(time.monotonic() - self._started, 3)
