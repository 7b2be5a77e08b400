"""`init`, `apply` and `status`: experiments from files, and how they are doing."""

import json
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from router.cli.options import database_options, json_option, server_option
from router.client import CHANNEL_OPTIONS
from router.config import ExperimentFile, commented_example, experiment_json_schema, load_experiment_file
from router.embedded import read_record
from router.storage.database import DatabaseUrl
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc, posteriors_pb2, posteriors_pb2_grpc

_TIMEOUT_S = 10.0
_SCHEMA = "experiment.schema.json"


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="experiment.yaml")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@json_option
def init(path: Path, force: bool, as_json: bool) -> None:
    """Write a commented experiment file, and a JSON Schema for editors beside it."""
    schema = path.parent / _SCHEMA
    for target in (path, schema):
        if target.exists() and not force:
            raise click.UsageError(f"{target} exists: choose another name, or overwrite it with --force")
    path.write_text(commented_example(), encoding="utf-8")
    schema.write_text(json.dumps(experiment_json_schema(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"experiment": str(path), "schema": str(schema)}))
    else:
        click.echo(f"wrote {path} and {schema}; next: bandit-router apply -f {path}")


@click.command()
@click.option(
    "-f", "--file", "paths", type=click.Path(path_type=Path), multiple=True, required=True, help="Experiment file."
)
@server_option
@json_option
def apply(paths: tuple[Path, ...], server: str, as_json: bool) -> None:
    """Create or update experiments from files and start them, unless a file says `state: draft`.

    An experiment that an operator paused stays paused unless the file says `state: running`.
    """
    files = [load_experiment_file(path) for path in paths]
    results = []
    with grpc.insecure_channel(server, options=CHANNEL_OPTIONS) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        for file in files:
            action, experiment = _apply(stub, file)
            state = pb.State.Name(experiment.state).removeprefix("STATE_").lower()
            arms = sum(1 for arm in experiment.arms if arm.state == 1)
            results.append(
                {
                    "experiment_id": experiment.experiment_id,
                    "action": action,
                    "state": state,
                    "arms": arms,
                    "etag": experiment.etag,
                    "policy_version": experiment.policy_version,
                }
            )
            if not as_json:
                click.echo(f"{experiment.experiment_id}: {action}, {state}, {arms} arms")
                if state == "paused" and file.state is None:
                    click.echo("  it was paused by somebody and stays so; `state: running` in the file resumes it")
    if as_json:
        click.echo(json.dumps(results, indent=2))


def _apply(stub: experiments_pb2_grpc.ExperimentServiceStub, file: ExperimentFile) -> tuple[str, pb.Experiment]:
    wanted = file.experiment
    try:
        current = stub.GetExperiment(
            pb.GetExperimentRequest(experiment_id=wanted.experiment_id), timeout=_TIMEOUT_S
        ).experiment
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        stored = stub.CreateExperiment(pb.CreateExperimentRequest(experiment=wanted), timeout=_TIMEOUT_S).experiment
        return "created", _moved(stub, stored, file.state)
    changed = pb.Experiment()
    changed.CopyFrom(wanted)
    changed.etag = current.etag
    stored = stub.UpdateExperiment(pb.UpdateExperimentRequest(experiment=changed), timeout=_TIMEOUT_S).experiment
    moved = _moved(stub, stored, file.state)
    return ("unchanged" if moved.etag == current.etag else "updated"), moved


def _moved(stub: experiments_pb2_grpc.ExperimentServiceStub, stored: pb.Experiment, wanted: str | None) -> pb.Experiment:
    """Bring an experiment to the state that its file asks for."""
    key = {"experiment_id": stored.experiment_id, "etag": stored.etag}
    state = stored.state
    if wanted in (None, "running") and state == pb.STATE_DRAFT:
        stored = stub.StartExperiment(pb.StartExperimentRequest(**key), timeout=_TIMEOUT_S).experiment
        key["etag"], state = stored.etag, stored.state
    if wanted == "running" and state == pb.STATE_PAUSED:
        return stub.ResumeExperiment(pb.ResumeExperimentRequest(**key), timeout=_TIMEOUT_S).experiment
    if wanted == "paused" and state == pb.STATE_RUNNING:
        return stub.PauseExperiment(pb.PauseExperimentRequest(**key), timeout=_TIMEOUT_S).experiment
    return stored


@click.command()
@click.argument("experiment_ids", nargs=-1)
@server_option
@database_options
@json_option
def status(experiment_ids: tuple[str, ...], server: str, database_url: str | None, data_dir: Path, as_json: bool) -> None:
    """Show experiments with their posteriors, and the read-only database URL for analysts."""
    with grpc.insecure_channel(server, options=CHANNEL_OPTIONS) as channel:
        experiments = _read(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_ids)
        posteriors = posteriors_pb2_grpc.PosteriorServiceStub(channel)
        readings = [
            posteriors.GetPosterior(
                posteriors_pb2.GetPosteriorRequest(experiment_id=experiment.experiment_id), timeout=_TIMEOUT_S
            )
            for experiment in experiments
        ]
    url, hint = analyst_url(database_url, data_dir)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "server": server,
                    "experiments": [
                        {"experiment": _json(experiment), "posterior": _json(reading)}
                        for experiment, reading in zip(experiments, readings, strict=True)
                    ],
                    "analyst_database_url": url,
                },
                indent=2,
            )
        )
        return
    console = Console()
    if not experiments:
        console.print("no experiments yet: `bandit-router init` writes a first file, `bandit-router apply -f` sends it")
    for experiment, reading in zip(experiments, readings, strict=True):
        console.print(posterior_table(experiment, reading))
    console.print("for analysts, read only:", style="bold", end=" ")
    click.echo(url or hint)


def _read(stub: experiments_pb2_grpc.ExperimentServiceStub, experiment_ids: tuple[str, ...]) -> list[pb.Experiment]:
    if experiment_ids:
        return [
            stub.GetExperiment(pb.GetExperimentRequest(experiment_id=one), timeout=_TIMEOUT_S).experiment
            for one in experiment_ids
        ]
    found: list[pb.Experiment] = []
    token = ""
    while True:
        page = stub.ListExperiments(pb.ListExperimentsRequest(page_token=token), timeout=_TIMEOUT_S)
        found.extend(page.experiments)
        token = page.next_page_token
        if not token:
            return found


def posterior_table(experiment: pb.Experiment, reading: posteriors_pb2.GetPosteriorResponse) -> Table:
    """Return an experiment's arms with share, posterior mean, interval and P(best)."""
    state = pb.State.Name(experiment.state).removeprefix("STATE_").lower()
    table = Table(
        title=f"{experiment.experiment_id}: {state}, policy version {reading.policy_version}", title_justify="left"
    )
    for name, justify in (
        ("arm", "left"),
        ("share", "right"),
        ("outcomes", "right"),
        ("mean", "right"),
        ("95 % interval", "right"),
        ("P(best)", "right"),
        ("expected loss", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for arm in reading.arms:
        retired = arm.state == 2
        name = arm.arm_id if arm.version == 1 else f"{arm.arm_id} v{arm.version}"
        table.add_row(
            f"{name} (retired)" if retired else name,
            f"{arm.allocation:.1%}",
            f"{arm.n:,}",
            f"{arm.mean:.3f}",
            f"{arm.lower:.3f} to {arm.upper:.3f}",
            f"{arm.probability_best:.3f}",
            f"{arm.expected_loss:.4f}",
            style="dim" if retired else "",
        )
    return table


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


def _json(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
