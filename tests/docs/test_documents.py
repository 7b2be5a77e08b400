"""Documents keep their word: their Python and their commands run, and their links lead somewhere.

Every ```python block runs as it stands, and every line of a ```console block that starts with `$ ` runs in a shell, in
the order of the document, against one service and in one empty directory. Blocks marked ```text do not run.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import serving

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name != "LICENSE.md")
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


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if runnable(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(path: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / ".venv").symlink_to(Path(sys.prefix))
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
