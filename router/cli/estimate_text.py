"""What `estimate` finds as text: first the split, since all else hangs on it, and last when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bandit.arm_intervals import ArmIntervals, Interval
from bandit.estimate import Estimate
from bandit.rejection import Replay
from bandit.stopping import StoppingDecision, Verdict
from router.cli.estimate_report import Replayed, Report, named
from router.cli.estimate_split_text import bullets, say, split_section

#: Cells of a line where no terminal says how many it has.
_FILE_WIDTH = 120
_METHODS = {"raw": "raw mean", "ips": "IPS", "snips": "SNIPS", "dr": "doubly robust", "adaptive": "adaptive"}
_VERDICTS = {
    Verdict.STOP: "Stop",
    Verdict.CONTINUE: "Go on",
    Verdict.TOO_EARLY: "Go on: it is too early to say",
    Verdict.NOT_DUE: "Go on: no check is due",
}


def print_report(report: Report) -> None:
    """Print a report."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_FILE_WIDTH)
    for part in (_log, split_section, _arms, _looks, _policies, _replays, _stopping):
        part(console, report)


def _log(console: Console, report: Report) -> None:
    n, units = report.logged.arms.size, report.units
    of = f" of {units:,} units or sessions" if units < n else ""
    say(console, f"{report.experiment_id}: {n:,} decisions with an outcome{of}.", "bold")
    bullets(console, report.logged.left_out.sentences())


def _arms(console: Console, report: Report) -> None:
    say(console, "\nEach arm, with 95 % intervals for one look", "bold")
    if not report.arms:
        say(console, "No decision has an outcome that estimates can use.")
        return
    names = report.logged.arm_ids
    table = _estimate_table("arm", "decisions")
    alarms: list[str] = []
    for one in report.arms:
        name = names[one.arm]
        if one.insufficient:
            table.add_row(Text(name), f"{one.decisions:,}", "none", end_section=True)
            alarms.append(named(one.insufficient, names))
            continue
        found = [e for e in (one.raw, one.ips, one.snips, one.dr, one.adaptive) if e is not None]
        _add(table, (name, f"{one.decisions:,}"), found)
        alarms += _alarms(name, found, names)
    console.print(table)
    bullets(console, alarms)


def _estimate_table(*heads: str) -> Table:
    table = Table(heads[0])
    for head in heads[1:]:
        table.add_column(head, justify="right")
    table.add_column("estimate")
    for head in ("value", "interval", "standard error", "effective size", "alarms"):
        table.add_column(head, justify="right")
    return table


def _add(table: Table, heads: Sequence[str], found: Sequence[Estimate]) -> None:
    for i, one in enumerate(found):
        first = [Text(head) if i == 0 else Text("") for head in heads]
        cells = (f"{one.value:.4f}", f"{one.lower:.4f} to {one.upper:.4f}", f"{one.stderr:.4f}", f"{one.ess:,.1f}")
        table.add_row(
            *first,
            _METHODS.get(one.method, one.method),
            *cells,
            str(len(one.warnings) or ""),
            end_section=i == len(found) - 1,
        )


def _alarms(name: str, found: Sequence[Estimate], names: Sequence[str]) -> Iterator[str]:
    """Give each alarm once, with the estimates that have it."""
    of: dict[str, list[str]] = {}
    for one in found:
        for warning in one.warnings:
            of.setdefault(warning, []).append(_METHODS.get(one.method, one.method))
    for warning, methods in of.items():
        yield f"{name}, {', '.join(methods)}: {named(warning, names)}"


def _looks(console: Console, report: Report) -> None:
    if not report.intervals:
        return
    names = report.logged.arm_ids
    say(console, "\nEach arm at every look: 95 %, for all arms at once, however often one looks", "bold")
    table = Table("arm")
    control = None if report.control is None else names[report.control]
    for head in ("mean, without drift", "mean, averaged over the decisions", f"less {control}, averaged"):
        if control is not None or not head.startswith("less"):
            table.add_column(Text(head), justify="right")
    for one in report.intervals:
        cells = [_interval(one.exact), _interval(one.average)]
        if control is not None:
            cells.append("control" if one.less_control is None else _interval(one.less_control))
        table.add_row(Text(names[one.arm]), *cells)
    console.print(table)
    bullets(console, _lacks(report.intervals, names))


