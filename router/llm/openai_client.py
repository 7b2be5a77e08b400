"""Drop-in clients for OpenAI's SDK: `chat.completions.create` of whichever arm the router chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, overload

from router.client import AsyncRouterClient, RouterClient
from router.llm.dropin import AsyncDropIn, DropIn, Options, passed_through, question_of, settings_of
from router.llm.flow import run
from router.llm.openai_dialect import OpenAIDialect
from router.llm.routed import AsyncRoutedStream, Routed, RoutedStream

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

_INSTEAD: Final = "call chat.completions.create, or the SDK's own client for a call without the router"
_UNROUTED: Final = {"stream": _INSTEAD, "parse": _INSTEAD, "with_raw_response": "", "with_streaming_response": ""}


class RoutedOpenAI(DropIn):
    """OpenAI's client, routed: `chat.completions.create` takes the router's arguments beside the API's.

    The options are those of `Settings`. `stream_usage`: ask for the tokens of streams too, for servers that know
    `stream_options`; the chunk that tells them is kept from callers that did not ask for it. What is not
    `chat.completions.create` goes to the client as ever. Close it at the end of the process, or use it with `with`.
    """

    def __init__(
        self, client: OpenAI, router: RouterClient, *, stream_usage: bool = True, **options: Unpack[Options]
    ) -> None:
        super().__init__(OpenAIDialect(stream_usage=stream_usage), client, router, settings_of(options))
        self.chat = Chat(self)


class AsyncRoutedOpenAI(AsyncDropIn):
    """`RoutedOpenAI` for asyncio, of an AsyncOpenAI and an AsyncRouterClient."""

    def __init__(
        self, client: AsyncOpenAI, router: AsyncRouterClient, *, stream_usage: bool = True, **options: Unpack[Options]
    ) -> None:
        super().__init__(OpenAIDialect(stream_usage=stream_usage), client, router, settings_of(options))
        self.chat = AsyncChat(self)


class Chat:
    """`chat` of a routed client."""

    def __init__(self, routed: RoutedOpenAI) -> None:
        self.completions = Completions(routed)


class AsyncChat:
    """`chat` of a routed client for asyncio."""

    def __init__(self, routed: AsyncRoutedOpenAI) -> None:
        self.completions = AsyncCompletions(routed)


class Completions:
    """`chat.completions` of a routed client."""

    def __init__(self, routed: RoutedOpenAI) -> None:
        self._routed = routed

    @overload
    def create(self, *, experiment_id: str, stream: Literal[False] = False, **parameters: Any) -> Routed[ChatCompletion]: ...
    @overload
    def create(
        self, *, experiment_id: str, stream: Literal[True], **parameters: Any
    ) -> RoutedStream[ChatCompletionChunk]: ...
    @overload
    def create(
        self, *, experiment_id: str, stream: bool, **parameters: Any
    ) -> Routed[ChatCompletion] | RoutedStream[ChatCompletionChunk]: ...
    def create(self, *, experiment_id: str, stream: bool = False, **parameters: Any) -> Routed[Any]:
        """Route, call the arm's model and return its answer.

        To the router go unit_id, session_id, turn_id, request_id, segment, eligible_arm_ids, force_arm_id,
        prompt_fingerprint, prompt_similarity and fallback, as `RouterClient.route` has them; everything else to the SDK.
        The arm's config wins over a parameter of the same name, because it is what is compared; `messages`, `stream` and
        `stream_options` are the caller's. If the arm fails, before the first event of a stream, the control answers
        instead. Raises RouterError if there is no arm to call, and what the SDK raises if no arm answered.
        """
        question = question_of({"experiment_id": experiment_id, "stream": stream, **parameters})
        return run(self._routed.flow.answer(question))

    def __getattr__(self, name: str) -> Any:
        return passed_through(self._routed.client.chat.completions, name, _UNROUTED)


class AsyncCompletions:
    """`chat.completions` of a routed client for asyncio."""

    def __init__(self, routed: AsyncRoutedOpenAI) -> None:
        self._routed = routed

    @overload
    async def create(
        self, *, experiment_id: str, stream: Literal[False] = False, **parameters: Any
    ) -> Routed[ChatCompletion]: ...
    @overload
    async def create(
        self, *, experiment_id: str, stream: Literal[True], **parameters: Any
    ) -> AsyncRoutedStream[ChatCompletionChunk]: ...
    @overload
    async def create(
        self, *, experiment_id: str, stream: bool, **parameters: Any
    ) -> Routed[ChatCompletion] | AsyncRoutedStream[ChatCompletionChunk]: ...
    async def create(self, *, experiment_id: str, stream: bool = False, **parameters: Any) -> Routed[Any]:
        """Route, call the arm's model and return its answer, as `Completions.create`."""
        question = question_of({"experiment_id": experiment_id, "stream": stream, **parameters})
        return await self._routed.flow.answer(question)

    def __getattr__(self, name: str) -> Any:
        return passed_through(self._routed.client.chat.completions, name, _UNROUTED)
