"""Keeping the saved copy in agreement with Postgres."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import UUID

from sqlalchemy import text

from router.access.keys import ApiKey
from router.storage import experiments
from router.storage.api_keys import read_known
from router.storage.database import Connection, Database, driver_of
from router.storage.errors import StorageError
from router.storage.policies import Digest, read_digest, read_evidence, read_versions
from router.storage.saved import FILE, Origin, SavedFile
from router.storage.token_keys import read_keys
from router.tokens import TokenKey

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")
_COMPARE_S = 2.0
#: Reading and writing may take this share of the time.
_SHARE = 0.2
_READ_AT_ONCE = 200
_LAST_ROUND_S = 2.0


class Saver:
    """Saves what routing needs of a database, for as long as `run` runs."""

    def __init__(
        self,
        database: Database,
        deployment_id: UUID,
        directory: Path,
        *,
        clock_us: Callable[[], int],
        rest_s: float = _COMPARE_S,
    ) -> None:
        """`directory` is the deployment's; `clock_us` gives microseconds since the epoch."""
        self._database = database
        self._deployment_id = deployment_id
        self._path = directory / FILE
        self._clock_us = clock_us
        self._rest_s = rest_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saved")
        self._file: SavedFile | None = None
        self._keys: list[TokenKey] = []
        #: None: not saved by this process yet.
        self._api_keys: list[ApiKey] | None = None
        #: What the file holds.
        self._versions: dict[int, tuple[int, int]] = {}
        self._digest: Digest | None = None
        #: When the file agreed with Postgres last, by the event loop's clock.
        self.saved_at: float | None = None

    async def run(self) -> None:
        """Compare and save until cancelled."""
        clock = asyncio.get_running_loop().time
        failing = False
        try:
            while True:
                began = clock()
                try:
                    await self._unbroken(self._save())
                    self.saved_at, failing = clock(), False
                except StorageError:
                    pass  # others say that Postgres is away
                except Exception as error:
                    # A full disk, a file that somebody holds: it must not end, nor fill the log.
                    if not failing:
                        log.error("the saved copy %s cannot be written: %s", self._path, error, exc_info=error)
                    failing = True
                await asyncio.sleep(max(self._rest_s, (clock() - began) * (1 / _SHARE - 1)))
        finally:
            # What a thread is writing just now is written first.
            self._thread.shutdown(wait=True)
            if self._file is not None:
                self._file.close()

    async def _unbroken(self, work: Coroutine[None, None, None]) -> None:
        """Let what is under way come to its end before a cancellation takes effect, unless that takes long."""
        task = asyncio.create_task(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=_LAST_ROUND_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def _save(self) -> None:
        """Bring the file up to date."""
        as_of = datetime.fromtimestamp(self._clock_us() / 1e6, UTC)
        async with self._database.snapshot() as connection:
            digest = await read_digest(connection)
            versions = await read_versions(connection) if digest != self._digest else self._versions
            keys = await read_keys(connection)
            api_keys = await read_known(await driver_of(connection))
            revision = await _revision(connection)
        file = await self._opened()
        try:
            changed = [i for i, version in versions.items() if self._versions.get(i) != version]
            for start in range(0, len(changed), _READ_AT_ONCE):
                await self._save_some(file, changed[start : start + _READ_AT_ONCE])
            gone = list(self._versions.keys() - versions.keys())
            origin = Origin(self._deployment_id, self._database.url.shown, revision, as_of)

            def finish() -> None:
                with file.transaction():
                    file.forget(gone)
                    if keys != self._keys:
                        file.save_keys(keys)
                    if api_keys != self._api_keys:
                        file.save_api_keys(api_keys)
                    file.save_origin(origin)

            await self._threaded(finish)
            self._keys, self._api_keys, self._digest = keys, api_keys, digest
            for incarnation in gone:
                del self._versions[incarnation]
        except sqlite3.OperationalError:
            raise  # locked, or no room: the file is sound
        except sqlite3.DatabaseError as error:
            self._renew(error)
            raise

    async def _save_some(self, file: SavedFile, incarnations: Sequence[int]) -> None:
        async with self._database.snapshot() as connection:
            readings = await read_evidence(connection, incarnations)
            redefined = [
                r.incarnation for r in readings if self._versions.get(r.incarnation, (0, 0))[1] != r.definition_version
            ]
            rows = await experiments.read_rows(connection, redefined) if redefined else []

        def write() -> None:
            with file.transaction():
                if rows:
                    file.save_definitions(rows, readings[0].as_of)
                file.save_evidence(readings)

        await self._threaded(write)
        self._versions.update({r.incarnation: (r.policy_version, r.definition_version) for r in readings})

    async def _threaded(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    async def _opened(self) -> SavedFile:
        if self._file is not None:
            return self._file
        try:
            file, versions = await self._threaded(_open, self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._renew(error)
            file, versions = await self._threaded(_open, self._path)
        self._file, self._versions = file, versions
        return file

    def _renew(self, error: Exception) -> None:
        """Set a damaged file aside; the next round makes it anew."""
        if self._file is not None:
            self._file.close()
            self._file, self._keys, self._api_keys, self._digest = None, [], None, None
        aside = self._path.with_suffix(".damaged")
        log.error("the saved copy %s is damaged (%s): it is set aside as %s and made anew", self._path, error, aside)
        for name in (f"{self._path.name}-wal", f"{self._path.name}-shm"):
            self._path.with_name(name).unlink(missing_ok=True)
        self._path.replace(aside)


def _open(path: Path) -> tuple[SavedFile, dict[int, tuple[int, int]]]:
    file = SavedFile(path)
    try:
        file.check()
        return file, file.versions()
    except BaseException:
        file.close()
        raise


async def _revision(connection: Connection) -> str:
    return str((await connection.execute(text("SELECT version_num FROM schema_version"))).scalar_one())
