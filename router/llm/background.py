"""A thread with an event loop of its own, for everything that nobody waits for: reports, mirrored calls and their records.

It is not the caller's loop, so that a slow redactor or a large answer of a shadow arm never blocks that. It starts at the
first use and is a daemon: a process that ends without `close` loses what is under way, and is not held up by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

_log: Final = logging.getLogger("router.llm")


class Background:
    """Runs coroutines. Every method but those said to may be called from any thread, also from a finalizer."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Reentrant: a stream's finalizer may run in a thread that holds it.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = threading.Lock()
        self._closed = False

    def post(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a coroutine soon. False, without making it, once closed."""
        return self.call(lambda: self._spawn(work))

    def call(self, work: Callable[[], None]) -> bool:
        """Call a short function in the loop, after what was posted before it. False once closed."""
        with self._lock:
            if self._closed:
                return False
            if self._loop is None:
                self._start()
            loop = self._loop
            assert loop is not None  # noqa: S101  # for the type checker: `_start` makes it
            # Under the lock, so that a loop is never stopped between the check and the call.
            loop.call_soon_threadsafe(work)
            return True

    def close(self, timeout_s: float, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let what is under way come to an end, for at most so long; then cancel it, `finish`, and end the thread.

        Blocks. Not for the loop's own thread.
        """
        with self._closing:
            with self._lock:
                loop, thread, closed = self._loop, self._thread, self._closed
                self._closed = closed or loop is None
            if loop is None or thread is None or closed:
                return
            asyncio.run_coroutine_threadsafe(self._drain(timeout_s, finish), loop).result()
            with self._lock:
                self._closed = True
                loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
        self._thread.start()

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Its text may hold a prompt, so only its kind goes to the log.
            _log.warning("background work failed: %s", type(task.exception()).__name__)

    async def _drain(self, timeout_s: float, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await finish()


async def in_thread(work: Callable[[], T], ended: Callable[[], None] = lambda: None) -> T:
    """Return what a blocking function returns, run in a daemon thread of its own.

    A pool's threads would be joined when the interpreter exits, and hold it up for as long as the slowest model. `ended` is
    called in the loop once the function really ended, which may be after this coroutine was cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        ended()
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast(T, result))

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        # A closed loop has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failed)

    try:
        threading.Thread(target=run, name="router-llm-call", daemon=True).start()
    except BaseException:
        ended()
        raise
    return await done


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
