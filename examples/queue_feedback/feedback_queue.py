"""A queue of feedback in Postgres: at least once, any number of readers, poison set aside.

A reader leases messages for a while. What it settles is gone. What it does not settle, because it died, comes again after
the lease. So a message may come more than once, and its reader must not mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback_queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body jsonb NOT NULL,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    -- When a reader may have it.
    available_at timestamptz NOT NULL DEFAULT now(),
    -- How often it was leased and not settled.
    attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS feedback_queue_available ON feedback_queue (available_at, id);
CREATE TABLE IF NOT EXISTS feedback_dead_letters (
    id bigint PRIMARY KEY,
    body jsonb NOT NULL,
    enqueued_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL
);
"""

# SKIP LOCKED: readers take different messages instead of waiting for each other.
_LEASE = """
UPDATE feedback_queue SET attempts = attempts + 1, available_at = now() + make_interval(secs => %(lease_s)s)
WHERE id IN (
    SELECT id FROM feedback_queue WHERE available_at <= now() ORDER BY available_at, id
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING id, body, enqueued_at, attempts
"""
_BURY = """
WITH gone AS (DELETE FROM feedback_queue WHERE id = %(id)s RETURNING id, body, enqueued_at)
INSERT INTO feedback_dead_letters (id, body, enqueued_at, reason) SELECT id, body, enqueued_at, %(reason)s FROM gone
"""
_RELEASE = """
UPDATE feedback_queue SET attempts = attempts - 1, available_at = now() + make_interval(secs => %(after_s)s)
WHERE id = ANY(%(ids)s)
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A leased message."""

    id: int
    body: Any
    #: ISO 8601 with its zone.
    enqueued_at: str
    #: 1 at the first time.
    attempts: int


class FeedbackQueue:
    """The queue, on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(SCHEMA)

    def put(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Add messages. An application does so in the transaction of what they are about."""
        with self._connection.cursor() as cursor:
            cursor.executemany("INSERT INTO feedback_queue (body) VALUES (%s)", [(Jsonb(body),) for body in bodies])

    def lease(self, limit: int, lease_s: float) -> list[Message]:
        """Take up to `limit` messages, which nobody else gets for so long."""
        rows = self._connection.execute(_LEASE, {"limit": limit, "lease_s": lease_s}).fetchall()
        return [Message(number, body, at.isoformat(), attempts) for number, body, at, attempts in sorted(rows)]

    def settle(self, ids: Iterable[int]) -> None:
        """Remove messages that are dealt with for good."""
        self._connection.execute("DELETE FROM feedback_queue WHERE id = ANY(%s)", (list(ids),))

    def release(self, ids: Iterable[int], after_s: float) -> None:
        """Give messages back, to be taken again after a while. That is no attempt: they are not at fault."""
        self._connection.execute(_RELEASE, {"ids": list(ids), "after_s": after_s})

    def bury(self, number: int, reason: str) -> None:
        """Set a message aside for people to look at."""
        self._connection.execute(_BURY, {"id": number, "reason": reason})

    def close(self) -> None:
        """Let go of the connection; leases run out by themselves."""
        self._connection.close()
