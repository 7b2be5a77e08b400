"""The service as processes: start, share, drain, crash. What is claimed is counted in Postgres afterwards."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest
from books import apply, check_books, connection_of_its_own, embedded_url, experiment_at
from processes import alive, run, serving, wait_until

from router.client import RouterClient, RouterError
from router.storage.connecting import DatabaseUrl, connect
from router.v1 import experiments_pb2, experiments_pb2_grpc, posteriors_pb2, posteriors_pb2_grpc


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    return experiment_at(tmp_path)


def share_of(target: str, arm_id: str) -> float:
    with connection_of_its_own(target) as channel, RouterClient(channel=channel) as client:
        return client.route("support").allocation[arm_id]


def test_it_announces_itself_once_serves_and_drains(tmp_path: Path, experiment_file: Path) -> None:
    with serving(tmp_path, "--workers", "2") as service:
        assert service.line == f"bandit-router serving on 127.0.0.1:{service.port} with 2 workers"
        assert len(service.workers()) == 2
        apply(experiment_file, service.target)
        with RouterClient(service.target) as client:
            decision = client.route("support", unit_id="u")
            assert client.reward(decision, event_id="e", signal="task_completed").arm_id == decision.arm.arm_id
        below = service.descendants()
        assert service.stop() == 0
        assert service.process.stdout is not None
        assert service.process.stdout.read() == ""
        assert "Traceback" not in service.log
        wait_until(lambda: not any(alive(pid) for pid in below), "everything it started has ended")
    # Same directory, same data: what was learned is there.
    with serving(tmp_path) as service:
        status = run("status", "--server", service.target, "--data-dir", tmp_path / "data", "--json")
        assert '"n": "1"' in status.stdout, status.stdout + status.stderr
        with connect(DatabaseUrl.parse(embedded_url(tmp_path))) as connection:
            assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (1,)


@pytest.mark.slow
def test_calls_under_way_are_answered_while_it_drains(tmp_path: Path, experiment_file: Path) -> None:
    """SIGTERM in the middle of load: every call ends in an answer or UNAVAILABLE, and every answer is in Postgres."""
    answered: list[str] = []
    rewarded: list[str] = []
    refusals: list[grpc.StatusCode] = []
    stop = threading.Event()

    def client_loop(number: int, target: str) -> None:
        with connection_of_its_own(target) as channel, RouterClient(channel=channel) as client:
            step = 0
            while not stop.is_set():
                step += 1
                try:
                    decision = client.route("support", unit_id=f"{number}-{step}")
                    answered.append(decision.decision_id)
                    client.reward(decision, event_id="e", signal="task_completed")
                    rewarded.append(decision.decision_id)
                except RouterError as error:
                    refusals.append(error.code)
                    return

    with serving(tmp_path, "--workers", "2") as service:
        apply(experiment_file, service.target)
        with ThreadPoolExecutor(8) as pool:
            loops = [pool.submit(client_loop, number, service.target) for number in range(8)]
            wait_until(lambda: len(rewarded) > 300, "load is on")
            assert service.stop() == 0
            stop.set()
            for loop in loops:
                loop.result()
    codes = grpc.StatusCode
    assert set(refusals) <= {codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.CANCELLED}
    with serving(tmp_path):
        check_books(embedded_url(tmp_path), answered=len(answered), rewarded=len(rewarded))


@pytest.mark.slow
def test_two_services_on_one_database_share_what_they_learn(
    tmp_path: Path, experiment_file: Path, database_url: str
) -> None:
    with (
        serving(tmp_path / "one", "--database-url", database_url) as one,
        serving(tmp_path / "two", "--database-url", database_url) as two,
    ):
        apply(experiment_file, one.target)
        with RouterClient(one.target) as client:
            for number in range(30):
                decision = client.route("support", eligible_arm_ids=["b"], unit_id=str(number))
                client.reward(decision, event_id="e", signal="task_completed")
        wait_until(lambda: share_of(two.target, "b") > 0.9, "the other service learned", deadline_s=5)
        with grpc.insecure_channel(two.target) as channel:
            reply = posteriors_pb2_grpc.PosteriorServiceStub(channel).GetPosterior(
                posteriors_pb2.GetPosteriorRequest(experiment_id="support")
            )
        assert {arm.arm_id: arm.n for arm in reply.arms} == {"a": 0, "b": 30}
        with grpc.insecure_channel(one.target) as channel:
            experiments_pb2_grpc.ExperimentServiceStub(channel).PauseExperiment(
                experiments_pb2.PauseExperimentRequest(experiment_id="support")
            )

        def paused() -> bool:
            try:
                share_of(two.target, "b")
            except RouterError as error:
                return error.reason == "EXPERIMENT_NOT_RUNNING"
            return False

        wait_until(paused, "the other service stopped serving", deadline_s=5)


class TestRefusals:
    """What cannot start says why in one line and what to do."""

    @staticmethod
    def refused(*arguments: str | Path) -> str:
        done = run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("error: ")
        return line

    @pytest.mark.slow
    def test_a_busy_port_and_a_directory_in_use(self, tmp_path: Path) -> None:
        with serving(tmp_path) as service:
            line = self.refused("serve", "--listen", service.target, "--data-dir", tmp_path / "other")
            assert f"--listen 127.0.0.1:{service.port}: cannot bind: Address already in use" in line
            line = self.refused("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path / "data")
            assert "is in use by" in line
            assert str(service.process.pid) in line

    @pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
    def test_an_address_beyond_loopback_without_tls_or_keys(self, listen: str, tmp_path: Path) -> None:
        line = self.refused("serve", "--listen", listen, "--data-dir", tmp_path)
        assert f"--listen {listen} is beyond loopback, with no --tls-cert and --tls-key" in line
        assert "--insecure" in line
        line = self.refused("serve", "--listen", listen, "--auth", "none", "--data-dir", tmp_path)
        assert "--auth none: anybody" in line

    def test_a_name_instead_of_an_address(self, tmp_path: Path) -> None:
        line = self.refused("serve", "--listen", "example.com:50051", "--data-dir", tmp_path)
        assert "'example.com' is no IP address" in line

    @pytest.mark.parametrize("listen", ["50051", "127.0.0.1", "127.0.0.1:99999", ":50051"])
    def test_an_address_that_is_none(self, listen: str, tmp_path: Path) -> None:
        assert "must be HOST:PORT" in self.refused("serve", "--listen", listen, "--data-dir", tmp_path)

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("mysql://u@127.0.0.1/x", "must start with postgresql://"),
            ("postgresql://u:secret@127.0.0.1:1/x", "database 127.0.0.1:1/x: cannot connect"),
        ],
    )
    def test_a_database_that_cannot_be_reached(self, url: str, text: str, tmp_path: Path) -> None:
        line = self.refused("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--database-url", url)
        assert text in line
        assert "secret" not in line

    def test_a_schema_from_the_future(self, tmp_path: Path, database_url: str) -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE schema_version SET version_num = '9999'")
        line = self.refused("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--database-url", database_url)
        assert "revision 9999" in line
        assert "upgrade" in line

    def test_a_half_migrated_schema(self, tmp_path: Path, database_url: str) -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("DELETE FROM schema_version")
        line = self.refused("serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--database-url", database_url)
        assert "failed and was rolled back" in line
