"""The router under demonstration: `bandit-router serve` as a process of its own, on a database of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

_START_S = 90.0
_STOP_S = 40.0
_LOG_LINES = 15
_SERVING = re.compile(r"serving on (\S+)")


class ServiceError(Exception):
    """The service did not start, did not live or did not take a call; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running router."""

    #: HOST:PORT.
    address: str
    data_dir: Path
    process: asyncio.subprocess.Process
    log: Path

    async def died(self) -> None:
        """Wait for its end, which is an error for as long as anybody waits here. Raises ServiceError."""
        status = await self.process.wait()
        raise self.failure(f"the service ended with status {status} during the demo")

    def failure(self, what: str) -> ServiceError:
        """Return the error that says what went wrong, with the end of the log."""
        return _failure(what, self.log)


@contextlib.asynccontextmanager
async def data_directory(keep: Path | None) -> AsyncIterator[Path]:
    """Give `keep`, or a temporary directory that is removed at the end."""
    if keep is not None:
        await asyncio.to_thread(keep.mkdir, mode=0o700, parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="bandit-router-demo-"))
    try:
        yield directory
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def serving(data_dir: Path, workers: int) -> AsyncIterator[Service]:
    """Run a router on a free port until the end of the block. Raises ServiceError if it does not start."""
    log = data_dir / "service.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "router.cli", "serve", "--listen", "127.0.0.1:0"),
            *("--data-dir", str(data_dir), "--workers", str(workers)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            # Settings of another router must not reach this one.
            env={name: value for name, value in os.environ.items() if not name.startswith("BANDIT_ROUTER_")},
            # Ctrl-C reaches the demo alone, which stops the service in order.
            start_new_session=True,
        )
    try:
        yield Service(await _address(process, log), data_dir, process, log)
    finally:
        await _stop(process)


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        async with asyncio.timeout(_START_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        raise _failure(f"the service did not answer within {_START_S:.0f} s", log) from None
    found = _SERVING.search(line)
    if found is None:
        raise _failure("the service did not start", log)
    return found[1]


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the service: it drains, then stops its Postgres."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        # Shielded: a second Ctrl-C must not leave it behind half stopped.
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_S)
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise


def _failure(what: str, log: Path) -> ServiceError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return ServiceError("\n".join([f"{what}; the end of its log:", *(f"  {line}" for line in lines or ["(empty)"])]))
