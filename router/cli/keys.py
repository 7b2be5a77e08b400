"""`keys`: who may call, and what signs decision ids."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from router.access.keys import NewKey, new_key
from router.access.roles import Role
from router.cli.key_types import DURATION, KEY_ID, RATE
from router.cli.options import audit_options, database_at, database_options, json_option
from router.storage import api_keys, token_keys
from router.storage.api_keys import Grant, KeyRow
from router.storage.audit import Act
from router.storage.connecting import SyncConnection, connect
from router.storage.errors import StorageError
from router.storage.migrate import migrate, schema_state

_EXPERIMENT_ID_BYTES = 128


@click.group()
def keys() -> None:
    """Make, list, replace and revoke API keys, and the keys that sign decision ids.

    These commands work on the database itself, so that there can be a first key. Running routers follow within a second.
    """


@keys.command()
@click.option("--name", required=True, help="Who has it, for the audit log. One active key of a name.")
@click.option(
    "--role",
    "roles",
    required=True,
    multiple=True,
    type=click.Choice([role.value for role in Role]),
    help="What it may do; may be repeated. admin includes read, and nothing includes route or reward.",
)
@click.option(
    "--experiment", "experiments", multiple=True, metavar="ID", help="Only there; may be repeated.  [default: all]"
)
@click.option("--expires", type=DURATION, metavar="DURATION", help="Refuse it after this long, as in 90d.  [default: never]")
@click.option(
    "--rate", type=RATE, metavar="RATE", help="Calls and items of batches in each worker, as in 500/s.  [default: any]"
)
@click.option("--burst", type=click.IntRange(1, 10**9), help="So many at once after a pause.  [default: a second's worth]")
@database_options
@audit_options()
@json_option
def create(
    name: str,
    roles: Sequence[str],
    experiments: Sequence[str],
    expires: timedelta | None,
    rate: float | None,
    burst: int | None,
    database_url: str | None,
    data_dir: Path,
    actor: str,
    reason: str,
    as_json: bool,
) -> None:
    """Make a key. It is shown now and never again: only its hash is kept.

    The key goes to standard output, all else to standard error.
    """
    _check_texts(name, experiments)
    if burst is not None and rate is None:
        raise click.UsageError("--burst: takes a --rate")
    grant = Grant(
        name,
        frozenset(map(Role, roles)),
        frozenset(experiments) if experiments else None,
        rate,
        None if rate is None else float(burst or max(1.0, rate)),
        expires,
    )
    new = new_key()
    with _connected(database_url, data_dir) as connection:
        api_keys.create(connection, new, grant, Act("keys create", actor, reason=reason))
    _show_new(new, grant, "made", as_json)


@keys.command("list")
@click.option("--all", "all_", is_flag=True, help="Also those that are expired or revoked.")
@database_options
@json_option
def list_(all_: bool, database_url: str | None, data_dir: Path, as_json: bool) -> None:
    """List keys, never their secrets."""
    with _connected(database_url, data_dir) as connection:
        rows = [row for row in api_keys.read_all(connection) if all_ or row.state in ("active", "replaced")]
    if as_json:
        click.echo(json.dumps([_document(row) for row in rows], indent=2))
        return
    for row in rows:
        click.echo(_line(row))


@keys.command()
@click.argument("key_id", type=KEY_ID)
@click.option("--overlap", type=DURATION, default="24h", show_default=True, help="How long the old key is good beside it.")
@click.option(
    "--expires", type=DURATION, metavar="DURATION", help="Refuse the new key after this long.  [default: as the old]"
)
@database_options
@audit_options()
@json_option
def rotate(
    key_id: str,
    overlap: timedelta,
    expires: timedelta | None,
    database_url: str | None,
    data_dir: Path,
    actor: str,
    reason: str,
    as_json: bool,
) -> None:
    """Make the key that takes another's place: the same name, roles, experiments and limit."""
    new = new_key()
    with _connected(database_url, data_dir) as connection:
        grant = api_keys.rotate(connection, key_id, new, overlap, expires, Act("keys rotate", actor, reason=reason))
    _show_new(new, grant, f"takes the place of {key_id}, which is good for another {overlap}", as_json)


@keys.command()
@click.argument("key_id", type=KEY_ID)
@database_options
@audit_options(reason_required=True)
@json_option
def revoke(key_id: str, database_url: str | None, data_dir: Path, actor: str, reason: str, as_json: bool) -> None:
    """Refuse a key from now on, on every router that reaches its database."""
    with _connected(database_url, data_dir) as connection:
        name = api_keys.revoke(connection, key_id, Act("keys revoke", actor, reason=reason))
    _say({"key_id": key_id, "name": name, "state": "revoked"}, f"key {key_id} ({name}) is revoked", as_json)


