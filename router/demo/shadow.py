"""The shadow demo: a challenger answers beside production without being seen, and judges compare the two.

Model
    Real prompts go through the drop-in client to loopback models, which answer over real HTTP as the table scores them. Two
    experiments take turns: one mirrors every request to the challenger, the other none, so that what mirroring does to
    production shows in the same minute. A served answer completes the task with the probability of its score.

    Then two judges compare the recorded answers: one follows the scores and errs in a fifth of its replies, in both orders;
    the other always prefers the answer it is shown first.

Assumes
    The judges read the score that the loopback models write into their answers: they stand for judges that can tell good
    from bad, and how well is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from router.client import AsyncRouterClient, Decision, RewardEvent, RouteRequest
from router.demo.checks import Check, replay_agrees
from router.demo.data import Table
from router.demo.records import Records
from router.demo.scene import Scene, Story
from router.llm import AsyncRoutedAnthropic, Price, model_of
from router.llm.budget import Budget
from router.llm.judge.asking import Judge
from router.llm.judge.questions import default_rubric
from router.llm.judge.report import report_of
from router.llm.judge.work import Work
from router.llm.loopback import Loopback, quality_of, serve_loopback
from router.llm.reports import render_html, render_terminal, write_file
from router.v1 import judge_pb2 as pb
from router.v1 import judge_pb2_grpc, shadow_pb2, shadow_pb2_grpc

CONTROL, CHALLENGER = "mistral-7b-instruct-v0.3", "llama-3.1-nemotron-51b-instruct"
#: With mirroring and without.
EXPERIMENTS: Final = ("shadow", "shadow-off")
REPORT: Final = Path("build/shadow.html")
#: What production may take longer for being mirrored, as a ratio of medians.
_MOST_SLOWER: Final = 1.1
_PROMPTS: Final = 800
_CALLERS: Final = 12
#: The models' latency: realistic in its spread, shorter than real ones.
_LATENCY: Final = "@100-250ms"
_PRICES: Final = {f"{CONTROL}{_LATENCY}": Price(0.2, 0.2), f"{CHALLENGER}{_LATENCY}": Price(0.7, 0.7)}
_SAMPLES: Final = {"loopback-judge-noisy": 300, "loopback-judge-a": 150}
_WIDTH: Final = 120
_RECORDED_S: Final = 30.0
_RPC_S: Final = 30.0
_FILE = """\
experiment: {name}
arms:
  - {{id: {control}, model: {control}{latency}, family: mistral, role: control, config: {{max_tokens: 200}}}}
  - {{id: {challenger}, model: {challenger}{latency}, family: llama, config: {{max_tokens: 200}}, cost_usd: 0.0002}}
