"""`backup` and `restore`: the whole database as one file, and back."""

import json
from pathlib import Path

import click

from router.cli.options import database_at, database_options, json_option
from router.embedded.binaries import locate
from router.storage.backup import dump
from router.storage.backup import restore as fill


@click.command()
@database_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; it must not exist yet.",
)
@json_option
def backup(database_url: str | None, data_dir: Path, output: Path, as_json: bool) -> None:
    """Write the whole database to a file, beside a live service. The file holds the signing keys: keep it secret."""
    if output.exists():
        raise click.UsageError(f"--output {output}: it exists already, and is not overwritten")
    with database_at(database_url, data_dir) as url:
        size = dump(url, locate().root / "bin", output)
        if as_json:
            click.echo(json.dumps({"database": url.shown, "file": str(output), "bytes": size}))
        else:
            click.echo(f"{url.shown}: {size:,} bytes in {output}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@database_options
@json_option
def restore(file: Path, database_url: str | None, data_dir: Path, as_json: bool) -> None:
    """Fill an empty database from the file of a backup. Stop every router first, and start them afterwards."""
    with database_at(database_url, data_dir) as url:
        before = fill(url, locate().root / "bin", file)
        if as_json:
            click.echo(json.dumps({"database": url.shown, "backup": before.current, "now": before.needed}))
        else:
            moved = f", migrated from {before.current}" if before.pending else ""
            click.echo(f"{url.shown}: restored, schema {before.needed}{moved}; `bandit-router replay` checks it")
