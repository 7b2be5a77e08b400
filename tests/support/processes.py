"""`bandit-router` as a user runs it: a process with its output, and what it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

COMMAND = [sys.executable, "-m", "router.cli"]


def run(*arguments: str | Path, cwd: Path | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=timeout_s)


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = 30) -> None:
    """Wait for a condition."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


class Service:
    """A running `bandit-router serve`."""

    def __init__(self, process: subprocess.Popen[str], line: str, log: Path) -> None:
        self.process = process
        self.line = line
        self._log = log
        self.port = int(line.split(" with ")[0].rsplit(":", 1)[1])

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What went to standard error so far."""
        return self._log.read_text()

    @property
    def metrics(self) -> str:
        """HOST:PORT of metrics and health."""
        return self.line.rsplit(", metrics on ", 1)[1]

    def descendants(self) -> dict[int, str]:
        """Every process below the supervisor, with its command line."""
        return descendants_of(self.process.pid)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for pid, command in self.descendants().items() if "router.worker worker" in command]

    def keepers(self) -> list[int]:
        """Process ids of the keeper: one, but for moments."""
        return [pid for pid, command in self.descendants().items() if "router.worker keeper" in command]

    def stop(self) -> int:
        """End it as an operator does; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def descendants_of(root: int) -> dict[int, str]:
    """Processes below `root`, with their command lines, from /proc."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                fields = stat[stat.rindex(")") + 2 :].split()
                if fields[0] != "Z":
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    parents[int(entry.name)], commands[int(entry.name)] = int(fields[1]), command
    found: dict[int, str] = {}
    frontier = [root]
    while frontier:
        parent = frontier.pop()
        for pid, its_parent in parents.items():
            if its_parent == parent:
                found[pid] = commands[pid]
                frontier.append(pid)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


@contextlib.contextmanager
def serving(directory: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Start `serve` on a free port and wait until it answers; whatever is left of it is killed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"stderr-{time.monotonic_ns()}.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(directory / "data"), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    known: dict[int, str] = {}
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"ended with {process.wait(10)}: {log.read_text()}"
        known = descendants_of(process.pid)
        yield Service(process, line.strip(), log)
    finally:
        known |= descendants_of(process.pid)
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
        for pid in [process.pid, *known]:
            if alive(pid) and (pid == process.pid or "router" in known[pid]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