shadow: {{rate: {rate}, daily_budget_usd: 5, text: full}}
state: shadow
"""


@dataclass(frozen=True, slots=True)
class Served:
    """One answer, as its caller saw it."""

    #: The caller's own id.
    request_id: str
    prompt: int
    #: Whether its experiment mirrors.
    mirrored: bool
    decision: Decision
    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """What the demo has to tell from."""

    served: tuple[Served, ...]
    #: Mirrored requests that were not sent, because production kept this process busy: the models run in it, too.
    held_back: int
    #: What RecordShadow keeps of them.
    comparisons: tuple[shadow_pb2.Comparison, ...]
    #: Reports of the judges, in the order of `_SAMPLES`.
    reports: tuple[pb.GetJudgeReportResponse, ...]
    #: Outcomes in the posterior of each arm of the experiment that mirrors.
    outcomes: dict[str, int]


async def play(scene: Scene, table: Table) -> Found:
    """Serve the prompts, then have the recorded pairs judged."""
    async with serve_loopback() as models:
        for name, rate in zip(EXPERIMENTS, (1, 0), strict=True):
            await scene.apply(_FILE.format(name=name, rate=rate, control=CONTROL, challenger=CHALLENGER, latency=_LATENCY))
            await _heard(scene, name)
        async with _routed(scene, models) as routed:
            served = await _serve(scene, routed, table)
            await routed.close(_RECORDED_S)
            held_back = routed.stats().mirrors.busy
        comparisons = await _recorded(scene, sum(one.mirrored for one in served) - held_back)
        reports = [await _judged(scene, models, name, sample) for name, sample in _SAMPLES.items()]
    posterior = await scene.posterior(EXPERIMENTS[0])
    REPORT.parent.mkdir(exist_ok=True)
    write_file(REPORT, render_html(report_of(reports[0])))
    return Found(tuple(served), held_back, tuple(comparisons), tuple(reports), {arm.arm_id: arm.n for arm in posterior.arms})


async def _heard(scene: Scene, experiment_id: str) -> None:
    """Wait until every worker serves it: connections are spread over them."""
    for _ in range(24):
        await scene.route([RouteRequest(experiment_id)])


@contextlib.asynccontextmanager
async def _routed(scene: Scene, models: Loopback) -> AsyncIterator[AsyncRoutedAnthropic]:
    async with (
        AsyncRouterClient(channel=scene.channel) as router,
        models.async_anthropic() as client,
        AsyncRoutedAnthropic(client, router, prices=_PRICES) as routed,
    ):
        yield routed


async def _serve(scene: Scene, routed: AsyncRoutedAnthropic, table: Table) -> list[Served]:
    """Ask prompt after prompt, so many at a time, every other one mirrored."""
    prompts = iter(enumerate(scene.rng.permutation(len(table.scores))[:_PROMPTS].tolist()))
    served: list[Served] = []

    async def caller() -> None:
        for number, prompt in prompts:
            served.append(await _ask(routed, number, prompt))
            scene.board.show(picture(served), f"{len(served):,} of {_PROMPTS:,} answers")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CALLERS):
            tasks.create_task(caller())
    signals = ["task_completed" if scene.rng.random() < _score(one) else "rephrased_query" for one in served]
    events = [RewardEvent(one.decision, event_id="1", signal=s) for one, s in zip(served, signals, strict=True)]
    for first in range(0, len(events), 200):
        await scene.reward(events[first : first + 200])
    return served


def _score(one: Served) -> float:
    return quality_of(one.text) or 0.0


async def _ask(routed: AsyncRoutedAnthropic, number: int, prompt: int) -> Served:
    clock, request_id = asyncio.get_running_loop().time, f"request-{number}"
    began = clock()
    answer = await routed.messages.create(
        experiment_id=EXPERIMENTS[number % 2],
        unit_id=f"user-{number}",
        request_id=request_id,
        messages=[{"role": "user", "content": f"[prompt {prompt}] What is the answer?"}],
    )
    seconds = clock() - began
    text = "".join(block.text for block in answer.response.content if block.type == "text")
    return Served(request_id, prompt, number % 2 == 0, answer.decision, text, seconds)


async def _recorded(scene: Scene, expected: int) -> list[shadow_pb2.Comparison]:
    """Wait until every mirrored call is recorded, and return what is."""
    stub = shadow_pb2_grpc.ShadowServiceStub(scene.channel)
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + _RECORDED_S
    while True:
        found: list[shadow_pb2.Comparison] = []
        token = ""
        while True:
            request = shadow_pb2.ListComparisonsRequest(experiment_id=EXPERIMENTS[0], page_size=1000, page_token=token)
            page = await stub.ListComparisons(request, timeout=_RPC_S)
            found += page.comparisons
            token = page.next_page_token
            if not token:
                break
        if len(found) >= expected or clock() > give_up_at:
            return found
        await asyncio.sleep(0.1)


async def _judged(scene: Scene, models: Loopback, name: str, sample: int) -> pb.GetJudgeReportResponse:
    """Have a judge compare a sample, as `bandit-router judge run` does."""
    service: Any = judge_pb2_grpc.JudgeServiceStub(scene.channel)
    both = name != "loopback-judge-a"
    wanted = pb.JudgeRun(
        run_id=f"demo-{name}",
        experiment_id=EXPERIMENTS[0],
        judge=f"anthropic:{name}",
        judge_family="anthropic",
        rubric=default_rubric(),
        sample=sample,
        seed=scene.seed,
        method=pb.JudgeRun.METHOD_BOTH_ORDERS if both else pb.JudgeRun.METHOD_RANDOM_ORDER,
        repeat_share=0.1 if both else 0.0,
    )
    run = (await service.CreateJudgeRun(pb.CreateJudgeRunRequest(run=wanted), timeout=_RPC_S)).run
    model = model_of(wanted.judge, models.anthropic_url, api_key="not needed")
    stopping = asyncio.Event()

    async def rest(seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return True

    rng = random.Random(scene.seed)  # noqa: S311 - pauses are no secret
    judge = Judge(model, wanted.rubric, 500, Budget(None, 0.0), None, rest, rng)
    work = Work(run.run_id, service, judge, 8, stopping)
    made = 0

    def count(verdict: str) -> None:
        nonlocal made
        made += 1
        scene.board.show(
            f"{name}: {made:,} of {run.judgments:,} judgments", f"{name}: {made:,} of {run.judgments:,} judgments"
        )

    work.on_verdict = count
    try:
        await work.perform()
    finally:
        await model.close()
    request = pb.GetJudgeReportRequest(run_id=run.run_id)
    report: pb.GetJudgeReportResponse = await service.GetJudgeReport(request, timeout=_RPC_S)
    return report


def picture(served: Sequence[Served]) -> RichTable:
    """Return what production's answers took, with mirroring and without."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("production", "answers", "p50", "p99", "mean score"):
        table.add_column(name, justify="left" if name == "production" else "right")
    for mirrored in (False, True):
        mine = [one for one in served if one.mirrored == mirrored]
        if mine:
            p50, p99 = _quantiles(mine)
            score = np.mean([_score(one) for one in mine])
            name = "beside a shadow arm" if mirrored else "alone"
            table.add_row(name, f"{len(mine):,}", f"{p50 * 1e3:.0f} ms", f"{p99 * 1e3:.0f} ms", f"{score:.3f}")
    return table


def _quantiles(served: Sequence[Served]) -> tuple[float, float]:
    p50, p99 = np.quantile([one.seconds for one in served], [0.5, 0.99])
    return float(p50), float(p99)


