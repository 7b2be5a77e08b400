"""The stage: `bandit-router serve` and its Postgres as processes that may be killed, stopped and started again."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import psycopg

from benchmarks.load import MeasurementError
from benchmarks.soak.books import files_of
from router.embedded import EmbeddedPostgres, read_record
from router.v1 import experiments_pb2, experiments_pb2_grpc, types_pb2

_START_S = 60.0
_STOP_S = 60.0
_SERVING = re.compile(r"serving on \S+?:(\d+)\b")
_LOG_LINES = 20
#: What every fault is put to: experiment id suffix, how arms are assigned, attribution window in seconds.
_KINDS = (
    ("drawn", experiments_pb2.AssignmentRule.KIND_PER_REQUEST, None),
    ("hashed", experiments_pb2.AssignmentRule.KIND_STICKY_HASH, None),
    ("stored", experiments_pb2.AssignmentRule.KIND_STICKY_STORED, None),
    ("brief", experiments_pb2.AssignmentRule.KIND_PER_REQUEST, 1),
)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> float:
    """Wait for a condition; returns how many seconds that took. Raises MeasurementError if it does not come."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise MeasurementError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)  # between two looks at a condition
    return time.monotonic() - began


def children(root: int) -> dict[int, str]:
    """Return the command lines of all processes below `root` that live, by process id."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                state, parent = stat[stat.rindex(")") + 2 :].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
    found: dict[int, str] = {}
    frontier = [root]
    while frontier:
        above = frontier.pop()
        for pid in [pid for pid, parent in parents.items() if parent == above]:
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                frontier.append(pid)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


def kill(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Signal processes that this program started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Service:
    """One router that can be started again, on the same port and the same data."""

    def __init__(self, directory: Path, *, workers: int = 2, database_url: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = directory / "data"
        self.log = directory / "service.log"
        self.port = 0
        self.count = workers
        self._database_url = database_url
        self.process: subprocess.Popen[str] | None = None

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where its Postgres is."""
        if self._database_url is not None:
            return self._database_url
        record = read_record(self.data_dir)
        assert record is not None, "a router that serves has recorded its Postgres"
        return record.url

    @property
    def spool(self) -> Path:
        """Where segments are, in a directory for each deployment."""
        return self.data_dir / "spool"

    def start(self) -> None:
        """Start and wait until it serves. Raises MeasurementError with the end of its log if it does not."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BANDIT_ROUTER_")}
        if self._database_url is not None:
            environment["BANDIT_ROUTER_DATABASE_URL"] = self._database_url
        command = [sys.executable, "-m", "router.cli", "serve", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--workers", str(self.count), "--data-dir", str(self.data_dir), "--log-level", "info"]
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        with self.log.open("a") as stderr:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, start_new_session=True
            )
        assert self.process.stdout is not None, "asked for above"
        readable, _, _ = select.select([self.process.stdout], [], [], _START_S)
        found = _SERVING.search(self.process.stdout.readline() if readable else "")
        if found is None:
            raise MeasurementError("the router did not start; the end of its log:\n" + self.end_of_log())
        self.port = int(found[1])

    def stop(self) -> int:
        """End it as an operator does; returns its exit status."""
        assert self.process is not None, "was started"
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_STOP_S)
        finally:
            self.kill_everything()

    def kill_everything(self) -> None:
        """End every process of it at once, by force, and wait until they are gone."""
        if self.process is None:
            return
        pids = [self.process.pid, *children(self.process.pid)]
        kill(pids)
        self.process.wait()
        wait_until(lambda: not any(map(alive, pids)), "every process ended")
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def processes(self) -> dict[str, list[int]]:
        """Return process ids by role: supervisor, worker, keeper, guardian, postmaster."""
        assert self.process is not None, "was started"
        found: dict[str, list[int]] = {"supervisor": [self.process.pid], "worker": [], "keeper": [], "guardian": []}
        for pid, command in children(self.process.pid).items():
            if "router.worker" in command:
                found["keeper" if command.endswith("keeper") else "worker"].append(pid)
            elif "guardian" in command:
                found["guardian"].append(pid)
            elif "postgres" in command and " -D " in command:
                found.setdefault("postmaster", []).append(pid)
        return found

    def is_whole(self, without: Iterable[int] = ()) -> bool:
        """Whether every worker and the keeper run and answer, none of these processes among them."""
        found = self.processes()
        fresh = not {*found["worker"], *found["keeper"]} & {*without}
        return fresh and len(found["worker"]) == self.count and len(found["keeper"]) == 1 and self._listeners() >= self.count

    def end_of_log(self) -> str:
        """The last lines that it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]) if self.log.exists() else ""

    def _listeners(self) -> int:
        """How many sockets listen on the port: one for each worker that serves."""
        port = f":{self.port:04X}"
        # An IPv4 address may be served by a socket of either family.
        lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        return sum(fields[1].endswith(port) and fields[3] == "0A" for fields in map(str.split, lines))


