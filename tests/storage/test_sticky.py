"""Stored units: one arm for each, whoever sees it first, for as long as its draw holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from running import query, until, until_scalar, until_waiting

from router.sticky import StickyUnits
from router.storage.database import Database, DatabaseUrl
from router.storage.sticky import StickyAssignment, StickyTable

ONE = 1


class Clock:
    """Seconds since the epoch, set by the test."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment,"
            " reward_rule, reward_rule_version) VALUES (1, 'x', '', 'running', '', '{}', '{}', '{}', 1)"
        )
    return database_url


@pytest.fixture
async def databases(url: str) -> AsyncIterator[list[Database]]:
    databases = [Database(DatabaseUrl.parse(url)) for _ in range(2)]
    yield databases
    for database in databases:
        await database.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tables(databases: list[Database]) -> AsyncIterator[list[StickyTable]]:
    tables = [StickyTable(database) for database in databases]
    yield tables
    for table in tables:
        await table.close()


@pytest.fixture
def replicas(tables: list[StickyTable], clock: Clock) -> list[StickyUnits]:
    """Two processes' memories of units, with all the time they need."""
    return [StickyUnits(table, clock, wait_s=10) for table in tables]


async def settle(
    units: StickyUnits,
    unit: str = "u",
    *,
    arm: int = 0,
    propensity: float = 0.5,
    permitted: Callable[[int], bool] = lambda arm: True,
    ttl: timedelta | None = None,
) -> tuple[StickyAssignment, bool] | None:
    return await units.settle(ONE, unit, permitted=permitted, draw=lambda: (arm, propensity), ttl=ttl)


async def test_the_first_draw_is_kept(replicas):
    one, two = replicas
    assert one.known(ONE, "u") is None
    assert await settle(one, arm=3, propensity=0.25) == (StickyAssignment(1, 3, 0.25, None), True)
    assert one.known(ONE, "u") == StickyAssignment(1, 3, 0.25, None)
    assert await settle(two, arm=5, propensity=0.75) == (StickyAssignment(1, 3, 0.25, None), False)
    assert two.known(ONE, "u") == one.known(ONE, "u")
    assert one.known(2, "u") is None


@pytest.mark.parametrize("unit", ["", "a'\"\\", "é\U0001f600", "x" * 256])
async def test_any_unit_id(replicas, unit: str):
    assert (await settle(replicas[0], unit))[1]
    assert not (await settle(replicas[1], unit))[1]


async def test_of_draws_at_once_one_holds(replicas):
    for number in range(20):
        unit = f"u-{number}"
        draws = [settle(replicas[n % 2], unit, arm=n, propensity=(n + 1) / 10) for n in range(6)]
        results = await asyncio.gather(*draws)
        assert len({assignment for assignment, _ in results}) == 1
        assert sum(drawn_now for _, drawn_now in results) == 1
        assert results[0][0].propensity == (results[0][0].arm + 1) / 10


async def test_first_sights_that_meet_in_postgres(replicas, url: str):
    """Both have read that there is no row before either stores its draw."""
    one, two = replicas
    async with await psycopg.AsyncConnection.connect(url) as holding:
        await holding.execute("LOCK TABLE sticky_assignments IN EXCLUSIVE MODE")
        first = asyncio.ensure_future(settle(one, arm=1))
        second = asyncio.ensure_future(settle(two, arm=2))
        await until_waiting(url, "sticky_assignments", 2)
        await holding.rollback()
    (held, by_first), (seen, by_second) = await first, await second
    assert held == seen
    assert by_first != by_second


async def test_a_forbidden_arm_is_drawn_anew_as_the_next_epoch(replicas):
    one, two = replicas
    await settle(one, arm=1)
    await settle(two, arm=1)
    redrawn, now = await settle(one, arm=2, permitted=lambda arm: arm != 1)
    assert (redrawn.epoch, redrawn.arm, now) == (2, 2, True)
    seen, now = await settle(two, arm=3, permitted=lambda arm: arm != 1)
    assert (seen, now) == (redrawn, False)


