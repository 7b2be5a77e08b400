"""The saved copy: what routing needs of a database, on local disk, for a start while Postgres is away.

One SQLite file in the deployment's spool directory, for its owner's eyes, since it holds the signing keys. The keeper
writes it (`router.storage.saver`); workers read it only if Postgres does not answer at their start. It can be deleted: the
keeper makes it anew from Postgres. It knows nothing that Postgres does not, but the address without its password.
"""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bandit.reward import Evidence
from router.access.keys import ApiKey
from router.access.roles import Role
from router.discounting import Hours
from router.experiment import Definition
from router.segments import BySegment
from router.storage.errors import StorageError
from router.storage.experiments import definition_of
from router.storage.policies import EvidenceReading
from router.tokens import TokenCodec, TokenKey

log = logging.getLogger(__name__)

FILE = "saved.sqlite"
#: Of the tables below and of the documents in them. A file of another one is made anew.
_FORMAT = 4
_TABLES = f"""
CREATE TABLE origin (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1), deployment_id TEXT NOT NULL, address TEXT NOT NULL,
    revision TEXT NOT NULL, as_of TEXT NOT NULL
);
CREATE TABLE token_keys (
    position INTEGER PRIMARY KEY, key_id INTEGER NOT NULL, secret BLOB NOT NULL, activates_at_us INTEGER NOT NULL,
    retired INTEGER NOT NULL
);
CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY, name TEXT NOT NULL, secret_hash BLOB NOT NULL, roles TEXT NOT NULL, experiments TEXT, rate REAL,
    burst REAL, expires_at_us INTEGER, revoked INTEGER NOT NULL
);
CREATE TABLE experiments (
    incarnation INTEGER PRIMARY KEY, policy_version INTEGER NOT NULL, definition_version INTEGER NOT NULL,
    definition TEXT NOT NULL, evidence TEXT NOT NULL, hours TEXT, as_of TEXT NOT NULL
);
PRAGMA user_version = {_FORMAT};
"""


class SavedCopyError(StorageError):
    """There is no copy to start from; the message says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a copy comes from, and its age."""

    deployment_id: UUID
    #: HOST:PORT/DATABASE.
    address: str
    #: The schema revision of the database.
    revision: str
    #: When the copy agreed with the database last, by this host's clock.
    as_of: datetime