@dataclass(slots=True)
class Stage:
    """A service that is up, with the Postgres that it uses."""

    service: Service
    #: None where the service runs its own.
    postgres: EmbeddedPostgres | None = None
    #: A file system of limited size that a fault may fill; None if there is none.
    volume: Path | None = None
    #: What faults keep from `inject` to `heal`.
    kept: dict[str, object] = field(default_factory=dict)
    _numbers: int = 0

    def experiments(self, name: str) -> list[str]:
        """Create and start experiments of every kind of assignment, for one fault; returns their ids."""
        self._numbers += 1
        ids = []
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.service.target, options=own) as channel:
            stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
            for kind, assignment, window_s in _KINDS:
                message = experiments_pb2.Experiment(experiment_id=f"{name}-{self._numbers}-{kind}".replace(" ", "-"))
                for i, arm_id in enumerate(("control", "challenger", "third")):
                    arm = message.arms.add(arm_id=arm_id, model=f"model-{arm_id}")
                    arm.role = types_pb2.ROLE_CHALLENGER if i else types_pb2.ROLE_CONTROL
                rule = experiments_pb2.AssignmentRule(kind=assignment, unit=experiments_pb2.AssignmentRule.UNIT_USER)
                message.assignment.CopyFrom(rule)
                # Half of the load is of few users, and every outcome is accounted for.
                message.reward_rule.unit_share = 0
                if window_s is not None:
                    message.reward_rule.attribution_window.seconds = window_s
                experiment_id = message.experiment_id
                create = experiments_pb2.CreateExperimentRequest(experiment=message)
                stub.CreateExperiment(create, timeout=10, wait_for_ready=True)
                stub.StartExperiment(experiments_pb2.StartExperimentRequest(experiment_id=experiment_id), timeout=10)
                ids.append(experiment_id)
        return ids

    def admin(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection that may change what the service's connections may do."""
        return psycopg.connect(self.service.url, autocommit=True, options="-c default_transaction_read_only=off")

    def cut_connections(self) -> int:
        """End every connection of the service; returns how many there were."""
        with self.admin() as connection:
            return len(
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bandit-router'"
                ).fetchall()
            )

    def postgres_processes(self) -> list[int]:
        """Every process of Postgres, the postmaster first."""
        record = read_record(self.postgres.data_dir if self.postgres is not None else self.service.data_dir)
        assert record is not None, "it was started"
        return [record.pid, *children(record.pid)]


@contextlib.contextmanager
def own_postgres(directory: Path) -> Iterator[Stage]:
    """A service that runs its own Postgres."""
    service = Service(directory)
    with _running(service):
        yield Stage(service)


@contextlib.contextmanager
def on_database(directory: Path, database_url: str) -> Iterator[Stage]:
    """A service on a database that is there already."""
    service = Service(directory, database_url=database_url)
    with _running(service):
        yield Stage(service)


@contextlib.contextmanager
def other_postgres(directory: Path, settings: Mapping[str, str], *, volume: Path | None = None) -> Iterator[Stage]:
    """A service on a Postgres that is not its own, and that nobody restarts."""
    with EmbeddedPostgres((volume or directory) / "postgres", settings=settings) as postgres:
        service = Service(directory, database_url=postgres.url)
        with _running(service):
            yield Stage(service, postgres, volume)


@contextlib.contextmanager
def _running(service: Service) -> Iterator[None]:
    try:
        service.start()
        yield
        if service.process is not None and service.process.poll() is None:
            status = service.stop()
            if status or (left := files_of(service.spool, ".events", ".journal")):
                what = f"it ended with status {status}" if status else f"it left {[path.name for path in left]} in the spool"
                raise MeasurementError(f"{what}; the end of its log:\n" + service.end_of_log())
    finally:
        service.kill_everything()


class VolumeRefusedError(Exception):
    """This platform or account mounts no file system of limited size."""


class Volume:
    """A file system in memory of limited size, to be filled."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._megabytes = megabytes

    def __enter__(self) -> Self:
        """Mount it. Raises VolumeRefusedError where that is not permitted."""
        self.path.mkdir(parents=True, exist_ok=True)
        program = shutil.which("mount")
        if program is None:
            raise VolumeRefusedError("there is no mount program")
        options = f"size={self._megabytes}m,mode=0755"
        done = subprocess.run(  # noqa: S603 - our own command
            [program, "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)], capture_output=True, text=True
        )
        if done.returncode:
            raise VolumeRefusedError(f"a file system of limited size cannot be mounted: {done.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([shutil.which("umount") or "umount", "-l", str(self.path)], check=True)  # noqa: S603


def fill(volume: Path) -> Path:
    """Leave no room on a file system; returns the file that takes it."""
    ballast = volume / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast
