"""`bandit-router judge` as a process, against a real router, a real Postgres and a model server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from comparisons import add_comparisons, create, judge_all, judged_experiment, pairs, stub
from processes import COMMAND
from running import Router, query, scalar, until

from router.cli.main import main
from router.llm.loopback import Loopback, World, serve_loopback

SECRET = "sk-test-0123456789-very-secret"
SECRET_TAIL = SECRET[-12:]
#: The challenger is better in 45 pairs of 70, worse in 15, alike in 10.
QUALITIES = [(0.2, 0.8)] * 45 + [(0.8, 0.2)] * 15 + [(0.5, 0.5)] * 10


@dataclass
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What it printed, as JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class Bench:
    """A router with comparisons, and models to judge them."""

    router: Router
    models: Loopback
    directory: Path
    seen: list[str] = field(default_factory=list)

    def arguments(self, judge: str | None = "loopback-judge", *more: str) -> list[str]:
        """Of `judge run`."""
        chosen = [] if judge is None else ["--experiment", "support", "--judge", f"openai:{judge}"]
        return ["judge", "run", *chosen, "--base-url", self.models.openai_url, *more]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start a command."""
        environment = {**os.environ, "OPENAI_API_KEY": SECRET, "COLUMNS": "200"}
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            *(() if "--server" in arguments else ("--server", f"127.0.0.1:{self.router.server.port}")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=self.directory,
        )

    async def ended(self, process: asyncio.subprocess.Process) -> Done:
        """Wait for its end."""
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        self.seen += [out.decode(), err.decode()]
        return Done(process.returncode, out.decode(), err.decode())

    async def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        return await self.ended(await self.start(*arguments))

    async def judge(self, judge: str | None = "loopback-judge", *more: str) -> Done:
        """Run `judge run --json`."""
        return await self.run(*self.arguments(judge, "--json", *more))

    async def judged(self) -> int:
        """How many verdicts are recorded."""
        return int(await scalar(self.router.url, "SELECT count(verdict) FROM judgments"))


@pytest.fixture(scope="module")
def models() -> Iterator[Loopback]:
    with serve_loopback(World(retry_after_s=0.2)) as server:
        yield server


