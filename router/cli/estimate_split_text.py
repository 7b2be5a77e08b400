"""The split of a log as text: whether decisions came as they were drawn, what it means if not, and what to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bandit.split import Split
from router.cli.estimate_report import Report, Splits

#: What a mismatch means, and what to look at.
_LOST = (
    "Decisions are missing from the log, or were not drawn by the vectors that it has: every figure below may be wrong.",
    "Look for segments set aside in the spool (.damaged, .refused), for what `bandit-router doctor` says, and for whoever "
    "deletes or rewrites rows.",
)
_UNANSWERED = (
    "Feedback depends on the arm: the figures below are of decisions that got an answer, which are others for each arm.",
    "Look at `bandit-router picture coverage`, for producers that fail or time out with one arm, and for answers still to "
    "come: --end leaves young decisions out. If users answer one arm less, say what silence counts (no_feedback).",
)


def split_section(console: Console, report: Report) -> None:
    """Print what the test of the split found, and what that means."""
    splits = report.splits
    say(console, "\nIs the split right?", "bold")
    if splits.every is None:
        say(console, "No decision had a choice: there is nothing to test.")
        return
    table = Table("arm")
    for name in ("first draws", "expected", "deviations", "with feedback", "expected", "deviations"):
        table.add_column(name, justify="right")
    for arm, name in enumerate(splits.drawn.arm_ids):
        table.add_row(Text(name), *_cells(splits.every, arm), *_cells(splits.with_feedback, arm))
    console.print(table)
    _verdict(console, splits, splits.every, "first draws", _LOST)
    if splits.with_feedback is None:
        say(console, "No first draw has feedback.")
    else:
        _verdict(console, splits, splits.with_feedback, "first draws with feedback", _UNANSWERED)
    notes = (
        (splits.drawn.repeated, "are no first draws: they repeat one, or do not say of what unit they are"),
        (splits.drawn.unknown, "were left out here: the vector of their draw is not in the log"),
    )
    bullets(console, (f"{count:,} decisions {what}" for count, what in notes if count))


def _cells(split: Split | None, arm: int) -> tuple[str, ...]:
    if split is None:
        return ("", "", "")
    return f"{split.observed[arm]:,}", f"{split.expected[arm]:,.1f}", f"{split.deviations[arm]:+.1f}"


def _verdict(console: Console, splits: Splits, split: Split, what: str, advice: Sequence[str]) -> None:
    alarm = f"{1 / split.alpha:g}"
    if not split.mismatch:
        say(console, f"Of {split.n:,} {what}: no mismatch. The largest e-value is {split.largest:.3g}; {alarm} is an alarm.")
        return
    worst = max(range(len(split.deviations)), key=lambda arm: abs(split.deviations[arm]))
    since = splits.found_at(split).isoformat(timespec="seconds")
    say(
        console,
        f"MISMATCH of {split.n:,} {what}: the e-value reached {split.largest:.3g}, {alarm} with the decision of {since}. "
        f"In a sound log it ever reaches {alarm} with probability {split.alpha:g} at most.",
        "bold red",
    )
    fewer = "fewer" if split.deviations[worst] < 0.0 else "more"
    name, observed, expected = splits.drawn.arm_ids[worst], split.observed[worst], split.expected[worst]
    bullets(console, (f"{name} is farthest off: {observed:,} decisions, {fewer} than {expected:,.1f}.", *advice))


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line."""
    console.print(Text(text, style=style))


def bullets(console: Console, lines: Iterable[str]) -> None:
    """Print lines as a list."""
    for line in lines:
        console.print(Padding(Text(f"- {line}"), (0, 0, 0, 2)))
