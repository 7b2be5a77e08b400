"""The load generator of the benchmarks, against the echo and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from typing import Any

import grpc
import pytest

from benchmarks import echo, experiment, service
from benchmarks.h2 import Connection, ConnectionLostError, framed
from benchmarks.load import Load, MeasurementError, run
from benchmarks.subject import METHODS, unary
from router.v1 import routing_pb2 as pb

Behave = Callable[[pb.RouteRequest, Any], Any]


@pytest.fixture(scope="module")
def bare() -> Iterator[service.Server]:
    with service.echo() as server:
        yield server


@pytest.fixture
def connection(bare: service.Server) -> Iterator[Connection]:
    (connection,) = bare.connect(METHODS)
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def serving(behave: Behave) -> Iterator[int]:
    """Run a server in a thread whose Route does as told; gives its port."""
    started: threading.Event = threading.Event()
    port = 0
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal port
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(behave, pb.RouteRequest.FromString, pb.RouteResponse.SerializeToString)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("router.v1.RouterService", {"Route": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop.clear()
        started.set()
        await stop.wait()
        await server.stop(None)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def messages(count: int | None = None) -> Iterator[bytes]:
    message = framed(pb.RouteRequest(experiment_id="bench").SerializeToString())
    return repeat(message) if count is None else repeat(message, count)


def test_every_call_of_a_closed_loop_is_counted_once(connection: Connection) -> None:
    seen: list[bytes] = []
    load = Load(
        experiment.ROUTE,
        [connection],
        messages(500),
        in_flight=20,
        check=lambda reply, sent_ns, ended_ns: seen.append(reply),
    )
    (measured,) = run([load], warm_up_s=0, seconds=float("inf"))
    assert measured.calls == len(measured.latencies_ns) == len(seen) == 500
    assert measured.acknowledged == {experiment.ROUTE: 500}
    assert {pb.RouteResponse.FromString(reply).arm.arm_id for reply in seen} == {echo.route_reply().arm.arm_id}


def test_an_open_loop_keeps_its_rate_and_a_window_ends(connection: Connection) -> None:
    load = Load(experiment.ROUTE, [connection], messages(), rate=200)
    (measured,) = run([load], warm_up_s=0.1, seconds=0.5)
    assert measured.seconds == pytest.approx(0.5, abs=0.1)
    assert len(measured.latencies_ns) == pytest.approx(100, abs=2)
    # Those of the warm-up too.
    assert measured.acknowledged[experiment.ROUTE] == pytest.approx(120, abs=3)


def test_a_pair_is_one_unit_of_two_calls(connection: Connection) -> None:
    tails = cycle(experiment.reward_tails(1))
    then = (experiment.REWARD, lambda reply: experiment.reward_after(reply, next(tails)))
    load = Load(experiment.ROUTE, [connection], messages(100), in_flight=8, then=then)
    (measured,) = run([load], warm_up_s=0, seconds=float("inf"))
    assert measured.calls == 100
    assert measured.acknowledged == {experiment.ROUTE: 100, experiment.REWARD: 100}


def test_a_reward_after_a_reply_is_what_protobuf_would_have_made() -> None:
    reply = echo.route_reply()
    event = pb.RewardRequest(event_id="event-1", reward=0.5)
    made = experiment.reward_after(reply.SerializeToString(), event.SerializeToString())
    event.decision_id = reply.decision_id
    assert pb.RewardRequest.FromString(made[5:]) == event


def test_latency_counts_from_the_intended_moment() -> None:
    """Without it, a server that stalls would be charged for one call instead of for all that had to wait."""
    stalled = False

    async def stall_once(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        nonlocal stalled
        if not stalled:
            stalled = True
            # Holds up the whole server, as a long garbage collection would.
            threading.Event().wait(0.3)
        return pb.RouteResponse()

    with serving(stall_once) as port, contextlib.closing(Connection("127.0.0.1", port, METHODS)) as connection:
        load = Load(experiment.ROUTE, [connection], messages(), rate=100)
        (measured,) = run([load], warm_up_s=0, seconds=0.6)
    assert measured.latency_ms(99) > 250
    assert measured.latency_ms(70) > 60


def test_a_status_that_is_not_ok_fails_the_measurement_with_its_text() -> None:
    answered = 0

    async def refuse_one(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        nonlocal answered
        answered += 1
        if answered == 50:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        return pb.RouteResponse()

    with serving(refuse_one) as port, contextlib.closing(Connection("127.0.0.1", port, METHODS)) as connection:
        load = Load(experiment.ROUTE, [connection], messages(100), in_flight=4)
        with pytest.raises(MeasurementError, match=r"1 × .*Route with status 8 \(no room\)"):
            run([load], warm_up_s=0, seconds=float("inf"))


def test_a_lost_connection_fails_the_measurement() -> None:
    with service.echo() as server:
        (connection,) = server.connect(METHODS)
        load = Load(
            experiment.ROUTE,
            [connection],
            messages(),
            in_flight=4,
            check=lambda reply, sent_ns, ended_ns: server.process.kill(),
        )
        with pytest.raises(MeasurementError, match=r"connection lost with [1-4] calls in flight"):
            run([load], warm_up_s=0, seconds=5)
        server.process.wait(10)
        connection.close()
        with pytest.raises(ConnectionLostError, match="cannot connect"):
            Connection("127.0.0.1", server.port, METHODS)


def test_messages_larger_than_every_window_arrive_whole() -> None:
    async def size(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        return pb.RouteResponse(decision_id=request.unit_id)

    with serving(size) as port, contextlib.closing(Connection("127.0.0.1", port, METHODS)) as connection:
        unit_id = "0123456789" * 300_000
        for _ in range(3):
            request = pb.RouteRequest(unit_id=unit_id).SerializeToString()
            reply = unary(connection, experiment.ROUTE, request)
            assert pb.RouteResponse.FromString(reply).decision_id == unit_id


def test_more_calls_than_the_server_takes_at_once_wait_their_turn() -> None:
    most = 0
    now = 0

    async def count(request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return pb.RouteResponse()

    with serving(count) as port, contextlib.closing(Connection("127.0.0.1", port, METHODS)) as connection:
        load = Load(experiment.ROUTE, [connection], messages(2_000), in_flight=2_000)
        (measured,) = run([load], warm_up_s=0, seconds=float("inf"))
    assert measured.calls == 2_000
    assert most <= 1_000


def test_several_workers_are_all_reached() -> None:
    with service.echo(workers=2) as server:
        connections = server.connect(METHODS, 4)
        with contextlib.ExitStack() as stack:
            for connection in connections:
                stack.enter_context(contextlib.closing(connection))
            before = service.cpu_meter([server]).read()
            (measured,) = run([Load(experiment.ROUTE, connections, messages(400), in_flight=8)], warm_up_s=0, seconds=60)
        assert len(server.workers()) == 2
        assert measured.acknowledged == {experiment.ROUTE: 400}
        assert before["echo"] > 0
