"""`serve`: from a command to a running service.

Little is imported here: what takes long to import is imported by the supervisor while its children import what is theirs.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable

from router.child import Child
from router.settings import KEEPER, ServeSettings
from router.telemetry.reports import Reports

log = logging.getLogger(__name__)

_WORKER = "worker"


def serve(settings: ServeSettings, announce: Callable[[str], None]) -> int:
    """Run until told to stop; `announce` is told the address once every worker answers. Returns the exit status.

    To be called in the main thread. Raises StartError, SettingsError, StorageError or EmbeddedPostgresError if it cannot
    start.
    """
    told = _StopSignals()
    try:
        with contextlib.ExitStack() as stack:
            return asyncio.run(_run(settings, announce, stack, told))
    except KeyboardInterrupt:
        log.info("stopped before it served")
        return 0


async def _run(
    settings: ServeSettings, announce: Callable[[str], None], stack: contextlib.ExitStack, told: "_StopSignals"
) -> int:
    """Start the children, which import what they need while the database starts, then everything else."""
    waiting: list[Child] = []
    reports = Reports()
    try:
        for role in (*[_WORKER] * settings.workers, KEEPER):
            waiting.append(await Child.spawn(role, reports))
        from router.supervisor import prepared

        supervision = prepared(settings, announce, stack, waiting, reports)
    except BaseException:
        for child in waiting:
            child.process.kill()
            await child.process.wait()
        raise
    # An interruption may have been raised where exceptions have nowhere to go.
    if told.to_stop:
        raise KeyboardInterrupt
    return await supervision.run()


class _StopSignals:
    """Until the event loop answers signals: SIGTERM and SIGINT interrupt what is under way, and SIGHUP does nothing."""

    def __init__(self) -> None:
        self.to_stop = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._interrupt)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: object) -> None:
        self.to_stop = True
        raise KeyboardInterrupt
