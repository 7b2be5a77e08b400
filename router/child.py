"""Child processes of the supervisor: one at a time in each slot, started again when it dies, replaced without a gap."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace

from router.logs import configured_format
from router.settings import WorkerSettings
from router.telemetry.reports import Reports

log = logging.getLogger(__name__)

_START_S = 60.0
_DRAIN_S = 25.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
#: A child that ran this long is healthy: its next death starts with the first pause again.
_HEALTHY_S = 30.0


class Child:
    """One process."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, reports: Reports, report_fd: int) -> None:
        """`report_fd` is its end of a line of `reports`, by the number that it has there."""
        self.role = role
        self.process = process
        self.reports = reports
        self._report_fd = report_fd
        self.failure = ""

    @classmethod
    async def spawn(cls, role: str, reports: Reports) -> "Child":
        """Start a process; `role` is its name in lists of processes and in logs. It waits to be told its settings.

        What it counts goes to `reports`.
        """
        with await reports.open(role) as line:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "router.worker",
                role,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # A Ctrl-C goes to the supervisor alone, which then drains its children in order.
                start_new_session=True,
                pass_fds=(line.fileno(),),
            )
            return cls(role, process, reports, line.fileno())

    def tell(self, settings: WorkerSettings) -> None:
        """Give it its settings: then it begins. It logs as this process does."""
        settings = replace(settings, log_format=configured_format(), report_fd=self._report_fd)
        assert self.process.stdin is not None  # noqa: S101 - asked for in `spawn`
        self.process.stdin.write(settings.to_json().encode() + b"\n")

    async def ready(self) -> bool:
        """Wait until it has started; False if it cannot."""
        assert self.process.stdout is not None  # noqa: S101 - asked for above
        try:
            async with asyncio.timeout(_START_S):
                line = (await self.process.stdout.readline()).decode().strip()
        except TimeoutError:
            self.failure = f"it did not answer within {_START_S:.0f} s"
            self.process.kill()
            return False
        if line == "ready":
            return True
        self.failure = line.removeprefix("failed ") or f"it ended with status {await self.process.wait()}"
        return False

    def terminate(self) -> None:
        """Ask it to drain and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    async def ended(self) -> None:
        """Wait for its end, by force if it does not drain in time."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                await self.process.wait()
        except TimeoutError:
            log.error("%s %d did not drain within %.0f s and is killed", self.role, self.process.pid, _DRAIN_S)
            self.process.kill()
            await self.process.wait()


class Slot:
    """A place for one child, which is never left empty for long."""

    def __init__(self, role: str, settings: Callable[[], WorkerSettings], waiting: Child) -> None:
        """`settings` gives what the next child is told; `waiting` is the first one, which has been told nothing yet."""
        self._role = role
        self._settings = settings
        self._reports = waiting.reports
        self._waiting: Child | None = waiting
        #: The one in its place, and those that start or drain beside it.
        self._children: set[Child] = set()
        self._child: Child | None = None
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def spawn(self) -> Child:
        """Start a child beside the one in place, if there is one."""
        child, self._waiting = self._waiting or await Child.spawn(self._role, self._reports), None
        self._children.add(child)
        child.tell(self._settings())
        return child

    def keep(self, child: Child) -> None:
        """Give a child the place; start another whenever it dies."""
        if self._task is not None:
            self._task.cancel()
        self._child = child
        self._task = asyncio.create_task(self._keep(child), name=f"keep {self._role}")

    async def replace(self) -> bool:
        """Start another child, and end the one in place once the other is ready; False if that cannot start."""
        async with self._changing:
            fresh = await self.spawn()
            if not await fresh.ready():
                log.error("a new %s cannot start, so the old one stays: %s", self._role, fresh.failure)
                await self._end(fresh)
                return False
            old = self._child
            self.keep(fresh)
        log.info("%s %d takes the place of %d", self._role, fresh.process.pid, old.process.pid if old else 0)
        if old is not None:
            await self._end(old)
        return True

    async def stop(self) -> None:
        """End every child, and wait for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(self._end(child) for child in list(self._children)))

    async def _end(self, child: Child) -> None:
        child.terminate()
        await child.ended()
        self._children.discard(child)

    async def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            status = await child.process.wait()
            self._children.discard(child)
            self._reports.deaths[self._role] += 1
            if loop.time() - began > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            log.error("%s %d ended with status %d; another starts in %.1f s", self._role, child.process.pid, status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            async with self._changing:
                child = self._child = await self.spawn()
                if await child.ready():
                    log.info("%s %d serves", self._role, child.process.pid)
                else:
                    log.error("%s %d cannot start: %s", self._role, child.process.pid, child.failure)
