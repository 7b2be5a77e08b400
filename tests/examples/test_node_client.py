"""The Node example: generated from the proto of this checkout, compiled, and run against a real router."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Service, run, serving

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "node_client"

if shutil.which("npm") is None and os.environ.get("CI") != "true":
    pytest.skip("needs node and npm", allow_module_level=True)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built beside a copy of the proto."""
    directory = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "proto", directory / "proto")
    shutil.copy(ROOT / "buf.yaml", directory)
    here = directory / "examples" / "node_client"
    shutil.copytree(EXAMPLE, here, ignore=shutil.ignore_patterns("node_modules", "gen", "dist"))
    # `buf` is among the development tools.
    environment = {**os.environ, "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}
    for command in (["npm", "ci"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return here


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A router, for all tests: the last one stops it."""
    directory = tmp_path_factory.mktemp("service")
    with serving(directory) as service:
        assert run("init", "support-model.yaml", cwd=directory).returncode == 0
        applied = run("apply", "-f", "support-model.yaml", "--server", service.target, cwd=directory)
        assert applied.returncode == 0, applied.stderr
        yield service


def start(client: Path, target: str, requests: int) -> Any:
    environment = {**os.environ, "BANDIT_ROUTER_SERVER": target}
    command = ["node", "dist/src/main.js", str(requests)]
    done = subprocess.run(command, cwd=client, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_routes_and_rewards(client: Path, service: Service) -> None:
    said = start(client, service.target, 40)
    assert sum(said["arms"].values()) == 40
    assert said["models"].items() <= {"haiku": "claude-haiku-4-5-20251001", "sonnet": "claude-sonnet-4-6"}.items()
    assert (said["tokens"], said["fallbacks"]) == (1024, 0)
    # Each event was told twice, and counted once.
    assert said["statuses"] == {"STATUS_APPLIED": 40, "STATUS_DUPLICATE": 40}
    document = json.loads(run("status", "--json", "--server", service.target).stdout)
    posterior = {arm["arm_id"]: arm for arm in document["experiments"][0]["posterior"]["arms"]}
    assert {arm_id: int(arm.get("n", 0)) for arm_id, arm in posterior.items() if arm.get("n")} == said["arms"]
    # It rewards the one and not the other, from a prior of Beta(1, 1).
    assert posterior["sonnet"]["alpha"] - 1 == said["arms"].get("sonnet", 0)
    assert posterior["haiku"]["beta"] - 1 == said["arms"].get("haiku", 0)


def test_without_a_router_the_fallback_arm_answers(client: Path, service: Service) -> None:
    assert service.stop() == 0
    said = start(client, service.target, 2)
    assert (said["arms"], said["fallbacks"], said["statuses"]) == ({"haiku": 2}, 2, {"NOT_SENT": 4})


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 20
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if not package.get("integrity", "").startswith("sha512-")] == []
