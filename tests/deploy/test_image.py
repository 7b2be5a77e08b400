"""The image's steps, carried out without Docker: what they install runs as the containers of deploy/ are told to run it.

The instructions of the Dockerfile's first stage run as they stand, in a directory in place of `/`. What is not tried here is
what only an engine can do: base images, users, mounts, limits.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
from deployment import (
    DEPLOY,
    ROOT,
    Container,
    compose_containers,
    image_environment,
    image_list,
    instructions,
    kubernetes_containers,
    resource,
)
from postgres import TestCluster

from router.v1 import routing_pb2, routing_pb2_grpc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Image:
    """What the Dockerfile made, below a directory."""

    root: Path

    def environment(self, changes: dict[str, str]) -> dict[str, str]:
        """The image's own, with its paths below the directory; nothing of this process but what runs Python."""
        own = {name: self.path(value) for name, value in image_environment().items()}
        own["PATH"] = own["PATH"].replace("$PATH", "/usr/bin:/bin")
        return {**own, "HOME": "/nonexistent", **changes}

    def path(self, text: str) -> str:
        return text.replace("/opt/", f"{self.root}/opt/").replace("/var/lib/", f"{self.root}/var/lib/")

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the image to its end."""
        environment = self.environment(changes)
        (program,) = image_list("ENTRYPOINT")
        found = shutil.which(program, path=environment["PATH"])
        assert found is not None
        assert found.startswith(str(self.root))
        return subprocess.run(
            [found, *arguments], env=environment, cwd=self.root, capture_output=True, text=True, timeout=120, check=False
        )

    def files(self) -> set[str]:
        return {str(path) for path in (self.root / "opt").rglob("*")}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Carry out the first stage."""
    image = Image(tmp_path_factory.mktemp("image"))
    source = image.root / "src"
    (image.root / "opt").mkdir()
    (image.root / "bin").mkdir()
    # The base image's.
    (image.root / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "BANDIT"))}
    environment = {**kept, "PATH": f"{image.root / 'bin'}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ignore = shutil.ignore_patterns("__pycache__")
    for step in [found for found in instructions() if found.stage == 0]:
        if step.name == "WORKDIR":
            assert step.text == "/src"
            source.mkdir()
        elif step.name == "COPY":
            *names, target = step.text.split()
            for name in names:
                place = source / target / Path(name).name if len(names) > 1 else source / target
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place, ignore=ignore)
                else:
                    shutil.copy(ROOT / name, place)
        elif step.name == "RUN":
            command = image.path(re.sub(r"--mount=\S+ ", "", step.text))
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=source,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    # The second stage has nothing else.
    shutil.rmtree(source)
    yield image
    shutil.rmtree(image.root)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the certificate maker makes."""
    directory = tmp_path_factory.mktemp("certificates") / "tls"
    made = subprocess.run([DEPLOY / "make-certificate", directory, "localhost"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "ca.key").stat().st_mode & 0o777 == 0o600
    return directory


def test_it_does_not_listen_to_strangers_unless_told_how(image: Image, certificates: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    refused = image.run(*image_list("CMD"), BANDIT_ROUTER_DATABASE_URL=url)
    assert refused.returncode == 1
    assert "0.0.0.0:50051 is beyond loopback" in refused.stderr
    assert "--tls-cert" in refused.stderr


@contextmanager
def running(image: Image, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A container's process, once it has said that it answers."""
    log = image.root / f"stderr-{time.monotonic_ns()}"
    program = shutil.which(*image_list("ENTRYPOINT"), path=environment["PATH"])
    assert program is not None
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [program, *image_list("CMD")], env=environment, cwd=image.root, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 90)
        assert ready, log.read_text()
        assert process.stdout.readline(), log.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        status = process.wait(75)
        process.stdout.close()  # type: ignore[union-attr]
    assert status == 0, log.read_text()


def get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


(ROUTER,) = [found for found in kubernetes_containers() if found.name == "router"]
(REPLICA,) = [found for found in compose_containers() if found.name == "router-1"]


