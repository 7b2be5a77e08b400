"""`serve`."""

from pathlib import Path
from typing import Literal

import click

from router.cli.options import DEFAULT_SERVER, database_options

_FILE = click.Path(dir_okay=False)


@click.command()
@click.option(
    "--listen", envvar="BANDIT_ROUTER_LISTEN", default=DEFAULT_SERVER, show_default=True, help="HOST:PORT; port 0 is any."
)
@click.option(
    "--auth",
    type=click.Choice(["keys", "none"]),
    envvar="BANDIT_ROUTER_AUTH",
    show_default="none on loopback, else keys",
    help="Whether calls need an API key: see `bandit-router keys`.",
)
@click.option(
    "--tls-cert",
    type=_FILE,
    envvar="BANDIT_ROUTER_TLS_CERT",
    help="PEM certificate, and its chain; read again when it changes.",
)
@click.option(
    "--tls-key", type=_FILE, envvar="BANDIT_ROUTER_TLS_KEY", help="PEM key of the certificate, without a password."
)
@click.option(
    "--tls-client-ca",
    type=_FILE,
    envvar="BANDIT_ROUTER_TLS_CLIENT_CA",
    help="PEM certificates that clients' own must be signed by: mutual TLS.",
)
@click.option(
    "--insecure",
    is_flag=True,
    envvar="BANDIT_ROUTER_INSECURE",
    help="Listen beyond loopback without keys or without TLS: for a network where nobody is a stranger.",
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
    "--metrics-listen",
    envvar="BANDIT_ROUTER_METRICS_LISTEN",
    help="HOST:PORT, as in 127.0.0.1:9464: /metrics, /livez and /readyz over plain HTTP, for whoever reaches it. Off unless"
    " given.",
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
    auth: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    insecure: bool,
    database_url: str | None,
    data_dir: Path,
    workers: int,
    retention: str | None,
    metrics_listen: str | None,
    log_level: str,
    log_format: Literal["text", "json"],
) -> None:
    """Run the router until SIGTERM; SIGHUP replaces its processes one by one.

    Prints one line on standard output once it answers; logs go to standard error.
    """
    from router.logs import configure_logging
    from router.serving import serve as supervise
    from router.settings import Address, Exposure, ServeSettings, retention_days, tls_files

    configure_logging(log_level, log_format)
    kept = None if retention is None else retention_days(retention)
    address = Address.parse(listen)
    exposure = Exposure.checked(address, auth, tls_files(tls_cert, tls_key, tls_client_ca), insecure=insecure)
    exposure.warn(address)
    metrics = Address.parse(metrics_listen, "--metrics-listen", "127.0.0.1:9464") if metrics_listen else None
    settings = ServeSettings(address, database_url, data_dir, workers, log_level, kept, exposure, metrics)
    raise SystemExit(supervise(settings, lambda line: print(line, flush=True)))
