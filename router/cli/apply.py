"""`apply`: experiments from files, reviewed first and then changed one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import grpc

from router.cli.calls import TIMEOUT_S, ExperimentStub, connected, last_transitions, read_if_there
from router.cli.calls import state_name as name_of
from router.cli.changes import Change
from router.cli.main import explained, fail
from router.cli.options import audit_options, json_option, server_option
from router.config import ExperimentFile, ExperimentFileError, FileProblem, load_experiment_file
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}
_SUFFIXES: Final = (".yaml", ".yml")


@click.command()
@click.option(
    "-f",
    "--file",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Experiment file, or a directory of them; may be repeated.",
)
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@audit_options()
@server_option
@json_option
def apply(
    paths: tuple[Path, ...],
    more: tuple[Path, ...],
    dry_run: bool,
    actor: str,
    reason: str,
    server: str,
    as_json: bool,
) -> None:
    """Create or update experiments from files and start them, unless a file says `state: draft`.

    Every file is checked before anything changes. An experiment that an operator paused stays paused unless the file says
    `state: running`, and one in state shadow likewise. If somebody changes an experiment meanwhile, it is left as it is.
    """
    files = load_all([*paths, *more])
    results: list[dict[str, Any]] = []
    with connected(server) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        changes = [Change(file, read_if_there(stub, file.experiment.experiment_id)) for file in files]
        refusals = [f"{change.file.source}: {change.refusal}" for change in changes if change.refusal]
        if refusals:
            fail("\n".join(refusals))
        for change in changes:
            try:
                result = _result(change) if dry_run else _carried_out(stub, change, actor, reason)
            except grpc.RpcError as error:
                # What was applied before it stays, so that must be told too.
                _stop(stub, change, error, results, as_json)
            results.append({**result, "dry_run": dry_run})
            if not as_json:
                _show(change, results[-1])
    if as_json:
        click.echo(json.dumps(results, indent=2))


def load_all(paths: Iterable[Path]) -> list[ExperimentFile]:
    """Read every file of these files and directories; ends the command with all that is wrong with any."""
    files: dict[str, ExperimentFile] = {}
    errors: list[ExperimentFileError] = []
    for path in _expanded(paths, errors):
        try:
            file = load_experiment_file(path)
        except ExperimentFileError as error:
            errors.append(error)
            continue
        first = files.setdefault(file.experiment.experiment_id, file)
        if first is not file:
            message = f"{file.experiment.experiment_id!r} is defined by {first.source} too"
            errors.append(ExperimentFileError(file.source, [FileProblem(0, 0, "experiment", message, "apply one of them")]))
    if errors:
        fail("\n".join(str(error) for error in errors))
    return list(files.values())


def _expanded(paths: Iterable[Path], errors: list[ExperimentFileError]) -> list[Path]:
    """The files, those of a directory by name, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.name.startswith("."))
            if not inside:
                errors.append(ExperimentFileError(str(path), [FileProblem(0, 0, "", "holds no *.yaml or *.yml file")]))
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _carried_out(stub: ExperimentStub, change: Change, actor: str, reason: str) -> dict[str, Any]:
    audit = {"actor": actor, "reason": reason}
    stored = change.current
    if change.redefines:
        wanted = pb.Experiment()
        wanted.CopyFrom(change.file.experiment)
        if stored is None:
            create = pb.CreateExperimentRequest(experiment=wanted, **audit)
            stored = stub.CreateExperiment(create, timeout=TIMEOUT_S).experiment
        else:
            wanted.etag = stored.etag
            update = pb.UpdateExperimentRequest(experiment=wanted, **audit)
            stored = stub.UpdateExperiment(update, timeout=TIMEOUT_S).experiment
    assert stored is not None  # noqa: S101 - what is not there is redefined
    moves: dict[tuple[str, str], Any] = {
        ("draft", "running"): (stub.StartExperiment, pb.StartExperimentRequest),
        ("shadow", "running"): (stub.StartExperiment, pb.StartExperimentRequest),
        **{
            (before, "shadow"): (stub.ShadowExperiment, pb.ShadowExperimentRequest)
            for before in ("draft", "running", "paused")
        },
        ("paused", "running"): (stub.ResumeExperiment, pb.ResumeExperimentRequest),
        ("running", "paused"): (stub.PauseExperiment, pb.PauseExperimentRequest),
    }
    move = moves.get((name_of(stored.state), change.state))
    if move is not None:
        call, request = move
        key = {"experiment_id": stored.experiment_id, "etag": stored.etag}
        stored = call(request(**key, **audit), timeout=TIMEOUT_S).experiment
    return _result(change, stored)


def _result(change: Change, stored: pb.Experiment | None = None) -> dict[str, Any]:
    """What became of a change, or would."""
    shown = stored or change.current or pb.Experiment()
    arms = (arm for arm in shown.arms if arm.state == 1) if stored is not None else change.file.experiment.arms
    # The router may find that two ways to say something are one.
    same = stored is not None and change.current is not None and stored.etag == change.current.etag
    return {
        "experiment_id": change.experiment_id,
        "file": change.file.source,
        "action": "unchanged" if same else change.action,
        "state": change.state if stored is None else name_of(stored.state),
        "arms": sum(1 for _ in arms),
        "etag": shown.etag,
        "policy_version": shown.policy_version,
        "diff": "\n".join(change.diff),
        "notes": list(change.notes),
    }


def _show(change: Change, result: dict[str, Any]) -> None:
    action = result["action"]
    would = "would be " if result["dry_run"] and action != "unchanged" else ""
    click.echo(f"{change.experiment_id}: {would}{action}, {result['state']}, {result['arms']} arms")
    # A new experiment is its file: nobody needs to read that again, unless they asked.
    if change.current is not None or result["dry_run"]:
        for line in change.diff:
            click.secho(f"  {line}", fg=_COLOURS.get(line[0]) if not line.startswith(("+++", "---")) else None)
    for note in change.notes:
        click.echo(f"  {note}")


def _stop(
    stub: ExperimentStub, change: Change, error: grpc.RpcError, results: Sequence[dict[str, Any]], as_json: bool
) -> None:
    """End the command with what went wrong and what was done before."""
    message = f"{change.experiment_id}: {explained(error) or error}"
    if error.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.ALREADY_EXISTS):
        message = f"{change.experiment_id}: {_meanwhile(stub, change.experiment_id)}: read what changed, then apply again"
    if as_json:
        click.echo(json.dumps({"error": message, "applied": results}, indent=2))
        click.echo(f"error: {message}", err=True)
        raise SystemExit(1)
    fail(message)


def _meanwhile(stub: ExperimentStub, experiment_id: str) -> str:
    """Who changed an experiment since it was read."""
    try:
        last = last_transitions(stub, experiment_id, 1)
    except grpc.RpcError:
        last = []
    if not last:
        return "somebody changed it since it was read"
    why = f" ({last[0].reason})" if last[0].reason else ""
    return f"{last[0].actor or 'somebody'} changed it since it was read, at {last[0].transition_time.ToJsonString()}{why}"
