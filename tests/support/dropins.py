"""The four drop-in clients, to be used alike: whichever provider, threads or asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from router.client import AsyncRouterClient, RouterClient
from router.llm import AsyncRoutedAnthropic, AsyncRoutedOpenAI, RoutedAnthropic, RoutedOpenAI
from router.llm.loopback import Loopback

KINDS = ("anthropic-sync", "anthropic-async", "openai-sync", "openai-async")
#: For tests of every path: two kinds have each provider, and threads and asyncio, once; the others take as long again.
EACH_KIND = [pytest.param(kind, marks=() if kind in KINDS[::3] else pytest.mark.slow) for kind in KINDS]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@dataclass
class Told:
    """What a caller got."""

    #: Every piece of text that reached it.
    text: str = ""
    #: What create returned; None if it raised.
    routed: Any = None
    error: Exception | None = None
    #: How many events of a stream reached it.
    events: int = 0


@dataclass
class Kit:
    """A drop-in client of one kind, with the clients that it was made of."""

    kind: str
    routed: Any
    sdk: Any
    router: Any

    @property
    def asynchronous(self) -> bool:
        return self.kind.endswith("-async")

    @property
    def anthropic(self) -> bool:
        return self.kind.startswith("anthropic")

    async def ask(self, *, stream: bool = False, take: int | None = None, **parameters: Any) -> Told:
        """Ask and read the answer; of a stream, `take` events at most, closing it then."""
        parameters = {"experiment_id": "support", "messages": QUESTION, "max_tokens": 200, **parameters}
        told = Told()
        try:
            if self.asynchronous:
                await self._ask_async(told, stream, take, parameters)
            else:
                await asyncio.to_thread(self._ask_sync, told, stream, take, parameters)
        except Exception as error:
            told.error = error
        return told

    def create(self) -> Any:
        """The method under test."""
        return self.routed.messages.create if self.anthropic else self.routed.chat.completions.create

    async def _ask_async(self, told: Told, stream: bool, take: int | None, parameters: dict[str, Any]) -> None:
        told.routed = await self.create()(stream=stream, **parameters)
        if not stream:
            told.text = self.text_of(told.routed)
            return
        async with told.routed as events:
            if take != 0:
                async for event in events:
                    self._take(told, event)
                    if told.events == take:
                        break

    def _ask_sync(self, told: Told, stream: bool, take: int | None, parameters: dict[str, Any]) -> None:
        told.routed = self.create()(stream=stream, **parameters)
        if not stream:
            told.text = self.text_of(told.routed)
            return
        with told.routed as events:
            if take != 0:
                for event in events:
                    self._take(told, event)
                    if told.events == take:
                        break

    def text_of(self, answer: Any) -> str:
        """The text of a whole answer, read as existing code reads the SDK's."""
        if self.anthropic:
            return "".join(block.text for block in answer.content)
        message = answer.choices[0].message
        return message.content or message.refusal or ""

    def _take(self, told: Told, event: Any) -> None:
        told.events += 1
        if self.anthropic:
            if event.type == "content_block_delta":
                told.text += event.delta.text
        else:
            # As existing code does: a chunk without choices would break it.
            delta = event.choices[0].delta
            told.text += delta.content or delta.refusal or ""

    async def close(self, timeout_s: float = 10.0) -> None:
        """Close the drop-in client: then everything it had to tell was told."""
        if self.asynchronous:
            await self.routed.close(timeout_s)
        else:
            await asyncio.to_thread(self.routed.close, timeout_s)


@asynccontextmanager
async def kit(
    kind: str, models: Loopback, target: str, *, sdk_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Kit]:
    """A drop-in client of this kind on a model server and a router."""
    provider, style = kind.split("-")
    url = models.anthropic_url if provider == "anthropic" else models.openai_url
    given = {"api_key": "any", "base_url": url, "max_retries": 0, "timeout": 10.0, **(sdk_options or {})}
    fallback_arms = options.pop("fallback_arms", None)
    if style == "async":
        sdk: Any = anthropic.AsyncAnthropic(**given) if provider == "anthropic" else openai.AsyncOpenAI(**given)
        router: Any = AsyncRouterClient(target, fallback_arms=fallback_arms)
        made: Any = AsyncRoutedAnthropic if provider == "anthropic" else AsyncRoutedOpenAI
    else:
        sdk = anthropic.Anthropic(**given) if provider == "anthropic" else openai.OpenAI(**given)
        router = RouterClient(target, fallback_arms=fallback_arms)
        made = RoutedAnthropic if provider == "anthropic" else RoutedOpenAI
    made_kit = Kit(kind, made(sdk, router, **options), sdk, router)
    try:
        yield made_kit
    finally:
        await made_kit.close(1.0)
        for client in (sdk, router):
            closing = client.close()
            if asyncio.iscoroutine(closing):
                await closing
