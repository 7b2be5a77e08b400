"""grpc.health.v1: SERVING while Route is answered, with or without Postgres; NOT_SERVING from the moment a server drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import fuzzing
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import Router, StoppableCluster, locked, until, until_waiting

from router.storage.saved import FILE, SavedFile
from router.v1 import routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ["", *sorted({method.containing_service.full_name for method in fuzzing.methods()})]


async def statuses(router: Router) -> set[int]:
    """What every service, and the server as a whole, is said to be."""
    stub = health_pb2_grpc.HealthStub(router.channel)
    return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in NAMES}


async def test_every_service_is_named(router: Router) -> None:
    assert await statuses(router) == {SERVING}
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health_pb2_grpc.HealthStub(router.channel).Check(health_pb2.HealthCheckRequest(service="router.v1.No"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_it_is_not_ready_while_it_drains_and_answers_what_is_under_way(router: Router) -> None:
    await router.run()
    decision_id = (await router.route()).decision_id
    watch = health_pb2_grpc.HealthStub(router.channel).Watch(health_pb2.HealthCheckRequest(service=NAMES[-1]))
    assert (await watch.read()).status == SERVING
    with locked(router.url, "policy_versions"):
        under_way = asyncio.ensure_future(router.reward(decision_id, 1.0))
        await until_waiting(router.url)
        stopping = asyncio.create_task(router.server.stop())
        assert (await asyncio.wait_for(watch.read(), 5)).status == NOT_SERVING
        assert not stopping.done()
    assert (await under_way).status in (routing_pb2.STATUS_APPLIED, routing_pb2.STATUS_SPOOLED)
    watch.cancel()
    await stopping


async def test_it_is_ready_without_postgres(
    stoppable: StoppableCluster, stoppable_url: str, start_router: StartRouter, tmp_path: Path
) -> None:
    """While it runs, and at its start from the saved copy: Route works on, so whoever balances load must not turn away."""
    first = await start_router(stoppable_url)
    await first.run()
    await first.route()

    def is_saved() -> bool:
        for path in tmp_path.rglob(FILE):
            with contextlib.closing(SavedFile(path)) as file:
                return bool(file.experiments())
        return False

    await until(is_saved, "the copy has the experiment")
    stoppable.stop()
    second = await start_router(stoppable_url, keeper=False)
    for one in (first, second):
        assert await statuses(one) == {SERVING}
        assert (await one.route()).HasField("stale_for")
    stoppable.start()
