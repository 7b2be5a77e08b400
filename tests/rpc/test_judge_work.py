"""Working a run off against a real router: judges that fail in part, and what is recorded of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable

import pytest
from comparisons import add_comparisons, all_pending, create, judged_experiment, pairs, report_of, stub
from running import Router, query, scalar

from router.llm.budget import Budget
from router.llm.judge.asking import Judge
from router.llm.judge.prior import UnusableVerdictsError, prior_of
from router.llm.judge.report import report_of as as_report
from router.llm.judge.work import End, Work
from router.llm.models import Completion, ModelError, Prompt
from router.llm.reports import render_json
from router.v1 import judge_pb2 as pb

#: What a model does with a question: its number among all that were asked, and its text.
Act = Callable[[int, str], str | ModelError]


class Model:
    """A model that does as it is told."""

    name = "openai:told"

    def __init__(self, act: Act) -> None:
        self.act = act
        self.asked = 0

    async def complete(self, prompt: Prompt) -> Completion:
        self.asked += 1
        said = self.act(self.asked, str(prompt.messages[0]["content"]))
        await asyncio.sleep(0)
        if isinstance(said, ModelError):
            raise said
        text = json.dumps({"reason": said, "verdict": "tie"})
        return Completion(text, "m", "end_turn", 10, 5, "", 0.1)

    async def close(self) -> None: ...


async def work_of(router: Router, act: Act, stopping: asyncio.Event | None = None, concurrency: int = 4) -> Work:
    stopped = stopping or asyncio.Event()

    async def rest(seconds: float) -> bool:
        return not stopped.is_set()

    model = Model(act)
    judge = Judge(model, "Be fair.", 100, Budget(None), None, rest, random.Random(1))
    run = (await report_of(stub(router))).run
    work = Work("run", stub(router), judge, concurrency, stopped, judged_before=run.judged)
    await work.perform()
    return work


@pytest.fixture
async def prepared(router: Router) -> Router:
    await router.run(judged_experiment())
    add_comparisons(router.url, pairs([(0.5, 0.5)] * 30))
    await create(stub(router))
    return router


async def verdicts(router: Router) -> dict[str | None, int]:
    return dict(await query(router.url, "SELECT verdict, count(*) FROM judgments GROUP BY 1"))


def too_large(number: int, text: str) -> str | ModelError:
    return ModelError("bad_request", "prompt is too long: sk-abcdef123") if "question 7." in text else "alike"


async def test_a_question_that_is_refused_is_invalid_and_the_others_are_judged(prepared: Router):
    work = await work_of(prepared, too_large)
    assert work.end is End.DONE
    assert await verdicts(prepared) == {"tie": 58, "invalid": 2}
    reason = await scalar(prepared.url, "SELECT DISTINCT reason FROM judgments WHERE verdict = 'invalid'")
    assert reason == "the judge's server refused the question: bad_request: prompt is too long: [key]"
    found = await report_of(stub(prepared))
    assert (found.judged_pairs, found.invalid_pairs, found.pending_pairs) == (29, 1, 0)


async def test_a_judge_that_refuses_every_question_records_nothing(prepared: Router):
    work = await work_of(prepared, lambda number, text: ModelError("bad_request", "no such parameter"))
    assert (work.end, work.error) == (End.FAILED, "bad_request: no such parameter")
    assert 10 <= work.judge.model.asked < 20, "it soon gives up"
    assert await verdicts(prepared) == {None: 60}
    assert (await work_of(prepared, lambda number, text: "alike")).end is End.DONE
    assert await verdicts(prepared) == {"tie": 60}


async def test_what_is_left_may_be_refused_alone(prepared: Router):
    """The refused question is all that a later pass finds: it is at fault, since others of the run were judged."""
    for one in await all_pending(stub(prepared)):
        if "question 7." not in one.answer_a:
            await stub(prepared).RecordVerdict(
                pb.RecordVerdictRequest(run_id="run", judgment=one.judgment, verdict=pb.VERDICT_TIE)
            )
    assert (await work_of(prepared, too_large)).end is End.DONE
    assert await verdicts(prepared) == {"tie": 58, "invalid": 2}


async def test_calls_under_way_are_recorded_when_one_fails_for_good(prepared: Router):
    def act(number: int, text: str) -> str | ModelError:
        return ModelError("authentication", "Incorrect API key provided: sk-proj-xyz") if number == 10 else "alike"

    work = await work_of(prepared, act)
    assert (work.end, work.error) == (End.FAILED, "authentication: Incorrect API key provided: [key]")
    judged = (await verdicts(prepared))["tie"]
    assert judged == work.judge.model.asked - 1


async def test_stopping_asks_no_more(prepared: Router):
    stopping = asyncio.Event()

    def act(number: int, text: str) -> str:
        if number == 7:
            stopping.set()
        return "alike"

    work = await work_of(prepared, act, stopping)
    assert work.end is End.STOPPED
    assert 7 <= work.judge.model.asked <= 7 + 3
    assert (await verdicts(prepared))["tie"] == work.judge.model.asked


async def test_reasons_with_nul_and_without_end_are_kept_in_part(prepared: Router):
    work = await work_of(prepared, lambda number, text: "a\x00b" + "c" * 20_000)
    assert work.end is End.DONE
    reason = await scalar(prepared.url, "SELECT DISTINCT reason FROM judgments")
    assert reason.startswith("a\ufffdbc")
    assert len(reason) == 2_000


async def test_a_report_has_every_number_and_its_warnings(prepared: Router):
    await work_of(
        prepared, lambda number, text: "alike" if number < 41 else ModelError("authentication", "no"), concurrency=1
    )
    message = await report_of(stub(prepared))
    found = as_report(message)
    assert any("still to be judged" in warning for warning in found.warnings)
    document = json.loads(render_json(found))
    data = document["data"]
    assert (data["judged_pairs"], data["pending_pairs"], data["run"]["judged"]) == (20, 10, 40)
    assert data["ties"] == {"estimate": 1.0, "lower": message.ties.lower, "upper": 1.0, "n": 20}
    assert (data["self_agreement"], data["conclusion"]) == (None, "unusable")
    assert data["first_wins"]["estimate"] is None
    titles = ["Preferred answers", "Net win rate", "Position", "Agreement with itself"]
    assert [plot["title"] for plot in document["plots"]] == titles


async def test_no_prior_from_verdicts_that_say_too_little(prepared: Router):
    posterior = await prepared.posterior()
    message = await report_of(stub(prepared))
    with pytest.raises(UnusableVerdictsError, match="fewer than 30"):
        prior_of(message, posterior, 10.0)
    sure = pb.GetJudgeReportResponse(
        run=message.run,
        conclusion=pb.GetJudgeReportResponse.CONCLUSION_ARM,
        arm_wins=pb.JudgeRate(estimate=1.0),
        ties=pb.JudgeRate(estimate=0.0),
    )
    with pytest.raises(UnusableVerdictsError, match="win_rate is 1"):
        prior_of(sure, posterior, 10.0)
    sure.run.other_arm_id = "retired"
    with pytest.raises(UnusableVerdictsError, match="retired is not an active arm"):
        prior_of(sure, posterior, 10.0)
