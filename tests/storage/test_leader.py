"""The election of a leader among keepers: one at a time, for as long as its connection lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from running import query, scalar, terminate_others, until, until_scalar

from router.controllers.leader import Duty, Leader
from router.storage.database import Database, DatabaseUrl
from router.storage.election import Session, elected
from router.storage.errors import StorageUnavailableError


@pytest.fixture
async def candidates(database_url: str) -> AsyncIterator[Callable[..., Leader]]:
    """Makes leaders that stand for election; they end with the test."""
    databases: list[Database] = []
    tasks: list[asyncio.Task[None]] = []

    def stand(work: Any, *, every_s: float = 0.02, aside: Any = None) -> Leader:
        databases.append(Database(DatabaseUrl.parse(database_url)))
        duties = [Duty("work", every_s, work)]
        if aside is not None:
            duties.insert(0, Duty("aside", every_s, aside, aside=True))
        leader = Leader(databases[-1], duties, stand_s=0.02)
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


async def test_work_aside_holds_nothing_up_and_ends_with_the_lead(database_url: str, candidates) -> None:
    done, ended = 0, 0
    asides: list[Any] = []
    leads: set[int] = set()

    async def work(session: Any) -> None:
        nonlocal done
        leads.add(session.connection.info.backend_pid)
        done += 1

    async def aside(session: Any) -> None:
        nonlocal ended
        asides.append(session)
        await session.check()
        try:
            await session.connection.execute("SELECT pg_sleep(60)")
        finally:
            ended += 1

    candidates(work, aside=aside)
    await until(lambda: asides and done > 20, "work goes on beside it")
    (lead,) = leads
    assert asides[0].connection.info.backend_pid != lead
    assert (len(asides), ended) == (1, 0), "one at a time"
    await query(database_url, "SELECT pg_terminate_backend(%s)", lead)
    await until(lambda: len(asides) == 2, "elected again")
    assert ended == 1, "what was under way has ended before"
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(60)'"
    assert await scalar(database_url, sleeping) == 1


async def test_a_fault_of_work_aside_does_not_end_the_lead(database_url: str, candidates, caplog) -> None:
    attempts, leads = 0, set()

    async def work(session: Any) -> None:
        leads.add(session.connection.info.backend_pid)

    async def aside(session: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError("a fault")
        if attempts == 2:
            raise StorageUnavailableError("it was cut off")

    leader = candidates(work, aside=aside)
    await until(lambda: "aside" in leader.done_at, "it was done")
    assert (attempts >= 3, leader.failures["aside"], len(leads)) == (True, 2, 1)
    assert "work of the leader failed: aside" in caplog.text
    assert "work of the leader was cut short: aside: it was cut off" in caplog.text


async def test_work_aside_learns_that_the_lead_is_lost(database_url: str, database: Database, session: Session) -> None:
    async with session.beside(database) as own:
        await session.check()
        await own.check()
        holder = session.connection.info.backend_pid
        await query(database_url, "SELECT pg_terminate_backend(%s)", holder)
        await until_scalar(database_url, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {holder}", 0)
        async with elected(database) as another:
            assert another is not None
            with pytest.raises(StorageUnavailableError, match="the leadership is lost"):
                await own.check()
            await another.check()
        with pytest.raises(StorageUnavailableError):
            await session.check()
