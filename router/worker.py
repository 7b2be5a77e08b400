"""A process below the supervisor: one Server or, with the argument `keeper`, one Keeper, told what to do on standard input.

The first line of standard input holds the settings; its end means that the supervisor is gone, and the process drains and
ends as it does on SIGTERM. One line on standard output says `ready` or `failed REASON`.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from router.logs import configure_logging
from router.settings import KEEPER, WorkerSettings
from router.storage.errors import StorageError
from router.telemetry.export import exporting
from router.telemetry.reports import Reporter

if TYPE_CHECKING:
    from router.keeper import Keeper
    from router.server import Server

log = logging.getLogger(__name__)

#: Calls leave hardly any cycles behind: looking for them every 700 objects takes 7 % of a worker's time under load.
_GC_THRESHOLDS = (20_000, 20, 20)

#: What the keeper does never takes the processor from answering.
_KEEPER_NICENESS = 5


def main() -> int:
    """Run until told to stop; returns the exit status."""
    # Imported before the settings come: meanwhile the supervisor starts the database.
    part = _part()
    line = sys.stdin.readline()
    if not line:  # it could not
        return 0
    settings = WorkerSettings.from_json(line)
    configure_logging(settings.log_level, settings.log_format)
    with exporting():
        try:
            import uvloop
        except ImportError:  # a platform without it
            return asyncio.run(_serve(part(settings), settings.report_fd))
        return uvloop.run(_serve(part(settings), settings.report_fd))


async def _serve(part: "Server | Keeper", report_fd: int | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _until_end, stop)
    try:
        await part.start()
    except (StorageError, OSError) as error:
        _say(f"failed {error}")
        return 1
    # What is there by now stays: collections need not look at it, and so never hold up calls for long.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    reporter = Reporter(part.samples)
    if report_fd is not None:
        await reporter.start(report_fd)
    _say("ready")
    ends = [asyncio.create_task(event.wait()) for event in (stop, part.obsolete)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    log.info("draining")
    await part.stop()
    await reporter.stop()
    return int(part.obsolete.is_set())


def _part() -> "type[Server | Keeper]":
    """Return what this process runs, and import no more than that: imports are most of what a start takes."""
    if KEEPER in sys.argv[1:]:
        os.nice(_KEEPER_NICENESS)
        from router.keeper import Keeper

        return Keeper
    from router.server import Server

    return Server


def _until_end(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _say(line: str) -> None:
    print(" ".join(line.split()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
