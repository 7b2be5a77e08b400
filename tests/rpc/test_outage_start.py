"""Starts while Postgres is away: from the saved copy of the spool directory, or with a reason why not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from running import (
    Router,
    StoppableCluster,
    assert_replay_agrees,
    experiment,
    query,
    refused,
    scalar,
    until,
    until_scalar,
)

from router.keeper import Keeper
from router.settings import WorkerSettings
from router.storage.errors import StorageError
from router.storage.saved import FILE, SavedFile
from router.v1 import routing_pb2


def saved_of(spool: Path) -> Path:
    (path,) = spool.glob(f"*/{FILE}")
    return path


def segments_of(spool: Path) -> list[Path]:
    return list(spool.glob("*/*.journal"))


async def until_saved(router: Router, spool: Path, condition: Callable[[SavedFile], object]) -> None:
    """Wait until the copy shows something."""

    def met() -> bool:
        paths = list(spool.glob(f"*/{FILE}"))
        if not paths:
            return False
        with contextlib.closing(SavedFile(paths[0])) as file:
            return file.origin() is not None and bool(condition(file))

    await until(met, "it is saved")


def counted(file: SavedFile) -> int:
    return sum(counts.n for _, reading in file.experiments() for counts in reading.evidence.values())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where `start_router` has its routers keep their spool."""
    return tmp_path / "spool"


async def test_a_router_that_starts_during_an_outage_goes_on_and_recovers_by_itself(
    stoppable: StoppableCluster, stoppable_url: str, start_router, spool: Path
) -> None:
    before = await start_router(stoppable_url)
    await before.run()
    await before.run(experiment("fixed", kind="FIXED", weights={"a": 0.25, "b": 0.75}, assignment="STICKY_HASH"))
    await before.run(experiment("sticky", assignment="STICKY_STORED"))
    await before.learn("b", 40)
    await until_saved(before, spool, lambda file: counted(file) == 40)
    known = await before.route(request_id="r")
    by_hash = await before.route("fixed", unit_id="u")
    share = {entry.arm_id: entry.probability for entry in known.allocation}
    await before.close()
    stoppable.stop()

    router = await start_router(stoppable_url)
    decision = await router.route(unit_id="u", request_id="r")
    assert {entry.arm_id: entry.probability for entry in decision.allocation} == share
    assert decision.arm == known.arm, "a request id draws the same arm, since the signing key is the same"
    assert 0 < decision.stale_for.ToTimedelta().total_seconds() < 60
    assert (await router.route("fixed", unit_id="u")).arm == by_hash.arm
    assert (await router.route("sticky", unit_id="u")).reason == routing_pb2.REASON_FALLBACK
    assert (await refused(router.route("never-seen"))).code is grpc.StatusCode.UNAVAILABLE
    later = await router.route(unit_id="u")
    assert later.stale_for.ToTimedelta() > decision.stale_for.ToTimedelta()
    spooled = await router.reward(decision.decision_id, 1.0)
    assert spooled.status == routing_pb2.STATUS_SPOOLED

    stoppable.start()

    async def fresh() -> bool:
        return not (await router.route()).HasField("stale_for")

    await until(fresh, "policies are fresh again", 30)
    await until_scalar(stoppable_url, "SELECT sum(n) >= 41 FROM evidence", True)

    async def committed() -> bool:
        reply = await router.reward((await router.route(unit_id="u")).decision_id, 1.0)
        return bool(reply.status == routing_pb2.STATUS_APPLIED)

    await until(committed, "events are committed at once again")
    await router.run(experiment("new"))
    assert (await router.route("new")).arm.arm_id
    routed = await scalar(stoppable_url, "SELECT count(*) FROM decisions WHERE request_id = 'r'")
    assert routed == 1, "the same decision, before and during the outage"
    units = itertools.count()

    async def drawn() -> bool:
        reply = await router.route("sticky", unit_id=f"another-{next(units)}")
        return bool(reply.reason == routing_pb2.REASON_SAMPLED)

    await until(drawn, "sticky units are drawn again")
    await assert_replay_agrees(stoppable_url)


