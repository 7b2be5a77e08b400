"""`picture`: what an experiment believes, does and earns, as PNG, SVG or PDF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from router.cli.calls import ExperimentStub, connected, read
from router.cli.main import fail
from router.cli.options import database_options, json_option, server_option
from router.cli.past import (
    active_arms,
    check_range,
    log_of,
    metrics_of,
    posterior_of,
    range_options,
    shown_range,
    snapshots_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bandit.arm_estimates import ArmEstimates

F = TypeVar("F", bound=Callable[..., Any])
#: Periods of feedback are the shortest of these that are no more than so many.
_PERIODS = [timedelta(minutes=m) for m in (1, 5, 15, 60, 180, 360, 1_440, 10_080, 40_320)]
_MOST_PERIODS = 40


@click.group()
def picture() -> None:
    """Draw an experiment: PNG, SVG or PDF, as the name of the file ends.

    The title says the finding, which is printed too.
    """


def _options(command: F) -> F:
    """Add what every picture has."""
    for option in (
        click.option(
            "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.png, .svg or .pdf."
        ),
        range_options,
        click.option("--experiment", required=True, help="The experiment."),
    ):
        command = option(command)
    return json_option(command)


_segment_option = click.option(
    "--segment", default="", help="Of this segment, one that has a posterior of its own.  [default: of all traffic]"
)


@picture.command()
@_options
@_segment_option
@server_option
def posteriors(
    experiment: str, start: datetime | None, end: datetime | None, output: Path, segment: str, server: str, as_json: bool
) -> None:
    """Density, interval and observed mean of each arm.

    As it was at --end, or is now. The observed means are of the decisions from --start on, of those that are kept; of a
    segment there are none.
    """
    _check(start, end, output)
    with connected(server) as channel:
        reply = posterior_of(channel, experiment, end, segment)
        metrics = metrics_of(channel, experiment, start, end) if not segment else []
    from router.pictures import beliefs_of
    from router.pictures import posteriors as draw

    observed = {(m.arm_id, m.version): m.mean_reward for m in metrics if not m.holdout and m.HasField("mean_reward")}
    _write(draw(beliefs_of(reply.arms, observed), experiment=_named(experiment, segment)), output, as_json)


def _named(experiment: str, segment: str) -> str:
    return f"{experiment}, segment {segment}" if segment else experiment


def _history_command(name: str, about: str) -> None:
    @picture.command(name, help=about, short_help=about)
    @_options
    @_segment_option
    @server_option
    def command(
        experiment: str,
        start: datetime | None,
        end: datetime | None,
        output: Path,
        segment: str,
        server: str,
        as_json: bool,
    ) -> None:
        _check(start, end, output)
        with connected(server) as channel:
            snapshots = snapshots_of(channel, experiment, start, end, segment)
            if not snapshots:
                # An experiment that is not there is another error.
                read(ExperimentStub(channel), experiment)
        if not snapshots:
            within = shown_range(start, end)
            hint = (
                f"in the time {within}" if within else "yet: the first is taken within seconds of the experiment's creation"
            )
            fail(f"{experiment}: there is no snapshot {hint}")
        import router.pictures as pictures

        figure = getattr(pictures, name)(pictures.history_of(snapshots), experiment=_named(experiment, segment))
        _write(figure, output, as_json)


_history_command("shares", "The share of the traffic that each arm was given, over time.")
_history_command("best", "The probability of each arm to be the best one, over time.")
_history_command("regret", "The successes lost over time, estimated from snapshots, beside equal shares.")


@picture.command()
@_options
@server_option
def coverage(
    experiment: str, start: datetime | None, end: datetime | None, output: Path, server: str, as_json: bool
) -> None:
    """The share of each arm's decisions that have feedback, over time."""
    _check(start, end, output)
    from router.pictures import coverage as draw
    from router.pictures import coverage_of, name_of

    with connected(server) as channel:
        every = metrics_of(channel, experiment, start, end)
        if not every:
            fail(f"{experiment}: no decisions were made {shown_range(start, end) or 'yet'}")
        # The one period that was not asked for by its length begins with the first decision that is kept.
        first, last = every[0].start_time.ToDatetime(), every[0].end_time.ToDatetime()
        period = next((one for one in _PERIODS if (last - first) / one <= _MOST_PERIODS), _PERIODS[-1])
        metrics = metrics_of(channel, experiment, start, end, period)
        arms = [name_of(arm.arm_id, arm.version) for arm in active_arms(read(ExperimentStub(channel), experiment))]
    _write(draw(coverage_of(metrics), experiment=experiment, arm_ids=arms), output, as_json)


