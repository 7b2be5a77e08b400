"""Where OpenTelemetry sends what this process traces and records: an SDK's business, set up only if the environment asks.

The standard variables say where and how: an endpoint turns it on, `OTEL_SDK_DISABLED` off. Needs the extra `otel`. Whoever
starts the router with an SDK of their own, as `opentelemetry-instrument` does, keeps that one.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from opentelemetry import metrics, trace

from router.telemetry import spans

log = logging.getLogger(__name__)

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES, _METRICS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_PROTOCOLS: Final = ("http/protobuf", "grpc")
#: A collector that does not answer must not hold up the end of a process.
_GOODBYE_S: Final = 2.0


@contextlib.contextmanager
def exporting(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Export until the end of the block, if the environment names an endpoint; then send what is left."""
    try:
        shutdowns = _set_up(environment)
    except ImportError as error:
        log.error("nothing is exported by OpenTelemetry: %s is missing; install bandit-router[otel]", error.name)
        shutdowns = []
    try:
        yield
    finally:
        for shutdown in shutdowns:
            # A thread of its own: exporters wait for their collectors for longer than a process may take to end.
            thread = threading.Thread(target=shutdown, daemon=True)
            thread.start()
            thread.join(_GOODBYE_S)


def _set_up(environment: Mapping[str, str]) -> list[Callable[[], None]]:
    """Set providers up; returns how to end them."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or spans.are_on():
        return []
    shutdowns: list[Callable[[], None]] = []
    resource = None
    for signal, variable in (("traces", _TRACES), ("metrics", _METRICS)):
        wanted = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip()
        if not (environment.get(_ENDPOINT) or environment.get(variable)) or wanted == "none":
            continue
        named = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
        protocol = named or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOLS[0]
        if wanted != "otlp" or protocol not in _PROTOCOLS:
            log.error("OpenTelemetry's %s are not exported: %s over %s is unknown here", signal, wanted, protocol)
            continue
        resource = resource or _resource(environment)
        shutdowns.append((_trace_to if signal == "traces" else _measure_to)(protocol, resource))
        log.info("OpenTelemetry exports %s over %s", signal, protocol)
    return shutdowns


def _resource(environment: Mapping[str, str]) -> Any:
    from opentelemetry.sdk.resources import Resource

    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": "bandit-router"})


def _trace_to(protocol: str, resource: Any) -> Callable[[], None]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    exporter: SpanExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        exporter = HttpExporter()
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _measure_to(protocol: str, resource: Any) -> Callable[[], None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader

    exporter: MetricExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter()
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider.shutdown