async def test_of_redraws_at_once_one_holds(replicas):
    await settle(replicas[0], arm=9)
    redraws = [settle(replicas[n % 2], arm=n, permitted=lambda arm: arm != 9) for n in range(6)]
    results = await asyncio.gather(*redraws)
    assert len({assignment for assignment, _ in results}) == 1
    assert results[0][0].epoch == 2
    assert sum(drawn_now for _, drawn_now in results) == 1


async def test_a_draw_ends_with_its_time(replicas, clock: Clock):
    one, two = replicas
    ttl = timedelta(seconds=60)
    first, _ = await settle(one, arm=1, ttl=ttl)
    assert first.expires_at == datetime.fromtimestamp(clock.now, UTC) + ttl
    clock.now += 59.999
    assert one.known(ONE, "u") == first
    assert await settle(two, arm=2, ttl=ttl) == (first, False)
    clock.now += 0.001
    assert one.known(ONE, "u") is None
    second, now = await settle(two, arm=2, ttl=ttl)
    assert (second.epoch, second.arm, now) == (2, 2, True)
    assert await settle(one, arm=3, ttl=ttl) == (second, False)


async def test_an_arm_is_kept_when_its_allocation_changes(replicas, url: str):
    await settle(replicas[0], arm=1, propensity=0.125)
    for propensity in (0.9, 0.01):
        assert (await settle(replicas[1], arm=2, propensity=propensity))[0].propensity == 0.125
    assert await query(url, "SELECT epoch, arm, propensity FROM sticky_assignments") == [(1, 1, 0.125)]


async def test_it_waits_no_longer_than_told_and_what_is_under_way_goes_on(tables, clock: Clock, url: str):
    units = StickyUnits(tables[0], clock, wait_s=0.025)
    async with await psycopg.AsyncConnection.connect(url) as holding:
        await holding.execute("LOCK TABLE sticky_assignments IN ACCESS EXCLUSIVE MODE")
        started = asyncio.get_running_loop().time()
        assert await settle(units, arm=4) is None
        assert asyncio.get_running_loop().time() - started < 1
        assert units.known(ONE, "u") is None
        await holding.rollback()
    await until(lambda: units.known(ONE, "u"), "the draw is stored after all")
    assert units.known(ONE, "u").arm == 4
    await until_scalar(url, "SELECT arm FROM sticky_assignments", 4)


async def test_without_postgres_there_is_no_draw(tables, clock: Clock, cluster, url: str, caplog):
    units = StickyUnits(tables[0], clock, wait_s=10)
    name = urlsplit(url).path.removeprefix("/")
    await query(cluster.url_of("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    assert await settle(units) is None
    assert "routed by their hashes" in caplog.text
    await query(cluster.url_of("postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    async def is_drawn() -> bool:
        settled = await settle(units)
        return settled is not None and settled[1]

    await until(is_drawn, "a unit is drawn again")


async def test_what_is_forgotten_while_it_is_read_is_not_remembered(databases, tables, clock: Clock):
    """Another replica's redraw is heard between the reading of the old row and its arrival: the old must not stay."""

    arrived, release = asyncio.Event(), asyncio.Event()

    class Late(StickyTable):
        """A real table whose answers arrive late."""

        async def claim(self, *unit: Any, **draw: Any) -> tuple[StickyAssignment, bool]:
            found = await super().claim(*unit, **draw)
            arrived.set()
            await release.wait()
            return found

    prompt = StickyUnits(tables[0], clock, wait_s=10)
    await settle(prompt, arm=1)
    slow = Late(databases[1])
    late = StickyUnits(slow, clock, wait_s=10)
    reading = asyncio.ensure_future(settle(late, arm=1))
    await asyncio.wait_for(arrived.wait(), 10)
    redrawn, _ = await settle(prompt, arm=2, permitted=lambda arm: arm != 1)
    late.forget(ONE, "u")
    release.set()
    await reading
    assert late.known(ONE, "u") in (None, redrawn)
    await slow.close()
