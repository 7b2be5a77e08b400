"""`doctor`, check by check: each finding is made to happen, and names what to do; a healthy service has none."""

from __future__ import annotations

import asyncio
import fcntl
import http.server
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
from certificates import Authority
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from postgres import TestCluster
from processes import run, serving, wait_until
from running import Router, StoppableCluster, query, until, until_scalar

from router.cli.doctor import running
from router.cli.main import main
from router.storage import checkup, connecting
from router.storage.partitions import ensure_ahead

Found = dict[str, list[dict[str, str]]]
NOBODY = "127.0.0.1:1"


def look(*arguments: str | Path) -> tuple[int, Found]:
    """Run it in this process; returns its exit status, and the findings by check."""
    done = CliRunner().invoke(main, ["doctor", "--json", *map(str, arguments)], catch_exceptions=False)
    found: Found = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
        assert finding["level"] == "ok" or finding["remedy"] or "database" in finding["check"], finding
    return done.exit_code, found


def levels(found: Found, check: str) -> list[str]:
    return [finding["level"] for finding in found[check]]


@pytest.fixture
def here(tmp_path: Path, database_url: str) -> list[str | Path]:
    """Arguments: a database at the right schema, with its partitions, an empty data directory, and no router."""

    async def ahead() -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await ensure_ahead(connection, datetime.now(UTC).date())

    asyncio.run(ahead())
    return ["--database-url", database_url, "--data-dir", tmp_path / "data", "--server", NOBODY]


def test_a_healthy_service_has_no_findings(tmp_path: Path) -> None:
    with serving(tmp_path, "--metrics-listen", "127.0.0.1:0") as service:
        endpoint = service.metrics
        arguments = ["--data-dir", tmp_path / "data", "--server", service.target, "--metrics", endpoint]
        # The keeper makes the partitions of a new database in its first moments.
        wait_until(lambda: levels(look(*arguments)[1], "partitions") == ["ok"], "there are partitions")
        status, found = look(*arguments)
        bad = [finding for findings in found.values() for finding in findings if finding["level"] != "ok"]
        assert (status, bad) == (0, [])
        expected = {"python", "data directory", "disk", "spool", "embedded postgres", "database", "clock", "partitions"}
        expected |= {"notifications", "api keys", "signing key", "feedback", "server", "replica", "policies", "versions"}
        assert set(found) == expected
        text = run("doctor", *arguments)
        assert (text.returncode, text.stdout.count("\n")) == (0, sum(map(len, found.values())))
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            status, found = look(*arguments)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert (status, levels(found, "replica")) == (1, ["problem"])
        assert "0 of 1 workers" in found["replica"][0]["detail"]


# The database


def test_no_database(tmp_path: Path) -> None:
    away = ["--database-url", "postgresql://me:secret@127.0.0.1:1/x", "--data-dir", tmp_path, "--server", NOBODY]
    status, found = look(*away)
    assert (status, levels(found, "database")) == (1, ["problem"])
    assert "cannot be reached" in found["database"][0]["detail"]
    assert "secret" not in json.dumps(found)
    assert "clock" not in found
    status, found = look("--data-dir", tmp_path, "--server", NOBODY)
    assert (status, levels(found, "database")) == (0, ["warning"]), "the embedded one is started by serve"
    status, found = look("--database-url", "mysql://x", "--data-dir", tmp_path, "--server", NOBODY)
    assert (status, levels(found, "database")) == (1, ["problem"])


def test_a_postgres_of_the_wrong_version(here: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "OLDEST_MAJOR", 99)
    status, found = look(*here)
    assert (status, levels(found, "database")) == (1, ["problem"])
    assert "is too old; 99 or newer is needed" in found["database"][0]["detail"]


async def test_a_pending_migration_and_a_newer_schema(here: list[str | Path], cluster: TestCluster) -> None:
    empty = cluster.create_database(f"empty_{time.monotonic_ns()}")
    status, found = await asyncio.to_thread(look, "--database-url", empty, *here[2:])
    assert (status, levels(found, "database")) == (1, ["problem"])
    assert "bandit-router migrate" in found["database"][0]["remedy"]
    await query(str(here[1]), "UPDATE schema_version SET version_num = '9999'")
    status, found = await asyncio.to_thread(look, *here)
    assert (status, "upgrade this host" in found["database"][0]["remedy"]) == (1, True)


@pytest.mark.parametrize(("off_s", "level"), [(0, "ok"), (4, "warning"), (-4, "warning"), (30, "problem"), (-30, "problem")])
def test_a_clock_that_is_off(here: list[str | Path], monkeypatch: pytest.MonkeyPatch, off_s: float, level: str) -> None:
    real = time.time
    monkeypatch.setattr(checkup.time, "time", lambda: real() + off_s)
    status, found = look(*here)
    assert (status, levels(found, "clock")) == (int(level == "problem"), [level])