async def test_what_waited_in_the_spool_is_stored_once_postgres_is_back(
    stoppable: StoppableCluster, stoppable_url: str, start_router, spool: Path
) -> None:
    """A restart of the router within the outage: decisions from before it and after it."""
    router = await start_router(stoppable_url)
    await router.run()
    await until_saved(router, spool, lambda file: file.experiments())
    stoppable.stop()
    for number in range(20):
        await router.route(unit_id=str(number))
    await router.close()
    router = await start_router(stoppable_url)
    for number in range(20, 40):
        await router.route(unit_id=str(number))
    stoppable.start()
    await until_scalar(stoppable_url, "SELECT count(DISTINCT unit_id) FROM decisions", 40)
    assert await scalar(stoppable_url, "SELECT count(*) FROM decisions") == 40


async def test_without_a_copy_it_says_so(stoppable: StoppableCluster, stoppable_url: str, start_router) -> None:
    stoppable.stop()
    with pytest.raises(StorageError, match=r"cannot start without it: .* holds no saved copy of 127.0.0.1:\d+/test_\d+"):
        await start_router(stoppable_url)


async def test_a_copy_of_another_schema_is_not_served(
    stoppable: StoppableCluster, stoppable_url: str, start_router, spool: Path
) -> None:
    router = await start_router(stoppable_url)
    await router.run()
    await until_saved(router, spool, lambda file: file.experiments())
    await router.close()
    with contextlib.closing(SavedFile(saved_of(spool))) as file:
        file._connection.execute("UPDATE origin SET revision = '0000'")
    stoppable.stop()
    with pytest.raises(StorageError, match="is of schema revision 0000, not"):
        await start_router(stoppable_url)


async def test_another_database_in_the_place_of_the_old_one_gets_nothing_of_it(
    stoppable: StoppableCluster, stoppable_url: str, start_router, spool: Path
) -> None:
    """It was restored from elsewhere, say: the processes that started from the copy ask to be started over."""
    router = await start_router(stoppable_url)
    await router.run()
    await until_saved(router, spool, lambda file: file.experiments())
    await router.close()
    await query(stoppable_url, "UPDATE deployment SET deployment_id = gen_random_uuid()")
    stoppable.stop()
    router = await start_router(stoppable_url)
    await router.route()
    stoppable.start()
    await until(lambda: router.server.obsolete.is_set() and router.keeper.obsolete.is_set(), "both notice", 30)
    await asyncio.sleep(0.3)
    assert await scalar(stoppable_url, "SELECT count(*) FROM decisions") == 0
    await router.close()
    assert len(segments_of(spool)) == 1, "it waits for its own database"


async def test_a_keeper_that_starts_during_an_outage_drains_once_it_is_over(
    stoppable: StoppableCluster, stoppable_url: str, start_router, spool: Path
) -> None:
    router = await start_router(stoppable_url)
    await router.run()
    await until_saved(router, spool, lambda file: file.experiments())
    await router.keeper.stop()
    router.keeper = None
    await router.route()
    stoppable.stop()
    keeper = Keeper(WorkerSettings(host="127.0.0.1", port=0, database_url=stoppable_url, spool_dir=str(spool)))
    await keeper.start()
    try:
        await router.route()
        stoppable.start()
        await until_scalar(stoppable_url, "SELECT count(*) FROM decisions", 2)
    finally:
        await keeper.stop()


async def test_a_keeper_starts_without_partitions_ahead_and_makes_them(database_url: str, start_router) -> None:
    await start_router(database_url)
    await until_scalar(database_url, "SELECT count(*) >= 8 FROM pg_inherits WHERE inhparent = 'decisions'::regclass", True)


async def test_the_keeper_that_leads_drops_days_that_are_not_kept(database_url: str, spool: Path) -> None:
    await query(
        database_url,
        "CREATE TABLE decisions_20200101 PARTITION OF decisions FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')",
    )
    settings = WorkerSettings(host="127.0.0.1", port=0, database_url=database_url, spool_dir=str(spool), retention_days=30)
    keepers = [Keeper(settings) for _ in range(2)]
    for keeper in keepers:
        await keeper.start()
    try:
        await until_scalar(database_url, "SELECT to_regclass('decisions_20200101') IS NULL", True)
        leaders = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 7261180214 %% 4294967296"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database() AND %s)"
        )
        assert await scalar(database_url, leaders, True) == 1
    finally:
        for keeper in keepers:
            await keeper.stop()
