"""What a demo found: for people, and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.text import Text

from router.client import Status
from router.demo.checks import Check
from router.demo.data import Array, Baselines, Table
from router.demo.drive import Answer
from router.demo.live import Standing, standings_table


@dataclass(frozen=True)
class Result:
    """Everything a finished demo knows."""

    experiment_id: str
    assignment: str
    seed: int
    workers: int
    table: Table
    baselines: Baselines
    #: In the order in which they were answered.
    answers: tuple[Answer, ...]
    #: How often each status was replied.
    statuses: Mapping[Status, int]
    #: In the order of the table's arms.
    standings: tuple[Standing, ...]
    checks: tuple[Check, ...]
    #: Of the stretches of work, and of all.
    seconds: Mapping[str, float]
    picture: Path | None

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @cached_property
    def rewards(self) -> Array:
        """The reward of each decision, in order."""
        return np.array([answer.score for answer in self.answers])

    @property
    def average_reward(self) -> float:
        """The mean over all decisions."""
        return float(self.rewards.mean())

    @property
    def regret(self) -> float:
        """The best arm's mean minus the chosen arm's mean, summed."""
        means = self.baselines.means
        return float(sum(max(means) - means[answer.arm] for answer in self.answers))

    @property
    def uniform_regret(self) -> float:
        """The regret that uniform choice expects."""
        return (self.baselines.best_fixed - self.baselines.uniform) * len(self.answers)


def text(result: Result, width: int) -> RenderableType:
    """Return the end of the demo as it is printed on a terminal of `width` cells."""
    return Group(Text(), standings_table(result.standings, width), Text(), *_numbers(result), Text(), *_checks(result))


def _numbers(result: Result) -> list[Text]:
    statuses = ", ".join(f"{count:,} {status.name}" for status, count in sorted(result.statuses.items()))
    drive_s = result.seconds["drive"]
    n, b = len(result.answers), result.baselines
    units = len({answer.unit_id for answer in result.answers})
    rows = [
        ("decisions", f"{n:,} in {drive_s:.1f} s ({n / drive_s:,.0f}/s)" + (f", {units:,} users" if units > 1 else "")),
        ("feedback", statuses),
        (
            "average reward",
            f"{result.average_reward:.3f}   (uniform {b.uniform:.3f}, best fixed arm {b.best_fixed:.3f}, "
            f"best arm of each prompt {b.oracle:.3f})",
        ),
        ("regret", f"{result.regret:,.0f} against {b.best_fixed_arm}   (uniform choice: {result.uniform_regret:,.0f})"),
    ]
    return [Text.assemble((f"{name:<16}", "dim"), value) for name, value in rows]


def _checks(result: Result) -> list[Text]:
    return [
        Text.assemble(("✓ ", "bold green") if check.ok else ("✗ ", "bold red"), f"{check.name}: ", (check.detail, "dim"))
        for check in result.checks
    ]


def show(result: Result, console: Console) -> None:
    """Print the end of the demo."""
    console.print(text(result, console.width), highlight=False, soft_wrap=True)


def document(result: Result) -> dict[str, Any]:
    """Return the result as JSON."""
    return {
        "passed": result.passed,
        "experiment_id": result.experiment_id,
        "table": result.table.name,
        "assignment": result.assignment,
        "seed": result.seed,
        "workers": result.workers,
        "decisions": len(result.answers),
        "units": len({answer.unit_id for answer in result.answers if answer.unit_id}),
        "decisions_by_reason": dict(sorted(Counter(answer.reason.name for answer in result.answers).items())),
        "decisions_per_s": round(len(result.answers) / result.seconds["drive"], 1),
        "rewards_by_status": {status.name: count for status, count in sorted(result.statuses.items())},
        "average_reward": result.average_reward,
        "baselines": {key: value for key, value in asdict(result.baselines).items() if key != "means"},
        "regret": result.regret,
        "uniform_regret": result.uniform_regret,
        "arms": [
            {**asdict(standing), "true_mean": mean}
            for standing, mean in zip(result.standings, result.baselines.means, strict=True)
        ],
        "checks": [{**asdict(check), "numbers": dict(check.numbers)} for check in result.checks],
        "seconds": dict(result.seconds),
        "picture": None if result.picture is None else str(result.picture),
    }
