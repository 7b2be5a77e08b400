"""What the drop-in clients return: the SDK's own answer, with the decision that chose who gave it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from router.client import Arm, Decision

if TYPE_CHECKING:
    from anthropic.types import Message
    from openai.types.chat import ChatCompletion

    from router.llm.streams import AsyncServedStream, ServedStream

E = TypeVar("E")
# A shadow arm's answer is none of these.
T = TypeVar("T", bound="Message | ChatCompletion | ServedStream[Any] | AsyncServedStream[Any]")


@dataclass(frozen=True, slots=True)
class Routed(Generic[T]):
    """An answer. What is not here is looked up in `response`, so that code which reads the SDK's answer goes on working."""

    #: The SDK's own object; of a stream, one that behaves as the SDK's and reports the call when it ends.
    response: T
    #: The decision to reward. After a fallback that of the control, which is never learned from: so feedback on this answer
    #: credits neither the arm that failed nor its rivals.
    decision: Decision
    #: Whether the chosen arm failed and the control answered in its place.
    fallback: bool = False
    #: The decision whose arm failed; None without a fallback.
    failed: Decision | None = None

    @property
    def arm(self) -> Arm:
        """The arm that really answered."""
        return self.decision.arm

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling look for special methods before there is a response.
        if name.startswith("__") or name in ("response", "decision", "fallback", "failed"):
            raise AttributeError(name)
        return getattr(self.response, name)


@dataclass(frozen=True, slots=True)
class RoutedStream(Routed["ServedStream[E]"], Generic[E]):
    """A streamed answer: read it as the SDK's stream, to its end or until `close`."""

    def __iter__(self) -> Iterator[E]:
        return iter(self.response)

    def __next__(self) -> E:
        return next(self.response)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.response.close()


@dataclass(frozen=True, slots=True)
class AsyncRoutedStream(Routed["AsyncServedStream[E]"], Generic[E]):
    """The same for asyncio."""

    def __aiter__(self) -> AsyncIterator[E]:
        return aiter(self.response)

    async def __anext__(self) -> E:
        return await anext(self.response)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.response.close()
