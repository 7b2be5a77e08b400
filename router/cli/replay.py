"""`replay`: evidence, or a snapshot of the past, computed again from the log."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from router.cli.options import INSTANT, database_at, database_options, json_option
from router.storage.connecting import SyncConnection, connect
from router.storage.rebuild import Rebuilt, rebuild
from router.storage.replay import Disagreement, ReplayReport, experiment_names
from router.storage.replay import replay as compute_again


@click.command()
@database_options
@click.option("--experiment", help="Replay only this experiment.")
@click.option(
    "--as-of", type=INSTANT, metavar="TIME", help="Compute the last snapshot until then again, instead of what counts now."
)
@json_option
def replay(database_url: str | None, data_dir: Path, experiment: str | None, as_of: datetime | None, as_json: bool) -> None:
    """Compute evidence again from the log of events and compare: it must agree to the last digit.

    Runs beside a live service and changes nothing. Exits with status 1 if anything disagrees.
    """
    with database_at(database_url, data_dir) as url, connect(url) as connection:
        names = experiment_names(connection)
        incarnation = None
        if experiment is not None:
            incarnation = next((i for i, name in names.items() if name == experiment), None)
            if incarnation is None:
                raise click.UsageError(f"--experiment {experiment}: no such experiment in {url.shown}")
        if as_of is None:
            agrees = _replay_all(connection, incarnation, names, as_json)
        else:
            agrees = _replay_snapshots(connection, as_of, [incarnation] if incarnation is not None else names, as_json)
    if not agrees:
        raise SystemExit(1)


@contextmanager
def _bar(hidden: bool) -> Iterator[Progress]:
    columns = (TextColumn("replaying events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as progress:
        yield progress


def _replay_all(connection: SyncConnection, incarnation: int | None, names: dict[int, str], as_json: bool) -> bool:
    with _bar(as_json) as progress:
        task = progress.add_task("replay", total=None)
        report = compute_again(
            connection, incarnation, lambda done, total: progress.update(task, completed=done, total=total)
        )
    click.echo(json.dumps(_report_json(report, names), indent=2) if as_json else _report_text(report))
    if not report.agrees and not as_json:
        Console().print(_table(report.disagreements, names))
    return report.agrees


def _replay_snapshots(connection: SyncConnection, as_of: datetime, incarnations: Iterable[int], as_json: bool) -> bool:
    found: list[Rebuilt] = []
    with _bar(as_json) as progress:
        for incarnation in incarnations:
            task = progress.add_task("replay", total=None)
            snapshot = rebuild(
                connection,
                incarnation,
                as_of,
                lambda done, total, task=task: progress.update(task, completed=done, total=total),  # type: ignore[misc]
            )
            found += [snapshot] if snapshot is not None else []
    if not found:
        raise click.UsageError(f"--as-of {as_of.isoformat()}: there is no snapshot that old")
    if as_json:
        click.echo(json.dumps([_snapshot_json(snapshot) for snapshot in found], indent=2))
    else:
        for snapshot in found:
            click.echo(_snapshot_text(snapshot))
    return all(snapshot.agrees for snapshot in found)


def _snapshot_text(found: Rebuilt) -> str:
    named = f"{found.experiment_id}: snapshot of {found.taken_at.isoformat()}, version {found.policy_version}"
    if found.obstacle:
        return f"{named}: CANNOT be rebuilt: {found.obstacle}"
    if found.agrees:
        posteriors = len({arm.segment for arm in found.arms})
        arms = f"{len(found.arms) // posteriors} arms" + (f" in {posteriors} posteriors" if posteriors > 1 else "")
        return f"{named}: replay agrees to the last digit: {found.events:,} events, {arms}"
    different = ", ".join(
        f"{arm.arm_id} v{arm.version}" + (f" in {arm.segment}" if arm.segment else "")
        for arm in found.arms
        if not arm.agrees
    )
    return f"{named}: replay DISAGREES for {different}; --json shows the figures"


def _snapshot_json(found: Rebuilt) -> dict[str, object]:
    return {
        "experiment_id": found.experiment_id,
        "policy_version": found.policy_version,
        "taken_at": found.taken_at.isoformat(),
        "agrees": found.agrees,
        "obstacle": found.obstacle,
        "events": found.events,
        "arms": [
            {
                "segment": arm.segment,
                "arm_id": arm.arm_id,
                "version": arm.version,
                "agrees": arm.agrees,
                "kept": arm.kept,
                "rebuilt": arm.rebuilt,
            }
            for arm in found.arms
        ],
    }


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
    table = Table("experiment", "arm", "segment", "bucket", "live", "replayed", title="rows that disagree")
    for row in disagreements[:50]:
        table.add_row(
            names.get(row.incarnation, str(row.incarnation)),
            str(row.arm),
            row.segment,
            f"{row.bucket:%Y-%m-%d %H:%M}",
            f"{row.live.success_micros / 1e6:g} of {row.live.n}",
            f"{row.replayed.success_micros / 1e6:g} of {row.replayed.n}",
        )
    return table
