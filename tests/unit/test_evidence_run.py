"""The command of the evidence: the files it leaves, its exit status, and that streams do not depend on the workers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.evidence import run
from benchmarks.evidence.findings import Section, at_most, near, shown
from benchmarks.evidence.lab import Lab

REACHED = Section([near("close", 1.0, 0.1, 1.1, 0.3, "s"), shown("seen", 3.0, None, "")], {"days": [1, 2], "fixed_days": 3})
MISSED = Section([at_most("far", 2.0, None, 1.0, "")])


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def sections(monkeypatch: pytest.MonkeyPatch, **outcomes: Section | Exception) -> None:
    def measure(outcome: Section | Exception) -> Section:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    stubs = {
        name: SimpleNamespace(__doc__=f"About {name}.", measure=lambda lab, outcome=outcome: measure(outcome))
        for name, outcome in outcomes.items()
    }
    monkeypatch.setattr(run, "SECTIONS", stubs)


def test_a_run_leaves_a_list_a_report_and_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections(monkeypatch, stopping=REACHED)
    assert run.main(["--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "evidence.json").read_text())
    assert [row["name"] for row in rows] == ["close", "seen"]
    assert all({"name", "value", "published", "target", "pass"} <= row.keys() for row in rows)
    report = (tmp_path / "evidence.md").read_text()
    assert "2 figures: 1 as they must be, 0 missed, 1 shown." in report
    assert "About stopping." in report
    assert "| close | 1 s | 0.1 |" in report
    assert "![stopping](evidence/stopping.png)" in report
    assert (tmp_path / "evidence" / "stopping.png").read_bytes().startswith(b"\x89PNG")
    details = json.loads((tmp_path / "evidence-details.json").read_text())
    assert details["curves"]["stopping"]["days"] == [1, 2]
    assert details["settings"]["seed"] == 20_260_101


def test_a_miss_shows_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections(monkeypatch, stopping=REACHED, other=MISSED)
    assert run.main(["--output", str(tmp_path)]) == 1
    assert [row["pass"] for row in json.loads((tmp_path / "evidence.json").read_text())] == [True, True, False]
    assert "MISSED" in capsys.readouterr().out


def test_a_section_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections(monkeypatch, first=RuntimeError("no air"), stopping=REACHED)
    assert run.main(["--output", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "evidence.json").read_text())
    assert [(row["name"], row["pass"]) for row in rows] == [("close", True), ("seen", True), ("section first", False)]
    assert rows[-1]["target"] == "runs to its end: no air"
    report = (tmp_path / "evidence.md").read_text()
    assert "**Section failed: first.** no air" in report
    assert "1 sections failed" in report


def test_what_was_found_is_written_after_each_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections(monkeypatch, stopping=REACHED, last=KeyboardInterrupt())  # type: ignore[arg-type]
    stubs = run.SECTIONS

    def interrupted(lab: Lab) -> Section:
        raise KeyboardInterrupt

    stubs["last"].measure = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.main(["--output", str(tmp_path)])
    rows = json.loads((tmp_path / "evidence.json").read_text())
    assert [(row["name"], row["pass"]) for row in rows] == [("close", True), ("seen", True), ("section last", False)]


def test_only_some_sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections(monkeypatch, stopping=REACHED, other=MISSED)
    assert run.main(["--only", "stopping", "--output", str(tmp_path)]) == 0
    assert [row["name"] for row in json.loads((tmp_path / "evidence.json").read_text())] == ["close", "seen"]
    with pytest.raises(SystemExit):
        run.main(["--only", "nothing"])


@pytest.mark.parametrize(
    ("arguments", "directory"),
    [
        ([], "build"),
        (["--only", "stopping", "--only", "other"], "build"),
        (["--only", "stopping"], "build/evidence-part"),
        (["--quick"], "build/evidence-part"),
    ],
)
def test_the_file_for_programs_is_of_whole_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], directory: str
) -> None:
    sections(monkeypatch, stopping=REACHED, other=REACHED)
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 0
    assert [path.parent for path in tmp_path.rglob("evidence.json")] == [tmp_path / directory]


def draws(rng: np.random.Generator, scale: float) -> float:
    return float(scale * rng.random())


def fails(rng: np.random.Generator, number: int) -> int:
    if number == 1:
        raise ValueError("job 1")
    return number


def lab(executor: ThreadPoolExecutor, section: str, seed: int = 1, said: list[object] | None = None) -> Lab:
    told: list[object] = [] if said is None else said

    def advance(done: int, of: int) -> None:
        told.append((done, of))

    return Lab(seed, False, told.append, advance, executor, lambda seconds: None, section)


def test_streams_do_not_depend_on_the_workers() -> None:
    jobs = [(1.0,), (1.0,), (2.0,)]
    said: list[object] = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(3) as three:
        first = lab(one, "a", said=said).spread(draws, jobs, "x")
        assert lab(three, "a").spread(draws, jobs, "x") == first
        assert len(set(first) | {first[2] / 2}) == 4, "every job has a stream of its own"
        for other in (lab(one, "b"), lab(one, "a", seed=2)):
            assert not set(other.spread(draws, jobs, "x")) & set(first)
        assert not set(lab(one, "a").spread(draws, jobs, "y")) & set(first)
    assert said == ["x", (1, 3), (2, 3), (3, 3)]


def test_a_job_that_fails_fails_its_section() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="job 1"):
        lab(executor, "a").spread(fails, [(0,), (1,), (2,)], "x")
