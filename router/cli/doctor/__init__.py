"""`doctor`: finds what keeps the service from working, explains it, and says what to do."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from router.cli.doctor import database, host, running
from router.cli.doctor.findings import Check, Finding, found_by
from router.cli.options import database_options, json_option, running_database, server_option
from router.storage.connecting import DatabaseUrl
from router.tls import TlsFiles

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_FILE = click.Path(dir_okay=False)


@click.command()
@server_option
@database_options
@click.option(
    "--metrics",
    multiple=True,
    metavar="HOST:PORT",
    envvar="BANDIT_ROUTER_METRICS_LISTEN",
    help="The --metrics-listen of a service, to ask whether it is ready, stale or behind. Once for each replica.",
)
@click.option("--tls-cert", type=_FILE, envvar="BANDIT_ROUTER_TLS_CERT", help="The certificate that `serve` is given.")
@click.option("--tls-key", type=_FILE, envvar="BANDIT_ROUTER_TLS_KEY", help="Its key.")
@click.option("--tls-client-ca", type=_FILE, envvar="BANDIT_ROUTER_TLS_CLIENT_CA", help="Who signs clients' certificates.")
@json_option
def doctor(
    server: str,
    database_url: str | None,
    data_dir: Path,
    metrics: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    as_json: bool,
) -> None:
    """Check the installation, the data directory, the database and running routers. Changes nothing.

    Exits with status 1 if there is a problem.
    """
    checks: list[Check] = [
        ("python", host.python),
        ("data directory", lambda: host.data_directory(data_dir)),
        ("disk", lambda: host.disk(data_dir)),
        ("spool", lambda: host.spool(data_dir)),
    ]
    if database_url is None:
        checks.append(("embedded postgres", lambda: host.embedded(data_dir)))
    findings = found_by(checks)
    url, failed = _database_of(database_url, data_dir)
    findings += failed or found_by([("database", lambda: database.database(url))])
    if url is not None and database.usable(url):
        findings += found_by(database.further(url))
    if tls_cert and tls_key:
        files = TlsFiles(tls_cert, tls_key, tls_client_ca or "")
        findings += found_by([("certificate", lambda: running.certificate(files))])
    elif tls_cert or tls_key or tls_client_ca:
        raise click.UsageError("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
    findings += found_by([("server", lambda: running.server(server))])
    findings += found_by([("replica", lambda endpoint=endpoint: running.metrics(endpoint)) for endpoint in metrics])  # type: ignore[misc]
    if metrics and url is not None and database.usable(url):
        findings += found_by([("versions", lambda: running.behind(metrics, url))])
    _show(findings, as_json)
    if any(finding.level == "problem" for finding in findings):
        raise SystemExit(1)


def _database_of(database_url: str | None, data_dir: Path) -> tuple[DatabaseUrl | None, list[Finding]]:
    """The database to ask; or a finding that says why its address is of no use."""
    found: list[DatabaseUrl | None] = []

    def look() -> list[Finding]:
        found.append(running_database(data_dir) if database_url is None else DatabaseUrl.parse(database_url))
        return []

    failed = found_by([("database", look)])
    return (found[0] if found else None), failed


def _show(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    for finding in findings:
        mark = click.style(f"{finding.level:<8}", _COLOURS[finding.level])
        click.echo(f"{mark} {finding.check}: {finding.detail}")
        if finding.remedy:
            click.echo(f"{'':8}   → {finding.remedy}")
