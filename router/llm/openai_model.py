"""A model behind OpenAI's Chat Completions API, or a server that speaks it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from router.llm.answers import of_completion
from router.llm.failures import model_error
from router.llm.models import Completion, Prompt

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAIModel:
    """One model, asked through OpenAI's SDK.

    A schema goes to the API's own structured output (`response_format`, strict): every property must be required and
    `additionalProperties` false. A refusal is an answer, with the stop_reason "refusal".
    """

    def __init__(self, model: str, client: AsyncOpenAI, *, name: str = "", owns_client: bool = True) -> None:
        """`owns_client`: whether `close` closes the client."""
        self.name = name or f"openai:{model}"
        self._model = model
        # Retries are the caller's: it knows the deadline and the budget.
        self._client = client.with_options(max_retries=0)
        self._owns_client = owns_client

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once, without retries. Raises ModelError."""
        started = time.perf_counter()
        try:
            completion = await self._client.chat.completions.create(**request(self._model, prompt))
            answer = of_completion(completion)
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
    """Return the arguments of `chat.completions.create`."""
    arguments = dict(prompt.parameters)
    # The name that this API gave to the parameter of the same meaning; servers that only speak the old one still take it.
    if "max_tokens" in arguments and "max_completion_tokens" not in arguments:
        arguments["max_completion_tokens"] = arguments.pop("max_tokens")
    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    messages += [dict(message) for message in prompt.messages]
    arguments |= {"model": model, "messages": messages}
    if prompt.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(prompt.schema)}
        arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
    return arguments
