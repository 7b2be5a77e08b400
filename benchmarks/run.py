"""The command: which measurements there are, their order, their progress."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import growth, inprocess, lag, reward, route, shadow, start
from benchmarks.bench import SEED, Bench, Settings, bench
from benchmarks.figures import Figure
from benchmarks.load import MeasurementError
from benchmarks.machine import machine, versions
from benchmarks.report import Report

#: A load average above this means that somebody else is at work.
_BUSY = 0.5
#: Of the table, where the output is no terminal.
_WIDTH = 140
MEASUREMENTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "route": route.unary,
    "pairs": route.pairs,
    "mixed": route.mixed,
    "batch-route": route.batch,
    "reward": reward.unary,
    "batch-reward": reward.batch,
    "lag": lag.learning,
    "decision": inprocess.decision,
    "compile": inprocess.compiling,
    "growth": growth.growth,
    "start": start.first_answer,
    "shadow": shadow.mirroring,
}


def main(arguments: Sequence[str]) -> int:
    """Run; 0 even where a target is missed, which the report says, and 1 where a measurement failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="this measurement; may be repeated")
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the router and of the echo")
    parser.add_argument("--output", type=Path, default=Path("build"), help="directory of the report")
    options = parser.parse_args(arguments)
    settings = Settings.of(quick=options.quick, seed=options.seed, workers=options.workers)
    # A stopped run stops its servers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    before = machine()
    load_average = before["load_average_before"]
    if load_average > _BUSY:
        busy = f"load average {load_average:.1f}: other programs keep this machine busy, and the figures will be off"
        console.print(busy, style="yellow", highlight=False)
    began = time.monotonic()
    figures, failures, postgres = _measure(options.only or list(MEASUREMENTS), settings, options.output, console)
    report = Report(
        figures=figures,
        failures=failures,
        settings={"command": " ".join(["python -m benchmarks", *arguments]), **asdict(settings)},
        machine=before,
        versions=versions(),
        postgres=postgres,
        seconds=time.monotonic() - began,
    )
    report.write(options.output)
    report.show(console)
    console.print(f"{report.seconds:.0f} s; report: {options.output}/bench.md, bench.png, bench.json, bench-details.json")
    return 1 if failures else 0


def _measure(
    names: Sequence[str], settings: Settings, output: Path, console: Console
) -> tuple[list[Figure], dict[str, str], dict[str, str]]:
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    began = time.monotonic()
    columns = (SpinnerColumn(), BarColumn(24), TextColumn("{task.completed:.0f} of {task.total:.0f}: {task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(names))

        def say(what: str) -> None:
            progress.update(task, description=what)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - began:6.1f} s  {what}", highlight=False)

        with bench(settings, say) as context:
            for name in names:
                try:
                    found = MEASUREMENTS[name](context)
                    context.verify()
                    figures += found
                except Exception as error:  # whatever it is, the other measurements can go on
                    failures[name] = str(error) or repr(error)
                    if not isinstance(error, MeasurementError):
                        console.print_exception()
                    console.print(f"{name} failed: {failures[name]}", style="red", markup=False, highlight=False)
                    context.abandon(output / f"bench-{name}.log")
                progress.advance(task)
            return figures, failures, context.postgres
