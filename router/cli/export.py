"""`export`: what the router has, as files."""

import json
from pathlib import Path
from urllib.parse import quote

import click

from router.cli.calls import connected, read_several, state_name
from router.cli.options import json_option, server_option
from router.config import dump_experiment_file
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

_CONCLUDED = "# It is concluded: no file starts it again.\n"


@click.group()
def export() -> None:
    """Write what the router has as files."""


@export.command()
@click.argument("experiment_ids", nargs=-1, metavar="[EXPERIMENT]...")
@click.option(
    "-o",
    "--output",
    default="-",
    show_default=True,
    metavar="DIR|-",
    help="Write one file for each experiment into this directory; - is standard output.",
)
@server_option
@json_option
def experiments(experiment_ids: tuple[str, ...], output: str, server: str, as_json: bool) -> None:
    """Write experiments as the files that `apply` reads: applying them changes nothing."""
    with connected(server) as channel:
        found = read_several(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_ids)
    texts = {experiment.experiment_id: as_file(experiment) for experiment in found}
    if output == "-":
        if as_json:
            click.echo(json.dumps([{"experiment_id": name, "content": text} for name, text in texts.items()], indent=2))
        else:
            click.echo("---\n".join(texts.values()), nl=False)
        return
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    written = {name: directory / f"{quote(name, safe='')}.yaml" for name in texts}
    for name, path in written.items():
        path.write_text(texts[name], encoding="utf-8")
    if as_json:
        click.echo(json.dumps([{"experiment_id": name, "file": str(path)} for name, path in written.items()], indent=2))
    else:
        for path in written.values():
            click.echo(f"wrote {path}")


def as_file(experiment: pb.Experiment) -> str:
    """Return the file that brings an experiment to where it is."""
    if experiment.state == pb.STATE_CONCLUDED:
        return _CONCLUDED + dump_experiment_file(experiment)
    return dump_experiment_file(experiment, state_name(experiment.state))
