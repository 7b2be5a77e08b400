"""Clients that break off, do not read, do not finish or send too much: nothing leaks, gets stuck or is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import gc
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import psycopg
import pytest
import raw_http2
from running import (
    Router,
    StoppableCluster,
    arm,
    assert_replay_agrees,
    event,
    experiment,
    locked,
    query,
    refused,
    scalar,
    until,
    until_scalar,
)

import router.server
from router.feedback_spool import FeedbackSpool
from router.ingest import Ingest
from router.tokens import TokenCodec, TokenKey
from router.v1 import routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
ROUTER = "/router.v1.RouterService"
#: What the allocator may keep of a burst, in bytes.
SLACK = 30 * 1024 * 1024


class Watch:
    """What a router holds: tasks of the event loop, events under way, file descriptors, memory."""

    def __init__(self, ingests: list[Ingest]) -> None:
        self._ingests = ingests
        self.tasks = self._tasks()
        self.files = len(os.listdir("/proc/self/fd"))
        self.resident = resident()

    async def until_let_go(self) -> None:
        """Wait until all is as it was."""
        await until(lambda: not any(i.unsettled or i.waiting for i in self._ingests), "nothing is unsettled or waits")
        await until(lambda: self._tasks() <= self.tasks, f"there are {self.tasks} tasks again")
        await until(lambda: len(os.listdir("/proc/self/fd")) <= self.files + 2, "connections are closed")

    def grown(self) -> int:
        """Bytes of memory since the start."""
        return resident() - self.resident

    @staticmethod
    def _tasks() -> int:
        return sum(not task.done() for task in asyncio.all_tasks())


def resident() -> int:
    """Bytes of memory in use, without what the C library keeps of what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture
def ingests(monkeypatch: pytest.MonkeyPatch) -> list[Ingest]:
    """The Ingest of every router that is started from here on."""
    made: list[Ingest] = []

    class Noted(Ingest):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(router.server, "Ingest", Noted)
    return made


