"""Calls are counted, timed and traced with the codes that their clients see, whatever they end in."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from running import Router, event, experiment, locked, refused, until, until_waiting

from router.client import AsyncRouterClient, RouterClient
from router.decide import Decider
from router.logs import JsonFormatter
from router.telemetry import catalogue
from router.v1 import posteriors_pb2, routing_pb2, routing_pb2_grpc

SERVICE = "router.v1.RouterService"


def calls(router: Router, method: str, service: str = SERVICE) -> dict[str, float]:
    """How many calls of a method ended, by code."""
    found: dict[str, float] = {}
    for name, labels, value in router.server.samples():
        if name == catalogue.RPC_DURATION.name and labels[:2] == (service, method):
            assert isinstance(value, list)
            found[labels[2]] = sum(value[:-1])
    return found


def in_flight(router: Router) -> float:
    (value,) = [v for name, _, v in router.server.samples() if name == catalogue.RPC_IN_FLIGHT.name]
    assert isinstance(value, int)
    return value


async def raise_every_code(router: Router, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Have calls of Route end in every way there is; returns how many in which code."""
    await router.run()
    for _ in range(3):
        await router.route()
    malformed = router.channel.unary_unary(f"/{SERVICE}/Route")
    codes = {(await refused(malformed(b"\xff\xff"))).code, (await refused(router.route(""))).code}
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    assert (await refused(router.route("nobody"))).code is grpc.StatusCode.NOT_FOUND
    await router.create(experiment("draft"))
    assert (await refused(router.route("draft"))).code is grpc.StatusCode.FAILED_PRECONDITION

    async def hang(*_: object) -> None:
        await asyncio.sleep(60)

    async def fail(*_: object) -> None:
        raise RuntimeError("a secret of the implementation")

    with monkeypatch.context() as patched:
        patched.setattr(Decider, "_pick", fail)
        assert (await refused(router.route())).code is grpc.StatusCode.INTERNAL
        patched.setattr(Decider, "_pick", hang)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await router.routing.Route(routing_pb2.RouteRequest(experiment_id="support"), timeout=0.3)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: in_flight(router) == 0, "the late call was cut off")
        given_up = router.routing.Route(routing_pb2.RouteRequest(experiment_id="support"))
        await until(lambda: in_flight(router) == 1, "the call is under way")
        given_up.cancel()
        await until(lambda: in_flight(router) == 0, "the call was cut off")
    return {
        "OK": 3,
        "INVALID_ARGUMENT": 2,
        "NOT_FOUND": 1,
        "FAILED_PRECONDITION": 1,
        "INTERNAL": 1,
        "DEADLINE_EXCEEDED": 1,
        "CANCELLED": 1,
    }


async def test_calls_are_counted_by_the_code_that_clients_see(router: Router, monkeypatch: pytest.MonkeyPatch):
    expected = await raise_every_code(router, monkeypatch)
    # A call is counted when its handler ends, a moment after its client has the answer.
    await until(lambda: sum(calls(router, "Route").values()) >= sum(expected.values()), "all are counted")
    assert calls(router, "Route") == expected


async def test_a_stream_counts_once_it_ends(router: Router):
    await router.run()
    service = "router.v1.PosteriorService"
    stream = router.posteriors.WatchPosterior(posteriors_pb2.WatchPosteriorRequest(experiment_id="support"))
    await stream.read()
    assert calls(router, "WatchPosterior", service) == {}
    stream.cancel()
    await until(lambda: calls(router, "WatchPosterior", service) == {"CANCELLED": 1}, "the stream has ended")
    assert (await refused(router.posteriors.GetPosterior(posteriors_pb2.GetPosteriorRequest()))).code
    await until(lambda: calls(router, "GetPosterior", service) == {"INVALID_ARGUMENT": 1}, "the refusal is counted")


async def test_durations_are_those_of_handlers(router: Router):
    await router.run()
    decision_id = (await router.route()).decision_id
    with locked(router.url, "policy_versions"):
        waiting = asyncio.ensure_future(router.reward(decision_id, 1.0))
        await until_waiting(router.url)
        await asyncio.sleep(0.3)
    await waiting
    ((name, labels, value),) = [s for s in router.server.samples() if s[1][1:2] == ("Reward",)]
    assert (name, labels) == (catalogue.RPC_DURATION.name, (SERVICE, "Reward", "OK"))
    assert isinstance(value, list)
    assert 0.3 <= value[-1] < 10


