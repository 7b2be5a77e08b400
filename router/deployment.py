"""Which deployment a process belongs to: what the database says, or the saved copy while it says nothing."""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from router.access.keys import ApiKey
from router.experiment import Definition
from router.storage.database import Database
from router.storage.errors import StorageError, StorageUnavailableError
from router.storage.policies import EvidenceReading
from router.storage.saved import SavedCopyError, SavedFile, find_copy
from router.storage.token_keys import deployment_id, load_codec
from router.tokens import TokenCodec

log = logging.getLogger(__name__)

_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a saved copy gave instead of Postgres."""

    as_of: datetime
    experiments: list[tuple[Definition, EvidenceReading]]
    api_keys: Sequence[ApiKey] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """What every process must know before it can do anything."""

    deployment_id: UUID
    codec: TokenCodec
    #: Its part of the spool.
    directory: Path
    #: Where all this is from; None if Postgres answered.
    saved: SavedState | None


async def find_deployment(database: Database, spool_dir: Path) -> Deployment:
    """Ask Postgres, and while it is away the saved copy in the spool.

    Raises StorageError that says why neither will do.
    """
    try:
        codec = await load_codec(database)
        found = await deployment_id(database)
        return Deployment(found, codec, spool_dir / str(found), None)
    except StorageUnavailableError as error:
        try:
            deployment = await asyncio.to_thread(_from_copy, database, spool_dir)
        except SavedCopyError as missing:
            raise StorageError(f"database {database.url.shown}: {error}; cannot start without it: {missing}") from error
        log.error("Postgres is away (%s): starting from the saved copy in %s", error, deployment.directory)
        return deployment


async def is_still(database: Database, deployment: Deployment) -> bool:
    """Wait until Postgres answers; whether it is the deployment that was found without it."""
    while True:
        try:
            found = await deployment_id(database)
        except StorageError:
            await asyncio.sleep(_RETRY_S)
            continue
        if found != deployment.deployment_id:
            log.error(
                "Postgres is back as deployment %s, not %s: this process starts over, and what waits in %s stays there",
                found,
                deployment.deployment_id,
                deployment.directory,
            )
        return found == deployment.deployment_id


def _from_copy(database: Database, spool_dir: Path) -> Deployment:
    # Imported where it is needed: the tools of migrations take long to load.
    from router.storage.migrate import needed_revision

    path = find_copy(spool_dir, database.url.shown, needed_revision())
    try:
        with closing(SavedFile(path)) as file:
            origin = file.origin()
            if origin is None:
                raise SavedCopyError(f"{path} is empty")
            saved = SavedState(origin.as_of, file.experiments(), file.api_keys())
            return Deployment(origin.deployment_id, file.codec(), path.parent, saved)
    except sqlite3.Error as error:
        raise SavedCopyError(f"{path} is damaged: {error}") from error
