"""Imports: outcomes from elsewhere as evidence. They are added to the base, where the outcomes of dropped days are too.

Protocol
    One transaction, which holds the lock that batches of events hold: so it lies between two versions of the evidence, and
    `applied_version` says which. It is recorded in `imports` in the same transaction: under the same id, or from the same
    file, nothing is added twice. Replay takes the base as given, so evidence and log agree after an import as before.

    Where outcomes mature, the evidence holds exactly those of decisions made until `matured_to`: a later one in the file is
    refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from bandit.reward import Evidence
from router.storage import audit
from router.storage.audit import Act
from router.storage.errors import StorageError, translated
from router.storage.policies import CHANNEL, notifications
from router.storage.transitions import Kind

_LOCK = "SELECT policy_version, matured_to, now() FROM policy_versions WHERE incarnation = %s FOR UPDATE"

_KNOWN = """
SELECT import_id, content_hash, imported_at FROM imports
WHERE incarnation = %s AND (import_id = %s OR content_hash = %s) ORDER BY import_id = %s DESC LIMIT 1
"""

_ADD = """
INSERT INTO evidence_base AS b (incarnation, arm, segment, success_micros, failure_micros, n)
SELECT %s, * FROM unnest(%s::int2[], %s::text[], %s::int8[], %s::int8[], %s::int8[])
ON CONFLICT (incarnation, arm, segment) DO UPDATE
SET success_micros = b.success_micros + excluded.success_micros,
    failure_micros = b.failure_micros + excluded.failure_micros, n = b.n + excluded.n
"""

_RECORD = """
INSERT INTO imports (incarnation, import_id, imported_at, content_hash, first_at, last_at, applied_version, actor, reason,
                     arms, segments, success_micros, failure_micros, n)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::int2[], %s::text[], %s::int8[], %s::int8[], %s::int8[])
"""

_TRANSITION = """
INSERT INTO transitions (incarnation, transition_at, kind, from_value, to_value, actor, reason)
VALUES (%s, %s, %s, '', %s, %s, %s)
"""

_BUMP = """
UPDATE policy_versions SET policy_version = policy_version + 1, changed_at = clock_timestamp() WHERE incarnation = %s
"""

_EXPERIMENT = "SELECT incarnation, state, allocation ? 'discount' FROM experiments WHERE experiment_id = %s"
_ARMS = "SELECT arm_id, arm, role FROM arms WHERE incarnation = %s AND active ORDER BY position"


class ImportRefusedError(StorageError):
    """It cannot be right to import this; the message says why."""


@dataclass(frozen=True, slots=True)
class Import:
    """What is to be added."""

    import_id: str
    #: SHA-256 of the file.
    content_hash: bytes
    first_at: datetime
    last_at: datetime
    #: By number of the arm, and segment.
    evidence: Mapping[tuple[int, str], Evidence]
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of it."""

    #: False if it was there already: nothing has changed.
    new: bool
    imported_at: datetime


@dataclass(frozen=True, slots=True)
class Target:
    """The experiment that something is to be imported into."""

    incarnation: int
    state: str
    #: Whether its evidence weighs less the older it is.
    discounted: bool
    #: Numbers of the arms that compete, by id.
    arms: Mapping[str, int]
    #: Ids of the active shadow arms.
    shadow_arms: frozenset[str]


def read_target(connection: psycopg.Connection[Any], experiment_id: str) -> Target | None:
    """Return an experiment as it is now, None if there is none of this id."""
    with translated(), connection.transaction():
        found = connection.execute(_EXPERIMENT, (experiment_id,)).fetchone()
        if found is None:
            return None
        arms = connection.execute(_ARMS, (found[0],)).fetchall()
    incarnation, state, discounted = found
    return Target(
        incarnation,
        state,
        discounted,
        arms={arm_id: arm for arm_id, arm, role in arms if role != "shadow"},
        shadow_arms=frozenset(arm_id for arm_id, _, role in arms if role == "shadow"),
    )


def add(connection: psycopg.Connection[Any], incarnation: int, given: Import, *, dry_run: bool = False) -> Imported:
    """Add outcomes to the evidence of an experiment, raise its version and tell every replica, or find that it was done.

    Raises ImportRefusedError if the id names another import, the file was imported under another id, or a decision is too
    young to count; StorageError. `dry_run` checks all that, and changes nothing.
    """
    with translated(), connection.transaction(force_rollback=dry_run):
        locked = connection.execute(_LOCK, (incarnation,)).fetchone()
        if locked is None:
            raise ImportRefusedError("the experiment is gone")
        version, matured_to, now = locked
        done = _known(connection, incarnation, given)
        if done is not None:
            return Imported(False, done)
        if given.last_at > now:
            raise ImportRefusedError(f"time {given.last_at.isoformat()} is in the future: outcomes are of the past")
        if matured_to is not None and given.last_at > matured_to:
            raise ImportRefusedError(
                f"time {given.last_at.isoformat()} is after {matured_to.isoformat()}: outcomes of this experiment count once"
                " their decisions are old enough, and these are not: leave out what is younger, or import it later"
            )
        columns = _columns(given.evidence)
        connection.execute(_ADD, (incarnation, *columns))
        connection.execute(
            _RECORD,
            (
                *(incarnation, given.import_id, now, given.content_hash, given.first_at, given.last_at, version),
                *(given.actor, given.reason, *columns),
            ),
        )
        connection.execute(_BUMP, (incarnation,))
        connection.execute(_TRANSITION, (incarnation, now, Kind.IMPORT, given.import_id, given.actor, given.reason))
        about = audit.experiment_of(connection, incarnation)
        act = Act("import", given.actor, experiment_id=about, reason=given.reason)
        audit.record(connection, act.about(import_id=given.import_id, content_hash=given.content_hash.hex()))
        # Heard at the commit.
        for payload in notifications([incarnation]):
            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
    return Imported(True, now)


def _known(connection: psycopg.Connection[Any], incarnation: int, given: Import) -> datetime | None:
    """Return when this very import was made, None if it was not."""
    values = (incarnation, given.import_id, given.content_hash, given.import_id)
    row = connection.execute(_KNOWN, values).fetchone()
    if row is None:
        return None
    import_id, content_hash, imported_at = row
    if import_id != given.import_id:
        raise ImportRefusedError(f"this file was imported at {imported_at.isoformat()}, as {import_id!r}: it counts once")
    if content_hash != given.content_hash:
        raise ImportRefusedError(
            f"import {import_id!r} was made at {imported_at.isoformat()}, of other outcomes: give this one another id"
        )
    found: datetime = imported_at
    return found


def _columns(evidence: Mapping[tuple[int, str], Evidence]) -> list[list[Any]]:
    rows = [(*key, e.success_micros, e.failure_micros, e.n) for key, e in sorted(evidence.items())]
    return [list(column) for column in zip(*rows, strict=True)]
