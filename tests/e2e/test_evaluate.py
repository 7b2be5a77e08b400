"""`evaluate` as a user runs it: a process that asks over HTTP with the providers' own SDKs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import COMMAND, wait_until

from router.cli.main import main
from router.llm.loopback import Loopback, World, quality_of, serve_loopback

CONTROL = "{id: small, model: qwen2.5-7b-instruct, family: qwen, role: control, config: {max_tokens: 128}}"
CHALLENGER = "{id: large, model: claude-sonnet-4-6, family: anthropic, config: {max_tokens: 128}}"


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with serve_loopback(World(retry_after_s=0.05)) as server:
        yield server


class Evaluation:
    """A directory with an experiment and a dataset, and the command on them."""

    def __init__(self, directory: Path, loopback: Loopback, *arms: str, items: int = 12) -> None:
        self.directory = directory
        self.loopback = loopback
        (directory / "experiment.yaml").write_text(
            "experiment: support\narms:\n" + "".join(f"  - {arm}\n" for arm in arms or (CONTROL, CHALLENGER))
        )
        lines = [{"id": f"q{n}", "prompt": f"[prompt {n}] Why?", "expected": f"reason {n}"} for n in range(items)]
        (directory / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.out = directory / "results.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        ours = {"ANTHROPIC_API_KEY": "any", "OPENAI_API_KEY": "any", "NO_COLOR": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.endswith(("_BASE_URL", "_API_KEY"))}
        return {**kept, **ours}

    def command(self, *more: str, check: str = "judge:openai:loopback-judge") -> list[str]:
        addresses = [f"anthropic={self.loopback.anthropic_url}", f"openai={self.loopback.openai_url}"]
        where = [part for address in addresses for part in ("--base-url", address)]
        return [
            *(*COMMAND, "evaluate", "run", "-f", "experiment.yaml", "--dataset", "golden.jsonl", "--check", check),
            *("--out", "results.jsonl", *where, *more),
        ]

    def run(self, *more: str, check: str = "judge:openai:loopback-judge") -> subprocess.CompletedProcess[str]:
        return self.done(self.command(*more, check=check))

    def done(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in this process: loading the SDKs for each would take most of the time."""
        arguments = command[len(COMMAND) :]
        environment = {name: self.environment.get(name) for name in {*os.environ, *self.environment}}
        with contextlib.chdir(self.directory):
            found = CliRunner().invoke(main, arguments, env=environment, prog_name="bandit-router")
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return subprocess.CompletedProcess(command, found.exit_code, found.stdout, found.stderr)

    def start(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*more),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_bytes().splitlines()[1:]]

    def lines(self) -> int:
        return self.out.read_bytes().count(b"\n") if self.out.exists() else 0


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """A report without the times of answers, which no two runs share."""
    for arm in document["data"]["arms"].values():
        del arm["latency_p50_s"], arm["latency_p95_s"]
    arms = next(table for table in document["tables"] if table["title"] == "Arms")
    arms["rows"] = [[cell for at, cell in enumerate(row) if at not in (3, 4)] for row in arms["rows"]]
    return document


