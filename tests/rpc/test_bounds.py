"""Bounds of a server: peers that ping, dawdle, crowd or send too much are cut off, and everybody else is served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest
import raw_http2
from certificates import Authority
from keyed import caller, create_key
from running import Router, experiment, until

from router.listening import Bounds
from router.v1 import routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
ROUTE = "/router.v1.RouterService/Route"


async def bounded(start_router: StartRouter, url: str, **bounds: float) -> Router:
    made = await start_router(url, bounds=Bounds(**bounds))  # type: ignore[arg-type]
    await made.run()
    return made


def received(connection: socket.socket, seconds: float) -> bytes:
    """Return what comes until the peer closes the connection; it must, within so many seconds."""
    connection.settimeout(seconds)
    found = b""
    give_up = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            found += data
            assert time.monotonic() < give_up, "the connection is kept"
    return found


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split what a server sent into frames: their kind and payload."""
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        yield data[3], data[9 : 9 + length]
        data = data[9 + length :]


async def test_a_ping_flood_ends_its_own_connection(start_router: StartRouter, database_url: str) -> None:
    made = await bounded(start_router, database_url)
    with await asyncio.to_thread(raw_http2.connect, made.server.port) as connection:
        flood = raw_http2.frame(raw_http2.PING, 0, 0, bytes(8)) * 200
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                await asyncio.to_thread(connection.sendall, flood)
        said = await asyncio.to_thread(received, connection, 5.0)
    goaways = [payload for kind, payload in frames(said) if kind == raw_http2.GOAWAY]
    assert goaways, "it is told to go away"
    assert b"too_many_pings" in goaways[-1]
    assert (await made.route()).decision_id


async def test_a_ping_now_and_then_is_answered(start_router: StartRouter, database_url: str) -> None:
    """As clients send them that keep a quiet connection alive."""
    made = await bounded(start_router, database_url, ping_every_s=0.05)

    def pinged() -> int:
        answers = 0
        with raw_http2.connect(made.server.port) as connection:
            connection.settimeout(5)
            for number in range(8):
                connection.sendall(raw_http2.frame(raw_http2.PING, 0, 0, number.to_bytes(8, "big")))
                while True:
                    found = list(frames(connection.recv(65_536)))
                    assert all(kind != raw_http2.GOAWAY for kind, _ in found)
                    if any(kind == raw_http2.PING and payload == number.to_bytes(8, "big") for kind, payload in found):
                        answers += 1
                        break
                time.sleep(0.06)  # the pause is what is tested
        return answers

    assert await asyncio.to_thread(pinged) == 8


@pytest.mark.parametrize("said", [b"", raw_http2.PREFACE[:10], raw_http2.PREFACE], ids=["nothing", "a word", "a greeting"])
async def test_a_slow_hello_is_not_waited_for(start_router: StartRouter, database_url: str, said: bytes) -> None:
    made = await bounded(start_router, database_url, handshake_s=0.5)

    def dawdle() -> float:
        with socket.create_connection(("127.0.0.1", made.server.port)) as connection:
            connection.sendall(said)
            began = time.monotonic()
            received(connection, 10.0)
            return time.monotonic() - began

    took = await asyncio.gather(*(asyncio.to_thread(dawdle) for _ in range(5)))
    assert 0.3 < max(took) < 5.0
    assert (await made.route()).decision_id


async def test_a_slow_tls_handshake_is_not_waited_for(start_router: StartRouter, database_url: str, tmp_path: Path) -> None:
    cert, key = Authority.create(tmp_path).sign("server")
    made = await start_router(database_url, tls_cert=str(cert), tls_key=str(key), bounds=Bounds(handshake_s=0.5))

    def dawdle() -> float:
        with socket.create_connection(("127.0.0.1", made.server.port)) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00")  # the head of a ClientHello that never comes
            began = time.monotonic()
            received(connection, 10.0)
            return time.monotonic() - began

    assert 0.3 < await asyncio.to_thread(dawdle) < 5.0


async def test_connections_beyond_the_bound_are_closed_and_the_others_stay(
    start_router: StartRouter, database_url: str
) -> None:
    made = await bounded(start_router, database_url, connections=10, handshake_s=30)
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(await asyncio.to_thread(socket.create_connection, ("127.0.0.1", made.server.port)))
            for _ in range(40)
        ]

        def closed() -> int:
            count = 0
            for connection in crowd:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    try:
                        count += not connection.recv(65_536, socket.MSG_PEEK)
                    except ConnectionError:
                        count += 1
            return count

        # One is that of the router's own client.
        await until(lambda: closed() >= 31, "those beyond the bound are closed")
        assert closed() == 31
        assert (await made.route()).decision_id, "who is connected is served"

    async def room() -> bool:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{made.server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            call = channel.unary_unary(ROUTE, None, routing_pb2.RouteResponse.FromString)
            with contextlib.suppress(grpc.aio.AioRpcError):
                request = routing_pb2.RouteRequest(experiment_id="support").SerializeToString()
                return bool((await call(request)).decision_id)
        return False

    await until(room, "there is room again")


@pytest.mark.parametrize("size", [9_000, 20_000, 500_000])
async def test_huge_metadata_is_refused(start_router: StartRouter, database_url: str, size: int) -> None:
    made = await bounded(start_router, database_url)
    request = routing_pb2.RouteRequest(experiment_id="support")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await made.routing.Route(request, metadata=[("x-large", "x" * size)])
    assert raised.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert (await made.routing.Route(request, metadata=[("x-fair", "x" * 4_000)])).decision_id


async def test_calls_beyond_the_bound_are_refused_and_the_others_answered(
    start_router: StartRouter, database_url: str
) -> None:
    """Calls whose messages never end hold no more than their number."""
    made = await bounded(start_router, database_url, calls=20)
    with await asyncio.to_thread(raw_http2.connect, made.server.port) as connection:
        head = raw_http2.headers("/router.v1.RouterService/Reward")
        for stream in range(1, 201, 2):
            connection.sendall(raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, stream, head))

        async def is_refused() -> bool:
            try:
                await made.route()
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        await until(is_refused, "the bound is reached")

    async def is_served() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return bool((await made.route()).decision_id)
        return False

    await until(is_served, "the calls end with their connection")


async def test_without_a_key_calls_that_never_end_hold_nothing(start_router: StartRouter, database_url: str) -> None:
    """They are refused by their headers, so that the bound is only for those who have a key."""
    made = await start_router(database_url, keys=True, bounds=Bounds(calls=20))
    one = caller(made, create_key(database_url, "route", "admin"))
    await one.until_known()
    await one.run(experiment())
    with await asyncio.to_thread(raw_http2.connect, made.server.port) as connection:
        head = raw_http2.headers("/router.v1.RouterService/Reward")
        for stream in range(1, 401, 2):
            connection.sendall(raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, stream, head))
        for _ in range(50):
            assert (await one.route()).decision_id
    await one.channel.close()
