"""The supervisor and its children: replaced without a failed call, killed without a loss, started while Postgres is away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from books import apply, check_books, connection_of_its_own, embedded_url, experiment_at
from processes import COMMAND, Service, alive, run, serving, wait_until
from running import StoppableCluster

from router.client import RouterClient, RouterError
from router.storage.connecting import DatabaseUrl, connect
from router.storage.saved import FILE, SavedFile
from router.v1 import routing_pb2, routing_pb2_grpc


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    return experiment_at(tmp_path)


class Load:
    """Clients that route and reward until told to stop, with the retries that every client has."""

    def __init__(self, service: Service, clients: int) -> None:
        self.answered: list[str] = []
        self.rewarded: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._loops = [self._pool.submit(self._run, number, service.target) for number in range(clients)]

    def _run(self, number: int, target: str) -> None:
        with connection_of_its_own(target) as channel, RouterClient(channel=channel) as client:
            step = 0
            while not self._stop.is_set():
                step += 1
                try:
                    decision = client.route("support", unit_id=f"{number}-{step}", timeout=15)
                    self.answered.append(decision.decision_id)
                    client.reward(decision, event_id="e", signal="task_completed" if step % 3 else "thumbs_down", timeout=15)
                    self.rewarded.append(decision.decision_id)
                except RouterError as error:
                    self.failures.append(f"{error.code}: {error}")

    def wait_for(self, more: int) -> None:
        """Wait until so many more calls were answered."""
        goal = len(self.rewarded) + more
        wait_until(lambda: len(self.rewarded) > goal, f"{more} more rewards", 60)

    def stop(self) -> None:
        self._stop.set()
        for loop in self._loops:
            loop.result(60)
        self._pool.shutdown()


@contextmanager
def under_load(service: Service, clients: int = 6) -> Iterator[Load]:
    load = Load(service, clients)
    try:
        yield load
    finally:
        load.stop()


def processes_of(service: Service) -> set[int]:
    return {*service.workers(), *service.keepers()}


def test_a_rolling_restart_fails_no_call_and_loses_nothing(tmp_path: Path, experiment_file: Path) -> None:
    with serving(tmp_path, "--workers", "2") as service:
        apply(experiment_file, service.target)
        with under_load(service) as load:
            load.wait_for(100)
            for _ in range(2):
                before = processes_of(service)
                assert len(before) == 3
                service.process.send_signal(signal.SIGHUP)
                wait_until(lambda before=before: not processes_of(service) & before, "every process is a new one", 90)
                load.wait_for(50)
                assert len(service.workers()) == 2
                assert len(service.keepers()) == 1
        assert load.failures == []
        check_books(embedded_url(tmp_path), answered=len(load.answered), rewarded=len(load.rewarded))
        assert service.stop() == 0
        assert "Traceback" not in service.log


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_a_rolling_restart_and_the_old_ones_stay(
    tmp_path: Path, experiment_file: Path, database_url: str
) -> None:
    with serving(tmp_path, "--workers", "2", "--database-url", database_url) as service:
        apply(experiment_file, service.target)
        before = processes_of(service)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("ALTER TABLE token_keys RENAME TO elsewhere")
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the others stay as they are" in service.log, "it gives up", 60)
            connection.execute("ALTER TABLE elsewhere RENAME TO token_keys")
        assert processes_of(service) == before
        with RouterClient(service.target) as client:
            assert client.route("support", timeout=5).decision_id
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not processes_of(service) & before, "the next one succeeds", 60)


@pytest.mark.slow
def test_a_stop_during_a_rolling_restart_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as service:
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(service.workers()) == 3, "a third one starts")
        below = service.descendants()
        assert service.stop() == 0
        wait_until(lambda: not any(alive(pid) for pid in below), "everything it started has ended")
        assert "Traceback" not in service.log


@pytest.mark.slow
def test_a_keeper_that_is_killed_under_load_loses_nothing(tmp_path: Path, experiment_file: Path) -> None:
    with serving(tmp_path, "--workers", "2") as service:
        apply(experiment_file, service.target)
        with under_load(service) as load:
            for _ in range(3):
                load.wait_for(60)
                (keeper,) = service.keepers()
                os.kill(keeper, signal.SIGKILL)
                wait_until(
                    lambda keeper=keeper: len(service.keepers()) == 1 and keeper not in service.keepers(), "another", 60
                )
        assert load.failures == [], "workers answer without it"
        assert service.stop() == 0
    with serving(tmp_path) as service:
        check_books(embedded_url(tmp_path), answered=len(load.answered), rewarded=len(load.rewarded))


@pytest.mark.slow
def test_the_keeper_gives_way_and_stops_last(tmp_path: Path, experiment_file: Path) -> None:
    """What workers leave as they stop is in Postgres when the service has ended."""
    with serving(tmp_path) as service:
        apply(experiment_file, service.target)
        (worker,), (keeper,) = service.workers(), service.keepers()
        assert os.getpriority(os.PRIO_PROCESS, keeper) == os.getpriority(os.PRIO_PROCESS, worker) + 5
        with RouterClient(service.target) as client:
            answered = [client.route("support", unit_id=str(n)).decision_id for n in range(200)]
        assert service.stop() == 0
        assert not list((tmp_path / "data" / "spool").glob("*/*.journal"))
    with serving(tmp_path), connect(DatabaseUrl.parse(embedded_url(tmp_path))) as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (len(answered),)


def until_saved(directory: Path, service: Service) -> None:
    """Wait until the keeper has saved an experiment."""

    def saved() -> bool:
        for path in (directory / "data" / "spool").glob(f"*/{FILE}"):
            with contextlib.closing(SavedFile(path)) as file:
                return bool(file.origin() and file.experiments())
        return False

    wait_until(saved, "it is saved")


def test_a_service_starts_while_its_database_is_away(
    tmp_path: Path, experiment_file: Path, stoppable: StoppableCluster, stoppable_url: str
) -> None:
    arguments = ("--workers", "2", "--database-url", stoppable_url)
    with serving(tmp_path, *arguments) as service:
        apply(experiment_file, service.target)
        until_saved(tmp_path, service)
        assert service.stop() == 0
    stoppable.stop()
    with serving(tmp_path, *arguments) as service:
        assert "starting from the saved copy" in service.log
        with RouterClient(service.target) as client:
            during = client.route("support", unit_id="u", timeout=5)
            assert during.stale_for.total_seconds() > 0
        # A worker that dies meanwhile is replaced by one that starts the same way.
        (first, _) = service.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(service.workers()) == 2 and first not in service.workers(), "it is replaced")
        stoppable.start()
        wait_until(lambda: "its schema is the one that is needed" in service.log, "the schema is looked at", 30)

        def fresh() -> bool:
            with connection_of_its_own(service.target) as channel, RouterClient(channel=channel) as client:
                return not client.route("support", unit_id="u", timeout=5).stale_for

        wait_until(fresh, "policies are fresh again")
        with RouterClient(service.target) as client:
            assert client.reward(during, event_id="e", signal="task_completed").status.name == "APPLIED"
        assert service.stop() == 0
    with psycopg.connect(stoppable_url) as connection:
        assert connection.execute("SELECT count(*) FROM decisions WHERE unit_id = 'u'").fetchone()[0] >= 2  # type: ignore[index]


def test_without_a_saved_copy_it_says_why_it_cannot_start(
    tmp_path: Path, stoppable: StoppableCluster, stoppable_url: str
) -> None:
    stoppable.stop()
    done = run("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--database-url", stoppable_url)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: database 127.0.0.1:")
    assert "cannot start without it" in line
    assert "holds no saved copy of" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start_ends_it_quietly(tmp_path: Path, number: signal.Signals) -> None:
    """From when the program has begun to run, which takes Python a while, until it serves."""
    for step in range(8):
        log = tmp_path / f"stderr-{step}"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")],
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        try:
            time.sleep(0.2 + 0.3 * step)
            process.send_signal(number)
            process.wait(40)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        assert "Traceback" not in log.read_text(), log.read_text()


def test_retention_is_checked_at_the_start(tmp_path: Path) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--retention", "3 weeks")
    assert done.returncode == 1
    assert "--retention '3 weeks': must be a number of days, as in 90d" in done.stderr


@pytest.mark.slow
def test_the_window_in_which_calls_are_refused_is_short(tmp_path: Path, experiment_file: Path) -> None:
    """Without retries: calls that arrive in the very moment in which their worker stops are cancelled, no others."""
    refused: list[grpc.StatusCode] = []
    counts = [0] * 8
    stop = threading.Event()

    def client_loop(number: int, target: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(target, options=options) as channel:
            stub = routing_pb2_grpc.RouterServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.Route(routing_pb2.RouteRequest(experiment_id="support", unit_id="u"), timeout=15)
                    counts[number] += 1
                except grpc.RpcError as error:
                    refused.append(error.code())

    with serving(tmp_path) as service:
        apply(experiment_file, service.target)
        with ThreadPoolExecutor(8) as pool:
            loops = [pool.submit(client_loop, number, service.target) for number in range(8)]
            wait_until(lambda: min(counts) > 20, "load is on")
            (before,) = service.workers()
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: before not in service.workers(), "it is replaced", 60)
            stop.set()
            for loop in loops:
                loop.result(60)
        assert len(refused) <= 8, "at most the one call that each connection has under way"
        assert set(refused) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
