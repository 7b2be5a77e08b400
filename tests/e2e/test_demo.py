"""The demo as users run it: a process that starts a router, drives real prompts and checks what it promises."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CHECKS = [
    "the router learned",
    "every event counted once",
    "every outcome is the real score",
    "replay equals live evidence",
    "every decision is in Postgres",
    "arms were drawn as logged",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "router.cli", "demo", *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(scratch)}


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        command("--json", *arguments), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "decisions" in done.stderr, "progress goes to standard error"
    found: dict[str, Any] = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "build" / "demo.json").read_text())
    return found


@pytest.mark.slow
def test_it_learns_and_every_check_holds(tmp_path: Path) -> None:
    found = run(tmp_path, "--prompts", "700", "--seed", "5")
    assert found["passed"]
    assert [check["name"] for check in found["checks"]] == CHECKS
    assert all(check["ok"] for check in found["checks"]), found["checks"]
    assert found["decisions"] == 700
    assert sum(arm["chosen"] for arm in found["arms"]) == 700
    assert sum(arm["n"] for arm in found["arms"]) == 700
    statuses = found["rewards_by_status"]
    assert set(statuses) == {"APPLIED", "DUPLICATE", "NEUTRAL"}
    assert statuses["APPLIED"] > 700
    # 700 prompts of some 7,000: standard errors of .02 around the whole table's averages.
    assert 0.35 < found["baselines"]["uniform"] < 0.51
    assert found["baselines"]["best_fixed"] < found["baselines"]["oracle"]
    # Simulated: .4 ± .1 of the regret of uniform choice.
    assert found["regret"] < 0.9 * found["uniform_regret"]
    picture = tmp_path / "build" / "demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not any((tmp_path / "scratch").glob("bandit-router-demo-*")), "the data is removed"


@pytest.mark.parametrize(("assignment", "arms"), [("sticky_stored", "3"), ("sticky_hash", "9")])
@pytest.mark.slow
def test_sticky_users(tmp_path: Path, assignment: str, arms: str) -> None:
    picture = tmp_path / "elsewhere" / "picture.png"
    found = run(
        tmp_path, "--prompts", "400", "--assignment", assignment, "--arms", arms, "--workers", "1", "--picture", str(picture)
    )
    assert found["passed"]
    assert 30 < found["units"] < 100
    assert len(found["arms"]) == int(arms)
    assert picture.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "checks"),
    [
        (
            "ab",
            [
                "a user keeps their arm",
                "growing the share moved only whom it had to",
                "propensities are the shares",
                "the interval is honest",
                "replay equals live evidence",
            ],
        ),
        (
            "interleave",
            [
                "the arms took turns",
                "the router counted every turn",
                "the paired interval is honest",
                "and so is that of first turns",
                "pairs tell more than first turns",
                "replay equals live evidence",
            ],
        ),
        (
            "canary",
            [
                "the good challenger went to 100 %",
                "the bad challenger was rolled back",
                "no stage was exceeded",
                "replay equals live evidence",
            ],
        ),
        (
            "shadow",
            [
                "no shadow answer reached a user",
                "every mirrored request is recorded once",
                "mirroring does not slow production",
                "a judge that follows the scores finds the better model",
                "a judge that always says A is exposed",
                "verdicts are no evidence",
                "replay equals live evidence",
            ],
        ),
    ],
)
def test_strategies(tmp_path: Path, strategy: str, checks: list[str]) -> None:
    done = subprocess.run(
        command("--json", "--strategy", strategy),
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "build" / "demo.json").read_text())
    assert (found["passed"], found["strategy"]) == (True, strategy)
    assert [check["name"] for check in found["checks"]] == checks
    if strategy == "canary":
        assert [trial["phase"] for trial in found["trials"]] == ["promoted", "rolled back"]
    elif strategy == "shadow":
        assert 0.15 < found["truth"] < 0.35
        page = (tmp_path / "build" / "shadow.html").read_text()
        assert "<svg" in page
        assert "llama-3.1-nemotron-51b-instruct" in page
    else:
        # Both estimate the same thing: the arms' difference over all prompts, .0607 in completions.
        assert abs(found["truth"]) == pytest.approx(0.0607, abs=0.0005)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen(
        command("--plain"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "starting" in process.stdout.readline()
    assert "serving on" in process.stdout.readline()
    (data,) = (tmp_path / "scratch").glob("bandit-router-demo-*")
    postmaster = json.loads((data / "postgres.json").read_text())["pid"]
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert not data.exists()
    assert not alive(postmaster)


@pytest.mark.slow
def test_a_dead_service_is_told_with_its_log(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    process = subprocess.Popen(
        command("--plain", "--keep", str(data)),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert "serving on" in process.stdout.readline()
    (service,) = children(process.pid)
    os.kill(service, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "the service ended with status -9 during the demo" in stderr
    assert "database migrated" in stderr, "the end of its log"
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = subprocess.run(command("--keep", str(tmp_path)), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "holds files already" in done.stderr


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs, or will not have ended within a few seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
