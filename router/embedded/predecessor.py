"""What a previous server may have left in the data directory, and how to be rid of it without harming a stranger.

A stale `postmaster.pid` survives a crashed machine, and its pid may since belong to any other process, in
which case Postgres would refuse to start. No pid is believed: a process is ours only if it is a Postgres
whose command line or working directory is this data directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from router.embedded.errors import DataDirectoryInUse
from router.embedded.locks import RETRY_S, FileLock

#: Seconds to wait for a previous server's end: by its guardian or our fast shutdown, then by an immediate
#: one, then by SIGKILL. The first leaves a guardian the time for all of its own steps.
PATIENCE = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

#: A pid file that stays empty for this long is what a power cut left, not one that a server is just writing.
UNWRITTEN_S = 0.5


def finish(server_lock: FileLock, data_dir: Path, pgdata: Path) -> None:
    """Take the server's lock, ending what is left of a previous server, and remove its stale pid file.

    Must be called by the owner of the data directory. Raises DataDirectoryInUse if a Postgres runs there that
    is not ours to end, because it does not hold our lock, or that does not end.
    """
    if not server_lock.acquire():
        for step, patience_s in PATIENCE:
            pid = noted_pid(pgdata)
            if pid is not None and serves(pid, pgdata):
                # It holds our lock, and without an owner nobody will miss it. A second request does no harm.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, step)
            if server_lock.acquire(patience_s):
                break
        else:
            raise DataDirectoryInUse(data_dir, noted_pid(pgdata), "a Postgres that does not stop")
    pid = noted_pid(pgdata)
    deadline = time.monotonic() + UNWRITTEN_S
    while pid is None and (pgdata / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(RETRY_S)
        pid = noted_pid(pgdata)
    if pid is not None and serves(pid, pgdata):
        raise DataDirectoryInUse(data_dir, pid, "a Postgres that something else started")
    # Also when it is empty, as after a power cut: Postgres would not start with it.
    (pgdata / "postmaster.pid").unlink(missing_ok=True)


def noted_pid(pgdata: Path) -> int | None:
    """The process id in `postmaster.pid`; None without a readable file."""
    lines = pid_file(pgdata)
    try:
        # Postgres notes a negative number while it is run by hand as a single process.
        return abs(int(lines[0])) or None
    except (IndexError, ValueError):
        return None


def pid_file(pgdata: Path) -> list[str]:
    """The lines of `postmaster.pid`: pid, directory, start, port, socket directory, address, shared memory, status."""
    try:
        return (pgdata / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def serves(pid: int, pgdata: Path) -> bool:
    """Whether that process exists now and is a Postgres on this very data directory."""
    command = command_line(pid)
    if "postgres" not in command and "postmaster" not in command:
        return False
    if f"-D {pgdata} " in command:
        return True
    try:
        # Every Postgres process makes its data directory the working directory.
        return Path(f"/proc/{pid}/cwd").samefile(pgdata)
    except OSError:
        return False


def command_line(pid: int) -> str:
    """The command of a process with its arguments, each followed by a space; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="surrogateescape")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    asked = subprocess.run(  # noqa: S603  # a system program, no shell
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return asked.stdout.rstrip("\n") + " "


def await_end(server_lock_path: Path, timeout_s: float) -> bool:
    """Wait until no process of a server that ended badly is left; whether that is so."""
    lock = FileLock(server_lock_path)
    try:
        return lock.acquire(timeout_s)
    finally:
        lock.close()


def status_of(pgdata: Path, pid: int) -> str | None:
    """What the server with that pid says about itself (`starting`, `ready`, …); None if it has not spoken yet."""
    lines = pid_file(pgdata)
    if len(lines) < 8 or lines[0].strip() != str(pid):
        return None
    return lines[7].strip()
