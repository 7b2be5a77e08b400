"""A Postgres for each test process, a database for each test, and real routers on it."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from postgres import TestCluster
from running import Router, StoppableCluster

from router.server import Clocks
from router.storage.database import Database, DatabaseUrl
from router.storage.election import Session, elected
from router.storage.migrate import migrate

# A machine that does other things too is slow now and then. Tests that need more examples say so.
settings.register_profile("shared machine", deadline=None, max_examples=50)
settings.load_profile("shared machine")

TEMPLATE = "template_migrated"
StartRouter = Callable[..., Awaitable[Router]]

# What a shell starts in the background ignores interrupts, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _with_template(cluster: TestCluster) -> TestCluster:
    migrate(DatabaseUrl.parse(cluster.create_database(TEMPLATE)))
    # What is imported by now stays: later collections need not look at it, and so take a few milliseconds.
    gc.collect()
    gc.freeze()
    return cluster


@contextmanager
def _database(cluster: TestCluster) -> Iterator[str]:
    with cluster.database_from_template(TEMPLATE) as url:
        yield url
        # A connection whose making was cancelled is half open until it is collected, and would hold up DROP DATABASE.
        gc.collect()


@pytest.fixture(scope="session")
def cluster() -> Iterator[TestCluster]:
    """One Postgres for a test process, with a migrated template."""
    with TestCluster() as cluster:
        yield _with_template(cluster)


@pytest.fixture
def database_url(cluster: TestCluster) -> Iterator[str]:
    """A database of the test's own."""
    with _database(cluster) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """What the router makes of that database."""
    database = Database(DatabaseUrl.parse(database_url))
    yield database
    await database.dispose()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Session]:
    """A leader's session: the test itself leads."""
    async with elected(database) as found:
        assert found is not None
        yield found


@pytest.fixture(scope="session")
def _second_cluster() -> Iterator[TestCluster]:
    with TestCluster() as cluster:
        yield _with_template(cluster)


@pytest.fixture
def stoppable(_second_cluster: TestCluster) -> Iterator[StoppableCluster]:
    """A Postgres that the test may stop and start."""
    stoppable = StoppableCluster(_second_cluster)
    yield stoppable
    stoppable.start()


@pytest.fixture
def stoppable_url(stoppable: StoppableCluster) -> Iterator[str]:
    """A database of the test's own on the Postgres that may be stopped."""
    with _database(stoppable.cluster) as url:
        yield url
        stoppable.start()


@pytest_asyncio.fixture
async def start_router(tmp_path: Path) -> AsyncIterator[StartRouter]:
    """Starts routers that share a spool directory, as the workers of a host do; they end with the test."""
    started: list[Router] = []

    async def start(url: str, clocks: Clocks | None = None, *, keeper: bool = True, **settings: Any) -> Router:
        router = await Router.start(url, tmp_path / "spool", clocks, keeper=keeper, **settings)
        started.append(router)
        return router

    yield start
    for router in reversed(started):
        await router.close()


@pytest_asyncio.fixture
async def router(database_url: str, start_router: StartRouter) -> Router:
    """A router on a database of the test's own."""
    return await start_router(database_url)


@pytest_asyncio.fixture
async def other_router(router: Router, start_router: StartRouter) -> Router:
    """A second router on the same database."""
    return await start_router(router.url)
