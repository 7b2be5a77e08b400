"""Asking a judge one question: retries, the budget, and what is said of a reply that is no verdict."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from router.llm.budget import Budget, worst_usd
from router.llm.judge.questions import JudgeRefused, Question, UnreadableVerdict, prompt_of, read
from router.llm.models import Completion, Model, ModelError, Price, Prompt
from router.llm.patience import MAYBE_BILLED, MOST_PATIENCE_S, pause_s

#: Calls for one question that fail before it is given up.
MOST_ATTEMPTS: Final = 6
#: Replies that are no verdict before the judgment is called invalid.
_MOST_REPLIES: Final = 2
#: A refusal of the question, not of the caller: another question may be answered.
OF_THE_QUESTION: Final = frozenset({"bad_request", "too_large"})
_KEY_VARIABLES: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY")
_LIKE_A_KEY: Final = re.compile(r"\b(?:sk|key|pk)-[\w*-]{4,}|(?i:bearer)\s+\S+")

#: Rests for so many seconds; returns whether asking may go on.
Rest = Callable[[float], Awaitable[bool]]


class StoppedError(Exception):
    """Asking was to stop before there was an answer."""


@dataclass(slots=True)
class Spent:
    """What the calls for one question have taken so far."""

    latency_s: float = 0.0
    #: None once a server did not say.
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    #: None without prices.
    cost_usd: float | None = None

    def add(self, completion: Completion) -> None:
        """Count an answer."""
        self.latency_s += completion.latency_s
        self.input_tokens = _sum(self.input_tokens, completion.input_tokens)
        self.output_tokens = _sum(self.output_tokens, completion.output_tokens)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question."""

    #: "A", "B", "tie" or "invalid".
    verdict: str
    #: Why, in the judge's words; of an invalid verdict, what was wrong with it.
    reason: str
    spent: Spent


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that compares answers."""

    model: Model
    rubric: str
    max_tokens: int
    budget: Budget
    price: Price | None
    rest: Rest
    rng: random.Random

    async def ask(self, question: Question) -> Reply:
        """Ask until there is a verdict, or a reply that is none for the second time.

        Raises ModelError if the call failed for good, CapReachedError if the budget does not cover a call, StoppedError
        if asking was to stop before a retry.
        """
        prompt, spent = prompt_of(question, self.rubric, self.max_tokens), Spent()
        for attempt in range(1, _MOST_REPLIES + 1):
            completion = await self._answer(prompt, spent)
            try:
                verdict, reason = read(completion)
            except JudgeRefused as refused:
                return Reply("invalid", str(refused), spent)
            except UnreadableVerdict as unreadable:
                if attempt == _MOST_REPLIES:
                    return Reply("invalid", str(unreadable), spent)
            else:
                return Reply(verdict, reason, spent)
        raise AssertionError("the last reply returns")

    async def _answer(self, prompt: Prompt, spent: Spent) -> Completion:
        """Call until there is an answer."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                return await self._call(prompt, spent)
            except ModelError as error:
                if not error.retryable or attempt == MOST_ATTEMPTS:
                    raise
                # What a server asks for is heeded up to a point: a run has other questions, and ends for other reasons.
                asked_s = min(error.retry_after_s or 0.0, MOST_PATIENCE_S)
                if not await self.rest(pause_s(attempt, asked_s, self.rng)):
                    raise StoppedError from error
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, prompt: Prompt, spent: Spent) -> Completion:
        """Call once, its worst case set aside."""
        worst = 0.0 if self.price is None else worst_usd(self.price, prompt, self.max_tokens)
        await self.budget.reserve(worst)
        if not await self.rest(0.0):
            # The budget made it wait, and meanwhile it was told to stop.
            await self.budget.settle(worst, 0.0)
            raise StoppedError
        # Until it is known what a call has cost, it has cost all it could.
        cost, started = worst, time.perf_counter()
        try:
            completion = await self.model.complete(prompt)
            spent.add(completion)
            cost = self._cost_usd(completion, worst)
        except ModelError as error:
            spent.latency_s += time.perf_counter() - started
            cost = worst if error.kind in MAYBE_BILLED else 0.0
            raise
        finally:
            if self.price is not None:
                spent.cost_usd = (spent.cost_usd or 0.0) + cost
            await self.budget.settle(worst, cost)
        return completion

    def _cost_usd(self, completion: Completion, worst: float) -> float:
        if self.price is None:
            return 0.0
        if completion.input_tokens is None or completion.output_tokens is None:
            return worst
        return self.price.cost_usd(completion.input_tokens, completion.output_tokens)


def scrubbed(text: str) -> str:
    """Return a text without API keys, of which errors of providers quote parts."""
    for variable in _KEY_VARIABLES:
        if key := os.environ.get(variable):
            text = text.replace(key, "[key]")
    return _LIKE_A_KEY.sub("[key]", text)


def _sum(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
