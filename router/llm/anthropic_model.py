"""A model behind Anthropic's Messages API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from router.llm.answers import of_message
from router.llm.arguments import with_sampling
from router.llm.failures import model_error
from router.llm.models import Completion, Prompt

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

#: The API wants a limit in every request.
DEFAULT_MAX_TOKENS: Final = 1024


class AnthropicModel:
    """One model, asked through Anthropic's SDK.

    A schema goes to the API's own structured output (`output_config.format`). A refusal is an answer, with the
    stop_reason "refusal", and so is one cut at max_tokens: judging them is the caller's.
    """

    def __init__(self, model: str, client: AsyncAnthropic, *, name: str = "", owns_client: bool = True) -> None:
        """`owns_client`: whether `close` closes the client."""
        self.name = name or f"anthropic:{model}"
        self._model = model
        # Retries are the caller's: it knows the deadline and the budget.
        self._client = client.with_options(max_retries=0)
        self._owns_client = owns_client

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once, without retries. Raises ModelError."""
        started = time.perf_counter()
        try:
            message = await self._client.messages.create(**request(self._model, prompt))
            answer = of_message(message)
        except Exception as error:
            raise model_error(error) from error
        return Completion(
            text=answer.text,
            model=answer.model,
            stop_reason=answer.stop_reason,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            request_id=answer.request_id,
            latency_s=time.perf_counter() - started,
        )

    async def close(self) -> None:
        """Let go of connections."""
        if self._owns_client:
            await self._client.close()


def request(model: str, prompt: Prompt) -> dict[str, Any]:
    """Return the arguments of `messages.create`."""
    arguments: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS, **prompt.parameters}
    arguments |= {"model": model, "messages": [dict(message) for message in prompt.messages]}
    if prompt.system:
        arguments["system"] = prompt.system
    if prompt.schema is not None:
        arguments["output_config"] = {**_given(arguments), "format": {"type": "json_schema", "schema": dict(prompt.schema)}}
    return with_sampling(arguments)


def _given(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    given = arguments.get("output_config")
    return given if isinstance(given, Mapping) else {}
