"""Documents keep their word: their Python and their commands run, and their links lead somewhere.

Every ```python block runs as it stands, and every line of a ```console block that starts with `$ ` runs in a shell, in
the order of the document, against one service and in one empty directory. Blocks marked ```text do not run.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import alive, serving, wait_until

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "LICENSE.md")
#: Each takes ten seconds and more: they run in `make test-slow`. What operators and first readers follow is always run.
SLOW = {
    "analysis.md",
    "api.md",
    "canary.md",
    "cost.md",
    "estimates.md",
    "evaluation.md",
    "history.md",
    "interleaving.md",
    "judge.md",
    "metrics.md",
    "models.md",
    "openfeature.md",
    "operations.md",
    "pictures.md",
    "planning.md",
    "rollouts.md",
    "shadow.md",
    "statistics.md",
}
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def runnable(path: Path) -> list[tuple[str, str]]:
    """The blocks of a document that run: (kind, text)."""
    return [(kind, text) for kind, text in BLOCK.findall(path.read_text()) if kind in ("python", "console")]


def commands(text: str) -> list[str]:
    """The commands of a console block; a backslash at the end of a line goes on with the next."""
    joined = re.sub(r"\\\n\s*(?:> )?", " ", text)
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def test_the_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}
    assert any(runnable(path) for path in DOCUMENTS)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """Where a document's commands run. What they left running, and noted in a file `NAME.pid`, is ended."""
    directory = tmp_path / "here"
    directory.mkdir()
    yield directory
    left = [int(file.read_text()) for file in directory.glob("*.pid")]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(alive(pid) for pid in left), "what the document started has ended", 60)


def running_documents() -> list[Any]:
    """The documents that have something to run; those that take long are slow tests."""
    found = [path for path in DOCUMENTS if runnable(path)]
    return [pytest.param(path, marks=[pytest.mark.slow] if path.name in SLOW else []) for path in found]


@pytest.mark.parametrize("path", running_documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(path: Path, here: Path, tmp_path: Path) -> None:
    (here / ".venv").symlink_to(Path(sys.prefix))
    (here / "deploy").symlink_to(ROOT / "deploy")
    with serving(tmp_path / "service", "--workers", "1") as service:
        for name in ("build", "data"):
            (here / name).mkdir()
        (here / "build" / "data").symlink_to(tmp_path / "service" / "data")
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "BANDIT_ROUTER_SERVER": service.target,
            "BANDIT_ROUTER_DATA_DIR": str(tmp_path / "service" / "data"),
        }
        if path.name != "README.md":
            # The other documents go on from the README's tour.
            tour = "bandit-router init support-model.yaml && bandit-router apply -f support-model.yaml"
            subprocess.run(tour, shell=True, cwd=here, env=environment, check=True, capture_output=True, timeout=60)
        for kind, text in runnable(path):
            here_text = text.replace("127.0.0.1:50051", service.target)
            steps = [here_text] if kind == "python" else commands(here_text)
            for step in steps:
                command = [sys.executable, "-c", step] if kind == "python" else ["bash", "-c", step]
                done = subprocess.run(
                    command, cwd=here, env=environment, capture_output=True, text=True, timeout=60, check=False
                )
                assert done.returncode == 0, f"{path.name}: {step}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    missing = [target for target, _ in LINK.findall(path.read_text()) if not (path.parent / target).exists()]
    assert missing == []


def headings(path: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_alert_has_its_runbook() -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    named = set(re.findall(r"docs/operations\.md#([\w-]+)", alerts))
    assert len(named) > 10
    assert named <= headings(ROOT / "docs" / "operations.md")


def test_every_anchor_of_the_operations_guide_exists() -> None:
    path = ROOT / "docs" / "operations.md"
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)]+)\)", path.read_text()):
        assert anchor in headings(path.parent / target if target else path), f"{target}#{anchor}"
