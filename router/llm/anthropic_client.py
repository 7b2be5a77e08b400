"""Drop-in clients for Anthropic's SDK: `messages.create` of whichever arm the router chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, overload

from router.client import AsyncRouterClient, RouterClient
from router.llm.anthropic_dialect import AnthropicDialect
from router.llm.dropin import AsyncDropIn, DropIn, Options, passed_through, question_of, settings_of
from router.llm.flow import run
from router.llm.routed import AsyncRoutedStream, Routed, RoutedStream

if TYPE_CHECKING:
    from anthropic import Anthropic, AsyncAnthropic
    from anthropic.types import Message, RawMessageStreamEvent

_INSTEAD: Final = "call messages.create(stream=True), or the SDK's own client for a call without the router"
_UNROUTED: Final = {"stream": _INSTEAD, "parse": _INSTEAD, "with_raw_response": "", "with_streaming_response": ""}


class RoutedAnthropic(DropIn):
    """Anthropic's client, routed: `messages.create` takes the router's arguments beside the API's.

    `client` is an Anthropic, or one of its like for other clouds. The options are those of `Settings`. What is not
    `messages.create` goes to the client as ever. Close it at the end of the process, or use it with `with`.
    """

    def __init__(self, client: Anthropic, router: RouterClient, **options: Unpack[Options]) -> None:
        super().__init__(AnthropicDialect(), client, router, settings_of(options))
        self.messages = Messages(self)


class AsyncRoutedAnthropic(AsyncDropIn):
    """`RoutedAnthropic` for asyncio, of an AsyncAnthropic and an AsyncRouterClient."""

    def __init__(self, client: AsyncAnthropic, router: AsyncRouterClient, **options: Unpack[Options]) -> None:
        super().__init__(AnthropicDialect(), client, router, settings_of(options))
        self.messages = AsyncMessages(self)


class Messages:
    """`messages` of a routed client."""

    def __init__(self, routed: RoutedAnthropic) -> None:
        self._routed = routed

    @overload
    def create(self, *, experiment_id: str, stream: Literal[False] = False, **parameters: Any) -> Routed[Message]: ...
    @overload
    def create(
        self, *, experiment_id: str, stream: Literal[True], **parameters: Any
    ) -> RoutedStream[RawMessageStreamEvent]: ...
    @overload
    def create(
        self, *, experiment_id: str, stream: bool, **parameters: Any
    ) -> Routed[Message] | RoutedStream[RawMessageStreamEvent]: ...
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
        return passed_through(self._routed.client.messages, name, _UNROUTED)


class AsyncMessages:
    """`messages` of a routed client for asyncio."""

    def __init__(self, routed: AsyncRoutedAnthropic) -> None:
        self._routed = routed

    @overload
    async def create(self, *, experiment_id: str, stream: Literal[False] = False, **parameters: Any) -> Routed[Message]: ...
    @overload
    async def create(
        self, *, experiment_id: str, stream: Literal[True], **parameters: Any
    ) -> AsyncRoutedStream[RawMessageStreamEvent]: ...
    @overload
    async def create(
        self, *, experiment_id: str, stream: bool, **parameters: Any
    ) -> Routed[Message] | AsyncRoutedStream[RawMessageStreamEvent]: ...
    async def create(self, *, experiment_id: str, stream: bool = False, **parameters: Any) -> Routed[Any]:
        """Route, call the arm's model and return its answer, as `Messages.create`."""
        question = question_of({"experiment_id": experiment_id, "stream": stream, **parameters})
        return await self._routed.flow.answer(question)

    def __getattr__(self, name: str) -> Any:
        return passed_through(self._routed.client.messages, name, _UNROUTED)
