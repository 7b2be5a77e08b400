"""What is in deploy/ is well-formed by the linters of its formats, and they would say so if it were not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from deployment import COMPOSE, DEPLOY, DOCKERFILE, MANIFESTS

BIN = Path(sys.prefix) / "bin"
#: The oldest whose fields we use, and the newest that the linter knows.
KUBERNETES = ("1.31", "")


def lint(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, cwd=DEPLOY.parent
    )


def lint_manifests(paths: list[Path], version: str) -> subprocess.CompletedProcess[str]:
    chosen = ["--kubernetes-version", version] if version else []
    return lint("kubernetes-validate", "--strict", *chosen, *paths)


def broken(source: Path, directory: Path, old: str, new: str) -> Path:
    text = source.read_text()
    assert old in text
    path = directory / source.name
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_dockerfile() -> None:
    done = lint("hadolint", "--failure-threshold", "style", DOCKERFILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_dockerfile_that_is_not_pinned(tmp_path: Path) -> None:
    path = broken(DOCKERFILE, tmp_path, "FROM python:3.11.14-slim-bookworm AS build", "FROM python:latest AS build")
    assert "DL3007" in lint("hadolint", path).stdout


def test_the_compose_file_has_the_shape_of_one() -> None:
    done = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_compose_file_with_an_unknown_key(tmp_path: Path) -> None:
    path = broken(COMPOSE, tmp_path, "    healthcheck:\n", "    healthchecks:\n")
    done = lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert done.returncode == 1
    assert "healthchecks" in done.stdout


def findings(path: Path) -> list[dict[str, object]]:
    done = lint("compose-lint", "--format", "json", path)
    found: list[dict[str, object]] = json.loads(done.stdout)["findings"]
    return found


def test_the_compose_file_does_nothing_unsafe() -> None:
    # Images are pinned to versions. Their digests are for whoever pulls them to add.
    assert {finding["rule_id"] for finding in findings(COMPOSE)} <= {"CL-0019"}


def test_a_compose_file_that_is_unsafe(tmp_path: Path) -> None:
    path = broken(COMPOSE, tmp_path, '["127.0.0.1:50051:50051"]', '["50051:50051"]')
    assert "CL-0005" in {finding["rule_id"] for finding in findings(path)}


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests(version: str) -> None:
    assert len(MANIFESTS) >= 7
    done = lint_manifests(MANIFESTS, version)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_manifest_with_an_unknown_field(tmp_path: Path) -> None:
    path = broken(DEPLOY / "kubernetes" / "statefulset.yaml", tmp_path, "livenessProbe:", "livelinessProbe:")
    done = lint_manifests([path], "")
    assert done.returncode != 0
    assert "livelinessProbe" in done.stdout + done.stderr
