"""`estimate`: what the log of an experiment says of its arms, of other policies and learners, and of when to stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from router.cli.estimate_options import LEARNER, POLICY, AskedLearner, AskedPolicy
from router.cli.main import fail
from router.cli.options import database_options, json_option
from router.cli.past import check_range, log_of, range_options, shown_range


@click.command()
@click.argument("experiment", metavar="EXPERIMENT")
@click.option(
    "--policy",
    "policies",
    type=POLICY,
    multiple=True,
    default=["uniform"],
    show_default=True,
    metavar="uniform|arm:ID|floor:F",
    help="Value a policy that never ran: equal shares, always one arm, or what ran with another floor. Again for more.",
)
@click.option(
    "--replay",
    "learners",
    type=LEARNER,
    multiple=True,
    metavar="KEY=VALUE,…",
    help="Replay another learner, as in prior=6:4,discount=0.99. Keys: kind (thompson, top_two), prior, floor, discount, "
    "every. What is not said is as the experiment has it, without a discount. Again for more.",
)
@click.option("--runs", type=click.IntRange(1, 1_000), default=5, show_default=True, help="Runs of each learner.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the random numbers of replays.")
@range_options
@database_options
@json_option
def estimate(
    experiment: str,
    policies: tuple[AskedPolicy, ...],
    learners: tuple[AskedLearner, ...],
    runs: int,
    seed: int,
    start: datetime | None,
    end: datetime | None,
    database_url: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Say what the log says: whether the split is right, what arms and policies are worth, and when to stop.

    Reads the database of the router: of decisions made from --start to --end those with an outcome, and for the split all
    first draws. When to stop is by what is believed now. A sample-ratio mismatch is reported, and no error.
    """
    check_range(start, end)
    from router.cli.estimate_json import document_of
    from router.cli.estimate_report import report_of
    from router.cli.estimate_text import print_report
    from router.storage.drawn import read_drawn
    from router.storage.logged import read_logged
    from router.storage.present import read_present

    with log_of(database_url, data_dir, experiment, "EXPERIMENT") as (log, of):
        logged, drawn, present = read_logged(log, of, start, end), read_drawn(log, of, start, end), read_present(log, of)
    if not (logged.arms.size or logged.left_out.total or drawn.arms.size or drawn.unknown):
        fail(f"{experiment}: no decision {shown_range(start, end) or 'so far'} can be estimated from")
    with _progress(runs * len(learners), as_json) as ran:
        report = report_of(experiment, logged, drawn, present, policies, learners, runs, seed, ran)
    if as_json:
        click.echo(json.dumps(document_of(report), indent=2, allow_nan=False))
        return
    print_report(report)


@contextmanager
def _progress(runs: int, as_json: bool) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many runs of learners are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("replaying learners"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json or not runs, transient=True) as progress:
        task = progress.add_task("replay", total=runs)
        yield lambda: progress.advance(task)
