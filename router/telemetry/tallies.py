"""Counting in one process: plain numbers by labels, without locks, for the thread of the event loop alone."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, TypeAlias

from router.telemetry.catalogue import Metric

Labels: TypeAlias = tuple[str, ...]
#: A number; of a histogram, the count of each bucket, and then the sum of what was recorded.
Value: TypeAlias = float | list[float]
#: A metric's name, the values of its labels, its value.
Sample: TypeAlias = tuple[str, Labels, Value]

#: Experiments with series of their own in one process; others are counted together.
MOST_EXPERIMENTS: Final = 1_000
#: The experiment of those others. No experiment id begins like this.
OTHERS: Final = "(others)"


class Tally:
    """A counter."""

    def __init__(self, metric: Metric) -> None:
        self._name = metric.name
        self._counts: dict[Labels, float] = {}

    def add(self, labels: Labels, count: float = 1) -> None:
        """Count."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def samples(self) -> Iterator[Sample]:
        """Return what was counted."""
        for labels, count in self._counts.items():
            yield self._name, labels, count


class Distribution:
    """A histogram."""

    def __init__(self, metric: Metric) -> None:
        self._name = metric.name
        self._bounds = metric.bounds
        self._counts: dict[Labels, list[float]] = {}

    def record(self, labels: Labels, value: float) -> None:
        """Count a value in its bucket."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0.0] * (len(self._bounds) + 2)
        # A bound belongs to the bucket below it.
        counts[bisect_left(self._bounds, value)] += 1
        counts[-1] += value

    def samples(self) -> Iterator[Sample]:
        """Return what was recorded."""
        for labels, counts in self._counts.items():
            yield self._name, labels, list(counts)


class Names:
    """Which experiments have series of their own in this process: the first ones that it meets."""

    def __init__(self, most: int = MOST_EXPERIMENTS) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, experiment_id: str, arm_id: str = "") -> tuple[str, str]:
        """Return experiment and arm as labels: beyond the bound there are no arms."""
        if experiment_id in self._known:
            return experiment_id, arm_id
        if len(self._known) >= self._most:
            return OTHERS, ""
        self._known.add(experiment_id)
        return experiment_id, arm_id

    def __contains__(self, experiment_id: str) -> bool:
        return experiment_id in self._known
