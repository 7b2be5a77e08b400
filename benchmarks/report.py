"""The report: a table on the terminal and in `bench.md`, two files for programs, and a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure

_METHOD = (
    "Each figure and its baseline are measured in the same run, in turn, round by round; figures are medians over the rounds"
    " and ratios are ratios of medians. Every call's grpc-status is looked at, and after each measurement Postgres must hold"
    " exactly what was acknowledged. How to read this: docs/benchmarks.md."
)


@dataclass(frozen=True, slots=True)
class Report:
    """A run's figures and what they were measured with."""

    figures: Sequence[Figure]
    #: What went wrong, by measurement.
    failures: Mapping[str, str]
    #: The command's arguments, the seed, rounds and their length.
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    postgres: Mapping[str, str]
    seconds: float

    def write(self, directory: Path) -> None:
        """Write the files, the picture among them."""
        from benchmarks.picture import draw  # matplotlib takes a second to import

        directory.mkdir(parents=True, exist_ok=True)
        _dump(directory / "bench.json", [figure.row() for figure in self.figures])
        details = {
            "method": _METHOD,
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
            "postgres": self.postgres,
            "seconds": round(self.seconds),
            "failures": self.failures,
            "figures": {figure.name: figure.details for figure in self.figures if figure.details},
        }
        _dump(directory / "bench-details.json", details)
        (directory / "bench.md").write_text(self.markdown())
        picture = directory / "bench.png"
        picture.unlink(missing_ok=True)
        if self.figures:
            draw(self, picture)

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=self.headline)
        for column in ("figure", "value", "baseline", "ratio", "to reach", ""):
            table.add_column(column, justify="right" if column in ("value", "baseline", "ratio") else "left")
        for figure in self.figures:
            style = "" if figure.passed else "red"
            table.add_row(*_cells(figure), "reached" if figure.passed else "MISSED", style=style)
        console.print(table)
        for name, why in self.failures.items():
            console.print(f"NOT MEASURED: {name}: {why}", style="red", markup=False, highlight=False)

    @property
    def headline(self) -> str:
        """How it went, in one line."""
        missed = sum(not figure.passed for figure in self.figures)
        line = f"{len(self.figures)} figures: {len(self.figures) - missed} reach their target, {missed} miss it"
        return line + (f"; {len(self.failures)} measurements failed" if self.failures else "")

    def markdown(self) -> str:
        """Return the whole report as Markdown."""
        lines = ["# Benchmarks", "", f"{self.headline}.", "", _METHOD, ""]
        if self.settings.get("quick"):
            lines += ["**A quick run: rounds are too short for these figures to be quoted.**", ""]
        lines += [f"**Not measured: {name}.** {why}\n" for name, why in self.failures.items()]
        lines += ["| Figure | Value | Baseline | Ratio | To reach | |", "|---|--:|--:|--:|---|---|"]
        for figure in self.figures:
            lines.append(f"| {' | '.join(_cells(figure))} | {'reached' if figure.passed else '**missed**'} |")
        lines += ["", "## Loads", ""]
        lines += ["Rates of each round; medians over the rounds of the rest. CPU time is user and system, of all processes"]
        lines += ["of a role; the generator is the client that makes the load.", ""]
        lines += [
            "| Load | Rates, /s | p50, ms | p90, ms | p99, ms | p99.9, ms | CPU, µs a call |",
            "|---|---|--:|--:|--:|--:|---|",
        ]
        lines += [_load_row(name, load) for name, load in self._loads()]
        about = (("Machine", self.machine), ("Versions", self.versions), ("Postgres", self.postgres), ("Run", self.settings))
        for title, values in about:
            lines += ["", f"## {title}", ""] + [f"- {name}: {value}" for name, value in values.items()]
        return "\n".join([*lines, f"- seconds in all: {self.seconds:.0f}", ""])

    def _loads(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            (f"{figure.name.rpartition(':')[0] or figure.name}, {part}", load)
            for figure in self.figures
            for part, load in figure.details.items()
            if isinstance(load, Mapping) and "rates_per_s" in load
        ]


def _cells(figure: Figure) -> tuple[str, str, str, str, str]:
    return (
        figure.name,
        f"{number(figure.value)} {figure.unit}",
        "" if figure.baseline is None else number(figure.baseline),
        "" if figure.ratio is None else f"{figure.ratio:.3g}",
        figure.target,
    )


def _load_row(name: str, load: Mapping[str, Any]) -> str:
    latencies = [sorted(values)[len(values) // 2] for values in load["latency_ms"].values()]
    rates = ", ".join(number(rate) for rate in load["rates_per_s"])
    cpu = ", ".join(f"{role} {us:.0f}" for role, us in load["cpu_us_per_call"].items() if us >= 1)
    return f"| {name} | {rates} | {' | '.join(number(ms) for ms in latencies)} | {cpu} |"


def number(value: float) -> str:
    """Write a number with three digits that count, or all that are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
