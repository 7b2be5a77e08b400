"""`ramp` and `transitions`: follow a canary ramp, say how it goes on, and see who said what."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console

from router.cli.calls import TIMEOUT_S, as_dict, connected, last_transitions, read
from router.cli.options import audit_options, json_option, server_option
from router.cli.pictures import ramp_lines, transition_lines
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

#: Verb: name of the RPC, what it does, what to confirm, and whether the ramp must be the one that was read. Taking a
#: challenger out never waits for anything.
_VERBS: Final[dict[str, tuple[str, str, str, bool]]] = {
    "approve": ("ApproveRamp", "Approve the promotion: at once if the ramp waits for it, else for when it would.", "", True),
    "advance": ("AdvanceRamp", "Go on to the next stage, whatever the guardrails say.", "", True),
    "promote": ("PromoteRamp", "Let the challenger in at once, whatever the stage.", "skip what is left of the ramp", True),
    "rollback": ("RollBackRamp", "Take the challenger out: it gets no traffic on any replica.", "", False),
    "abort": ("AbortRamp", "Take the challenger out for good, in every phase.", "take the challenger out for good", False),
}


@click.group()
def ramp() -> None:
    """Follow a canary ramp, and say how it goes on."""


@ramp.command()
@click.argument("experiment_id", metavar="EXPERIMENT")
@server_option
@json_option
def status(experiment_id: str, server: str, as_json: bool) -> None:
    """Show where the ramp stands, what its guardrails say and what a pass lacks."""
    with connected(server) as channel:
        experiment = read(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_id)
    _show(experiment, as_json)


def _command(verb: str) -> click.Command:
    name, about, question, current_only = _VERBS[verb]

    def run(experiment_id: str, yes: bool, actor: str, reason: str, server: str, as_json: bool) -> None:
        with connected(server) as channel:
            stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
            found = read(stub, experiment_id)
            if question and not yes and sys.stdin.isatty():
                _show(found, as_json=False)
                click.confirm(f"{experiment_id}: {question}?", abort=True, err=True)
            etag = found.etag if current_only else ""
            request = getattr(pb, f"{name}Request")(experiment_id=experiment_id, etag=etag, actor=actor, reason=reason)
            experiment = getattr(stub, name)(request, timeout=TIMEOUT_S).experiment
        _show(experiment, as_json)

    yes = click.option("--yes", is_flag=True, hidden=not question, help="Do not ask, also on a terminal.")
    command: Any = json_option(server_option(audit_options(reason_required=True)(yes(run))))
    return click.command(verb, help=about)(click.argument("experiment_id", metavar="EXPERIMENT")(command))


for _verb in _VERBS:
    ramp.add_command(_command(_verb))


def _show(experiment: pb.Experiment, as_json: bool) -> None:
    if as_json:
        found = as_dict(experiment)
        shown = {name: found.get(name) for name in ("experiment_id", "etag", "ramp", "ramp_status")}
        click.echo(json.dumps(shown, indent=2))
        return
    console = Console()
    lines = ramp_lines(experiment, datetime.now(UTC))
    for line in lines or [f"{experiment.experiment_id} has no ramp: its challengers compete at once"]:
        console.print(line, soft_wrap=True)


@click.command()
@click.argument("experiment_id", metavar="EXPERIMENT")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, the newest.")
@server_option
@json_option
def transitions(experiment_id: str, limit: int, server: str, as_json: bool) -> None:
    """List what changed an experiment or its ramp, newest first, with who and why."""
    with connected(server) as channel:
        found = last_transitions(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_id, limit)
    if as_json:
        click.echo(json.dumps([as_dict(one) for one in found], indent=2))
    else:
        console = Console()
        for line in transition_lines(found):
            console.print(line, soft_wrap=True)
