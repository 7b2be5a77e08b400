"""The election of a leader among keepers: one at a time, for as long as its connection lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from running import query, terminate_others, until

from router.controllers.leader import Duty, Leader
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import StorageUnavailableError


@pytest.fixture
async def candidates(database_url: str) -> AsyncIterator[Callable[..., Leader]]:
    """Makes leaders that stand for election; they end with the test."""
    databases: list[Database] = []
    tasks: list[asyncio.Task[None]] = []

    def stand(work: Any, *, every_s: float = 0.02) -> Leader:
        databases.append(Database(DatabaseUrl.parse(database_url)))
        leader = Leader(databases[-1], [Duty("work", every_s, work)], stand_s=0.02)
        tasks.append(asyncio.create_task(leader.run(), name=str(len(tasks))))
        return leader

    yield stand
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for database in databases:
        await database.dispose()


async def test_one_leads_and_another_takes_over_when_it_ends(database_url: str, candidates) -> None:
    working, together = 0, 0
    worked: set[str] = set()

    async def work(session: Any) -> None:
        nonlocal working, together
        working += 1
        together = max(together, working)
        task = asyncio.current_task()
        assert task is not None
        worked.add(task.get_name())
        try:
            await session.connection.execute("SELECT pg_sleep(0.02)")
        finally:
            working -= 1

    leaders = [candidates(work) for _ in range(3)]
    await until(lambda: any(leader.leads for leader in leaders), "one leads")
    (first,) = worked
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == first)
    task.cancel()
    await until(lambda: len(worked) == 2, "another leads")
    assert together == 1
    assert sum(leader.leads for leader in leaders) == 1


async def test_a_lost_connection_ends_the_lead_and_what_was_under_way(database_url: str, candidates) -> None:
    ends: list[Exception] = []
    begun = asyncio.Event()

    async def work(session: Any) -> None:
        begun.set()
        try:
            await session.connection.execute("SELECT pg_sleep(60)")
        except Exception as error:
            ends.append(error)
            raise StorageUnavailableError("it broke") from error

    leader = candidates(work)
    await asyncio.wait_for(begun.wait(), 15)
    assert leader.leads
    begun.clear()
    await terminate_others(database_url)
    await until(lambda: len(ends) == 1, "it ends")
    await asyncio.wait_for(begun.wait(), 15)  # elected again, on another connection


async def test_a_lead_that_is_lost_between_two_works_is_noticed(database_url: str, candidates, monkeypatch) -> None:
    monkeypatch.setattr("router.controllers.leader._CHECK_S", 0.02)
    sessions: list[Any] = []

    async def work(session: Any) -> None:
        sessions.append(session)

    candidates(work, every_s=3600)
    await until(lambda: len(sessions) == 1, "it leads")
    await query(database_url, "SELECT 1")
    await terminate_others(database_url)
    await until(lambda: len(sessions) == 2, "it leads again")
    assert sessions[0] is not sessions[1]


async def test_work_that_fails_is_logged_and_tried_again(candidates, caplog: pytest.LogCaptureFixture) -> None:
    attempts = 0

    async def work(session: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError("a fault")

    leader = candidates(work)
    await until(lambda: attempts >= 4, "four attempts")
    assert leader.leads
    assert caplog.text.count("work of the leader failed") == 2
