"""The text that Prometheus reads."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from router.telemetry.catalogue import CATALOGUE, Kind, Metric
from router.telemetry.reports import Values, by_name
from router.telemetry.tallies import Labels, Value

#: What `exposition` writes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(values: Values) -> bytes:
    """Return the values of a host; every metric of the catalogue is described, also one without any."""
    return generate_latest(_Families(values))


class _Families(Collector):
    def __init__(self, values: Values) -> None:
        self._values = by_name(values)

    def collect(self) -> Iterator[Family]:
        for metric in CATALOGUE.values():
            yield _family(metric, self._values.get(metric.name, {}))


def _family(metric: Metric, values: dict[Labels, Value]) -> Family:
    ordered = sorted(values.items())
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(repr, map(float, metric.bounds)), "+Inf"]
        for labels, counts in ordered:
            assert isinstance(counts, list)  # noqa: S101 - of a histogram
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts[:-1]), strict=True)), sum_value=counts[-1])
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in ordered:
        assert not isinstance(value, list)  # noqa: S101 - of no histogram
        family.add_metric(labels, value)
    return family