@keys.group()
def tokens() -> None:
    """The keys that sign decision ids."""


@tokens.command("list")
@database_options
@json_option
def list_tokens(database_url: str | None, data_dir: Path, as_json: bool) -> None:
    """List the signing keys, never their secrets."""
    with _connected(database_url, data_dir) as connection:
        rows = token_keys.read_all(connection)
    for row in [] if as_json else rows:
        click.echo(
            f"{row.key_id:>10}  {row.state:<9}  made {_minute(row.created_at)}  signs from {_minute(row.activates_at)}"
        )
    if as_json:
        click.echo(json.dumps([_document(row) for row in rows], indent=2))


@tokens.command("rotate")
@click.option(
    "--activate-after",
    type=DURATION,
    default="10m",
    show_default=True,
    help="By then every replica must have heard of it: longer than Postgres may be out of their reach.",
)
@database_options
@audit_options()
@json_option
def rotate_tokens(
    activate_after: timedelta, database_url: str | None, data_dir: Path, actor: str, reason: str, as_json: bool
) -> None:
    """Make a key that signs after a while. What the others signed stays good."""
    with _connected(database_url, data_dir) as connection:
        row = token_keys.rotate(connection, activate_after, Act("keys tokens rotate", actor, reason=reason))
    _say(_document(row), f"token key {row.key_id} signs from {_minute(row.activates_at)}", as_json)


@tokens.command()
@click.argument("token_key_id", type=click.IntRange(0, 2**32 - 1))
@database_options
@audit_options(reason_required=True)
@json_option
def retire(token_key_id: int, database_url: str | None, data_dir: Path, actor: str, reason: str, as_json: bool) -> None:
    """Refuse what a key signed, from now on: feedback for those decisions is lost. For a key that has leaked."""
    with _connected(database_url, data_dir) as connection:
        token_keys.retire(connection, token_key_id, Act("keys tokens retire", actor, reason=reason))
    _say({"key_id": token_key_id, "state": "retired"}, f"what token key {token_key_id} signed is refused", as_json)


@contextmanager
def _connected(database_url: str | None, data_dir: Path) -> Iterator[SyncConnection]:
    """Give a connection to a database of this version's schema; an empty one is migrated."""
    with database_at(database_url, data_dir) as url:
        state = schema_state(url)
        if state.current is None:
            migrate(url)
        elif state.pending:
            raise StorageError(
                f"database {url.shown}: at {state.current}, this version needs {state.needed}: run `bandit-router migrate`"
            )
        with connect(url) as connection:
            yield connection


def _check_texts(name: str, experiments: Sequence[str]) -> None:
    if not name.strip() or len(name) > 128 or not name.isprintable():
        raise click.UsageError(f"--name {name!r}: must be 1 to 128 printable characters")
    for experiment in experiments:
        if not 0 < len(experiment.encode()) <= _EXPERIMENT_ID_BYTES or not experiment.isprintable():
            raise click.UsageError(f"--experiment {experiment!r}: is no id of an experiment")


def _show_new(new: NewKey, grant: Grant, what: str, as_json: bool) -> None:
    scope = "every experiment" if grant.experiments is None else ", ".join(sorted(grant.experiments))
    document = {
        "key_id": new.key_id,
        "key": new.text,
        "name": grant.name,
        "roles": sorted(grant.roles),
        "experiments": None if grant.experiments is None else sorted(grant.experiments),
        "rate": grant.rate,
        "burst": grant.burst,
    }
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"key {new.key_id} ({grant.name}) {what}: {', '.join(sorted(grant.roles))} in {scope}", err=True)
    click.echo("it is not shown again:", err=True)
    click.echo(new.text)


def _say(document: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(document, indent=2) if as_json else text)


def _document(row: KeyRow | token_keys.TokenKeyRow) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row._asdict().items()}


def _line(row: KeyRow) -> str:
    state = row.state if row.replaced_by is None else f"{row.state}, by {row.replaced_by}"
    scope = "every experiment" if row.experiments is None else ", ".join(row.experiments)
    limit = "" if row.rate is None else f"  up to {row.rate:g}/s"
    expires, used = _day(row.expires_at) or "never", _minute(row.last_used_at) or "never"
    return (
        f"{row.key_id}  {row.name}  {state}  {', '.join(row.roles)} in {scope}{limit}"
        f"  made {_day(row.created_at)} by {row.created_by}, expires {expires}, last used {used}"
    )


def _day(time: datetime | None) -> str:
    return "" if time is None else time.date().isoformat()


def _minute(time: datetime | None) -> str:
    return "" if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")
