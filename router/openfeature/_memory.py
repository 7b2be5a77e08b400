"""Which decision a tracked event is about, for applications that do not say."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


class UnknownDecisionError(LookupError):
    """No decision is remembered that the event could be about."""


class AmbiguousDecisionError(LookupError):
    """Decisions of several flags are remembered, and the event does not say which it is about."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose decisions: the targeting key and the session of a context."""

    targeting_key: str
    session_id: str


class Memory:
    """The last decision of each subject and flag, for a while. Safe to use from many threads."""

    def __init__(self, capacity: int, ttl_s: float, monotonic: Callable[[], float]) -> None:
        """Remember `capacity` decisions for `ttl_s` seconds; those of the subject that was quiet longest go first."""
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._size = 0
        #: By subject, the quietest first: for each flag the decision id and when it is forgotten.
        self._subjects: OrderedDict[Subject, dict[str, tuple[str, float]]] = OrderedDict()

    def remember(self, subject: Subject, flag_key: str, decision_id: str) -> None:
        """Put a decision in the place of the one before it."""
        with self._lock:
            flags = self._subjects.setdefault(subject, {})
            self._subjects.move_to_end(subject)
            self._size += flag_key not in flags
            flags[flag_key] = (decision_id, self._monotonic() + self._ttl_s)
            while self._size > self._capacity:
                _, quietest = self._subjects.popitem(last=False)
                self._size -= len(quietest)

    def forget(self, subject: Subject, flag_key: str) -> None:
        """Forget a decision: what the user saw since did not come from it."""
        with self._lock:
            self._drop(subject, flag_key)

    def last(self, subject: Subject, flag_key: str) -> str:
        """Return the last decision id of a flag; without a flag, of the only one that is remembered.

        Raises UnknownDecisionError and AmbiguousDecisionError.
        """
        with self._lock:
            now = self._monotonic()
            for name, (_, until) in list(self._subjects.get(subject, {}).items()):
                if until <= now:
                    self._drop(subject, name)
            flags = self._subjects.get(subject, {})
            if flag_key:
                flags = {name: kept for name, kept in flags.items() if name == flag_key}
            if not flags:
                raise UnknownDecisionError(f"no decision is remembered for flag {flag_key!r}" if flag_key else "no decision")
            if len(flags) > 1:
                raise AmbiguousDecisionError(f"decisions of {', '.join(sorted(flags))} are remembered")
            ((decision_id, _),) = flags.values()
            return decision_id

    def __len__(self) -> int:
        with self._lock:
            return self._size

    def _drop(self, subject: Subject, flag_key: str) -> None:
        flags = self._subjects.get(subject, {})
        if flags.pop(flag_key, None) is not None:
            self._size -= 1
        if not flags:
            self._subjects.pop(subject, None)