class SavedFile:
    """An open copy. Raises sqlite3.Error where it is damaged. Not for two threads at once."""

    def __init__(self, path: Path) -> None:
        """Open a copy, or begin one."""
        # Made here, so that it is never readable by others. SQLite gives its side files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            # A crash of the machine may take the last moments, and never the file.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            if not found:
                with self.transaction():
                    for statement in _TABLES.split(";"):
                        self._connection.execute(statement)
            elif found != _FORMAT:
                raise sqlite3.DatabaseError(f"its format is {found}, not {_FORMAT}")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Any:
        """Write all that is written within, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def check(self) -> None:
        """Raise sqlite3.DatabaseError if the file is damaged."""
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)

    def origin(self) -> Origin | None:
        """Return where it comes from; None if nothing was saved yet."""
        row = self._connection.execute("SELECT deployment_id, address, revision, as_of FROM origin").fetchone()
        return None if row is None else Origin(UUID(row[0]), row[1], row[2], datetime.fromisoformat(row[3]))

    def codec(self) -> TokenCodec:
        """Return a codec with every saved key, as of the time when it was saved."""
        rows = self._connection.execute(
            "SELECT key_id, secret, activates_at_us, retired FROM token_keys ORDER BY position"
        ).fetchall()
        keys = [TokenKey(key_id, bytes(secret), at_us, bool(retired)) for key_id, secret, at_us, retired in rows]
        origin = self.origin()
        return TokenCodec.of(keys, 0 if origin is None else int(origin.as_of.timestamp() * 1e6))

    def api_keys(self) -> list[ApiKey]:
        """Return every saved API key."""
        rows = self._connection.execute(
            "SELECT key_id, name, secret_hash, roles, experiments, rate, burst, expires_at_us, revoked FROM api_keys"
        )
        return [
            ApiKey(
                key_id,
                name,
                bytes(secret_hash),
                frozenset(map(Role, json.loads(roles))),
                None if experiments is None else frozenset(json.loads(experiments)),
                rate,
                burst,
                expires_at_us,
                bool(revoked),
            )
            for key_id, name, secret_hash, roles, experiments, rate, burst, expires_at_us, revoked in rows
        ]

    def versions(self) -> dict[int, tuple[int, int]]:
        """Return (policy version, definition version) of every saved experiment."""
        rows = self._connection.execute("SELECT incarnation, policy_version, definition_version FROM experiments")
        return {incarnation: (policy, definition) for incarnation, policy, definition in rows}

    def experiments(self) -> list[tuple[Definition, EvidenceReading]]:
        """Return every saved experiment that can be read; others are logged and left out."""
        found = []
        for incarnation, policy_version, definition, evidence, hours, as_of in self._connection.execute(
            "SELECT incarnation, policy_version, definition, evidence, hours, as_of FROM experiments"
        ):
            try:
                read = definition_of(_row(definition))
                counts = {
                    segment: {int(arm): Evidence(*values) for arm, values in of_arm.items()}
                    for segment, of_arm in json.loads(evidence).items()
                }
                reading = EvidenceReading(
                    incarnation,
                    policy_version,
                    read.definition_version,
                    counts,
                    datetime.fromisoformat(as_of),
                    hours=None if hours is None else _hours(json.loads(hours)),
                )
            except Exception:
                log.exception("experiment %d of the saved copy cannot be read", incarnation)
            else:
                found.append((read, reading))
        return found

    def save_origin(self, origin: Origin) -> None:
        """Say where the copy comes from, and that it agrees with it as of then."""
        self._connection.execute(
            "INSERT OR REPLACE INTO origin VALUES (1, ?, ?, ?, ?)",
            (str(origin.deployment_id), origin.address, origin.revision, origin.as_of.isoformat()),
        )

    def save_keys(self, keys: Sequence[TokenKey]) -> None:
        """Replace the signing keys; the oldest comes first."""
        self._connection.execute("DELETE FROM token_keys")
        self._connection.executemany(
            "INSERT INTO token_keys VALUES (?, ?, ?, ?, ?)",
            [(n, key.key_id, key.secret, key.activates_at_us, key.retired) for n, key in enumerate(keys)],
        )

    def save_api_keys(self, keys: Sequence[ApiKey]) -> None:
        """Replace the API keys."""
        self._connection.execute("DELETE FROM api_keys")
        self._connection.executemany(
            "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    key.key_id,
                    key.name,
                    key.secret_hash,
                    json.dumps(sorted(key.roles)),
                    None if key.experiments is None else json.dumps(sorted(key.experiments)),
                    key.rate,
                    key.burst,
                    key.expires_at_us,
                    key.revoked,
                )
                for key in keys
            ],
        )

    def save_definitions(self, rows: Iterable[Mapping[str, Any]], as_of: datetime) -> None:
        """Save experiments, rows of `experiments.read_rows`; their evidence must follow."""
        self._connection.executemany(
            "INSERT INTO experiments VALUES (?, 0, ?, ?, '{}', NULL, ?) ON CONFLICT (incarnation) DO UPDATE"
            " SET definition_version = excluded.definition_version, definition = excluded.definition",
            [(row["incarnation"], row["definition_version"], _document(row), as_of.isoformat()) for row in rows],
        )

    def save_evidence(self, readings: Iterable[EvidenceReading]) -> None:
        """Save the evidence of experiments that are saved."""
        self._connection.executemany(
            "UPDATE experiments SET policy_version = ?, evidence = ?, hours = ?, as_of = ? WHERE incarnation = ?",
            [
                (
                    reading.policy_version,
                    _evidence_document(reading.by_segment),
                    None if reading.hours is None else _hours_document(reading.hours),
                    reading.as_of.isoformat(),
                    reading.incarnation,
                )
                for reading in readings
            ],
        )

    def forget(self, incarnations: Iterable[int]) -> None:
        """Remove experiments."""
        self._connection.executemany("DELETE FROM experiments WHERE incarnation = ?", [(i,) for i in incarnations])


def find_copy(spool_dir: Path, address: str, revision: str) -> Path:
    """Return the one copy of the database at this address, HOST:PORT/DATABASE; its schema must be at this revision.

    Raises SavedCopyError if there is none, if there are several, or if it is damaged or of another revision.
    """
    found: dict[Path, Origin] = {}
    unreadable: list[str] = []
    for path in sorted(spool_dir.glob(f"*/{FILE}")):
        try:
            with contextlib.closing(SavedFile(path)) as file:
                origin = file.origin()
                if origin is not None and origin.address == address:
                    file.check()
                    file.codec()
                    found[path] = origin
        except (sqlite3.Error, OSError, ValueError, IndexError) as error:
            unreadable.append(f"{path} cannot be read ({error})")
    if not found:
        reason = f"{spool_dir} holds no saved copy of {address}"
        raise SavedCopyError("; ".join([reason, *unreadable]))
    if len(found) > 1:
        directories = ", ".join(str(path.parent) for path in found)
        raise SavedCopyError(
            f"{directories} hold copies of different databases that were all at {address}: remove the {FILE} of those that"
            " are gone"
        )
    ((path, origin),) = found.items()
    if origin.revision != revision:
        raise SavedCopyError(f"the saved copy in {path.parent} is of schema revision {origin.revision}, not {revision}")
    return path


def _counted(evidence: Evidence) -> tuple[int, int, int]:
    return evidence.success_micros, evidence.failure_micros, evidence.n


def _evidence_document(by_segment: BySegment) -> str:
    return json.dumps(
        {name: {arm: _counted(evidence) for arm, evidence in of_arm.items()} for name, of_arm in by_segment.items()}
    )


def _hours_document(hours: Hours) -> str:
    by_segment = {
        name: {arm: [(start_us, *_counted(evidence)) for start_us, evidence in hours_] for arm, hours_ in of_arm.items()}
        for name, of_arm in hours.by_segment.items()
    }
    return json.dumps({"seen_from_us": hours.seen_from_us, "by_segment": by_segment})


def _hours(document: Mapping[str, Any]) -> Hours:
    by_segment = {
        name: {
            int(arm): tuple((start_us, Evidence(*counted)) for start_us, *counted in hours) for arm, hours in of_arm.items()
        }
        for name, of_arm in document["by_segment"].items()
    }
    return Hours(document["seen_from_us"], by_segment)


def _document(row: Mapping[str, Any]) -> str:
    plain = dict(row)
    table = plain["bucket_table"]
    plain["bucket_table"] = None if table is None else bytes(table).hex()
    for name in ("created_at", "updated_at"):
        plain[name] = plain[name].isoformat()
    return json.dumps(plain)


def _row(document: str) -> Mapping[str, Any]:
    row: dict[str, Any] = json.loads(document)
    if row["bucket_table"] is not None:
        row["bucket_table"] = bytes.fromhex(row["bucket_table"])
    for name in ("created_at", "updated_at"):
        row[name] = datetime.fromisoformat(row[name])
    return row
