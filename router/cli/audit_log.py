"""`audit`."""

import json
from datetime import datetime
from pathlib import Path

import click

from router.cli.options import INSTANT, database_at, database_options, json_option
from router.storage.audit import DENIED, DONE, AuditRow, Search, search
from router.storage.connecting import connect


@click.command()
@click.option("--experiment", metavar="ID", help="Only about this experiment.")
@click.option("--actor", metavar="NAME", help="Only by this key, by its name or id, or this user.")
@click.option("--since", type=INSTANT, metavar="TIME", help="Only since then.")
@click.option("--outcome", type=click.Choice([DONE, DENIED]), help="Only what was done, or was denied.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="The newest so many.")
@database_options
@json_option
def audit(
    experiment: str | None,
    actor: str | None,
    since: datetime | None,
    outcome: str | None,
    limit: int,
    database_url: str | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    """List who called for which administrative act, the newest first. What changed, `transitions` tells."""
    with database_at(database_url, data_dir) as url, connect(url) as connection:
        rows = search(connection, Search(experiment, since, outcome, actor, limit))
    if as_json:
        click.echo(json.dumps([{**row._asdict(), "at": row.at.isoformat()} for row in rows], indent=2))
        return
    for row in rows:
        click.echo(_line(row))


def _line(row: AuditRow) -> str:
    who = f"{row.actor} (key {row.key_id})" if row.key_id else row.actor or "without a key"
    about = f" {row.experiment_id}" if row.experiment_id else ""
    detail = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in row.detail.items())
    time = row.at.strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{time}  {row.outcome:<6}  {row.action}{about}  by {who} from {row.source}  {detail}".rstrip()
