"""Streams that behave as the SDK's and tell, once, how the call went: when they end, break off or are closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from router.llm.dialect import Collector

E = TypeVar("E")

#: Called once, with the error that ended the stream if there was one, and whether the caller closed it early.
Ended = Callable[[BaseException | None, bool], None]


class StreamCutOff(Exception):  # noqa: N818  # what it is
    """A stream ended without the provider's last event. The SDKs end such a stream as if it were whole."""


class _Watched(Generic[E]):
    """What both kinds share."""

    def __init__(self, stream: Any, first: E, collector: Collector, ended: Ended) -> None:
        self._stream = stream
        self._pending: list[E] = [first]
        self._collector = collector
        self._ended: Ended | None = ended

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __del__(self) -> None:
        # Dropped unread: the same as closed.
        if "_ended" in self.__dict__:
            self._end(None, early=True)

    def _end(self, error: BaseException | None, *, early: bool = False) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if error is None and not self._collector.complete() and not early:
            error = StreamCutOff("the stream ended before its last event")
        # All that mattered was read: closing what is over is not early.
        ended(error, early and not self._collector.complete())


class ServedStream(_Watched[E]):
    """The serving arm's stream."""

    def __iter__(self) -> Iterator[E]:
        return self

    def __next__(self) -> E:
        while True:
            event = self._pending.pop() if self._pending else self._read()
            if self._collector.add(event):
                return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not read is given up."""
        try:
            self._stream.close()
        finally:
            self._end(None, early=True)

    def _read(self) -> E:
        try:
            event: E = next(self._stream)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        return event


class AsyncServedStream(_Watched[E]):
    """The serving arm's stream, for asyncio."""

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        while True:
            event = self._pending.pop() if self._pending else await self._read()
            if self._collector.add(event):
                return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; what was not read is given up."""
        try:
            await self._stream.close()
        finally:
            self._end(None, early=True)

    async def _read(self) -> E:
        try:
            event: E = await anext(self._stream)
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        return event