@picture.command()
@_options
@database_options
def estimates(
    experiment: str,
    start: datetime | None,
    end: datetime | None,
    output: Path,
    database_url: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Raw means beside IPS, SNIPS, doubly robust and adaptive estimates.

    Reads the log in the database of the router: decisions with an outcome, drawn among all arms that are active now.
    --json has the numbers too.
    """
    _check(start, end, output)
    from bandit.arm_estimates import estimate_arms
    from router.cli.estimate_report import named
    from router.pictures import NothingToDrawError
    from router.pictures import estimates as draw
    from router.storage.logged import read_logged

    with log_of(database_url, data_dir, experiment) as (log, of):
        found = read_logged(log, of, start, end)
    if not found.arms.size:
        left = "".join(f"; {sentence}" for sentence in found.left_out.sentences())
        within = shown_range(start, end) or "so far"
        fail(f"{experiment}: no decision {within} has an outcome that estimates can use{left}")
    arms = estimate_arms(
        found.rewards, found.arms, found.propensities, len(found.arm_ids), found.clusters, found.allocations
    )
    try:
        figure = draw(found.arm_ids, arms, experiment=experiment)
    except NothingToDrawError as error:
        fail(f"{experiment}: {named(str(error), found.arm_ids)}")
    numbers = {
        "left_out": found.left_out.total,
        "left_out_because": asdict(found.left_out),
        "arms": [_numbers(one, found.arm_ids) for one in arms],
    }
    missing = [f"no estimates: {named(one.insufficient, found.arm_ids)}" for one in arms if one.insufficient]
    _write(figure, output, as_json, numbers, [*missing, *found.left_out.sentences()])


@picture.command()
@_options
@database_options
def pareto(
    experiment: str,
    start: datetime | None,
    end: datetime | None,
    output: Path,
    database_url: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Reward against cost: which arms are worth what they cost.

    Reads the database of the router: rewards as they are believed now, costs as calls of decisions from --start to --end
    reported them, or else as the definition says.
    """
    _check(start, end, output)
    from router.pictures import pareto as draw
    from router.pictures import worth_of
    from router.storage.costs import read_ceiling, read_costs

    with log_of(database_url, data_dir, experiment) as (log, of):
        arms, ceiling = read_costs(log, of, start, end), read_ceiling(log, of)
    unknown = [arm.arm_id for arm in arms if not arm.calls and arm.declared_usd is None]
    if unknown:
        fail(
            f"{experiment}: nothing says what {', '.join(unknown)} costs: report cost_usd of calls, or declare it of the arm"
        )
    _write(draw([worth_of(arm) for arm in arms], experiment=experiment, ceiling_usd=ceiling), output, as_json)


def _check(start: datetime | None, end: datetime | None, output: Path) -> None:
    """Refuse what cannot be drawn before anything is read."""
    from router.pictures.style import format_of

    check_range(start, end)
    try:
        format_of(output)
    except ValueError as error:
        raise click.UsageError(f"--output {error}") from None


def _write(
    figure: Figure, output: Path, as_json: bool, numbers: Mapping[str, Any] | None = None, notes: Iterable[str] = ()
) -> None:
    """Save a picture and print its finding; `numbers` are for --json, and `notes` for people."""
    from router.pictures import save

    save(figure, output)
    finding = figure.get_suptitle().replace(r"\$", "$")
    if as_json:
        click.echo(json.dumps({"file": str(output), "finding": finding, "left_out": 0, **(numbers or {})}, indent=2))
        return
    click.echo(f"wrote {output}: {finding}")
    for note in notes:
        click.echo(note)


def _numbers(one: ArmEstimates, arm_ids: Sequence[str]) -> dict[str, Any]:
    """Return what was drawn of one arm."""
    from router.cli.estimate_report import named

    estimates = (one.raw, one.ips, one.snips, one.dr, one.adaptive)
    return {
        "arm_id": arm_ids[one.arm],
        "decisions": one.decisions,
        "insufficient": named(one.insufficient, arm_ids),
        "estimates": {
            found.method: {**asdict(found), "warnings": [named(text, arm_ids) for text in found.warnings]}
            for found in estimates
            if found is not None
        },
    }
