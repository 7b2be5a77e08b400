"""`forget`: the identifiers of a unit are erased, and what was learned from it stays."""

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import click

from router.cli.main import fail
from router.cli.options import audit_options, database_at, database_options, json_option
from router.feedback_spool import SUFFIX as EVENTS
from router.feedback_spool import decode as decode_event
from router.journal import SUFFIX as JOURNAL
from router.journal import decode as decode_decision
from router.spool import Record, frames, next_frame
from router.storage.connecting import SyncConnection, connect
from router.storage.decisions import DecisionRow
from router.storage.forget import Forgotten, erase
from router.storage.imports import read_target
from router.storage.times import day_of
from router.storage.traces import Trace, deployment_of, lacking
from router.tokens import parse_token

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
@click.option("--dry-run", is_flag=True, help="Say what would be erased; change nothing.")
@database_options
@audit_options()
@json_option
def forget(
    unit: str,
    experiment: str | None,
    wait_s: float,
    dry_run: bool,
    database_url: str | None,
    data_dir: Path,
    actor: str,
    reason: str,
    as_json: bool,
) -> None:
    """Erase the identifiers of UNIT: evidence, propensities and outcomes stay, and replay agrees as before.

    Covers the database, and the spool of this host: what waits there must reach Postgres first. On a deployment of several
    hosts, run it on each. Backups, exported files and logs are not covered.
    """
    if not unit:
        raise click.UsageError("UNIT: must not be empty")
    if unit in reason or unit in actor:
        raise click.UsageError("--reason, --actor: are kept, and must not name the unit")
    with database_at(database_url, data_dir) as url, connect(url) as connection:
        incarnation = None
        if experiment is not None:
            target = read_target(connection, experiment)
            if target is None:
                raise click.UsageError(f"--experiment {experiment}: no such experiment in {url.shown}")
            incarnation = target.incarnation
        trace = Trace(connection, unit, incarnation)
        directory = data_dir / "spool" / deployment_of(connection)
        waiting = _until_stored(connection, directory, trace, 0.0 if dry_run else wait_s)
        if waiting and not dry_run:
            fail(
                f"{waiting} records of the unit in {directory} have not reached Postgres, so nothing was erased: start the"
                " router, or wait until it has drained the spool, and run this again"
            )
        forgotten = erase(connection, trace, actor, reason, dry_run=dry_run)
        left = len(_in_spool(directory, trace).files)
    result = {
        "dry_run": dry_run,
        "experiment_id": experiment,
        **asdict(forgotten.erased),
        "closed_days": [day.isoformat() for day in forgotten.closed_days],
        "event_ids": forgotten.event_ids,
        "spool": {"directory": str(directory), "found": directory.is_dir(), "waiting": waiting, "files": left},
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _show(forgotten, directory, waiting, left, dry_run=dry_run)


@dataclass(slots=True)
class _Found:
    """What the spool's files have of a unit, stored already or not."""

    decisions: list[tuple[date, bytes]] = field(default_factory=list)
    events: list[tuple[date, bytes, str]] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)


def _until_stored(connection: SyncConnection, directory: Path, trace: Trace, wait_s: float) -> int:
    """Wait until Postgres has all that the spool has of a unit; returns how many records it lacks."""
    give_up = time.monotonic() + wait_s
    found = _in_spool(directory, trace)
    while True:
        missing = lacking(connection, found.decisions, found.events)
        if not missing or time.monotonic() >= give_up:
            return missing
        time.sleep(_LOOK_EVERY_S)


def _in_spool(directory: Path, trace: Trace) -> _Found:
    found = _Found()
    hashes = set(trace.hashes)
    for path in sorted(directory.glob(f"*{JOURNAL}")):
        for record in _records(path):
            row = _decision(record)
            if row is not None and row.unit_id == trace.unit_id and trace.incarnation in (None, row.incarnation):
                found.decisions.append((day_of(row.decided_at_us), row.decision_key))
                found.files.add(path)
    for path in sorted(directory.glob(f"*{EVENTS}")):
        for record in _records(path):
            try:
                request, _ = decode_event(record)
                # Nobody but the router writes there: whether it is signed need not be asked.
                token = parse_token(urlsafe_b64decode(request.decision_id + "=" * (-len(request.decision_id) % 4)))
            except ValueError:
                continue
            if token.unit_hash in hashes and trace.incarnation in (None, token.incarnation):
                found.events.append((day_of(token.decided_at_us), token.decision_key, request.event_id))
                found.files.add(path)
    # Written twice where a write was repeated.
    found.decisions, found.events = list(dict.fromkeys(found.decisions)), list(dict.fromkeys(found.events))
    return found


def _decision(record: Record) -> DecisionRow | None:
    try:
        row = decode_decision(record)
    except ValueError:
        return None
    return row if isinstance(row, DecisionRow) else None


def _records(path: Path) -> Iterator[Record]:
    """Give the whole records of a segment; one that is gone by now is stored."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    while data:
        records, end = frames(data)
        yield from records
        sound = next_frame(data[end:])
        if sound is None:
            return
        data = data[end + sound :]


def _show(forgotten: Forgotten, directory: Path, waiting: int, left: int, *, dry_run: bool) -> None:
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
    if left:
        click.echo(
            f"{left} files of the spool still hold it, and go once they are full or a SIGHUP has replaced the workers"
        )
