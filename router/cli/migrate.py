"""`migrate`."""

import json
from pathlib import Path

import click

from router.cli.options import database_at, database_options, json_option
from router.storage.migrate import migrate as bring_up_to_date
from router.storage.migrate import schema_state


@click.command()
@database_options
@click.option("--check", is_flag=True, help="Change nothing; exit with status 1 if a migration is pending.")
@json_option
def migrate(database_url: str | None, data_dir: Path, check: bool, as_json: bool) -> None:
    """Bring the database to this version's schema. `serve` does so too."""
    with database_at(database_url, data_dir) as url:
        before = schema_state(url) if check else bring_up_to_date(url)
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "database": url.shown,
                        "before": before.current,
                        "now": before.current if check else before.needed,
                        "needed": before.needed,
                        "pending": check and before.pending,
                    }
                )
            )
        elif not before.pending:
            click.echo(f"{url.shown}: up to date at {before.needed}")
        elif check:
            click.echo(f"{url.shown}: at {before.current or 'empty'}, needs {before.needed}: run `bandit-router migrate`")
        else:
            click.echo(f"{url.shown}: migrated from {before.current or 'empty'} to {before.needed}")
    if check and before.pending:
        raise SystemExit(1)
