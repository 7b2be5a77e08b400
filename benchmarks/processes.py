"""What a process tree costs, from /proc."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_ROLES = (
    ("router.worker keeper", "keeper"),
    ("router.worker", "worker"),
    ("router.embedded.guardian", "guardian"),
    ("postgres", "postgres"),
    ("benchmarks.echo", "echo"),
)


def tree(root: int) -> dict[int, str]:
    """Return the role of `root` and of every process below it, by process id."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent in _parents().items():
        children[parent].append(pid)
    found: dict[int, str] = {}
    frontier = [root]
    while frontier:
        pid = frontier.pop()
        command = _command(pid)
        found[pid] = next((role for part, role in _ROLES if part in command), "supervisor" if pid == root else "other")
        frontier += children[pid]
    return found


class CpuMeter:
    """Reads what the processes of some trees use. Which processes those are is found once: finding them takes long."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._roles: dict[int, str] = {}
        for root in roots:
            self._roles |= tree(root)

    def read(self) -> dict[str, float]:
        """Return the CPU seconds, user and system, used so far by role. Of what has ended nothing is counted."""
        used: defaultdict[str, float] = defaultdict(float)
        for pid, role in self._roles.items():
            fields = _stat(pid)
            if fields:
                used[role] += (int(fields[11]) + int(fields[12])) / _TICKS
        return dict(used)


def memory_mb(pid: int) -> tuple[float, float]:
    """Return (resident, proportional) megabytes of one process; the second shares out what processes have in common."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024 / 1e6
    return values["Rss"], values["Pss"]


def owner_of_connection(pids: list[int], server_port: int, client_port: int) -> int | None:
    """Return which process holds the server's end of a loopback TCP connection."""
    inode = None
    # gRPC listens on IPv6 sockets for IPv4 addresses too.
    lines = [line for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    for line in lines:
        fields = line.split()
        if (int(fields[1].rpartition(":")[2], 16), int(fields[2].rpartition(":")[2], 16)) == (server_port, client_port):
            inode = fields[9]
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if inode is not None and os.readlink(link) == f"socket:[{inode}]":
                    return pid
            except OSError:
                continue
    return None


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] != "Z":
                found[int(entry.name)] = int(fields[1])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields after the command's name; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
