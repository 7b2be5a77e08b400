"""The command: which sections there are, their order, their progress."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.evidence import coverage, delay, drift, lai_robbins, offpolicy, outcomes, stopping, top_two
from benchmarks.evidence.lab import SEED, Lab, processes
from benchmarks.evidence.report import Report
from benchmarks.machine import machine, versions

SECTIONS: dict[str, ModuleType] = {
    "delay": delay,
    "lai-robbins": lai_robbins,
    "stopping": stopping,
    "top-two": top_two,
    "drift": drift,
    "coverage": coverage,
    "offpolicy": offpolicy,
    "outcomes": outcomes,
}
#: Of the tables, where the output is no terminal.
_WIDTH = 170


def main(arguments: Sequence[str]) -> int:
    """Run; 0 if every section ran and no target is missed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few runs, for development; targets may be missed")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; figures do not depend on it")
    parser.add_argument(
        "--output",
        type=Path,
        help="directory of the report: build, or build/evidence-part of a quick run or of some sections",
    )
    options = parser.parse_args(arguments)
    names = [name for name in SECTIONS if name in (options.only or SECTIONS)]
    if options.output is None:
        # Programs take build/evidence.json for the whole of the evidence.
        whole = len(names) == len(SECTIONS) and not options.quick
        options.output = Path("build") if whole else Path("build", "evidence-part")
    # A stopped run stops its workers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    report = Report(
        about={name: module.__doc__ or "" for name, module in SECTIONS.items()},
        settings={
            "command": " ".join(["python -m benchmarks.evidence", *arguments]),
            "seed": options.seed,
            "quick": options.quick,
            "workers": options.workers,
        },
        machine=machine(),
        versions=versions(),
        planned=names,
    )
    _measure(names, report, options, console)
    report.show(console)
    seconds = sum(report.seconds.values())
    console.print(f"{seconds:.0f} s; report: {options.output}/evidence.md, evidence/, evidence.json, evidence-details.json")
    return 0 if report.complete else 1


def _measure(names: Sequence[str], report: Report, options: argparse.Namespace, console: Console) -> None:
    columns = (
        SpinnerColumn(),
        BarColumn(24),
        TextColumn("{task.percentage:.0f} %: {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        progress = _Progress(console, bar, len(names))
        for name in names:
            began, progress.processor_s = time.monotonic(), 0.0
            try:
                # Processes of its own: what kills them costs this section alone.
                with processes(options.workers) as executor:
                    lab = Lab(
                        options.seed, options.quick, progress.say, progress.advance, executor, progress.spend, section=name
                    )
                    report.sections[name] = SECTIONS[name].measure(lab)
            except Exception as error:  # whatever it is, the other sections can go on
                report.failures[name] = str(error) or repr(error)
                console.print_exception()
                console.print(f"{name} failed: {report.failures[name]}", style="red", markup=False, highlight=False)
            report.seconds[name], report.processor_s[name] = time.monotonic() - began, progress.processor_s
            report.write(options.output)
            progress.section_done()


@dataclass(slots=True)
class _Progress:
    """A bar on a terminal; elsewhere a line for each thing that is begun, and for each quarter of it."""

    console: Console
    bar: Progress
    sections: int
    began: float = field(default_factory=time.monotonic)
    what: str = ""
    done: int = 0
    #: Of the jobs of this section.
    processor_s: float = 0.0

    def __post_init__(self) -> None:
        self.bar.add_task("", total=self.sections)

    def say(self, what: str) -> None:
        """Tell what is begun."""
        self.what = what
        self._tell(what)

    def advance(self, done: int, of: int) -> None:
        """Tell how many jobs of it are done."""
        self.bar.update(self.bar.task_ids[0], description=f"{self.what}: {done} of {of}")
        if 4 * done // of > 4 * (done - 1) // of and done < of:
            self._line(f"{self.what}: {done} of {of}")

    def spend(self, seconds: float) -> None:
        """Tell the processor time of a job."""
        self.processor_s += seconds

    def section_done(self) -> None:
        """Tell that a section is done."""
        self.done += 1
        self.bar.update(self.bar.task_ids[0], completed=self.done)

    def _tell(self, what: str) -> None:
        self.bar.update(self.bar.task_ids[0], description=what)
        self._line(what)

    def _line(self, what: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"{time.monotonic() - self.began:6.1f} s  {what}", highlight=False, markup=False)
