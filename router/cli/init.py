"""`init`: a first experiment file."""

import json
from pathlib import Path

import click

from router.cli.options import json_option
from router.config import commented_example, experiment_json_schema

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
