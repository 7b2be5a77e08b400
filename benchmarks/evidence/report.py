"""The report: tables on the terminal and in `evidence.md`, pictures, `evidence.json`, and the curves behind them.

Written anew after each section, so that a run that is stopped leaves what it found.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.evidence.findings import Finding, Section
from benchmarks.report import number

_METHOD = (
    "Each figure of ours is beside what was published or found independently, with its standard error (±) and what it must"
    " satisfy. Figures that are only shown ask for nothing; `pass` is true for them in `evidence.json`."
    " Streams of random numbers do not depend on the number of cores."
)
COLUMNS = ("Figure", "Ours", "±", "Published", "Independent", "Must be", "")


@dataclass(slots=True)
class Report:
    """A run's sections and what they were made with."""

    #: What each section is about: its module's docstring.
    about: Mapping[str, str]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    #: Names of the sections that this run is to have.
    planned: Sequence[str]
    sections: dict[str, Section] = field(default_factory=dict)
    #: What went wrong, by section.
    failures: dict[str, str] = field(default_factory=dict)
    #: How long each section took, and the processor time of its jobs.
    seconds: dict[str, float] = field(default_factory=dict)
    processor_s: dict[str, float] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All findings, in the order of the sections."""
        return [finding for section in self.sections.values() for finding in section.findings]

    @property
    def complete(self) -> bool:
        """Whether no section failed and no target is missed."""
        return not self.failures and all(finding.passed is not False for finding in self.findings)

    @property
    def headline(self) -> str:
        """How it went, in one line."""
        results = [finding.passed for finding in self.findings]
        line = f"{len(results)} figures: {results.count(True)} as they must be, {results.count(False)} missed"
        line += f", {results.count(None)} shown"
        return line + (f"; {len(self.failures)} sections failed" if self.failures else "")

    def write(self, directory: Path) -> None:
        """Write the files."""
        from benchmarks.evidence.pictures import draw  # matplotlib takes a second to import

        directory.mkdir(parents=True, exist_ok=True)
        missing = [self._missing(name) for name in self.planned if name not in self.sections]
        _dump(directory / "evidence.json", [finding.row() for finding in self.findings] + missing)
        details = {
            "method": _METHOD,
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "processor_seconds": {name: round(seconds, 1) for name, seconds in self.processor_s.items()},
            "failures": self.failures,
            "curves": {name: section.curves for name, section in self.sections.items()},
        }
        _dump(directory / "evidence-details.json", details)
        pictures = directory / "evidence"
        pictures.mkdir(exist_ok=True)
        drawn = draw(self.sections, pictures)
        (directory / "evidence.md").write_text(self.markdown(drawn), encoding="utf-8")

    def _missing(self, name: str) -> dict[str, Any]:
        """The row of a section without findings: what is not there must not look as if it passed."""
        why = self.failures.get(name, "it has not run yet")
        row: dict[str, Any] = dict.fromkeys(("value", "published", "unit", "stderr", "independent", "source"))
        return {"name": f"section {name}", **row, "target": f"runs to its end: {why}", "pass": False}

    def show(self, console: Console) -> None:
        """Print the tables."""
        for name, section in self.sections.items():
            table = Table(title=f"{name}, {self.seconds.get(name, 0.0):.0f} s", title_justify="left")
            for column in COLUMNS:
                table.add_column(column, justify="left" if column in ("Figure", "Must be", "") else "right")
            for finding in section.findings:
                table.add_row(*cells(finding), style="red" if finding.passed is False else "")
            console.print(table)
        for name, why in self.failures.items():
            console.print(f"SECTION FAILED: {name}: {why}", style="red", markup=False, highlight=False)
        console.print(self.headline, style="green" if self.complete else "red", highlight=False)

    def markdown(self, drawn: Mapping[str, str]) -> str:
        """Return the whole report as Markdown; `drawn` has the picture of a section, relative to the report."""
        lines = ["# Evidence that the statistics are right", "", f"{self.headline}.", "", _METHOD, ""]
        if self.settings.get("quick"):
            lines += ["**A quick run: too few repetitions for these figures to be quoted.**", ""]
        lines += [f"**Section failed: {name}.** {why}\n" for name, why in self.failures.items()]
        for name, section in self.sections.items():
            lines += [f"## {name}", "", "```text", self.about[name].strip(), "```", ""]
            lines += [*rows(section.findings), ""]
            if name in drawn:
                lines += [f"![{name}]({drawn[name]})", ""]
        for title, values in (("Machine", self.machine), ("Versions", self.versions), ("Run", self.settings)):
            lines += [f"## {title}", "", *(f"- {name}: {value}" for name, value in values.items()), ""]
        return "\n".join([*lines, *self.times(), ""])

    def times(self) -> list[str]:
        """Return how long each section took, as a list of Markdown."""
        return [
            f"- {name}: {seconds:.0f} s, {self.processor_s.get(name, 0.0):.0f} s of a core"
            for name, seconds in self.seconds.items()
        ]


def rows(findings: Sequence[Finding]) -> list[str]:
    """Return findings as a table of Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|--:|--:|--:|--:|---|---|"]
    return lines + [f"| {' | '.join(cells(finding))} |" for finding in findings]


def cells(finding: Finding) -> tuple[str, ...]:
    """Return a finding as the cells of a table."""
    beside = finding.beside
    return (
        finding.name,
        f"{figure(finding.value)} {finding.unit}".strip(),
        "" if finding.stderr is None else number(finding.stderr),
        "" if beside.published is None else figure(beside.published),
        "" if beside.independent is None else figure(beside.independent),
        finding.target,
        {True: "yes", False: "MISSED", None: "shown"}[finding.passed],
    )


def figure(value: float) -> str:
    """Write a figure with four digits that count, or all that are before the point."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