@pytest.fixture
async def bench(router: Router, models: Loopback, tmp_path: Path) -> AsyncIterator[Bench]:
    await router.run(judged_experiment())
    add_comparisons(router.url, pairs(QUALITIES))
    models.ledger.clear()
    bench = Bench(router, models, tmp_path)
    yield bench
    for text in bench.seen:
        assert SECRET_TAIL not in text
    stored = await query(router.url, "SELECT settings::text FROM judge_runs UNION ALL SELECT reason FROM judgments")
    assert not [text for (text,) in stored if text and SECRET_TAIL in text]


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A report without what differs between two runs of the same settings."""
    data = json.loads(json.dumps(document))
    for name in ("run_id", "create_time"):
        del data["data"]["run"][name]
    del data["facts"]["run"]
    return data


# What a judge finds


@pytest.mark.slow
async def test_the_better_arm_is_found_and_the_same_command_asks_nothing_again(bench: Bench):
    done = await bench.judge()
    assert done.status == 0, done.err
    assert done.err == "", "no progress beside JSON"
    data = done.document["data"]
    assert (data["conclusion"], data["judged_pairs"], data["invalid_pairs"], data["pending_pairs"]) == ("arm", 70, 0, 0)
    assert data["arm_wins"]["estimate"] == pytest.approx(45 / 70)
    assert data["net"]["estimate"] == pytest.approx(30 / 70)
    assert (data["order_agreement"]["estimate"], data["first_wins"]["estimate"]) == (1.0, 0.5)
    assert data["self_agreement"]["estimate"] == 1.0
    judgments = data["run"]["judgments"]
    assert bench.models.ledger.count() == judgments == await bench.judged() > 140
    assert await bench.judge() == done
    assert bench.models.ledger.count() == judgments
    page = bench.directory / "report.html"
    shown = await bench.run("judge", "report", "--run", data["run"]["run_id"], "--html", str(page))
    assert shown.status == 0
    assert "prefers fancy to plain" in shown.out
    assert "prefers fancy to plain" in page.read_text()
    listed = await bench.run("judge", "runs", "--experiment", "support")
    assert f"{judgments} of {judgments}" in listed.out
    keys = {entry.headers["authorization"] for entry in bench.models.ledger.entries()}
    assert keys == {f"Bearer {SECRET}"}


@pytest.mark.slow
async def test_a_noisy_judge_still_finds_it_and_says_how_noisy_it_is(bench: Bench):
    data = (await bench.judge("loopback-judge-noisy")).document["data"]
    assert data["conclusion"] == "arm"
    assert data["order_agreement"]["estimate"] < 0.9
    assert not data["position_biased"]


@pytest.mark.parametrize("method", ["both-orders", pytest.param("random-order", marks=pytest.mark.slow)])
async def test_a_judge_that_always_says_a_is_exposed(bench: Bench, method: str):
    done = await bench.judge("loopback-judge-a", "--method", method)
    data = done.document["data"]
    assert (data["conclusion"], data["position_biased"], data["first_wins"]["estimate"]) == ("unusable", True, 1.0)
    assert "the position's" in done.document["summary"]
    refused = await bench.run("judge", "prior", "--run", data["run"]["run_id"], "--weight", "10")
    assert (refused.status, "gives no prior" in refused.err) == (1, True)


@pytest.mark.parametrize("judge", ["loopback-judge-garbled", "loopback-judge-refuses"])
async def test_replies_that_are_no_verdict_are_invalid(bench: Bench, judge: str):
    data = (await bench.judge(judge, "--sample", "5", "--repeat", "0")).document["data"]
    assert (data["judged_pairs"], data["invalid_pairs"], data["conclusion"]) == (0, 5, "unusable")
    attempts = {"loopback-judge-garbled": 20, "loopback-judge-refuses": 10}
    assert bench.models.ledger.count() == attempts[judge]
    reasons = {reason for (reason,) in await query(bench.router.url, "SELECT reason FROM judgments")}
    assert all("not JSON" in reason or "refused" in reason for reason in reasons)


@pytest.mark.slow
@pytest.mark.slow
async def test_another_rubric_and_another_provider(bench: Bench):
    rubric = bench.directory / "rubric.txt"
    rubric.write_text("Prefer the answer that names its sources.\n")
    arguments = ["judge", "run", "--experiment", "support", "--judge", "anthropic:loopback-judge", "--sample", "3", "--json"]
    arguments += ["--base-url", bench.models.anthropic_url, "--rubric", str(rubric)]
    refused = await bench.run(*arguments)
    assert (refused.status, "API key" in refused.err) == (1, True)
    os.environ["ANTHROPIC_API_KEY"] = SECRET
    try:
        refused = await bench.run(*arguments)
        assert refused.status == 1
        assert "judge's family 'anthropic'" in refused.document["error"]
        assert await scalar(bench.router.url, "SELECT count(*) FROM judge_runs") == 0
        done = await bench.run(*arguments, "--judge-family", "house")
    finally:
        del os.environ["ANTHROPIC_API_KEY"]
    assert done.status == 0, done.err
    (system,) = {str(entry.body and entry.body["system"])[:150] for entry in bench.models.ledger.entries()}
    assert "names its sources" in system


# Cut off and gone on with


async def until_asked(bench: Bench, calls: int) -> None:
    await until(lambda: bench.models.ledger.count() >= calls, f"{calls} calls")


@pytest.mark.slow
async def test_interrupted_runs_end_in_the_same_report(bench: Bench):
    """At several points: the verdicts under way are recorded, none is made twice, and the report is the same."""
    judge = "loopback-judge-noisy@30-80ms"
    whole = await bench.judge(judge, "--run", "whole")
    assert whole.status == 0, whole.err
    calls = bench.models.ledger.count()
    for point in (1, 40, 120):
        bench.models.ledger.clear()
        name = f"cut-{point}"
        process = await bench.start(*bench.arguments(judge, "--run", name, "--json"))
        await until_asked(bench, point)
        process.send_signal(signal.SIGINT)
        cut = await bench.ended(process)
        assert cut.status == 130, cut.err
        assert f"judge run --run {name}" in cut.err
        assert cut.document["run_id"] == name
        asked = bench.models.ledger.count()
        assert point <= asked < calls
        recorded = await scalar(bench.router.url, "SELECT count(verdict) FROM judgments WHERE run_id = %s", name)
        assert recorded == asked, "what was under way was recorded"
        rest = await bench.judge(None, "--run", name)
        assert rest.status == 0, rest.err
        assert bench.models.ledger.count() == calls, "nothing was asked twice"
        assert comparable(rest.document) == comparable(whole.document)


@pytest.mark.slow
async def test_a_killed_run_goes_on(bench: Bench):
    judge = "loopback-judge-noisy@30-80ms"
    whole = await bench.judge(judge, "--run", "whole")
    bench.models.ledger.clear()
    process = await bench.start(*bench.arguments(judge, "--run", "killed", "--json"))
    await until_asked(bench, 50)
    process.kill()
    assert (await bench.ended(process)).status == -signal.SIGKILL
    asked = bench.models.ledger.count()
    recorded = await scalar(bench.router.url, "SELECT count(verdict) FROM judgments WHERE run_id = 'killed'")
    assert asked - 8 <= recorded <= asked, "lost are at most the calls under way"
    rest = await bench.judge(judge, "--run", "killed")
    assert rest.status == 0, rest.err
    assert comparable(rest.document) == comparable(whole.document)
    assert bench.models.ledger.count() == asked + rest.document["data"]["run"]["judgments"] - recorded


@pytest.mark.slow
async def test_a_second_interrupt_ends_at_once(bench: Bench):
    process = await bench.start(*bench.arguments("loopback-judge@20000ms"))
    await until_asked(bench, 8)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while b"calls under way end first" not in await process.stderr.readline():
        assert process.returncode is None
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        assert await process.wait() == 130
    await bench.ended(process)
    assert await bench.judged() == 0


@pytest.mark.slow
async def test_two_workers_share_a_run(bench: Bench):
    done = await asyncio.gather(*(bench.judge("loopback-judge@10ms") for _ in range(2)))
    assert [one.status for one in done] == [0, 0], [one.err for one in done]
    assert done[0].document["data"]["net"] == done[1].document["data"]["net"]


@pytest.mark.slow
async def test_no_more_calls_at_a_time_than_asked_for(bench: Bench):
    await bench.judge("loopback-judge@20ms", "--concurrency", "3")
    assert bench.models.ledger.peak("loopback-judge@20ms") == 3


# Money


@pytest.mark.slow
async def test_the_cost_cap_ends_a_run_cleanly(bench: Bench):
    prices = ["--price-input", "3", "--price-output", "15", "--max-tokens", "100"]
    free = (await bench.judge("loopback-judge", "--run", "free", *prices)).document["data"]
    cost = free["run"]["cost_usd"]
    assert cost > 0
    bench.models.ledger.clear()
    cap = 0.4 * cost
    stopped = await bench.judge("loopback-judge", "--run", "capped", "--max-cost-usd", str(cap), *prices)
    assert stopped.status == 3, stopped.err
    data = stopped.document["data"]["run"]
    assert 0 < data["cost_usd"] <= cap
    assert data["judged"] == bench.models.ledger.count() < data["judgments"]
    assert f"{data['judgments'] - data['judged']:,} judgments are left" in stopped.err
    again = await bench.judge(None, "--run", "capped", "--max-cost-usd", str(cap), *prices)
    assert again.status == 3, "the cap is that of the run, not of the command"
    assert again.document["data"]["run"]["cost_usd"] <= cap
    rest = await bench.judge(None, "--run", "capped", "--max-cost-usd", str(3 * cost), *prices)
    assert rest.status == 0, rest.err
    assert rest.document["data"]["run"]["cost_usd"] == pytest.approx(cost)
    assert rest.document["data"]["net"] == free["net"]


# Failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judge", "named"),
    [("loopback-nothing", "not_found"), ("loopback-429", "rate_limit"), ("loopback-cut-before", "connection")],
)
async def test_a_judge_that_cannot_be_asked_leaves_the_run_to_be_gone_on_with(bench: Bench, judge: str, named: str):
    done = await bench.judge(judge, "--concurrency", "2")
    assert done.status == 1
    assert named in done.document["error"]
    assert "go on with `bandit-router judge run --run support-" in done.document["error"]
    assert await bench.judged() == 0
    assert "Traceback" not in done.err


async def test_a_router_that_is_not_there(bench: Bench):
    done = await bench.run(*bench.arguments(), "--server", "127.0.0.1:1")
    assert (done.status, "no router answers there" in done.err) == (1, True)


@pytest.mark.slow
async def test_replies_that_are_cut_off_are_invalid_and_say_so(bench: Bench):
    done = await bench.judge("loopback-judge", "--sample", "4", "--repeat", "0", "--max-tokens", "1")
    assert done.document["data"]["invalid_pairs"] == 4
    reasons = await query(bench.router.url, "SELECT DISTINCT reason FROM judgments")
    assert all("it ended with length" in reason for (reason,) in reasons), "one token is too few for a reply"


# The prior


@pytest.mark.slow
async def test_the_prior_is_an_entry_of_the_experiments_file(bench: Bench):
    service = stub(bench.router)
    await create(service, run_id="run")
    await judge_all(service)
    done = await bench.run("judge", "prior", "--run", "run", "--weight", "12")
    assert done.status == 0, done.err
    (entry,) = yaml.safe_load(done.out)["allocation"]["priors"].items()
    assert entry[0] == "fancy"
    # The control's mean is 1/2 without outcomes: the prior's mean is the win rate, 45 wins and 10 ties of 70.
    rate = 50 / 70
    assert (entry[1]["alpha"], entry[1]["beta"]) == pytest.approx((12 * rate, 12 * (1 - rate)), rel=1e-5)
    found = (await bench.run("judge", "prior", "--run", "run", "--weight", "12", "--json")).document
    assert (found["other_outcomes"], found["pairs"], found["win_rate"]) == (0, 70, pytest.approx(rate))


# What is asked for wrongly


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run"], "--experiment and --judge"),
        (["run", "--experiment", "e"], "--judge"),
        (["run", "--run", "r", "--seed", "4"], "--seed"),
        (["run", "--run", "r", "--allow-same-family"], "--allow-same-family"),
        (["run", "--experiment", "e", "--judge", "openai:m", "--max-cost-usd", "1"], "--price-input"),
        (["run", "--experiment", "e", "--judge", "openai:m", "--price-input", "1"], "--price-output"),
        (["run", "--experiment", "e", "--judge", "openai:m", "--sample", "0"], "--sample"),
        (["prior", "--run", "r"], "--weight"),
        (["report"], "--run"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], named: str) -> None:
    done = CliRunner().invoke(main, ["judge", *arguments])
    assert done.exit_code == 2
    assert named in done.output


@pytest.mark.slow
async def test_settings_of_another_run_are_refused(bench: Bench):
    await create(stub(bench.router), run_id="taken")
    done = await bench.judge("loopback-judge", "--run", "taken", "--seed", "99")
    assert (done.status, "seed" in done.document["error"]) == (1, True)
