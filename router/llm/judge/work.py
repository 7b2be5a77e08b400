"""Working a run off: judgments that are pending are asked concurrently, and each verdict is recorded as it comes.

Nothing is kept here: what was recorded is not pending any more, so whoever works on a run, again or at the same time, goes
on where it is. Stopping lets calls under way end, since they are paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from google.protobuf.duration_pb2 import Duration

from router.llm.budget import CapReachedError
from router.llm.judge.asking import OF_THE_QUESTION, Judge, Reply, Spent, StoppedError, scrubbed
from router.llm.judge.questions import Question
from router.llm.models import ModelError
from router.v1 import judge_pb2 as pb
from router.v1 import judge_pb2_grpc
from router.v1.routing_pb2 import CallReport

_RPC_S: Final = 30.0
_PAGE: Final = 200
_VERDICTS: Final = {"A": pb.VERDICT_A, "B": pb.VERDICT_B, "tie": pb.VERDICT_TIE, "invalid": pb.VERDICT_INVALID}
_LONGEST_REASON: Final = 2_000
#: So many refused questions without one that was answered, and it is the caller who is refused.
_MOST_REFUSED: Final = 10


class End(Enum):
    """Why work ended."""

    DONE = "done"
    STOPPED = "stopped"
    CAP = "the cost cap"
    FAILED = "failed"


@dataclass(slots=True)
class Work:
    """One pass over what is pending."""

    run_id: str
    service: judge_pb2_grpc.JudgeServiceAsyncStub
    judge: Judge
    concurrency: int
    #: Set to have it stop asking.
    stopping: asyncio.Event
    #: Told of each verdict that was recorded.
    on_verdict: Callable[[str], None] = lambda verdict: None
    end: End = End.DONE
    #: Why it failed, or what the questions that were refused were refused for.
    error: str = ""
    #: Judgments of the run that were made before, and in this pass.
    judged_before: int = 0
    answered: int = 0
    #: Judgments whose question the judge's server refused, with its words.
    refused: dict[int, str] = field(default_factory=dict)

    async def perform(self) -> End:
        """Judge what is pending until nothing is, or until asking stops. Raises grpc.RpcError if the router fails."""
        pending = self._pending()
        lock = asyncio.Lock()

        async def worker() -> None:
            while not self.stopping.is_set():
                async with lock:
                    one = await anext(pending, None)
                if one is None:
                    return
                await self._judge(one)

        workers = [asyncio.create_task(worker()) for _ in range(self.concurrency)]
        try:
            for done in asyncio.as_completed(workers):
                await done
        except BaseException:
            # The router failed, or everything is to end at once.
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            raise
        finally:
            await pending.aclose()
        if self.stopping.is_set() and self.end is End.DONE:
            self.end = End.STOPPED
        await self._settle_refused()
        return self.end

    async def _pending(self) -> AsyncGenerator[pb.PendingJudgment, None]:
        token = ""
        while True:
            request = pb.ListPendingJudgmentsRequest(run_id=self.run_id, page_size=_PAGE, page_token=token)
            page = await self.service.ListPendingJudgments(request, timeout=_RPC_S)
            for one in page.judgments:
                yield one
            token = page.next_page_token
            if not token:
                return

    async def _judge(self, one: pb.PendingJudgment) -> None:
        try:
            reply = await self.judge.ask(Question(one.prompt, one.answer_a, one.answer_b))
        except StoppedError:
            return
        except CapReachedError:
            self._stop(End.CAP)
        except ModelError as error:
            message = scrubbed(f"{error.kind}: {error}")
            if error.kind in OF_THE_QUESTION:
                self.refused[one.judgment] = message
                if not self.answered and len(self.refused) >= _MOST_REFUSED:
                    self._stop(End.FAILED, message)
            else:
                self._stop(End.FAILED, message)
        else:
            self.answered += 1
            await self._record(one.judgment, reply)

    def _stop(self, end: End, error: str = "") -> None:
        if self.end is End.DONE:
            self.end, self.error = end, error
        self.stopping.set()

    async def _settle_refused(self) -> None:
        """Call refused questions invalid where others were answered: then it is the question that is at fault."""
        if self.end is End.FAILED:
            return
        if self.refused and not (self.answered or self.judged_before):
            if self.end is End.DONE:
                self.end, self.error = End.FAILED, next(iter(self.refused.values()))
            return
        for judgment, message in self.refused.items():
            await self._record(judgment, Reply("invalid", f"the judge's server refused the question: {message}", Spent()))

    async def _record(self, judgment: int, reply: Reply) -> None:
        spent = reply.spent
        latency = Duration()
        latency.FromMicroseconds(round(spent.latency_s * 1e6))
        request = pb.RecordVerdictRequest(
            run_id=self.run_id,
            judgment=judgment,
            verdict=_VERDICTS[reply.verdict],
            reason=scrubbed(reply.reason).replace("\x00", "\ufffd")[:_LONGEST_REASON],
            call=CallReport(
                latency=latency,
                input_tokens=spent.input_tokens,
                output_tokens=spent.output_tokens,
                cost_usd=spent.cost_usd,
            ),
        )
        await self.service.RecordVerdict(request, timeout=_RPC_S)
        self.on_verdict(reply.verdict)