async def test_items_of_batches_that_fail_are_counted_by_code(router: Router):
    await router.run()
    await router.batch_route([routing_pb2.RouteRequest(experiment_id=e) for e in ("support", "nobody", "")])
    await router.batch_reward([event("forged", 1.0)])
    found = {labels: value for name, labels, value in router.server.samples() if name == catalogue.ITEM_ERRORS.name}
    assert found == {("NOT_FOUND",): 1, ("INVALID_ARGUMENT",): 2}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is traced from now on, by every router that starts from now on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # The API lets a provider be set once in a process.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_spans_have_the_codes_that_clients_see(start_traced, monkeypatch: pytest.MonkeyPatch):
    router, spans = await start_traced()
    expected = await raise_every_code(router, monkeypatch)
    routes = [span for span in spans.get_finished_spans() if span.name == f"{SERVICE}/Route"]
    found: dict[str, int] = {}
    faults = {"INTERNAL", "DEADLINE_EXCEEDED"}
    for span in routes:
        attributes = attributes_of(span)
        (code,) = [c for c in grpc.StatusCode if c.value[0] == attributes["rpc.grpc.status_code"]]
        found[code.name] = found.get(code.name, 0) + 1
        assert span.kind is SpanKind.SERVER
        assert (attributes["rpc.system"], attributes["rpc.service"], attributes["rpc.method"]) == ("grpc", SERVICE, "Route")
        assert (span.status.status_code is StatusCode.ERROR) == (code.name in faults), span.status
    assert found == expected
    assert calls(router, "Route") == expected


async def test_a_span_says_what_was_decided_and_never_for_whom(start_traced):
    router, spans = await start_traced()
    await router.run(experiment(prior=(2.0, 3.0)))
    reply = await router.route(unit_id="someone", session_id="somewhere", turn_id="3")
    await router.reward(reply.decision_id, 1.0, event_id="thanks")
    await router.batch_route([routing_pb2.RouteRequest(experiment_id=e) for e in ("support", "nobody")])
    by_name = {span.name.split("/")[1]: attributes_of(span) for span in spans.get_finished_spans()}
    routed = {name: value for name, value in by_name["Route"].items() if name.startswith("bandit_router.")}
    assert routed == {
        "bandit_router.experiment_id": "support",
        "bandit_router.arm_id": reply.arm.arm_id,
        "bandit_router.propensity": reply.propensity,
        "bandit_router.policy_version": reply.policy_version,
        "bandit_router.reason": "sampled",
    }
    assert by_name["Reward"]["bandit_router.status"] == "applied"
    assert (by_name["BatchRoute"]["bandit_router.items"], by_name["BatchRoute"]["bandit_router.failed_items"]) == (2, 1)
    told = str([attributes_of(span) for span in spans.get_finished_spans()])
    for secret in ("someone", "somewhere", reply.decision_id, "thanks"):
        assert secret not in told


async def test_the_callers_trace_goes_on(start_traced):
    router, spans = await start_traced()
    await router.run()
    spans.clear()
    stub = routing_pb2_grpc.RouterServiceStub(router.channel)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await stub.Route(routing_pb2.RouteRequest(experiment_id="support"), metadata=(("traceparent", parent),))
    await stub.Route(routing_pb2.RouteRequest(experiment_id="support"), metadata=(("traceparent", "nonsense"),))
    first, second = spans.get_finished_spans()
    assert first.parent is not None
    assert (f"{first.context.trace_id:032x}", f"{first.parent.span_id:016x}") == tuple(parent.split("-")[1:3])
    assert second.parent is None


async def test_our_clients_pass_their_trace_on(start_traced):
    router, spans = await start_traced()
    await router.run()
    spans.clear()
    target = f"127.0.0.1:{router.server.port}"
    tracer = trace.get_tracer("a backend")
    with tracer.start_as_current_span("handle") as outer:
        async with AsyncRouterClient(target) as client:
            await client.route("support")

        def in_a_thread() -> None:
            with tracer.start_as_current_span("work"), RouterClient(target) as client:
                client.route("support")

        await asyncio.to_thread(in_a_thread)
    async with AsyncRouterClient(target) as client:
        await client.route("support")
    own = {span.context.span_id: span.name for span in spans.get_finished_spans()}
    routes = [span for span in spans.get_finished_spans() if span.name.endswith("/Route")]
    parents = [own.get(span.parent.span_id) if span.parent is not None else None for span in routes]
    assert parents == ["handle", "work", None]
    assert {span.context.trace_id for span in routes[:2]} == {outer.get_span_context().trace_id}


async def test_lines_of_the_log_say_which_span_they_are_of(
    start_traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    async def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    router, spans = await start_traced()
    await router.run()
    monkeypatch.setattr(Decider, "_pick", fail)
    handler = Kept()
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("router.interceptors")
    logger.addHandler(handler)
    try:
        await refused(router.route())
        logger.error("outside of any call")
    finally:
        logger.removeHandler(handler)
    span = spans.get_finished_spans()[-1]
    inside, outside = lines
    assert (inside["trace_id"], inside["span_id"]) == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")
    assert "trace_id" not in outside


@pytest.fixture
def start_traced(start_router, database_url: str, spans: InMemorySpanExporter):
    async def start() -> tuple[Router, InMemorySpanExporter]:
        return await start_router(database_url), spans

    return start


async def test_without_an_sdk_nothing_is_traced(router: Router):
    await router.run()
    await router.route()
    assert type(router.server._report.calls.method(SERVICE, "Route")).__name__ == "Method"  # type: ignore[union-attr]
