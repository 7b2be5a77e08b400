"""`migrate` and `replay`."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from router.cli.options import database_at, database_options, json_option
from router.storage.database import connect
from router.storage.migrate import migrate as bring_up_to_date
from router.storage.migrate import schema_state
from router.storage.replay import Disagreement, ReplayReport, experiment_names
from router.storage.replay import replay as compute_again


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


@click.command()
@database_options
@click.option("--experiment", help="Replay only this experiment.")
@json_option
def replay(database_url: str | None, data_dir: Path, experiment: str | None, as_json: bool) -> None:
    """Compute evidence again from the log of events and compare: it must agree to the last digit.

    Runs beside a live service and changes nothing. Exits with status 1 if anything disagrees.
    """
    with (
        database_at(database_url, data_dir) as url,
        connect(url) as connection,
        Progress(
            TextColumn("replaying events"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=as_json,
            transient=True,
        ) as progress,
    ):
        names = experiment_names(connection)
        incarnation = None
        if experiment is not None:
            incarnation = next((i for i, name in names.items() if name == experiment), None)
            if incarnation is None:
                raise click.UsageError(f"--experiment {experiment}: no such experiment in {url.shown}")
        task = progress.add_task("replay", total=None)
        report = compute_again(
            connection, incarnation, lambda done, total: progress.update(task, completed=done, total=total)
        )
    click.echo(json.dumps(_report_json(report, names), indent=2) if as_json else _report_text(report))
    if not report.agrees:
        if not as_json:
            Console().print(_table(report.disagreements, names))
        raise SystemExit(1)


def _report_text(report: ReplayReport) -> str:
    counted = f"{report.events:,} events, {report.outcomes:,} outcomes, {report.rows:,} rows of evidence"
    if report.base:
        counted += f"; {report.base:,} outcomes of dropped days are in the base and cannot be replayed"
    if report.agrees:
        return f"replay agrees with live evidence to the last digit: {counted}"
    return f"replay DISAGREES with live evidence in {len(report.disagreements):,} rows: {counted}"


def _report_json(report: ReplayReport, names: dict[int, str]) -> dict[str, object]:
    return {
        "agrees": report.agrees,
        "events": report.events,
        "outcomes": report.outcomes,
        "rows": report.rows,
        "base": report.base,
        "disagreements": [
            {
                "experiment_id": names.get(row.incarnation, str(row.incarnation)),
                "arm_number": row.arm,
                "segment": row.segment,
                "bucket": row.bucket.isoformat(),
                "live": {"success_micros": row.live.success_micros, "n": row.live.n},
                "replayed": {"success_micros": row.replayed.success_micros, "n": row.replayed.n},
            }
            for row in report.disagreements
        ],
    }


def _table(disagreements: tuple[Disagreement, ...], names: dict[int, str]) -> Table:
    table = Table("experiment", "arm", "bucket", "live", "replayed", title="rows that disagree")
    for row in disagreements[:50]:
        table.add_row(
            names.get(row.incarnation, str(row.incarnation)),
            str(row.arm),
            f"{row.bucket:%Y-%m-%d %H:%M}",
            f"{row.live.success_micros / 1e6:g} of {row.live.n}",
            f"{row.replayed.success_micros / 1e6:g} of {row.replayed.n}",
        )
    return table
