"""`status`: how experiments are doing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc
from rich.console import Console

from router.cli.calls import TIMEOUT_S, as_dict, connected, last_transitions, read_several
from router.cli.diagnosis import cost_lines, drift_lines, feedback_lines
from router.cli.options import database_options, json_option, server_option
from router.cli.pictures import metrics_table, posterior_table, ramp_lines, shadow_lines, transition_lines
from router.durations import parse_duration
from router.embedded import read_record
from router.storage.connecting import DatabaseUrl
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc, posteriors_pb2_grpc
from router.v1 import posteriors_pb2 as posteriors

_TRANSITIONS = 5
#: Counting what users did reads every decision of the time in question.
_METRICS_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What there is to show of one experiment."""

    experiment: pb.Experiment
    posterior: posteriors.GetPosteriorResponse
    #: Of experiments that were asked for by name.
    metrics: posteriors.GetMetricsResponse | None = None
    transitions: tuple[pb.Transition, ...] = ()
    #: Of segments that have their own.
    segments: tuple[posteriors.GetPosteriorResponse, ...] = ()


@click.command()
@click.argument("experiment_ids", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--since", default="7d", show_default=True, help="How far back metrics count, as in 24h.")
@server_option
@database_options
@json_option
def status(
    experiment_ids: tuple[str, ...], since: str, server: str, database_url: str | None, data_dir: Path, as_json: bool
) -> None:
    """Show experiments with their posteriors, and the read-only database URL for analysts.

    Of an experiment that is named it shows its segments, what users did, and the last changes too.
    """
    asked = posteriors.GetMetricsRequest()
    try:
        asked.start_time.FromMicroseconds(_now_us() - _span_us(since))
    except ValueError as error:
        raise click.UsageError(f"--since {since}: {error}; write it as 30m, 24h or 7d") from error
    with connected(server) as channel:
        experiments = read_several(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_ids)
        readings = [_read(channel, experiment, asked if experiment_ids else None) for experiment in experiments]
    url, hint = analyst_url(database_url, data_dir)
    if as_json:
        click.echo(json.dumps(_document(server, readings, url), indent=2))
        return
    console = Console()
    if not readings:
        console.print("no experiments yet: `bandit-router init` writes a first file, `bandit-router apply -f` sends it")
    for reading in readings:
        _show(console, reading, since)
    console.print("for analysts, read only:", style="bold", end=" ")
    click.echo(url or hint)


def _read(channel: grpc.Channel, experiment: pb.Experiment, metrics: posteriors.GetMetricsRequest | None) -> Reading:
    service = posteriors_pb2_grpc.PosteriorServiceStub(channel)
    name = experiment.experiment_id
    if metrics is None:
        posterior = service.GetPosterior(posteriors.GetPosteriorRequest(experiment_id=name), timeout=TIMEOUT_S)
        return Reading(experiment, posterior)
    diagnosed = posteriors.GetPosteriorRequest(experiment_id=name, diagnostics=True)
    posterior = service.GetPosterior(diagnosed, timeout=_METRICS_TIMEOUT_S)
    asked = posteriors.GetMetricsRequest()
    asked.CopyFrom(metrics)
    asked.experiment_id = name
    counted = service.GetMetrics(asked, timeout=_METRICS_TIMEOUT_S)
    changes = last_transitions(experiments_pb2_grpc.ExperimentServiceStub(channel), name, _TRANSITIONS)
    segments = (
        service.GetPosterior(posteriors.GetPosteriorRequest(experiment_id=name, segment=segment), timeout=TIMEOUT_S)
        for segment in experiment.allocation.segments.names
    )
    return Reading(experiment, posterior, counted, tuple(changes), tuple(segments))


def _show(console: Console, reading: Reading, since: str) -> None:
    for posterior in (reading.posterior, *reading.segments):
        console.print(posterior_table(reading.experiment, posterior))
    for line in [
        *ramp_lines(reading.experiment, datetime.now(UTC)),
        *shadow_lines(reading.experiment),
        *cost_lines(reading.experiment, reading.posterior),
        *feedback_lines(reading.posterior.arms),
        *drift_lines(reading.posterior.arms),
    ]:
        console.print(line, soft_wrap=True)
    if reading.metrics is not None:
        if reading.metrics.metrics:
            console.print(metrics_table(reading.metrics, since))
        for warning in reading.metrics.warnings:
            console.print(f"  {warning}", style="yellow", highlight=False, markup=False)
    if reading.transitions:
        console.print("the last changes", style="italic")
        for change in transition_lines(reading.transitions):
            console.print(change, soft_wrap=True)


def _document(server: str, readings: list[Reading], url: str | None) -> dict[str, Any]:
    found = []
    for reading in readings:
        one = {"experiment": as_dict(reading.experiment), "posterior": as_dict(reading.posterior)}
        if reading.metrics is not None:
            one["segments"] = [as_dict(posterior) for posterior in reading.segments]
            one["metrics"] = as_dict(reading.metrics)
            one["transitions"] = [as_dict(transition) for transition in reading.transitions]
        found.append(one)
    return {"server": server, "experiments": found, "analyst_database_url": url}


def _now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6)


def _span_us(text: str) -> int:
    return int(float(parse_duration(text).removesuffix("s")) * 1e6)


def analyst_url(database_url: str | None, data_dir: Path) -> tuple[str | None, str]:
    """Return the read-only URL, or None and what to do to get one."""
    if database_url is not None:
        shown = DatabaseUrl.parse(database_url).shown
        return None, (
            f"{shown}: GRANT bandit_router_reader TO a login of yours, then use postgresql://LOGIN:PASSWORD@{shown}"
        )
    record = read_record(data_dir)
    if record is None:
        return None, f"{data_dir} holds no embedded Postgres: give --data-dir or --database-url as `serve` has it"
    return record.analyst_url, ""
