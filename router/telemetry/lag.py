"""The learning lag: from the commit of an event to the policy that knows it, on this replica."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
from opentelemetry import metrics

from router.telemetry import catalogue
from router.telemetry.tallies import Distribution, Sample

log = logging.getLogger(__name__)

_meter = metrics.get_meter("bandit_router")
_learning_lag = _meter.create_histogram(
    "bandit_router.learning_lag", "s", "From the commit of an event to the policy that knows it, on this replica"
)
#: How often the lag is summed up in the log.
_SUMMARY_S = 60.0
_KEPT = 10_000


class LearningLag:
    """How long ago what a replica learns happened."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._lags: list[float] = []
        self._distribution = Distribution(catalogue.LEARNING_LAG)
        self._summed_up_at = clock()

    def learned(self, lag_s: float) -> None:
        """Count one new policy version; once a minute a line of the log sums up."""
        _learning_lag.record(lag_s)
        self._distribution.record((), lag_s)
        if len(self._lags) < _KEPT:
            self._lags.append(lag_s)
        if self._clock() - self._summed_up_at < _SUMMARY_S:
            return
        p50, p99 = np.quantile(self._lags, (0.5, 0.99)) * 1e3
        log.info("learning lag: p50 %.1f ms, p99 %.1f ms over %d policy versions", p50, p99, len(self._lags))
        self._lags.clear()
        self._summed_up_at = self._clock()

    def samples(self) -> Iterator[Sample]:
        """Return the lags so far."""
        yield from self._distribution.samples()
