"""A worker process: one Server, told what to do on standard input.

The first line of standard input holds the settings; its end means that the supervisor is gone, and the worker drains and
ends as it does on SIGTERM. One line on standard output says `ready PORT` or `failed REASON`.
"""

import asyncio
import logging
import os
import signal
import sys

from router.server import Server
from router.settings import WorkerSettings
from router.storage.errors import StorageError

log = logging.getLogger(__name__)


def main() -> int:
    """Run until told to stop; returns the exit status."""
    settings = WorkerSettings.from_json(sys.stdin.readline())
    configure_logging(settings.log_level)
    try:
        import uvloop
    except ImportError:  # a platform without it
        return asyncio.run(_serve(settings))
    return uvloop.run(_serve(settings))


def configure_logging(level: str) -> None:
    """Send logs to standard error, one line each."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


async def _serve(settings: WorkerSettings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _until_end, stop)
    server = Server(settings)
    try:
        await server.start()
    except (StorageError, OSError) as error:
        _say(f"failed {error}")
        return 1
    _say(f"ready {server.port}")
    await stop.wait()
    log.info("draining")
    await server.stop()
    return 0


def _until_end(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _say(line: str) -> None:
    print(" ".join(line.split()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
