"""The command: every fault in turn, its progress, and the report."""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.soak import clock, fault, faults, replays
from benchmarks.soak.fault import Fault
from benchmarks.soak.figures import Figure
from benchmarks.soak.stage import Stage, Volume, VolumeRefusedError, other_postgres, own_postgres

#: A run of this many minutes has faults as long as they are in short runs, twice over, and a thousand events around each.
_MINUTES = 8.0
_EVENTS = 1_500
_CONNECTIONS = {"max_connections": "60"}
#: Of a volume for Postgres: a new cluster takes 160 at least.
_POSTGRES_MB, _SPOOL_MB = 256, 16
_SMALL_LOG = {"max_wal_size": "48MB", "min_wal_size": "32MB"}


@dataclass(slots=True)
class Run:
    """One soak."""

    minutes: float
    directory: Path
    console: Console
    say: Callable[[str], None]
    only: Sequence[str]
    figures: list[Figure] = field(default_factory=list)
    #: What could not be run, and why.
    broken: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    acknowledged: int = 0
    #: Seconds under load.
    loaded_s: float = 0.0
    faults: int = 0

    @property
    def scale(self) -> float:
        """How much longer than the usual this run may take."""
        return self.minutes / _MINUTES

    def wants(self, *names: str) -> bool:
        """Whether one of these faults is asked for."""
        return not self.only or any(word in name for word in self.only for name in names)

    def put(self, stage: Stage, chosen: Sequence[Fault]) -> None:
        """Run faults one after another on one stage."""
        for broken in chosen:
            if not self.wants(broken.name):
                continue
            self.say(broken.name)
            self.faults += 1
            try:
                seen = fault.run(broken, stage, events=max(100, int(_EVENTS * self.scale)), longer=max(1.0, 2 * self.scale))
                self.add(fault.figures_of(broken, seen))
            except Exception as error:
                # The stage may be in any state: the next faults need another.
                self.broken[broken.name] = f"{error}\n{stage.service.end_of_log()}"
                self.add([Figure(f"{broken.name}: survived", 0, "", "= 1", False, str(error).splitlines()[0])])
                raise
            self.calls += len(seen.ledger.calls)
            self.acknowledged += seen.balance.acknowledged
            self.loaded_s += seen.ended_at - min(call.began for call in seen.ledger.calls)

    def add(self, figures: Sequence[Figure]) -> None:
        """Take figures into the report, and say them."""
        self.figures += figures
        for figure in figures:
            mark = {True: "[green]yes[/]", False: "[red]NO [/]", None: "[yellow]-  [/]"}[figure.passed]
            self.console.print(f"  {mark} {figure.name}: {figure.value:,.4g} {figure.unit} ({figure.target}) {figure.note}")


def processes(run: Run) -> None:
    """Faults of our own processes."""
    with own_postgres(run.directory / "own") as stage:
        run.put(stage, faults.OF_PROCESSES)


def postgres(run: Run) -> None:
    """Faults of a Postgres that is somebody else's."""
    with other_postgres(run.directory / "other", _CONNECTIONS) as stage:
        run.put(stage, faults.OF_POSTGRES)


def disk_of_postgres(run: Run) -> None:
    """Its file system is full."""
    with (
        Volume(run.directory / "volume", _POSTGRES_MB) as volume,
        other_postgres(run.directory / "full", {**_CONNECTIONS, **_SMALL_LOG}, volume=volume.path) as stage,
    ):
        run.put(stage, [faults.DISK_OF_POSTGRES])


def disk_of_spool(run: Run) -> None:
    """The spool's file system is full."""
    with (
        Volume(run.directory / "spooled" / "data" / "spool", _SPOOL_MB) as volume,
        other_postgres(run.directory / "spooled", _CONNECTIONS) as stage,
    ):
        stage.volume = volume.path
        run.put(stage, [faults.DISK_OF_SPOOL])


def feedback(run: Run) -> None:
    """Feedback in any order, any number of times, and under a clock that steps."""
    with other_postgres(run.directory / "feedback", _CONNECTIONS) as stage:
        measures: dict[str, Callable[[], list[Figure]]] = {
            "duplicate storm": partial(replays.storm, stage, events=max(200, int(500 * run.scale))),
            "hour replayed": partial(replays.out_of_order, stage, decisions=max(2_000, int(20_000 * run.scale))),
            "clock stepping back": partial(clock.stepping_back, stage, run.directory / "clock", decisions=500),
        }
        for name, measure in measures.items():
            if run.wants(name):
                run.say(name)
                run.faults += 1
                run.add(measure())


_PARTS: dict[Callable[[Run], None], tuple[str, ...]] = {
    processes: tuple(one.name for one in faults.OF_PROCESSES),
    postgres: tuple(one.name for one in faults.OF_POSTGRES),
    disk_of_postgres: (faults.DISK_OF_POSTGRES.name,),
    disk_of_spool: (faults.DISK_OF_SPOOL.name,),
    feedback: ("duplicate storm", "hour replayed", "clock stepping back"),
}


def main(arguments: Sequence[str]) -> int:
    """Run; 1 if a promise was broken or a fault could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="about how long to run, 8 by default")
    parser.add_argument("--only", action="append", default=[], help="faults with this in their name; may be repeated")
    parser.add_argument("--output", type=Path, default=Path("build"))
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    began = time.monotonic()
    with _progress(console) as say, tempfile.TemporaryDirectory(prefix="bandit-router-soak-") as directory:
        run = Run(options.minutes, Path(directory), console, say, options.only)
        for part, names in _PARTS.items():
            if not run.wants(*names):
                continue
            try:
                part(run)
            except VolumeRefusedError as error:
                console.print(f"[yellow]skipped: {', '.join(names)}: {error}[/]")
                run.add([Figure(f"{name}: skipped", 0, "", str(error), None) for name in names])
            except Exception as error:
                run.broken.setdefault(", ".join(names), str(error))
    _report(run, options.output, time.monotonic() - began)
    return int(bool(run.broken) or any(figure.passed is False for figure in run.figures))


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    total = sum(map(len, _PARTS.values()))
    columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.completed:.0f}/{task.total:.0f} {task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("starting", total=total, completed=-1)

        def say(what: str) -> None:
            progress.update(task, advance=1, description=what)
            console.print(what, style="bold")

        yield say


def _report(run: Run, output: Path, seconds: float) -> None:
    if run.loaded_s:
        rate = run.calls / run.loaded_s
        held = [
            Figure("load held", rate, "calls/s", "", None),
            Figure("events acknowledged", run.acknowledged, "events", "", None),
        ]
        run.figures[:0] = held
    table = Table("figure", "value", "unit", "promised", "")
    for figure in run.figures:
        mark = {True: "yes", False: "NO", None: ""}[figure.passed]
        table.add_row(figure.name, f"{figure.value:,.5g}", figure.unit, figure.target, mark)
    run.console.print(table)
    for name, error in run.broken.items():
        run.console.print(f"{name} could not be run to its end: {error}", style="red", markup=False)
    bad = [figure for figure in run.figures if figure.passed is False]
    run.console.print(
        f"{run.faults} faults in {seconds / 60:.1f} min, {run.calls:,} calls, {run.acknowledged:,} events acknowledged:"
        f" {len(bad)} promises broken"
    )
    output.mkdir(parents=True, exist_ok=True)
    rows = [figure.row() for figure in run.figures]
    (output / "soak.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
