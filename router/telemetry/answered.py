"""What Reward answered: events by experiment, arm and status, and how long after their decisions they came."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import grpc

from router.telemetry import catalogue
from router.telemetry.tallies import Distribution, Names, Sample, Tally
from router.v1 import routing_pb2

#: What brings no news: a repetition.
_DUPLICATE: Final = routing_pb2.STATUS_DUPLICATE
_CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class Answered:
    """The events of one process, and the items of its batches that failed."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._events = Tally(catalogue.EVENTS)
        self._lags = Distribution(catalogue.REWARD_LAG)
        self._errors = Tally(catalogue.ITEM_ERRORS)

    def event(
        self, experiment_id: str, arm_id: str, status: routing_pb2.Status, lag_us: int | None = None
    ) -> routing_pb2.Status:
        """Count an event that did not fail, and return its status. `lag_us` is None where it says nothing of an outcome."""
        experiment, arm = self._names.of(experiment_id, arm_id) if experiment_id else ("", "")
        self._events.add((experiment, arm, _name(status)))
        if lag_us is not None and status != _DUPLICATE:
            self._lags.record((experiment,), max(0, lag_us) / 1e6)
        return status

    def failed_item(self, code: int) -> None:
        """Count an item of a batch that failed."""
        self._errors.add((_CODES[code],))

    def samples(self) -> Iterator[Sample]:
        """Return what was counted."""
        yield from self._events.samples()
        yield from self._lags.samples()
        yield from self._errors.samples()


@lru_cache
def _name(status: routing_pb2.Status) -> str:
    return routing_pb2.Status.Name(status).removeprefix("STATUS_").lower()
