"""A run: every arm answers every item, checks score the answers, and the journal keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router.llm.budget import CapReachedError
from router.llm.evaluate.arms import Arm
from router.llm.evaluate.caller import Asked, Caller
from router.llm.evaluate.checks import Check, CheckError, Tally
from router.llm.evaluate.dataset import Dataset, Item
from router.llm.evaluate.journal import Journal, Result
from router.llm.evaluate.judge import judge_prompt
from router.llm.models import ModelError, Prompt
from router.llm.report_text import shortened

#: No token of an answer is read as more tokens than this by a judge; a budget counts on it.
_JUDGED_TOKENS: Final = 8
_EXCERPT: Final = 200


@dataclass(frozen=True, slots=True)
class Run:
    """What a run needs."""

    dataset: Dataset
    arms: Sequence[Arm]
    #: By arm.
    asked: Mapping[str, Asked]
    #: Of the run and of single items, by name.
    checks: Mapping[str, Check]
    #: Of items that do not say.
    default_checks: Sequence[str]
    #: The judges among the checks, with their rubric.
    judges: Mapping[str, Asked]
    rubric: str
    samples: int
    journal: Journal
    caller: Caller
    #: Asks again where the journal holds an error.
    retry_errors: bool = False

    @property
    def planned(self) -> int:
        """How many answers there are to get in all."""
        return self.dataset.items * len(self.arms) * self.samples

    async def perform(self, concurrency: int, on_result: Callable[[Result], None]) -> bool:
        """Get the answers that the journal lacks; False where the budget ended first. Raises EvaluationError."""
        work = self._work()
        capped = False

        async def labour() -> None:
            nonlocal capped
            for item, arm, sample in work:
                if capped:
                    return
                try:
                    result = await self._answered(item, arm, sample)
                except CapReachedError:
                    capped = True
                    return
                self.journal.append(result)
                on_result(result)
                capped = capped or result.unpaid

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(labour())
        except BaseExceptionGroup as failures:
            # The first failure ends the run; those that it took with it say nothing more.
            raise failures.exceptions[0] from None
        return not capped

    def _work(self) -> Iterator[tuple[Item, Arm, int]]:
        """Give what is to be done, item by item, so that a run that is stopped has the same items of all arms."""
        for item in self.dataset:
            for sample in range(self.samples):
                for arm in self.arms:
                    answered = self.journal.done.get((item.id, arm.id, sample))
                    if answered is None or (self.retry_errors and not answered):
                        yield item, arm, sample

    async def _answered(self, item: Item, arm: Arm, sample: int) -> Result:
        """Ask an arm and check its answer. Raises CapReachedError if the budget does not cover that."""
        names, prompt, asked = list(item.checks or self.default_checks), arm.prompt(item), self.asked[arm.id]
        reserved = asked.worst_usd(prompt) + sum(self._judge_worst_usd(name, item, asked) for name in names)
        budget = self.caller.budget
        await budget.reserve(reserved)
        tally = Tally(reserved)
        try:
            return await self._result(item, arm, sample, names, prompt, tally)
        finally:
            await budget.settle(tally.reserved_usd, tally.charged_usd)

    async def _result(self, item: Item, arm: Arm, sample: int, names: list[str], prompt: Prompt, tally: Tally) -> Result:
        asked = self.asked[arm.id]
        about = (item.id, item.line, arm.id, sample, shortened(item.prompt, _EXCERPT))
        try:
            completion = await self.caller.ask(asked, prompt, tally)
        except ModelError as error:
            said = f"{error.kind}: {shortened(str(error), 500)}"
            return Result(*about, None, said, "", "", None, None, None, None, tally.charged_usd, names)
        scores, check_errors = dict[str, float](), dict[str, str]()
        for name in names:
            try:
                scores[name] = await self.checks[name].score(item, completion.text, tally)
            except CheckError as error:
                check_errors[name] = shortened(str(error), 500)
        return Result(
            *about,
            answer=completion.text,
            error=None,
            stop_reason=completion.stop_reason,
            model=completion.model,
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
            latency_s=completion.latency_s,
            cost_usd=asked.cost_usd(completion),
            charged_usd=tally.charged_usd,
            checks=names,
            scores=scores,
            check_errors=check_errors,
        )

    def _judge_worst_usd(self, name: str, item: Item, asked: Asked) -> float:
        """Return what judging an answer can cost that is not known yet; 0 for a check that is no judge."""
        if name not in self.judges:
            return 0.0
        answer = "x" * (_JUDGED_TOKENS * (asked.max_tokens or 0)) if self.judges[name].price is not None else ""
        return self.judges[name].worst_usd(judge_prompt(item, answer, self.rubric))
