"""Traces of a real service arrive at a collector, by either protocol; one that is away holds nothing up."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from processes import serving, wait_until
from running import experiment

from router.v1 import experiments_pb2, experiments_pb2_grpc, routing_pb2, routing_pb2_grpc


class Collected:
    """What arrived."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.metrics: set[str] = set()
        self._lock = threading.Lock()

    def take_traces(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            for group in request.resource_spans:
                names = {item.key: item.value.string_value for item in group.resource.attributes}
                self.spans += [(names["service.name"], span) for scope in group.scope_spans for span in scope.spans]

    def take_metrics(self, request: ExportMetricsServiceRequest) -> None:
        with self._lock:
            for group in request.resource_metrics:
                self.metrics |= {metric.name for scope in group.scope_metrics for metric in scope.metrics}


@contextmanager
def http_collector(collected: Collected) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            data = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            if self.path == "/v1/traces":
                collected.take_traces(ExportTraceServiceRequest.FromString(data))
            else:
                collected.take_metrics(ExportMetricsServiceRequest.FromString(data))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def grpc_collector(collected: Collected) -> Iterator[str]:
    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> Any:
            collected.take_traces(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def call(target: str) -> None:
    """A decision, and a call that fails."""
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        experiments = experiments_pb2_grpc.ExperimentServiceStub(channel)
        experiments.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=experiment()), timeout=30)
        experiments.StartExperiment(experiments_pb2.StartExperimentRequest(experiment_id="support"), timeout=30)
        stub = routing_pb2_grpc.RouterServiceStub(channel)
        stub.Route(routing_pb2.RouteRequest(experiment_id="support", unit_id="someone"), timeout=30)
        with pytest.raises(grpc.RpcError):
            stub.Route(routing_pb2.RouteRequest(experiment_id="nobody"), timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "collector"), [("http/protobuf", http_collector), ("grpc", grpc_collector)])
def test_spans_arrive(protocol: str, collector: Any, tmp_path: Path) -> None:
    collected = Collected()
    with collector(collected) as endpoint:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRICS_EXPORTER": "otlp" if protocol == "http/protobuf" else "none",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with serving(tmp_path, environment=environment) as service:
            call(service.target)
            # What is left goes when the process ends.
            assert service.stop() == 0
        routes = [(name, span) for name, span in collected.spans if span.name == "router.v1.RouterService/Route"]
        codes = []
        for name, span in routes:
            assert name == "bandit-router"
            assert span.kind == Span.SPAN_KIND_SERVER
            (code,) = [item.value.int_value for item in span.attributes if item.key == "rpc.grpc.status_code"]
            codes.append(code)
            assert "someone" not in str(span)
        assert codes == [0, 5]
        if protocol == "http/protobuf":
            assert "rpc.server.duration" in collected.metrics


@pytest.mark.slow
def test_a_collector_that_is_away_holds_nothing_up(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with serving(tmp_path, environment=environment) as service:
        call(service.target)
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 20
        assert "did not drain" not in service.log


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "otlp over http/json is unknown here"),
        pytest.param({"OTEL_TRACES_EXPORTER": "zipkin"}, "traces are not exported: zipkin", marks=pytest.mark.slow),
    ],
)
def test_what_is_unknown_is_said_and_the_service_serves(environment: dict[str, str], says: str, tmp_path: Path) -> None:
    with serving(tmp_path, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **environment}) as service:
        call(service.target)
        wait_until(lambda: says in service.log, says)
