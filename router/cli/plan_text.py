"""A plan as text: the recommendation with its reasons, a table, and what speaks for each strategy or against it."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bandit.planning import Plan
from bandit.situation import Situation

#: Cells of a line where no terminal says how many it has.
_FILE_WIDTH = 120


def print_plan(plan: Plan) -> None:
    """Print a plan."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_FILE_WIDTH)
    console.print(f"{plan.advice}: {'; '.join(plan.reasons)}.", style="bold", markup=False)
    console.print(_asked(plan.situation), markup=False)
    console.print(_table(plan))
    for one in plan.strategies:
        chosen = "bold" if one.strategy in (plan.recommended, plan.then) else None
        console.print(f"{one.strategy.value} says {one.answers}", style=chosen, markup=False)
        for reason in one.reasons:
            console.print(Padding(Text(f"- {reason}"), (0, 0, 0, 2)))


def _asked(s: Situation) -> str:
    relative = s.effect / s.baseline
    return (
        f"Asked: a difference of {s.effect:.4g} from {s.baseline:.4g} ({relative:+.2%}), {s.arms} arms, "
        f"{s.traffic_per_day:,.4g} decisions a day, feedback after {_time(s.delay_days)}, {s.coverage:.0%} of the decisions "
        f"with an outcome, {s.risk.value} risk tolerance."
    )


def _time(days: float) -> str:
    if days >= 1.0:
        return f"{days:.3g} days"
    hours = 24.0 * days
    return f"{hours:.3g} hours" if hours >= 1.0 else f"{60.0 * hours:.3g} minutes"


def _table(plan: Plan) -> Table:
    table = Table("strategy")
    for name in ("sample", "days", "successes lost", "if control is best", "false positive", "miss"):
        table.add_column(name, justify="right")
    for one in plan.strategies:
        chosen = one.strategy in (plan.recommended, plan.then)
        f = one.forecast
        numbers = ["not possible"]
        if f is not None:
            wrong = "no bound" if f.false_positive is None else f"{f.false_positive:.1%}"
            lost, harm = f"{f.expected_regret:,.0f}", f"{f.harm:,.0f}"
            numbers = [f"{f.sample_size:,}", f"{f.days:,.1f}", lost, harm, wrong, f"{f.miss:.1%}"]
        table.add_row(one.strategy.value, *numbers, style="bold" if chosen else "")
    return table
