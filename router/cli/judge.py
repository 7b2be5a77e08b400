"""`judge`: let a model compare shadow answers with those that were served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from router.cli.calls import as_dict, connected
from router.cli.judge_report import LONG_S, console, html_option, read_report, show
from router.cli.judge_run import run
from router.cli.options import json_option, server_option

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def judge() -> None:
    """Let a model compare shadow answers with those that were served."""


judge.add_command(run)


def _run_option(command: F) -> F:
    return click.option("--run", "run_id", required=True, metavar="ID", help="The run.")(command)


@judge.command()
@_run_option
@html_option
@server_option
@json_option
def report(run_id: str, html: Path | None, server: str, as_json: bool) -> None:
    """Show what the verdicts of a run say so far."""
    with connected(server) as channel:
        show(read_report(channel, run_id), html, as_json)


@judge.command()
@click.option("--experiment", "experiment_id", required=True, metavar="E", help="The experiment.")
@server_option
@json_option
def runs(experiment_id: str, server: str, as_json: bool) -> None:
    """List the runs of an experiment, newest first."""
    from rich.markup import escape
    from rich.table import Table

    from router.v1 import judge_pb2 as pb
    from router.v1 import judge_pb2_grpc

    with connected(server) as channel:
        request = pb.ListJudgeRunsRequest(experiment_id=experiment_id)
        found = judge_pb2_grpc.JudgeServiceStub(channel).ListJudgeRuns(request, timeout=LONG_S).runs
    if as_json:
        click.echo(json.dumps([as_dict(one) for one in found], indent=2))
        return
    table = Table("run", "arm", "against", "judge", "created", "judged", "cost")
    for one in found:
        created = one.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
        cost = f"${one.cost_usd:,.4f}" if one.cost_usd else ""
        table.add_row(
            one.run_id,
            one.arm_id,
            one.other_arm_id,
            escape(one.judge),
            created,
            f"{one.judged:,} of {one.judgments:,}",
            cost,
        )
    console().print(table if found else f"{experiment_id} has no judge runs yet: `bandit-router judge run` makes one")


@judge.command()
@_run_option
@click.option(
    "--weight",
    type=click.FloatRange(0, min_open=True),
    required=True,
    metavar="W",
    help="How many outcomes the prior is worth. There is no default: it says how far you trust the judge.",
)
@server_option
@json_option
def prior(run_id: str, weight: float, server: str, as_json: bool) -> None:
    """Print a prior for the arm in question, from how often the judge prefers it, for the experiment's file.

    It assumes that the judge prefers answers as users reward them. Verdicts enter no posterior unless you put this there.
    """
    from router.cli.main import fail
    from router.llm.judge.prior import UnusableVerdictsError, prior_of
    from router.v1 import posteriors_pb2, posteriors_pb2_grpc

    with connected(server) as channel:
        message = read_report(channel, run_id)
        request = posteriors_pb2.GetPosteriorRequest(experiment_id=message.run.experiment_id)
        posterior = posteriors_pb2_grpc.PosteriorServiceStub(channel).GetPosterior(request, timeout=LONG_S)
    try:
        found = prior_of(message, posterior, weight)
    except UnusableVerdictsError as error:
        fail(str(error))
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.as_yaml())
