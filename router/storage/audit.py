"""The audit log: who called for which administrative act. What changed in an experiment is in `transitions`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from router.storage.errors import translated

#: The source of what commands do to the database themselves.
COMMAND = "command"
DONE, DENIED = "done", "denied"

_INSERT = """
INSERT INTO audit_log (actor, key_id, source, action, experiment_id, outcome, detail) VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_LIST = """
SELECT audit_id, at, actor, key_id, source, action, experiment_id, outcome, detail FROM audit_log
WHERE (%(experiment)s::text IS NULL OR experiment_id = %(experiment)s)
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
  AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
  AND (%(actor)s::text IS NULL OR actor = %(actor)s OR key_id = %(actor)s)
ORDER BY audit_id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Act:
    """An administrative act, and who asked for it."""

    #: Method of the API, or the command.
    action: str
    #: Name of the key, or the user of a command.
    actor: str
    #: Of the caller's key; empty where there is none.
    key_id: str = ""
    #: The address that it came from.
    source: str = COMMAND
    experiment_id: str = ""
    outcome: str = DONE
    reason: str = ""
    #: Pairs; never a secret, never a unit.
    detail: tuple[tuple[str, Any], ...] = ()

    def about(self, **detail: Any) -> "Act":
        """Return the same act with more detail."""
        return replace(self, detail=(*self.detail, *detail.items()))

    def row(self) -> tuple[str, ...]:
        """Return its columns."""
        told = {**dict(self.detail), **({"reason": self.reason} if self.reason else {})}
        document = json.dumps(told)
        return (self.actor, self.key_id, self.source, self.action, self.experiment_id, self.outcome, document)


class AuditRow(NamedTuple):
    """An act, as it is kept."""

    audit_id: int
    at: datetime
    actor: str
    key_id: str
    source: str
    action: str
    experiment_id: str
    outcome: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Search:
    """Which acts are asked for; None is any."""

    experiment_id: str | None = None
    since: datetime | None = None
    outcome: str | None = None
    #: Name or id of a key, or a user.
    actor: str | None = None
    limit: int = 100


def record(connection: psycopg.Connection[Any], act: Act) -> None:
    """Write an act, in the transaction of what was done."""
    connection.execute(_INSERT, act.row())


def experiment_of(connection: psycopg.Connection[Any], incarnation: int | None) -> str:
    """Return the id of an experiment; empty for none."""
    row = connection.execute("SELECT experiment_id FROM experiments WHERE incarnation = %s", (incarnation,)).fetchone()
    return "" if row is None else str(row[0])


async def record_async(connection: psycopg.AsyncConnection[Any], act: Act) -> None:
    """As `record`."""
    await connection.execute(_INSERT, act.row())


def search(connection: psycopg.Connection[Any], wanted: Search) -> Sequence[AuditRow]:
    """Return acts, the newest first. Raises StorageError."""
    parameters = {
        "experiment": wanted.experiment_id,
        "since": wanted.since,
        "outcome": wanted.outcome,
        "actor": wanted.actor,
        "limit": wanted.limit,
    }
    with translated(), connection.transaction():
        return [AuditRow(*row) for row in connection.execute(_LIST, parameters)]
