"""Calls of models with retries, within the budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from router.llm.budget import Budget, CapReachedError, worst_usd
from router.llm.evaluate.checks import Tally
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.journal import UNPAID
from router.llm.models import Completion, Model, ModelError, Price, Prompt
from router.llm.patience import MAYBE_BILLED, MOST_PATIENCE_S, pause_s

#: Failures that every call of the model shares if its first does: going on would fill the journal with them.
_HOPELESS: Final = frozenset({"authentication", "not_found"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A model as an evaluation asks it."""

    model: Model
    #: None where it is not known.
    price: Price | None
    #: The longest answer; None where nothing limits it.
    max_tokens: int | None

    def worst_usd(self, prompt: Prompt) -> float:
        """Return the most that a call can cost; 0 without a price."""
        return worst_usd(self.price, prompt, self.max_tokens or 0) if self.price is not None else 0.0

    def cost_usd(self, completion: Completion) -> float | None:
        """Return what an answer cost; None where price or tokens are unknown."""
        if self.price is None or completion.input_tokens is None or completion.output_tokens is None:
            return None
        return self.price.cost_usd(completion.input_tokens, completion.output_tokens)


@dataclass(frozen=True, slots=True)
class Caller:
    """How models are called."""

    budget: Budget
    #: How often a call is made at most.
    attempts: int
    rng: random.Random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    #: Models that answered.
    known: set[str] = field(default_factory=set)

    async def ask(self, asked: Asked, prompt: Prompt, tally: Tally) -> Completion:
        """Ask until there is an answer, or an error that stays. Raises ModelError.

        Raises EvaluationError if a model that never answered has no such name or takes no such key.
        """
        worst = asked.worst_usd(prompt)
        for attempt in range(1, self.attempts + 1):
            self._cover(worst, tally, attempt)
            try:
                completion = await asked.model.complete(prompt)
            except ModelError as error:
                if error.kind in _HOPELESS and asked.model.name not in self.known:
                    raise EvaluationError(f"{asked.model.name} cannot be asked: {error.kind}: {error}") from error
                tally.charged_usd += worst if error.kind in MAYBE_BILLED else 0.0
                too_long = (error.retry_after_s or 0.0) > MOST_PATIENCE_S
                if not error.retryable or attempt == self.attempts or too_long:
                    raise
                await self.sleep(pause_s(attempt, error.retry_after_s, self.rng))
            else:
                self.known.add(asked.model.name)
                cost = asked.cost_usd(completion)
                tally.charged_usd += worst if cost is None else cost
                return completion
        raise AssertionError("attempts is at least 1")

    def _cover(self, worst: float, tally: Tally, attempt: int) -> None:
        """See that a call's worst case is set aside."""
        missing = tally.charged_usd + worst - tally.reserved_usd
        # A rounding error is not worth a refusal.
        if missing > 1e-12:
            try:
                self.budget.extend(missing)
            except CapReachedError as error:
                raise ModelError(UNPAID, f"attempt {attempt} is not covered by the budget") from error
            tally.reserved_usd += missing
