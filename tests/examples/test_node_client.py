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
from example_router import ExampleRouter, example_router

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "node_client"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, built beside a copy of the proto."""
    if shutil.which("npm") is None:
        # The one thing that `make` does not install: nothing else here needs it.
        pytest.skip("needs node and npm")
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
    yield here
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleRouter]:
    """A router, for all tests: the last one stops it."""
    with example_router(tmp_path_factory.mktemp("router")) as router:
        yield router


def start(client: Path, router: ExampleRouter, requests: int) -> Any:
    command = ["node", "dist/src/main.js", str(requests)]
    done = subprocess.run(
        command, cwd=client, env=router.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_it_routes_and_rewards(client: Path, router: ExampleRouter) -> None:
    said = start(client, router, 40)
    assert sum(said["arms"].values()) == 40
    assert said["models"].items() <= {"haiku": "claude-haiku-4-5-20251001", "sonnet": "claude-sonnet-4-6"}.items()
    assert (said["tokens"], said["fallbacks"]) == (1024, 0)
    # Each event was told twice, and counted once.
    assert said["statuses"] == {"STATUS_APPLIED": 40, "STATUS_DUPLICATE": 40}
    posterior = router.posterior()
    assert {arm_id: int(arm.get("n", 0)) for arm_id, arm in posterior.items() if arm.get("n")} == said["arms"]
    # It rewards the one and not the other, from a prior of Beta(1, 1).
    assert posterior["sonnet"]["alpha"] - 1 == said["arms"].get("sonnet", 0)
    assert posterior["haiku"]["beta"] - 1 == said["arms"].get("haiku", 0)


@pytest.mark.slow
def test_without_a_router_the_fallback_arm_answers(client: Path, router: ExampleRouter) -> None:
    router.stop()
    said = start(client, router, 2)
    assert (said["arms"], said["fallbacks"], said["statuses"]) == ({"haiku": 2}, 2, {"NOT_SENT": 4})


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 20
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if not package.get("integrity", "").startswith("sha512-")] == []