@pytest.fixture
async def running(ingests: list[Ingest], database_url: str, start_router: StartRouter) -> AsyncIterator[Router]:
    made = await start_router(database_url)
    await made.run(experiment(arms=[arm(name, config={"prompt": "x" * 200}) for name in "ab"]))
    yield made
    # Whatever a test did: everybody else is served.
    reply = await made.route(unit_id="afterwards")

    async def is_applied() -> bool:
        return (await made.reward(reply.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED

    await until(is_applied, "events are committed")
    await assert_replay_agrees(database_url)


async def decisions(made: Router, count: int) -> list[str]:
    """Make decisions and return their ids."""
    found: list[str] = []
    while len(found) < count:
        size = min(1_000, count - len(found))
        reply = await made.batch_route(
            routing_pb2.RouteRequest(experiment_id="support", unit_id=str(n)) for n in range(size)
        )
        found += [result.response.decision_id for result in reply.results]
    return found


@pytest.mark.slow
async def test_ten_thousand_cancelled_calls(running: Router, ingests: list[Ingest]) -> None:
    ids = await decisions(running, 2_000)
    rng = random.Random(1)
    acknowledged: set[tuple[str, str]] = set()

    async def broken_off(number: int) -> None:
        decision_id, event_id = ids[number % len(ids)], f"{number // len(ids)}"
        kind = number % 4
        if kind == 0:
            call = running.routing.Route(routing_pb2.RouteRequest(experiment_id="support", unit_id=str(number)))
        elif kind == 1:
            items = [routing_pb2.RouteRequest(experiment_id="support", unit_id=str(n)) for n in range(20)]
            call = running.routing.BatchRoute(routing_pb2.BatchRouteRequest(requests=items))
        elif kind == 2:
            call = running.routing.Reward(event(decision_id, 1.0, event_id=event_id))
        else:
            items = [event(ids[(number + n) % len(ids)], 1.0, event_id=f"{event_id}-{n}") for n in range(20)]
            call = running.routing.BatchReward(routing_pb2.BatchRewardRequest(requests=items))
        if number % 50 != 2:
            asyncio.get_running_loop().call_later(rng.random() * 0.01, call.cancel)
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            reply = await call
            if kind == 2 and reply.status == routing_pb2.STATUS_APPLIED:
                acknowledged.add((decision_id, event_id))

    async def burst(first: int, count: int) -> None:
        for start in range(first, first + count, 200):
            await asyncio.gather(*(broken_off(number) for number in range(start, start + 200)))
            # What was broken off may still be on its way into the router.
            await running.route(unit_id="in between")

    await burst(0, 2_000)
    watch = Watch(ingests)
    await burst(2_000, 10_000)
    await watch.until_let_go()
    assert watch.grown() < SLACK
    assert len(acknowledged) > 0
    stored = await scalar(
        running.url, "SELECT count(*) FROM events WHERE event_id = ANY(%s)", list({e for _, e in acknowledged})
    )
    assert stored >= len(acknowledged)


async def test_deadlines_that_expire(running: Router, ingests: list[Ingest]) -> None:
    """While no commit can end: whoever gives up leaves nothing behind, and whoever was answered is not forgotten."""
    ids = await decisions(running, 500)
    watch = Watch(ingests)
    statuses: list[int] = []
    codes: set[grpc.StatusCode] = set()

    async def hurried(number: int) -> None:
        request = event(ids[number], 1.0, event_id="e")
        try:
            statuses.append((await running.routing.Reward(request, timeout=0.01 * (number % 60))).status)
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())

    with locked(running.url, "policy_versions"):
        await asyncio.gather(*(hurried(number) for number in range(500)))
        await until(lambda: not any(i.unsettled for i in ingests), "nobody is waited for any more")
    await watch.until_let_go()
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert set(statuses) <= {routing_pb2.STATUS_SPOOLED}
    # What was answered, and perhaps more, counts once.
    await until_scalar(running.url, f"SELECT count(*) >= {len(statuses)} FROM events", True)
    assert await scalar(running.url, "SELECT coalesce(sum(n), 0) = (SELECT count(*) FROM events) FROM evidence")


async def test_batches_that_are_too_large(running: Router, ingests: list[Ingest]) -> None:
    (decision_id,) = await decisions(running, 1)
    too_many = routing_pb2.BatchRewardRequest(requests=[event(decision_id, 1.0)] * 10_001)
    too_long = routing_pb2.BatchRewardRequest(requests=[event(decision_id, 1.0, metadata={"k": "x" * 1_000})] * 17_000)

    async def send() -> None:
        refusal = await refused(running.routing.BatchReward(too_many))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await running.routing.BatchReward(too_long)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    for _ in range(3):
        await send()
    watch = Watch(ingests)
    for _ in range(12):
        await send()
    await watch.until_let_go()
    assert watch.grown() < SLACK
    assert await scalar(running.url, "SELECT count(*) FROM events") == 0


async def test_readers_that_do_not_read(running: Router, ingests: list[Ingest]) -> None:
    """Large replies wait in the router for as long as the connection lasts, and no longer; others are served meanwhile."""
    items = [routing_pb2.RouteRequest(experiment_id="support", unit_id=str(n)) for n in range(1_000)]
    request = routing_pb2.BatchRouteRequest(requests=items).SerializeToString()
    growth = []
    watch = Watch(ingests)

    for _ in range(3):
        with contextlib.ExitStack() as connections:
            for _ in range(5):
                connection = await asyncio.to_thread(raw_http2.connect, running.server.port)
                connections.enter_context(connection)
                calls = b"".join(raw_http2.call(stream, f"{ROUTER}/BatchRoute", request) for stream in range(1, 11, 2))
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(connection.sendall, calls)
            for n in range(50):
                reply = await running.route(unit_id=f"meanwhile-{n}")
                await running.reward(reply.decision_id, 1.0)
        await watch.until_let_go()
        growth.append(watch.grown())
    assert growth[-1] - growth[0] < SLACK


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        random.Random(3).randbytes(2_000),
        raw_http2.PREFACE,
        raw_http2.PREFACE + raw_http2.frame(raw_http2.SETTINGS, 0, 0),
        # A call whose message never comes, one whose message never ends, and one that is reset at once, many times.
        raw_http2.PREFACE
        + raw_http2.frame(raw_http2.SETTINGS, 0, 0)
        + raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, 1, raw_http2.headers(f"{ROUTER}/Reward")),
        raw_http2.PREFACE
        + raw_http2.frame(raw_http2.SETTINGS, 0, 0)
        + raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, 1, raw_http2.headers(f"{ROUTER}/BatchReward"))
        + raw_http2.frame(raw_http2.DATA, 0, 1, raw_http2.message(bytes(1_000))[:500]),
        raw_http2.PREFACE
        + raw_http2.frame(raw_http2.SETTINGS, 0, 0)
        + b"".join(
            raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, stream, raw_http2.headers(f"{ROUTER}/Route"))
            + raw_http2.frame(raw_http2.RST_STREAM, 0, stream, bytes(3) + b"\x08")
            for stream in range(1, 20, 2)
        ),
    ],
    ids=["silence", "http/1", "noise", "preface", "settings", "no message", "half a message", "resets"],
)
@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half closed"])
async def test_connections_that_lead_nowhere(running: Router, ingests: list[Ingest], said: bytes, half_closed: bool) -> None:
    watch = Watch(ingests)
    with contextlib.ExitStack() as connections:
        for _ in range(50):
            connection = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", running.server.port))
            connections.enter_context(connection)
            with contextlib.suppress(OSError):
                connection.sendall(said)
                if half_closed:
                    connection.shutdown(socket.SHUT_WR)
        for n in range(20):
            reply = await running.route(unit_id=f"meanwhile-{n}")
            assert (await running.reward(reply.decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
    await watch.until_let_go()
    assert watch.grown() < SLACK


async def test_items_that_only_postgres_refuses(running: Router, ingests: list[Ingest]) -> None:
    await query(running.url, "ALTER TABLE events ADD CONSTRAINT not_this CHECK (event_id NOT LIKE 'refused%%')")
    ids = await decisions(running, 40)
    watch = Watch(ingests)
    bad = {7, 39}
    sent = [event(decision_id, 1.0, event_id=f"refused-{n}" if n in bad else "e") for n, decision_id in enumerate(ids)]
    results = await running.batch_reward(sent)
    assert {n for n, result in enumerate(results) if result.HasField("error")} == bad
    assert {results[n].error.code for n in bad} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    others = [result.response.status for n, result in enumerate(results) if n not in bad]
    assert others == [routing_pb2.STATUS_APPLIED] * (40 - len(bad))
    assert (await refused(running.reward(ids[0], 1.0, event_id="refused"))).code == grpc.StatusCode.INVALID_ARGUMENT
    await watch.until_let_go()
    assert await scalar(running.url, "SELECT count(*) FROM events") == 40 - len(bad)
    assert await scalar(running.url, "SELECT sum(n)::int8 FROM evidence") == 40 - len(bad)


async def test_items_that_only_postgres_refuses_hold_up_no_spool(
    running: Router, ingests: list[Ingest], tmp_path: Path
) -> None:
    await query(running.url, "ALTER TABLE events ADD CONSTRAINT not_this CHECK (event_id NOT LIKE 'refused%%')")
    ids = await decisions(running, 40)
    sent = [event(decision_id, 1.0, event_id="refused" if n in (3, 20) else "e") for n, decision_id in enumerate(ids)]
    with locked(running.url, "policy_versions"):
        reply = await running.routing.BatchReward(routing_pb2.BatchRewardRequest(requests=sent), timeout=5)
        assert {result.response.status for result in reply.results} == {routing_pb2.STATUS_SPOOLED}
    await until_scalar(running.url, "SELECT count(*) FROM events", 38)
    await until(lambda: list(tmp_path.rglob("*.refused")), "the others are kept")
    assert await scalar(running.url, "SELECT sum(n)::int8 FROM evidence") == 38


async def test_a_full_spool_refuses_until_postgres_is_back(
    monkeypatch: pytest.MonkeyPatch, stoppable: StoppableCluster, stoppable_url: str, start_router: StartRouter
) -> None:
    bounded = functools.partial(FeedbackSpool, spool_bytes=60_000, segment_bytes=8_000)
    monkeypatch.setattr(router.server, "FeedbackSpool", bounded)
    made = await start_router(stoppable_url)
    await made.run()
    ids = await decisions(made, 600)
    stoppable.stop()
    accepted, refusals = 0, []
    for decision_id in ids:
        try:
            reply = await made.reward(decision_id, 1.0, event_id="e")
        except grpc.aio.AioRpcError as error:
            refusals.append(error)
            if len(refusals) == 20:
                break
        else:
            assert reply.status == routing_pb2.STATUS_SPOOLED
            accepted += 1
    assert accepted > 50
    assert len(refusals) == 20
    refusal = await refused(made.reward(ids[-1], 1.0, event_id="e"))
    assert refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.retry_after_s
    # Decisions have a spool of their own.
    assert (await made.route(unit_id="u")).HasField("stale_for")
    stoppable.start()
    await until_scalar(stoppable_url, "SELECT count(*) FROM events", accepted)

    async def taken() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            status = (await made.reward(ids[-1], 1.0, event_id="e")).status
            # The spool has room before the first commit succeeds: then it was taken that way.
            return status in (routing_pb2.STATUS_APPLIED, routing_pb2.STATUS_DUPLICATE)
        return False

    await until(taken, "events are applied again")
    assert await scalar(stoppable_url, "SELECT sum(n)::int8 FROM evidence") == accepted + 1
    await assert_replay_agrees(stoppable_url)


async def test_a_disk_that_fails_to_sync_leaves_no_call_waiting(
    running: Router, ingests: list[Ingest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that may not be durable is not acknowledged, and its client is told so at once."""
    ids = await decisions(running, 2)
    watch = Watch(ingests)

    def fails(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with locked(running.url, "policy_versions"):
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fails)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await running.routing.Reward(event(ids[0], 1.0), timeout=4)
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        reply = await running.routing.Reward(event(ids[1], 1.0), timeout=4)
        assert reply.status == routing_pb2.STATUS_SPOOLED
    await watch.until_let_go()


async def test_feedback_for_an_unknown_experiment_while_postgres_hangs(running: Router, ingests: list[Ingest]) -> None:
    """An event of an experiment that this replica has not read yet is spooled as soon as any other."""
    (known,) = await decisions(running, 1)
    (key_id, secret) = (await query(running.url, "SELECT key_id, secret FROM token_keys"))[0]
    codec = TokenCodec(TokenKey(key_id, bytes(secret)), {})
    unknown = codec.mint(codec.open(known)._replace(incarnation=12_345))[0].decode()
    watch = Watch(ingests)
    with psycopg.connect(running.url) as connection:
        connection.execute("LOCK TABLE evidence, policy_versions IN ACCESS EXCLUSIVE MODE")
        began = asyncio.get_running_loop().time()
        reply = await running.routing.Reward(event(unknown, 1.0), timeout=5)
        assert reply.status == routing_pb2.STATUS_SPOOLED
        assert asyncio.get_running_loop().time() - began < 1.5
        connection.rollback()
    await watch.until_let_go()
