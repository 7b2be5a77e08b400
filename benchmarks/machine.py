"""What the figures were measured on, and with."""

import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

_PACKAGES = ("bandit-router", "grpcio", "protobuf", "protovalidate", "uvloop", "psycopg", "numpy", "scipy", "hpack")
_POSTGRES = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "wal_level",
)
_SYNCS = 100


def machine() -> dict[str, Any]:
    """Describe the machine as it is now."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "load_average_before": os.getloadavg()[0],
        "write_and_fsync_ms_p50": round(_sync_ms(), 3),
    }


def versions() -> dict[str, str]:
    """Name the versions of what was measured."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "commit": _commit(), **found}


def postgres(url: str) -> dict[str, str]:
    """Read what decides how durable, and how fast, the router's Postgres is."""
    with psycopg.connect(url) as database:
        return {name: str(_only(database.execute(f"SHOW {name}".encode()).fetchone())) for name in _POSTGRES}


def _only(row: tuple[Any, ...] | None) -> Any:
    assert row is not None, "SHOW has one row"
    return row[0]


def _sync_ms() -> float:
    """Return what one write of a page and its fsync take, on the disk of the data directories."""
    times_ms = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"\0" * 8192, 0)
            os.fsync(file.fileno())
            times_ms.append((time.perf_counter() - began) * 1e3)
    return median(times_ms)


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _commit() -> str:
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603

    try:
        commit = git("rev-parse", "--short", "HEAD") or "unknown"
        return f"{commit} with changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except OSError:
        return "unknown"