def _interval(one: Interval) -> str:
    return "none" if one.insufficient else f"{one.value:.4f}: {one.lower:.4f} to {one.upper:.4f}"


def _lacks(found: Iterable[ArmIntervals], names: Sequence[str]) -> list[str]:
    kinds = (one for arm in found for one in (arm.exact, arm.average, arm.less_control) if one is not None)
    return [named(text, names) for text in dict.fromkeys(one.insufficient for one in kinds) if text]


def _policies(console: Console, report: Report) -> None:
    if not report.policies:
        return
    say(console, "\nPolicies that never ran, beside what the log earned", "bold")
    table, alarms = _estimate_table("policy"), list[str]()
    names = report.logged.arm_ids
    if report.as_run is not None:
        _add(table, ("as it ran",), [report.as_run])
    for asked, value in report.policies:
        if value.insufficient:
            table.add_row(Text(asked.text), "none", end_section=True)
            alarms.append(f"{asked.text}: {named(value.insufficient, names)}")
            continue
        found = [e for e in (value.ips, value.snips, value.dr, value.adaptive) if e is not None]
        _add(table, (asked.text,), found)
        alarms += _alarms(asked.text, found, names)
    console.print(table)
    bullets(console, alarms)


def _replays(console: Console, report: Report) -> None:
    if not report.replays:
        return
    say(console, "\nOther learners, replayed on the log: a run is as long as the decisions it accepted", "bold")
    table = Table("learner")
    for head in ("run", "value", "interval", "accepted", "of"):
        table.add_column(head, justify="right")
    notes: list[str] = []
    names = report.logged.arm_ids
    for one in report.replays:
        if one.insufficient:
            table.add_row(Text(one.asked.text), "none", end_section=True)
            notes.append(f"{one.asked.text}: {named(one.insufficient, names)}")
            continue
        for i, run in enumerate(one.runs):
            table.add_row(Text(one.asked.text if i == 0 else ""), str(i + 1), *_run(run), end_section=i == len(one.runs) - 1)
        notes += _warned(one, names)
    console.print(table)
    bullets(console, notes)


def _run(run: Replay) -> tuple[str, ...]:
    return f"{run.value:.4f}", f"{run.lower:.4f} to {run.upper:.4f}", f"{run.accepted:,}", f"{run.n:,}"


def _warned(one: Replayed, names: Sequence[str]) -> list[str]:
    found = dict.fromkeys(warning for run in one.runs for warning in run.warnings)
    return [f"{one.asked.text}: {named(warning, names)}" for warning in found]


def _stopping(console: Console, report: Report) -> None:
    found, names = report.stopping, report.logged.arm_ids
    say(console, "\nWhen to stop, by what is believed now", "bold")
    if found is None:
        say(console, "Fewer than two arms compete: there is nothing to decide.")
        return
    say(console, f"{_VERDICTS[found.verdict]}: {named(found.reason, names)}.", "bold")
    say(console, _gain(found, names))
    table = Table("arm")
    heads = ("outcomes", "mean", *(("at every look",) if found.lower is not None else ()))
    for head in heads:
        table.add_column(head, justify="right")
    for arm, name in enumerate(names):
        row = [f"{found.outcomes[arm]:,.0f}", f"{found.means[arm]:.4f}" if found.outcomes[arm] else "none"]
        if found.lower is not None and found.upper is not None:
            row.append(f"{found.lower[arm]:.4f} to {found.upper[arm]:.4f}")
        table.add_row(Text(name), *row)
    console.print(table)
    if found.withheld:
        bullets(console, [f"no intervals: {found.withheld}"])
    if report.units < report.logged.arms.size and not found.withheld:
        bullets(console, ["units come back: these intervals take every outcome for a new one, those above do not"])


def _gain(found: StoppingDecision, names: Sequence[str]) -> str:
    return (
        f"With 95 % probability no more than {found.value_remaining:.2%} of the mean of {names[found.leader]} is to be "
        f"gained by another arm. Stopping now is expected to give up {found.expected_loss:.2g} a decision. "
        "A rule of decision, for a look a day, and no claim of significance."
    )
