"""What replicas tell one another: every message is heard, however many experiments changed at once."""

from __future__ import annotations

import asyncio

import pytest
from running import terminate_others, until

from router.storage.database import Database, DatabaseUrl
from router.storage.errors import StorageUnavailableError
from router.storage.reader import Announcer, Heard, PolicyReader


@pytest.fixture
async def database(database_url: str):
    database = Database(DatabaseUrl.parse(database_url))
    yield database
    await database.dispose()


@pytest.fixture
async def announcer(database: Database):
    announcer = Announcer(database)
    running = asyncio.ensure_future(announcer.run())
    yield announcer
    assert not running.done(), "it ended by itself"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


class Listener:
    """Collects what a replica hears."""

    def __init__(self, database: Database) -> None:
        self.connected = asyncio.Event()
        self.changed: set[int] = set()
        self.redrawn: list[tuple[int, str]] = []
        heard = Heard(self.connected.set, self.changed.update, lambda *unit: self.redrawn.append(unit))
        self.task = asyncio.ensure_future(PolicyReader(database).listen(heard))

    async def end(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def test_more_experiments_than_a_message_holds(database: Database, announcer: Announcer):
    listener = Listener(database)
    await listener.connected.wait()
    many = {2**62 - n for n in range(1, 2_001)}
    announcer.announce(many)
    await until(lambda: listener.changed == many, "all are heard")
    announcer.announce([5])
    await until(lambda: 5 in listener.changed, "and what comes after")
    await listener.end()


async def test_a_cut_connection_ends_listening_and_the_announcer_makes_another(
    database: Database, announcer: Announcer, database_url: str
):
    listener = Listener(database)
    await listener.connected.wait()
    announcer.announce([1])
    await until(lambda: listener.changed == {1}, "it is heard")
    await terminate_others(database_url)
    with pytest.raises(StorageUnavailableError):
        await listener.task
    again = Listener(database)
    await again.connected.wait()

    async def heard() -> bool:
        announcer.announce([2])
        return 2 in again.changed

    await until(heard, "later messages are heard")
    await again.end()