def story(found: Found, table: Table, records: tuple[Records, Records]) -> Story:
    """Return what the judges said, and whether shadow traffic kept its promises."""
    truth = _truth(found, table)
    fair, biased = found.reports
    checks = (
        _unseen(found),
        _recorded_once(found),
        _unhurt(found),
        _finds_the_better(fair, truth),
        _exposed(biased),
        _apart(found, records[0]),
        replay_agrees(*records),
    )
    numbers = {
        "judged": fair.summary,
        "always A": biased.summary,
        "truth on the pairs": f"{truth:+.3f} mean score of the challenger over the control",
        "report": str(REPORT),
    }
    (alone, alone_99), (beside, beside_99) = (_of(found, mirrored) for mirrored in (False, True))
    figures = {
        "answers": len(found.served),
        "comparisons": len(found.comparisons),
        "p50_ratio": beside / alone,
        "p99_ratio": beside_99 / alone_99,
        "net_win_rate": fair.net.estimate,
        "truth": truth,
    }
    return Story("shadow", numbers, Group(picture(found.served), Text(), _as_text(fair)), checks, figures)


def _as_text(report: pb.GetJudgeReportResponse) -> Text:
    """Return the judged report as it would be printed."""
    printed = io.StringIO()
    render_terminal(report_of(report), Console(file=printed, width=_WIDTH, force_terminal=True, color_system="standard"))
    return Text.from_ansi(printed.getvalue())


def _truth(found: Found, table: Table) -> float:
    column = {arm_id: i for i, arm_id in enumerate(table.arm_ids)}
    prompts = [one.prompt for one in found.served if one.mirrored]
    return float((table.scores[prompts, column[CHALLENGER]] - table.scores[prompts, column[CONTROL]]).mean())


def _of(found: Found, mirrored: bool) -> tuple[float, float]:
    return _quantiles([one for one in found.served if one.mirrored == mirrored])


def _unseen(found: Found) -> Check:
    """Models write their names into their answers."""
    seen = sum(CHALLENGER in one.text or CONTROL not in one.text for one in found.served)
    named = sum(bool(one.decision.shadow_arms) for one in found.served)
    detail = f"{seen} of {len(found.served):,} answers come from the shadow arm, which was called for {named:,} of them"
    return Check("no shadow answer reached a user", not seen and named > 0, detail, {"seen": seen, "mirrored": named})


def _recorded_once(found: Found) -> Check:
    wanted = {one.request_id: one.text for one in found.served if one.mirrored}
    kept = {one.request_id: one for one in found.comparisons}
    both = wanted.keys() & kept.keys()
    wrong = sum(kept[key].serving.text != wanted[key] or CHALLENGER not in kept[key].shadow.text for key in both)
    once = kept.keys() <= wanted.keys() and len(kept) == len(found.comparisons)
    ok = once and len(kept) + found.held_back == len(wanted) and found.held_back < 0.2 * len(wanted) and not wrong
    detail = (
        f"{len(kept):,} of {len(wanted):,} mirrored requests are recorded, each once; {found.held_back} were held back while"
        f" this process was busy; {wrong} with other texts"
    )
    numbers = {"wanted": len(wanted), "kept": len(kept), "held_back": found.held_back}
    return Check("every mirrored request is recorded once", ok, detail, numbers)


def _unhurt(found: Found) -> Check:
    (alone, _), (beside, _) = (_of(found, mirrored) for mirrored in (False, True))
    detail = f"median {beside * 1e3:.0f} ms beside a shadow arm, {alone * 1e3:.0f} ms alone: x {beside / alone:.2f}"
    return Check("mirroring does not slow production", beside <= _MOST_SLOWER * alone, detail, {"ratio": beside / alone})


def _finds_the_better(report: pb.GetJudgeReportResponse, truth: float) -> Check:
    conclusion = pb.GetJudgeReportResponse.CONCLUSION_ARM if truth > 0 else pb.GetJudgeReportResponse.CONCLUSION_OTHER
    net = report.net
    detail = f"net win rate {net.estimate:+.3f} [{net.lower:+.3f}, {net.upper:+.3f}] over {report.judged_pairs:,} pairs"
    return Check("a judge that follows the scores finds the better model", report.conclusion == conclusion, detail, {})


def _exposed(report: pb.GetJudgeReportResponse) -> Check:
    first = report.first_wins
    detail = f"the first answer wins {first.estimate:.0%} of its verdicts"
    unusable = report.conclusion == pb.GetJudgeReportResponse.CONCLUSION_UNUSABLE
    return Check("a judge that always says A is exposed", unusable and report.position_biased, detail, {})


def _apart(found: Found, records: Records) -> Check:
    """Only users' outcomes are learned from, and users only met the control."""
    mirrored = sum(one.mirrored for one in found.served)
    ok = found.outcomes == {CONTROL: mirrored, CHALLENGER: 0}
    detail = f"{found.outcomes[CONTROL]:,} outcomes of the control, {found.outcomes[CHALLENGER]} of the challenger"
    return Check("verdicts are no evidence", ok and records.outcomes == mirrored, detail, dict(found.outcomes))
