"""`forget`: the identifiers of a unit are erased, and what was learned from it stays."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.cli.forget_spool import Spooled, spooled, take_out
from router.cli.main import fail
from router.cli.options import audit_options, database_at, database_options, json_option
from router.storage.connecting import SyncConnection, connect
from router.storage.forget import Forgotten, erase
from router.storage.imports import read_target
from router.storage.traces import Trace, deployment_of, lacking

if TYPE_CHECKING:
    from router.analysis.forgetting import Blanked, ExportedFiles

_LOOK_EVERY_S = 0.2


@click.command()
@click.argument("unit")
@click.option("--experiment", help="Only in this experiment.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for what is in the spool to reach Postgres.",
)
@click.option(
    "--export",
    "exports",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also in the files that `export` wrote there, of whatever day. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be erased; change nothing.")
@database_options
@audit_options()
@json_option
def forget(
    unit: str,
    experiment: str | None,
    wait_s: float,
    exports: tuple[Path, ...],
    dry_run: bool,
    database_url: str | None,
    data_dir: Path,
    actor: str,
    reason: str,
    as_json: bool,
) -> None:
    """Erase the identifiers of UNIT: evidence, propensities and outcomes stay, and replay agrees as before.

    Covers the database, and the spool of this host: what waits there must reach Postgres first. On a deployment of several
    hosts, run it on each. Exported files are covered where --export names them; backups, copies and logs are not.
    """
    if not unit:
        raise click.UsageError("UNIT: must not be empty")
    if unit in reason or unit in actor:
        raise click.UsageError("--reason, --actor: are kept, and must not name the unit")
    with ExitStack() as opened:
        url = opened.enter_context(database_at(database_url, data_dir))
        connection = opened.enter_context(connect(url))
        incarnation = None
        if experiment is not None:
            target = read_target(connection, experiment)
            if target is None:
                raise click.UsageError(f"--experiment {experiment}: no such experiment in {url.shown}")
            incarnation = target.incarnation
        trace = Trace(connection, unit, incarnation)
        files = _opened_exports(exports, trace, opened)
        directory = data_dir / "spool" / deployment_of(connection)
        waiting = _until_stored(connection, directory, trace, 0.0 if dry_run else wait_s)
        if waiting and not dry_run:
            fail(
                f"{waiting} records of the unit in {directory} have not reached Postgres, so nothing was erased: start the"
                " router, or wait until it has drained the spool, and run this again"
            )
        forgotten = erase(connection, trace, actor, reason, dry_run=dry_run)
        left = spooled(directory, trace)
        if not dry_run:
            take_out(left, trace)
        blanked = _blanked(files, trace, dry_run=dry_run)
    result = {
        "dry_run": dry_run,
        "experiment_id": experiment,
        **asdict(forgotten.erased),
        "closed_days": [day.isoformat() for day in forgotten.closed_days],
        "event_ids": forgotten.event_ids,
        "spool": {
            "directory": str(directory),
            "found": directory.is_dir(),
            "waiting": waiting,
            "files": len(left.files),
            "refused": sum(left.refused.values()),
            "may_hold": [path.name for path in left.may_hold],
        },
        "exports": [asdict(found) for found in blanked],
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _show(forgotten, directory, waiting, left, dry_run=dry_run)
        for found in blanked:
            click.echo(
                f"{found.directory}: the identifiers of {found.decisions:,} decisions and metadata of {found.events:,}"
                f" events, in {found.files:,} files"
            )


def _opened_exports(directories: Sequence[Path], trace: Trace, opened: ExitStack) -> "list[ExportedFiles]":
    """Open exports before anything is erased, so that nothing is if one of them is not as it should be."""
    if not directories:
        return []
    try:
        from router.analysis import AnalysisError
        from router.analysis.forgetting import exported_files
    except ModuleNotFoundError as error:
        raise click.UsageError(str(error)) from None
    try:
        return [opened.enter_context(exported_files(directory, trace)) for directory in dict.fromkeys(directories)]
    except AnalysisError as error:
        raise click.UsageError(f"--export {error}") from None


def _blanked(files: "Sequence[ExportedFiles]", trace: Trace, *, dry_run: bool) -> "list[Blanked]":
    if not files:
        return []
    from router.analysis import AnalysisError

    try:
        return [of_directory.forget(trace, dry_run=dry_run) for of_directory in files]
    except (AnalysisError, OSError) as error:
        fail(f"{error}; the database has forgotten the unit, these files may not have: run this again once they are well")


def _until_stored(connection: SyncConnection, directory: Path, trace: Trace, wait_s: float) -> int:
    """Wait until Postgres has all that the spool has of a unit; returns how many records it lacks."""
    give_up = time.monotonic() + wait_s
    found = spooled(directory, trace)
    while True:
        missing = lacking(connection, found.decisions, found.events)
        if not missing or time.monotonic() >= give_up:
            return missing
        time.sleep(_LOOK_EVERY_S)


def _show(forgotten: Forgotten, directory: Path, waiting: int, left: Spooled, *, dry_run: bool) -> None:
    erased = forgotten.erased
    click.echo(
        f"{'would be erased' if dry_run else 'erased'}: the identifiers of {erased.decisions:,} decisions,"
        f" {erased.interleavings:,} interleavings and {erased.sticky_assignments:,} stored assignments, metadata of"
        f" {erased.events:,} events, texts of {erased.shadow_comparisons:,} shadow comparisons and {erased.judgments:,}"
        " judgments"
    )
    if forgotten.closed_days:
        click.echo(f"left to retention, which is dropping them: {', '.join(map(str, forgotten.closed_days))}")
    if forgotten.event_ids:
        click.echo(f"{forgotten.event_ids:,} event ids hold the unit's: they decide ties, and stay")
    if not directory.is_dir():
        click.echo(f"there is no spool of this deployment in {directory.parent}: run this on the hosts that have one")
    elif waiting:
        click.echo(f"{waiting:,} records of it in the spool have not reached Postgres yet")
    if left.files:
        click.echo(
            f"{len(left.files)} files of the spool still hold it, and go once they are full or a SIGHUP has replaced the"
            " workers"
        )
    for path, count in left.refused.items():
        click.echo(f"{path.name}: {count:,} records of it {'would be' if dry_run else 'were'} taken out")
    for path in left.may_hold:
        click.echo(f"{path.name}: may hold it, and cannot be read: remove it once it is understood")
