"""The notebook keeps its word: it is stripped, and runs from top to bottom against a live router."""

from __future__ import annotations

import random
import re
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient
from processes import serving, wait_until

from router.cli.calls import connected
from router.cli.main import main
from router.cli.past import metrics_of, snapshots_of
from router.client import RewardEvent, RouterClient, RouteRequest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "posterior_history.ipynb"
EXPERIMENT = """\
experiment: support-model
arms:
  - {id: haiku, model: model-a, role: control}
  - {id: sonnet, model: model-b}
allocation: {floor: 0.1, segments: {names: [de]}}
"""
#: What is asked of the notebook's variables at its end.
ASKED = """print("segments", sorted(set(snapshots.column("segment").to_pylist())), history["segment"].unique().to_list())
print(len(history) == len(history.unique(["policy_version", "arm_id"])), "one row an arm and version")"""
MEANS = {"haiku": 0.35, "sonnet": 0.65}
N = 300


def test_it_is_stripped() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def learn(target: str) -> None:
    rng = random.Random(5)
    with RouterClient(target) as client:
        for part in range(3):
            asked = [
                RouteRequest("support-model", unit_id=f"u{rng.randrange(80)}", segment="de" if i % 2 else "")
                for i in range(N // 3)
            ]
            decisions = client.batch_route(asked)
            kept = [one for i, one in enumerate(decisions) if i % 10 or part]
            client.batch_reward(
                RewardEvent(one, event_id="only", reward=float(rng.random() < MEANS[one.arm.arm_id])) for one in kept
            )
    with connected(target) as channel:
        outcomes = N - N // 30
        wait_until(lambda: sum(m.interactions for m in metrics_of(channel, "support-model", None, None)) == N, "all stored")

        def in_snapshot() -> bool:
            found = snapshots_of(channel, "support-model", None, None)
            return bool(found) and sum(arm.n for arm in found[-1].arms) == outcomes

        wait_until(in_snapshot, "a snapshot has all outcomes")


def test_it_runs_against_a_live_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(EXPERIMENT)
    with serving(tmp_path / "service") as service:
        done = CliRunner().invoke(main, ["apply", "-f", str(file), "--server", service.target])
        assert done.exit_code == 0, done.output
        learn(service.target)
        monkeypatch.setenv("BANDIT_ROUTER_SERVER", service.target)
        monkeypatch.setenv("BANDIT_ROUTER_DATA_DIR", str(tmp_path / "service" / "data"))
        monkeypatch.delenv("BANDIT_ROUTER_DATABASE_URL", raising=False)
        # Nothing of the user's is read or written, and the kernel is reached by loopback alone.
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
            monkeypatch.setenv(name, str(tmp_path / "home"))
        (tmp_path / "home").mkdir()
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
        with client.setup_kernel():
            assert client.km is not None
            assert client.km.get_connection_info()["ip"] == "127.0.0.1"
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            notebook.cells.append(nbformat.v4.new_code_cell(ASKED))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert f"{N - N // 30} decisions with an outcome, among haiku, sonnet" in printed
    assert "segments ['', 'de'] ['']\nTrue one row an arm and version\n" in printed
    assert re.search(r"^(Run|Begin with) (an? )?\w", printed, re.MULTILINE), "the plan's advice"
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    tables = [output.data["text/plain"] for output in outputs if "shape: (" in output.get("data", {}).get("text/plain", "")]
    assert len(tables) == 2
    assert "probability_best" in tables[0]
    assert "sonnet" in tables[1]