def test_an_evaluation_from_start_to_end(tmp_path: Path, loopback: Loopback) -> None:
    evaluation = Evaluation(tmp_path, loopback)
    done = evaluation.run("--html", "report.html", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    arms = report["data"]["arms"]
    # Both providers were asked with their own SDK, as the families say, and a judge for each answer.
    paths = Counter((entry.path, entry.model) for entry in loopback.ledger.entries())
    assert paths == {
        ("/v1/chat/completions", "qwen2.5-7b-instruct"): 12,
        ("/v1/messages", "claude-sonnet-4-6"): 12,
        ("/v1/chat/completions", "loopback-judge"): 24,
    }
    asked = loopback.ledger.entries("claude-sonnet-4-6")[0].body
    assert asked is not None
    assert asked["max_tokens"] == 128
    # The judge's score is the quality that each answer tells.
    results = evaluation.results()
    for one in results:
        assert one["scores"]["judge:openai:loopback-judge"] == pytest.approx(quality_of(one["answer"]), abs=1e-5)
        assert one["latency_s"] > 0
        assert one["input_tokens"] > 0
    mean = sum(quality_of(one["answer"]) or 0.0 for one in results if one["arm"] == "large") / 12
    assert arms["large"]["means"]["judge:openai:loopback-judge"]["estimate"] == pytest.approx(mean, abs=1e-5)
    assert report["data"]["differences"][0]["arm"] == "large"
    assert "large" in (tmp_path / "report.html").read_text()
    # The report alone, from the journal alone.
    for name in ("golden.jsonl", "experiment.yaml"):
        (tmp_path / name).unlink()
    again = evaluation.done([*COMMAND, "evaluate", "report", "results.jsonl", "--json"])
    assert json.loads(again.stdout) == report
    shown = evaluation.done([*COMMAND, "evaluate", "report", "results.jsonl"])
    assert report["summary"].split(":")[0] in shown.stdout


def stopped(evaluation: Evaluation, ending: signal.Signals, lines: int) -> tuple[int, str]:
    """Start a run and end it once its journal has more than so many lines; its exit status and what it said."""
    process = evaluation.start("--concurrency", "3")
    try:
        wait_until(lambda: evaluation.lines() > lines or process.poll() is not None, "some answers", 120)
        assert process.poll() is None, process.communicate()
        process.send_signal(ending)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupted_run_goes_on(tmp_path: Path, loopback: Loopback) -> None:
    names = ("qwen2.5-7b-instruct@40-80ms", "claude-sonnet-4-6@40-80ms")
    # One SDK is enough here: it takes a process longer to load one than to ask for all these answers.
    challenger = CHALLENGER.replace("claude-sonnet-4-6", names[1]).replace("anthropic", "other")
    arms = (CONTROL.replace("qwen2.5-7b-instruct", names[0]), challenger)
    (tmp_path / "whole").mkdir()
    whole = Evaluation(tmp_path / "whole", loopback, *arms, items=20)
    expected = whole.run("--json")
    assert expected.returncode == 0, expected.stderr
    (tmp_path / "broken").mkdir()
    broken = Evaluation(tmp_path / "broken", loopback, *arms, items=20)
    loopback.ledger.clear()
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    for ending, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        returned, errors = stopped(broken, ending, broken.lines() + 4)
        assert returned == status, errors
        if ending is not signal.SIGKILL:
            assert "the same command goes on from there" in errors
            assert "Traceback" not in errors
        complete = broken.out.read_bytes().rpartition(b"\n")[0].splitlines()[1:]
        found = {(one["item"], one["arm"]): one for one in map(json.loads, complete)}
        assert len(complete) == len(found) > len(kept)
        assert found.items() >= kept.items()
        kept = found
    assert len(kept) < 40
    finished = broken.run("--json")
    assert finished.returncode == 0, finished.stderr
    results = broken.results()
    assert len(results) == 40
    assert {key: one for one in results if (key := (one["item"], one["arm"])) in kept} == kept
    # Asked twice was only what was under way when it was stopped: three calls at most each time.
    assert 40 <= sum(loopback.ledger.count(name) for name in names) <= 40 + 3 * 3
    assert timeless(json.loads(finished.stdout)) == timeless(json.loads(expected.stdout))


FAULTS = {
    "loopback-500": "server_error",
    "loopback-429": "rate_limit",
    "loopback-529": "overloaded",
    "loopback-slow": "timeout",
    "loopback-cut-before": "connection",
    "loopback-cut-mid": "connection",
    "loopback-malformed": "malformed",
    "loopback-no-answer": "malformed",
}


@pytest.mark.parametrize("family", ["anthropic", "other"])
def test_servers_that_fail(tmp_path: Path, loopback: Loopback, family: str) -> None:
    broken = [f"{{id: {name}, model: {name}, family: {family}, config: {{max_tokens: 64}}}}" for name in FAULTS]
    evaluation = Evaluation(tmp_path, loopback, CONTROL, *broken, items=2)
    done = evaluation.run("--attempts", "2", "--timeout", "1", "--concurrency", "18", "--json", check="regex:quality")
    assert done.returncode == 0, done.stderr
    kinds = {one["arm"]: str(one["error"]).partition(":")[0] for one in evaluation.results() if one["error"]}
    assert kinds == FAULTS
    assert {loopback.ledger.count(name) for name in FAULTS} == {4}
    report = json.loads(done.stdout)
    assert report["data"]["arms"]["small"]["errors"] == 0
    assert report["data"]["arms"]["loopback-500"]["error_kinds"] == {"server_error": 2}
    assert report["plots"][0]["rows"][1]["estimate"] is None
    counted = evaluation.done([*COMMAND, "evaluate", "report", "results.jsonl", "--errors-score", "0", "--json"])
    assert json.loads(counted.stdout)["plots"][0]["rows"][1]["estimate"] == 0.0


def test_refusals_and_judges_that_fail(tmp_path: Path, loopback: Loopback) -> None:
    refusing = "{id: refusing, model: loopback-refusal, family: anthropic, config: {max_tokens: 64}}"
    evaluation = Evaluation(tmp_path, loopback, CONTROL, refusing, items=3)
    done = evaluation.run(
        "--json", "--check", "judge:openai:loopback-judge-garbled", check="judge:openai:loopback-judge-refuses"
    )
    assert done.returncode == 0, done.stderr
    results = evaluation.results()
    assert {one["stop_reason"] for one in results if one["arm"] == "refusing"} == {"refusal"}
    assert all(one["scores"] == {} for one in results)
    for one in results:
        assert one["check_errors"]["judge:openai:loopback-judge-refuses"] == "the judge refused"
        assert "no JSON" in one["check_errors"]["judge:openai:loopback-judge-garbled"]
    report = json.loads(done.stdout)
    assert any("12 checks came to no score" in warning for warning in report["warnings"])
    assert any("refusing: 3 of 3 answers were refusals" in warning for warning in report["warnings"])


def test_a_cost_cap(tmp_path: Path, loopback: Loopback) -> None:
    evaluation = Evaluation(tmp_path, loopback)
    (tmp_path / "prices.yaml").write_text(
        "qwen2.5-7b-instruct: {input_usd: 100, output_usd: 400}\nclaude-sonnet-4-6: {input_usd: 300, output_usd: 1500}\n"
    )
    refused = evaluation.run("--max-cost-usd", "1", check="regex:quality")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: --max-cost-usd needs the prices of anthropic:claude-sonnet-4-6, openai:qwen")
    capped = evaluation.run("--max-cost-usd", "0.5", "--prices", "prices.yaml", check="regex:quality")
    assert capped.returncode == 1
    assert "the cost cap ended the run" in capped.stderr
    assert "answers are missing" in capped.stdout
    some = len(evaluation.results())
    assert 0 < some < 24
    assert sum(one["charged_usd"] for one in evaluation.results()) <= 0.5
    finished = evaluation.run("--max-cost-usd", "5", "--prices", "prices.yaml", check="regex:quality")
    assert finished.returncode == 0, finished.stderr
    assert len(evaluation.results()) == 24
    assert loopback.ledger.count() == 24


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["--dataset", "bad.jsonl"], "bad.jsonl:2: unknown key 'promt' (did you mean 'prompt'?)"),
        (["-f", "golden.jsonl"], "golden.jsonl"),
        (["--arm", "medium"], "--arm: 'medium' is no arm of support"),
        (["--check", "judge:anthropic:loopback-judge"], "--allow-same-family"),
        (["--provider", "large"], "write ARM=NAME"),
        (["--base-url", "localhost:80"], "write [anthropic=|openai=]http://HOST"),
        (["--out", "missing/results.jsonl"], "missing/results.jsonl: cannot be written"),
        (["--prices", "golden.jsonl"], "golden.jsonl"),
    ],
)
def test_mistakes_cost_nothing(tmp_path: Path, loopback: Loopback, arguments: list[str], said: str) -> None:
    evaluation = Evaluation(tmp_path, loopback)
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "prompt": "p"}\n{"id": "b", "promt": "p"}\n')
    done = evaluation.run(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert loopback.ledger.count() == 0


def test_mistakes_about_models(tmp_path: Path, loopback: Loopback) -> None:
    unknown = "{id: large, model: no-such-model, family: anthropic, config: {max_tokens: 64}}"
    evaluation = Evaluation(tmp_path, loopback, CONTROL, unknown)
    done = evaluation.run(check="regex:x")
    assert done.returncode == 1
    assert "error: anthropic:no-such-model cannot be asked: not_found" in done.stderr
    assert not any(one["error"] for one in evaluation.results())


def test_a_report_that_cannot_be_written(tmp_path: Path, loopback: Loopback) -> None:
    evaluation = Evaluation(tmp_path, loopback, items=1)
    done = evaluation.run("--html", "missing/report.html", check="regex:quality")
    assert done.returncode == 1
    assert "missing/report.html: cannot be written (No such file or directory)" in done.stderr
    # The answers are not lost.
    assert len(evaluation.results()) == 2
    unread = evaluation.done([*COMMAND, "evaluate", "report", "golden.jsonl"])
    assert unread.returncode == 1
    assert "golden.jsonl: is no journal of an evaluation" in unread.stderr
