"""Experiments as one replica knows them: values, without reading or waiting."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from router.experiment import Definition
from router.policy import Policy
from router.storage.policies import Digest, EvidenceReading

#: An experiment that nobody routed for this long, or twice as long, is no longer kept compiled.
_IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment as this replica knows it."""

    definition: Definition
    reading: EvidenceReading
    #: None where the experiment is not running, or has not been compiled.
    policy: Policy | None
    #: When it was read, by the monotonic clock.
    read_at_s: float

    @property
    def policy_version(self) -> int:
        """The version that was read."""
        return self.reading.policy_version

    def is_newer_than(self, other: Entry) -> bool:
        """Whether this was read from a later state of the database: both versions only grow."""
        return (
            self.policy_version > other.policy_version
            or self.definition.definition_version > other.definition.definition_version
        )

    @property
    def digest(self) -> Digest:
        """What this experiment adds to the sums."""
        return Digest(1, self.reading.policy_version, self.definition.definition_version)


class Known:
    """The newest entry of every experiment."""

    def __init__(self) -> None:
        #: By experiment id: read it, change it by `put` alone.
        self.by_id: dict[str, Entry] = {}
        self._by_incarnation: dict[int, Entry] = {}
        #: Sums over all entries.
        self.digest = Digest(0, 0, 0)

    def __contains__(self, incarnation: int) -> bool:
        """Whether there is an entry of this incarnation."""
        return incarnation in self._by_incarnation

    def of(self, incarnation: int) -> Entry | None:
        """Return the newest entry of an incarnation."""
        return self._by_incarnation.get(incarnation)

    def policy(self, incarnation: int) -> Policy | None:
        """Return the policy of an incarnation's newest entry."""
        entry = self._by_incarnation.get(incarnation)
        return None if entry is None else entry.policy

    def entries(self) -> Collection[Entry]:
        """Return every entry."""
        return self.by_id.values()

    def put(self, entry: Entry) -> bool:
        """Replace an experiment's entry, unless a newer one is there: returns whether it was replaced.

        While one was compiled, a direct refresh may have put in a newer one.
        """
        before = self._by_incarnation.get(entry.definition.incarnation)
        if before is not None and before.is_newer_than(entry):
            return False
        self.by_id[entry.definition.experiment_id] = entry
        self._by_incarnation[entry.definition.incarnation] = entry
        gone = Digest(0, 0, 0) if before is None else before.digest
        self.digest = Digest(*(known - g + e for known, g, e in zip(self.digest, gone, entry.digest, strict=True)))
        return True

    def outdated(self, versions: Mapping[int, tuple[int, int]]) -> Iterator[int]:
        """Yield the incarnations whose (policy version, definition version) is not as told here, or that are unknown."""
        for incarnation, version in versions.items():
            entry = self._by_incarnation.get(incarnation)
            if entry is None or (entry.policy_version, entry.definition.definition_version) != version:
                yield incarnation


class RoutedLately:
    """Incarnations that somebody routed within the last minute or two."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._now: set[int] = set()
        self._before: set[int] = set()
        self._rotated_at = clock()

    def __contains__(self, incarnation: int) -> bool:
        """Whether this one was routed lately."""
        return incarnation in self._now or incarnation in self._before

    def add(self, incarnation: int) -> None:
        """Note that this one was routed."""
        self._now.add(incarnation)

    def forget(self) -> None:
        """Let go of those that nobody routed for long."""
        if self._clock() - self._rotated_at > _IDLE_S:
            self._rotated_at = self._clock()
            self._before, self._now = self._now, set()
