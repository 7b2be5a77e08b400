"""What workers and keepers have in common."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from router.storage.database import Database
from router.telemetry import catalogue
from router.telemetry.tallies import Sample

#: Where Linux tells of the memory of a process, in pages.
_MEMORY: Final = Path("/proc/self/statm")


def process_samples(role: str, database: Database) -> Iterator[Sample]:
    """Return what is known of this process, and of its connections to Postgres."""
    yield catalogue.CPU.name, (role,), time.process_time()
    if _MEMORY.exists():
        yield catalogue.MEMORY.name, (role,), int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    used, idle = database.pooled
    yield catalogue.POOL.name, ("used",), used
    yield catalogue.POOL.name, ("idle",), idle
    yield catalogue.CONNECT_FAILURES.name, (), database.connect_failures
