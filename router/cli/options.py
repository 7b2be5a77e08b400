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
    """Add --server."""
    return click.option(
        "--server", envvar="BANDIT_ROUTER_SERVER", default=DEFAULT_SERVER, show_default=True, help="HOST:PORT of a router."
    )(command)


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
