"""`doctor`: finds what would keep the service from working, and says what to do."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.cli.calls import connected
from router.cli.options import database_options, json_option, running_database, server_option
from router.embedded import EmbeddedPostgresError, read_record
from router.embedded.binaries import locate
from router.storage.connecting import DatabaseUrl, connect
from router.storage.errors import StorageError
from router.storage.migrate import schema_state

_LITTLE_DISK_BYTES = 1024 * 1024 * 1024
_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    #: "ok", "warning" or "problem".
    level: str
    #: What was found, and what to do about it.
    detail: str


@click.command()
@server_option
@database_options
@json_option
def doctor(server: str, database_url: str | None, data_dir: Path, as_json: bool) -> None:
    """Check the installation, the data directory, the database and a running router.

    Exits with status 1 if there is a problem.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("data directory", lambda: _data_directory(data_dir)),
        ("disk", lambda: _disk(data_dir)),
        ("spool", lambda: _spool(data_dir)),
    ]
    if database_url is None:
        checks.append(("embedded postgres", lambda: _embedded(data_dir)))
    checks.append(("database", lambda: _database(database_url, data_dir)))
    checks.append(("server", lambda: _server(server)))
    findings = [_checked(name, check) for name, check in checks]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        marks = {"ok": click.style("ok      ", "green"), "warning": click.style("warning ", "yellow")}
        for finding in findings:
            mark = marks.get(finding.level, click.style("problem ", "red"))
            click.echo(f"{mark} {finding.check}: {finding.detail}")
    if any(finding.level == "problem" for finding in findings):
        raise SystemExit(1)


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (StorageError, EmbeddedPostgresError, OSError) as error:
        return Finding(name, "problem", str(error))


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    level = "ok" if sys.version_info >= (3, 11) else "problem"
    return Finding("python", level, f"{found} (3.11 or newer is needed)")


def _data_directory(data_dir: Path) -> Finding:
    existing = next(path for path in (data_dir, *data_dir.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding("data directory", "problem", f"{existing} cannot be written: choose another with --data-dir")
    note = str(data_dir) if existing == data_dir else f"{data_dir} does not exist yet; `serve` makes it"
    return Finding("data directory", "ok", note)


def _disk(data_dir: Path) -> Finding:
    existing = next(path for path in (data_dir, *data_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    level = "warning" if free < _LITTLE_DISK_BYTES else "ok"
    return Finding("disk", level, f"{free / 2**30:.1f} GiB free at {existing}")


def _spool(data_dir: Path) -> Finding:
    segments = list((data_dir / "spool").glob("*/*.journal"))
    size = sum(segment.stat().st_size for segment in segments)
    return Finding("spool", "ok", f"{len(segments)} journal segments, {size:,} bytes")


def _embedded(data_dir: Path) -> Finding:
    binaries = locate()
    record = read_record(data_dir)
    state = "never started here" if record is None else f"last on port {record.port}"
    if record is not None and running_database(data_dir) is not None:
        state = f"running on port {record.port}"
    return Finding("embedded postgres", "ok", f"PostgreSQL {binaries.major}, {state}")


def _database(database_url: str | None, data_dir: Path) -> Finding:
    url = DatabaseUrl.parse(database_url) if database_url is not None else running_database(data_dir)
    if url is None:
        return Finding("database", "warning", "the embedded Postgres is not running: `bandit-router serve` starts it")
    state = schema_state(url)
    if state.pending:
        return Finding(
            "database",
            "problem",
            f"{url.shown} is at schema {state.current or 'empty'}, {state.needed} is needed: run `bandit-router migrate`",
        )
    with connect(url) as connection:
        version = connection.info.server_version // 10_000
    return Finding("database", "ok", f"{url.shown}, PostgreSQL {version}, schema {state.current}")


def _server(server: str) -> Finding:
    with connected(server) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            name = error.code().name
            return Finding(
                "server", "warning", f"no router answers on {server} ({name}): start one with `bandit-router serve`"
            )
    serving = reply.status == health_pb2.HealthCheckResponse.SERVING
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return Finding("server", "ok" if serving else "problem", f"{server} is {status}")
