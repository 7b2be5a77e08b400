"""The budget of a run: what a call may cost at worst is set aside before it is made, so the cap is never passed."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from router.llm.models import Price, Prompt

#: Tokens that a provider may add to a request for roles, tools and its own instructions.
_OVERHEAD: Final = 400


class CapReachedError(Exception):
    """What is left of the budget does not cover another call."""


class Budget:
    """What may be spent, was spent, and is set aside for calls under way."""

    def __init__(self, cap_usd: float | None, spent_usd: float = 0.0) -> None:
        self.cap_usd = cap_usd
        self.spent_usd = spent_usd
        self._reserved_usd = 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, worst_usd: float) -> None:
        """Set the worst case of an answer aside, waiting for others to cost less. Raises CapReachedError."""
        async with self._changed:
            while not self._fits(worst_usd):
                if self._reserved_usd <= 0.0:
                    raise CapReachedError
                await self._changed.wait()
            self._reserved_usd += worst_usd

    def extend(self, worst_usd: float) -> None:
        """Set more aside for an answer under way. It never waits, or those under way would wait for one another.

        Raises CapReachedError.
        """
        if not self._fits(worst_usd):
            raise CapReachedError
        self._reserved_usd += worst_usd

    async def settle(self, worst_usd: float, spent_usd: float) -> None:
        """Put back what was set aside, and count what was spent."""
        async with self._changed:
            # Sums of fractions leave crumbs, which would look like a call under way.
            self._reserved_usd = max(0.0, self._reserved_usd - worst_usd)
            if self._reserved_usd < 1e-12:
                self._reserved_usd = 0.0
            self.spent_usd += spent_usd
            self._changed.notify_all()

    def _fits(self, worst_usd: float) -> bool:
        return self.cap_usd is None or self.spent_usd + self._reserved_usd + worst_usd <= self.cap_usd


def worst_usd(price: Price, prompt: Prompt, max_tokens: int) -> float:
    """Return the most that a call can cost: no tokenizer makes more tokens of a text than it has bytes."""
    request = [
        list(map(dict, prompt.messages)),
        prompt.system,
        dict(prompt.parameters),
        prompt.schema and dict(prompt.schema),
    ]
    size = len(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace"))
    return price.cost_usd(size + _OVERHEAD, max_tokens)
