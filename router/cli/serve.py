"""`serve`."""

from pathlib import Path

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
def serve(
    listen: str, database_url: str | None, data_dir: Path, workers: int, retention: str | None, log_level: str
) -> None:
    """Run the router until SIGTERM; SIGHUP replaces its processes one by one.

    Prints one line on standard output once it answers; logs go to standard error.
    """
    from router.logs import configure_logging
    from router.settings import Address, retention_days
    from router.supervisor import ServeSettings
    from router.supervisor import serve as supervise

    configure_logging(log_level)
    kept = None if retention is None else retention_days(retention)
    settings = ServeSettings(Address.parse(listen), database_url, data_dir, workers, log_level, kept)
    raise SystemExit(supervise(settings, lambda line: print(line, flush=True)))
