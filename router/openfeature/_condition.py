"""How the router is doing, by what its clients see of it: ready, stale or unreachable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Final

#: Replicas differ: a good answer only counts once there was no worse one for so long.
_CALM_S: Final = 1.0


class Condition(IntEnum):
    """The better, the lower."""

    READY = 0
    #: Answers come from policies that have not been refreshed for long.
    STALE = 1
    #: No router answers, or none takes the client's key.
    ERROR = 2


class Observer:
    """Tells of changes, and of nothing twice. Safe to use from many threads."""

    def __init__(self, tell: Callable[[Condition, str], None], monotonic: Callable[[], float]) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._condition = Condition.READY
        self._worse_until = 0.0

    def reset(self, condition: Condition) -> None:
        """Begin with this condition, and tell nobody."""
        with self._lock:
            self._condition, self._worse_until = condition, 0.0

    def saw(self, condition: Condition, message: str = "") -> None:
        """Take what one call saw."""
        with self._lock:
            now = self._monotonic()
            if condition >= self._condition:
                self._worse_until = now + _CALM_S
            if condition == self._condition or (condition < self._condition and now < self._worse_until):
                return
            self._condition = condition
        self._tell(condition, message)
