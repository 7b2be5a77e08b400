"""What a loopback server was asked, for tests: requests, their headers, and how many were answered at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as it came."""

    path: str
    #: Empty where the request named none.
    model: str
    #: Lower-case names.
    headers: Mapping[str, str]
    #: None where it was no JSON object.
    body: Mapping[str, Any] | None


class Ledger:
    """Counts requests. Safe to read from any thread while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._open: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._peak = 0

    @contextlib.contextmanager
    def answering(self, entry: Entry) -> Iterator[None]:
        """Write a request down, and count it as open inside the block."""
        with self._lock:
            self._entries.append(entry)
            self._open[entry.model] += 1
            self._peaks[entry.model] = max(self._peaks[entry.model], self._open[entry.model])
            self._peak = max(self._peak, self._open.total())
        try:
            yield
        finally:
            with self._lock:
                self._open[entry.model] -= 1

    def entries(self, model: str | None = None) -> list[Entry]:
        """Return the requests in the order they came, only those for `model` if given."""
        with self._lock:
            return [entry for entry in self._entries if model is None or entry.model == model]

    def count(self, model: str | None = None) -> int:
        """Return how many came."""
        return len(self.entries(model))

    def in_flight(self, model: str | None = None) -> int:
        """Return how many are being answered."""
        with self._lock:
            return self._open.total() if model is None else self._open[model]

    def peak(self, model: str | None = None) -> int:
        """Return how many were answered at a time, at most."""
        with self._lock:
            return self._peak if model is None else self._peaks[model]

    def clear(self) -> None:
        """Forget the requests and the peaks."""
        with self._lock:
            self._entries.clear()
            self._peaks.clear()
            self._peak = 0
