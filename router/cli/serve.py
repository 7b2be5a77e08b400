"""`serve`."""

from pathlib import Path
from typing import Literal

import click

from router.cli.options import DEFAULT_SERVER, database_options


@click.command()
@click.option(
    "--listen", envvar="BANDIT_ROUTER_LISTEN", default=DEFAULT_SERVER, show_default=True, help="HOST:PORT; port 0 is any."
)
@database_options
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    envvar="BANDIT_ROUTER_WORKERS",
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@click.option(
    "--retention",
    envvar="BANDIT_ROUTER_RETENTION",
    help="Drop decisions and events after so many days, as in 90d; what they taught stays. For ever unless given.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    envvar="BANDIT_ROUTER_LOG_LEVEL",
    default="info",
    show_default=True,
    help="What goes to standard error.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="BANDIT_ROUTER_LOG_FORMAT",
    default="text",
    show_default=True,
    help="Lines for people, or one JSON object a line.",
)
def serve(
    listen: str,
    database_url: str | None,
    data_dir: Path,
    workers: int,
    retention: str | None,
    log_level: str,
    log_format: Literal["text", "json"],
) -> None:
    """Run the router until SIGTERM; SIGHUP replaces its processes one by one.

    Prints one line on standard output once it answers; logs go to standard error.
    """
    from router.logs import configure_logging
    from router.serving import serve as supervise
    from router.settings import Address, ServeSettings, retention_days

    configure_logging(log_level, log_format)
    kept = None if retention is None else retention_days(retention)
    settings = ServeSettings(Address.parse(listen), database_url, data_dir, workers, log_level, kept)
    raise SystemExit(supervise(settings, lambda line: print(line, flush=True)))
