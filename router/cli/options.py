"""Options that several commands share, and where they find their database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from router.cli.audit import default_actor
from router.embedded import EmbeddedPostgres, read_record
from router.settings import default_data_dir
from router.storage.connecting import DatabaseUrl, connect
from router.storage.errors import StorageError

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_SERVER = "127.0.0.1:50051"


class _Instant(click.ParamType[datetime]):
    """A moment, with its time zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time, as in 2026-11-22T10:00:00Z", param, ctx)
        if found.tzinfo is None:
            self.fail(f"{value!r} does not say its time zone: end it with Z or an offset, as in {value}Z", param, ctx)
        return found.astimezone(UTC)


INSTANT = _Instant()


def database_options(command: F) -> F:
    """Add --database-url and --data-dir."""
    command = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="BANDIT_ROUTER_DATA_DIR",
        default=default_data_dir,
        show_default="$XDG_DATA_HOME/bandit-router",
        help="Directory of the embedded Postgres and of the spool.",
    )(command)
    return click.option(
        "--database-url",
        envvar="BANDIT_ROUTER_DATABASE_URL",
        help="Use this PostgreSQL 14 or newer instead of the embedded one: postgresql://user:password@host/name.",
    )(command)


def server_option(command: F) -> F:
    """Add --server, and what it takes to reach it: that is kept for `calls.connected`, and no argument of the command."""
    for name, envvar, what in reversed(_REACHING):
        kind: Any = click.Path(exists=True, dir_okay=False)
        command = click.option(name, envvar=envvar, type=kind, help=what, expose_value=False, callback=_keep)(command)
    command = click.option(
        "--insecure",
        is_flag=True,
        help="Send the key in plain text, to another host too.",
        expose_value=False,
        callback=_keep,
    )(command)
    return click.option(
        "--server", envvar="BANDIT_ROUTER_SERVER", default=DEFAULT_SERVER, show_default=True, help="HOST:PORT of a router."
    )(command)


#: Keys are read from files or the environment: arguments show in the list of processes.
_REACHING = (
    ("--api-key-file", "BANDIT_ROUTER_API_KEY_FILE", "File with the API key.  [or: $BANDIT_ROUTER_API_KEY]"),
    ("--tls-ca", "BANDIT_ROUTER_TLS_CA", "PEM certificates that sign the router's: use TLS."),
    ("--client-cert", "BANDIT_ROUTER_CLIENT_CERT", "PEM certificate of this client, for mutual TLS."),
    ("--client-key", "BANDIT_ROUTER_CLIENT_KEY", "PEM key of that certificate."),
)
#: Where `reaching` finds what was given.
_KEPT = "router.cli.options.reaching"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    ctx.meta.setdefault(_KEPT, {})[param.name] = value
    return value


def reaching() -> dict[str, Any]:
    """Return what the running command was given to reach its router: api_key_file, tls_ca, client_cert and so on."""
    ctx = click.get_current_context(silent=True)
    found: dict[str, Any] = {} if ctx is None else ctx.meta.get(_KEPT, {})
    return found


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(command)


def audit_options(*, reason_required: bool = False) -> Callable[[F], F]:
    """Add --actor and --reason: who changes something, and why."""

    def add(command: F) -> F:
        unless: dict[str, Any] = {"required": True} if reason_required else {"default": ""}
        command = click.option("--reason", metavar="TEXT", help="Why, for the log of transitions.", **unless)(command)
        return click.option(
            "--actor",
            envvar="BANDIT_ROUTER_ACTOR",
            default=default_actor,
            show_default="USER@HOST",
            help="Who asks for it, for the log of transitions.",
        )(command)

    return add


@contextmanager
def database_at(database_url: str | None, data_dir: Path) -> Iterator[DatabaseUrl]:
    """Give the database that a router with these settings uses, starting the embedded one if it is not running."""
    if database_url is not None:
        yield DatabaseUrl.parse(database_url)
        return
    running = running_database(data_dir)
    if running is not None:
        yield running
        return
    with EmbeddedPostgres(data_dir) as postgres:
        yield DatabaseUrl.parse(postgres.url)


def running_database(data_dir: Path) -> DatabaseUrl | None:
    """Return the embedded database of a data directory if it answers."""
    record = read_record(data_dir)
    if record is None:
        return None
    url = DatabaseUrl.parse(record.url)
    try:
        connect(url).close()
    except StorageError:
        return None
    return url