@pytest.mark.parametrize("container", [ROUTER, REPLICA], ids=["kubernetes", "compose"])
def test_it_runs_as_the_containers_do(
    image: Image, certificates: Path, cluster: TestCluster, container: Container, tmp_path: Path
) -> None:
    port, metrics = free_port(), free_port()
    told = {
        **container.environment,
        "BANDIT_ROUTER_LISTEN": container.told["BANDIT_ROUTER_LISTEN"].replace("50051", str(port)),
        "BANDIT_ROUTER_METRICS_LISTEN": container.told["BANDIT_ROUTER_METRICS_LISTEN"].replace("9464", str(metrics)),
        "BANDIT_ROUTER_TLS_CERT": str(certificates / Path(container.told["BANDIT_ROUTER_TLS_CERT"]).name),
        "BANDIT_ROUTER_TLS_KEY": str(certificates / Path(container.told["BANDIT_ROUTER_TLS_KEY"]).name),
        "BANDIT_ROUTER_DATA_DIR": str(tmp_path / "data"),
    }
    before = image.files()
    with cluster.database_from_template("template0") as url:
        told["BANDIT_ROUTER_DATABASE_URL"] = url
        # First the job that migrates, and keys from the command line.
        migrated = image.run("migrate", **told)
        assert migrated.returncode == 0, migrated.stderr
        assert "migrated from empty" in migrated.stdout
        keys = {
            name: image.run("keys", "create", "--name", name, *options, **told).stdout.strip()
            for name, options in (("operator", ["--role", "admin"]), ("backend", ["--role", "route", "--role", "reward"]))
        }
        with running(image, image.environment(told)) as process:
            assert health_check(image, metrics) == 0
            if container is ROUTER:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    path = resource("StatefulSet")["spec"]["template"]["spec"]["containers"][0][probe]["httpGet"]["path"]
                    assert get(f"http://127.0.0.1:{metrics}{path}") == 200
            operator = {
                "BANDIT_ROUTER_SERVER": f"localhost:{port}",
                "BANDIT_ROUTER_TLS_CA": str(certificates / "ca.pem"),
                "BANDIT_ROUTER_API_KEY": keys["operator"],
            }
            for command in (["init", "--force", str(tmp_path / "e.yaml")], ["apply", "-f", str(tmp_path / "e.yaml")]):
                done = image.run(*command, **operator)
                assert done.returncode == 0, done.stderr
            route(port, certificates, keys["backend"], 20)
            process.send_signal(getattr(signal, next(found.text for found in instructions() if found.name == "STOPSIGNAL")))
            assert process.wait(75) == 0
        # It leaves nothing behind that Postgres has not.
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (20,)
        assert health_check(image, metrics) != 0
    # As on a root file system that is read-only: nothing was written beside the data.
    assert image.files() == before
    left = [path.suffix for path in (tmp_path / "data" / "spool").rglob("*") if path.is_file()]
    assert ".sqlite" in left
    assert not {".journal", ".events", ".damaged", ".refused"} & set(left)


def test_the_demo_runs_from_what_is_installed(image: Image, tmp_path: Path) -> None:
    done = image.run("demo", "--plain", "--prompts", "1500", HOME=str(tmp_path))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def health_check(image: Image, port: int) -> int:
    """The status of the image's own check."""
    command = [part.replace("9464", str(port)) for part in image_list("HEALTHCHECK")]
    environment = image.environment({})
    found = shutil.which(command[0], path=environment["PATH"])
    assert found is not None
    return subprocess.run([found, *command[1:]], env=environment, capture_output=True, timeout=30, check=False).returncode


def route(port: int, certificates: Path, key: str, count: int) -> None:
    """Refused without the key, by a router whose certificate is the one that was made; with it there are decisions."""
    trusted = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
    request = routing_pb2.RouteRequest(experiment_id="support-model")
    with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
        router = routing_pb2_grpc.RouterServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            router.Route(request, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        batch = routing_pb2.BatchRouteRequest(requests=[request] * count)
        reply = router.BatchRoute(batch, timeout=20, metadata=(("authorization", f"Bearer {key}"),))
        assert all(result.response.decision_id for result in reply.results)