async def test_partitions_that_are_missing(here: list[str | Path]) -> None:
    url, today = str(here[1]), datetime.now(UTC).date()
    for ahead, level in ((6, "warning"), (1, "problem")):
        await query(url, f"DROP TABLE events_{today + timedelta(days=ahead):%Y%m%d}")
        status, found = await asyncio.to_thread(look, *here)
        assert (status, levels(found, "partitions")) == (int(level == "problem"), [level])
    assert f"2 days lack partitions, the first is {today + timedelta(days=1)}" in found["partitions"][0]["detail"]


@contextmanager
def deaf(port: int) -> Iterator[int]:
    """A way to Postgres on which no notification arrives, as through a pooler in transaction mode; gives its port."""

    def pump(one: socket.socket, other: socket.socket, *, drops: bool) -> None:
        buffer = b""
        with one, other:
            while data := one.recv(65_536):
                if not drops:
                    other.sendall(data)
                    continue
                buffer += data
                while len(buffer) >= 5 and len(buffer) > (length := int.from_bytes(buffer[1:5], "big")):
                    message, buffer = buffer[: length + 1], buffer[length + 1 :]
                    if message[:1] != b"A":  # NotificationResponse
                        other.sendall(message)

    def quietly(one: socket.socket, other: socket.socket, drops: bool) -> None:
        with suppress(OSError):
            pump(one, other, drops=drops)

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=quietly, args=(client, server, False), daemon=True).start()
            threading.Thread(target=quietly, args=(server, client, True), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_replicas_that_do_not_hear_one_another(
    here: list[str | Path], cluster: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router.cli.doctor import database

    monkeypatch.setattr(database, "_HEARING_S", 1.0)
    port = psycopg.conninfo.conninfo_to_dict(str(here[1]))["port"]
    with deaf(int(port)) as other:
        status, found = look("--database-url", str(here[1]).replace(f":{port}/", f":{other}/"), *here[2:])
    assert (status, levels(found, "notifications")) == (1, ["problem"])
    assert "session mode" in found["notifications"][0]["remedy"]
    assert levels(found, "database") == ["ok"]
    assert levels(look(*here)[1], "notifications") == ["ok"]


async def test_keys_that_end(here: list[str | Path]) -> None:
    made = run("keys", "create", "--name", "soon", "--role", "route", "--expires", "3d", "--database-url", here[1])
    assert made.returncode == 0, made.stderr
    assert run("keys", "create", "--name", "later", "--role", "route", "--database-url", here[1]).returncode == 0
    status, found = await asyncio.to_thread(look, *here)
    assert (status, levels(found, "api keys")) == (0, ["warning"])
    assert "soon (" in found["api keys"][0]["detail"]
    await query(str(here[1]), "UPDATE api_keys SET expires_at = now() - interval '1 hour' WHERE name = 'soon'")
    _, found = await asyncio.to_thread(look, *here)
    assert "has expired" in found["api keys"][0]["detail"]
    await query(
        str(here[1]),
        "INSERT INTO token_keys (key_id, secret, activates_at) VALUES (7, %s, now() - interval '500 days')",
        bytes(32),
    )
    _, found = await asyncio.to_thread(look, *here)
    assert (levels(found, "signing key"), "500 days" in found["signing key"][0]["detail"]) == (["warning"], True)


async def test_an_experiment_that_hears_nothing(router: Router, tmp_path: Path) -> None:
    await router.run()
    ids = [(await router.route(unit_id=f"{n}")).decision_id for n in range(120)]
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 120)
    await query(router.url, "UPDATE decisions SET decided_at = decided_at - interval '1 hour'")
    arguments = ["--database-url", router.url, "--data-dir", tmp_path, "--server", f"127.0.0.1:{router.server.port}"]
    status, found = await asyncio.to_thread(look, *arguments)
    assert (status, levels(found, "feedback")) == (0, ["warning"])
    assert "support: 0 of 120 decisions" in found["feedback"][0]["detail"]
    assert levels(found, "server") == ["ok"]
    assert "0 connections" not in found["notifications"][0]["detail"]
    for decision_id in ids[:3]:
        await router.reward(decision_id, 0.0)
    _, found = await asyncio.to_thread(look, *arguments)
    assert levels(found, "feedback") == ["ok"]


# The spool


def segment(directory: Path, name: str, size: int, age_s: float = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    with path.open("wb") as file:
        file.truncate(size)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.mark.parametrize(("share", "level"), [(0.5, "ok"), (0.85, "warning"), (1.0, "problem")])
def test_a_full_spool(tmp_path: Path, share: float, level: str) -> None:
    segment(tmp_path / "spool" / "d", "1-a.journal", int(share * 2**30))
    status, found = look("--data-dir", tmp_path, "--server", NOBODY)
    assert (status, levels(found, "spool")) == (int(level == "problem"), [level, "ok"])


def test_a_spool_that_nobody_drains(tmp_path: Path) -> None:
    waiting = segment(tmp_path / "spool" / "d", "1-a.events", 100, age_s=600)
    segment(tmp_path / "spool" / "d", "1-a.journal.refused", 10)
    with waiting.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert levels(look("--data-dir", tmp_path, "--server", NOBODY)[1], "spool") == ["ok", "ok", "warning"], (
            "its writer lives"
        )
    status, found = look("--data-dir", tmp_path, "--server", NOBODY)
    assert (status, levels(found, "spool")) == (0, ["ok", "warning", "warning"])
    assert "10 minutes" in found["spool"][1]["detail"]
    assert "1-a.journal.refused" in found["spool"][2]["detail"]


def test_a_spool_that_cannot_be_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: root, as whom tests may run, may write anywhere."""
    segment(tmp_path / "spool" / "d", "1-a.events", 100)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        status, found = look("--data-dir", tmp_path, "--server", NOBODY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (status, levels(found, "spool")) == (1, ["problem"])
    assert "cannot be written" in found["spool"][0]["detail"]


# Running routers


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(tmp_path)
    cert, key = authority.sign("one")
    _, other_key = authority.sign("two")
    long, long_key = tmp_path / "long.pem", tmp_path / "long.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/CN=x"]
    subprocess.run([*made, "-days", "90", "-keyout", long_key, "-out", long], check=True, capture_output=True)
    base = ["--data-dir", tmp_path / "data", "--server", NOBODY]
    cases = [
        (long, long_key, 1, "ok", "valid until"),
        (cert, key, 1, "problem", "valid until"),  # for two days
        (long, long_key, 75 * 86_400, "warning", "valid until"),
        (long, long_key, 91 * 86_400, "problem", "expired"),
        (cert, other_key, 1, "problem", "key values mismatch"),
        (cert, tmp_path / "none", 1, "problem", "No such file"),
    ]
    real = time.time
    for one, its_key, later_s, level, text in cases:
        monkeypatch.setattr(running.time, "time", lambda later_s=later_s: real() + later_s)
        status, found = look(*base, "--tls-cert", one, "--tls-key", its_key)
        monkeypatch.setattr(running.time, "time", real)
        assert (status, levels(found, "certificate")) == (int(level == "problem"), [level]), (one, found["certificate"])
        assert text in found["certificate"][0]["detail"]
    said = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", long], check=True, capture_output=True, text=True
    ).stdout
    ends = datetime.strptime(said.strip(), "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert f"{ends:%Y-%m-%d %H:%MZ}" in look(*base, "--tls-cert", long, "--tls-key", long_key)[1]["certificate"][0]["detail"]


def test_a_server_that_drains(tmp_path: Path) -> None:
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        status, found = look("--data-dir", tmp_path, "--server", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert (status, levels(found, "server")) == (1, ["problem"])
    assert levels(look("--data-dir", tmp_path, "--server", NOBODY)[1], "server") == ["warning"]


@contextmanager
def saying(text: str) -> Iterator[str]:
    """A metrics endpoint that says this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_replica_whose_policies_are_behind(router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_CATCH_UP_S", 1.0)
    await router.run()
    await router.learn("a", 5)
    version = (await router.posterior()).policy_version
    workers = (
        'bandit_router_ready 1\nbandit_router_workers{state="configured"} 2\nbandit_router_workers{state="answering"} %d\n'
    )
    line = 'bandit_router_policy_version{experiment="support"} %d\n'
    arguments = ["--database-url", router.url, "--data-dir", tmp_path, "--server", f"127.0.0.1:{router.server.port}"]
    with saying(workers % 2 + line % version) as one, saying(workers % 1 + line % (version - 1)) as other:
        status, found = await asyncio.to_thread(look, *arguments, "--metrics", one, "--metrics", other)
        assert (status, levels(found, "versions")) == (1, ["problem"])
        assert other in found["versions"][0]["detail"]
        assert levels(found, "replica") == ["ok", "warning"]
        status, found = await asyncio.to_thread(look, *arguments, "--metrics", one)
        assert (status, levels(found, "versions")) == (0, ["ok"])
    status, found = await asyncio.to_thread(look, *arguments, "--metrics", NOBODY)
    assert (status, levels(found, "replica")) == (1, ["problem"])


@pytest.mark.slow
async def test_a_service_whose_policies_are_stale(stoppable: StoppableCluster, stoppable_url: str, tmp_path: Path) -> None:
    from books import apply, experiment_at

    from router.client import RouterClient

    with serving(tmp_path, "--database-url", stoppable_url, "--metrics-listen", "127.0.0.1:0") as service:
        endpoint = service.metrics
        await asyncio.to_thread(apply, experiment_at(tmp_path), service.target)
        with RouterClient(service.target) as client:
            client.route("support")
        arguments = ["--database-url", stoppable_url, "--data-dir", tmp_path / "data", "--server", service.target]
        stoppable.stop()

        async def stale() -> bool:
            found = (await asyncio.to_thread(look, *arguments, "--metrics", endpoint))[1]
            return levels(found, "policies") == ["problem"]

        await until(stale, "it says that its policies are stale", 60)
        stoppable.start()
