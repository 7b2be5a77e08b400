"""Forgetting a unit: its identifiers are erased wherever they stand, and what was learned from it stays.

What the evidence rests on is not touched: arms, propensities, policy versions, event ids, ranks, rewards, outcomes. So sums
and replay are the same before and after, to the last digit.

How much of its shares the unit had taken is kept under its hash, and erased: whoever cannot be recognised cannot be counted
on. A unit that comes back is a new one, with a whole share. What had counted of it stays, and corrects as before.

Protocol
    A day of decisions goes in one transaction, with all that hangs on them: events, comparisons, judgments. The rest follows
    in a last one, with the records in `transitions` and the audit log, which do not name the unit. A crash in between leaves
    nothing half erased, and the next run goes on. Days that retention has closed are left to it: they are about to be
    dropped.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any
from uuid import UUID

import psycopg

from router.storage import audit
from router.storage.audit import Act
from router.storage.errors import MissingPartitionError, translated
from router.storage.shares import number_of
from router.storage.sticky import STICKY_CHANNEL
from router.storage.transitions import Kind
from router.tokens import TokenCodec, TokenKey

_OF_UNIT = "unit_id = %(unit)s AND (%(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s)"

_DAYS = f"SELECT decision_day, incarnation FROM decisions WHERE {_OF_UNIT} GROUP BY 1, 2 ORDER BY 1"

_DECISIONS = f"""
UPDATE decisions SET unit_id = '', session_id = '', turn_id = '', request_id = '', prompt_fingerprint = ''
WHERE decision_day = %(day)s AND {_OF_UNIT} RETURNING decision_key
"""

_EVENTS = """
UPDATE events SET details = nullif(details - 'metadata', '{}'::jsonb)
WHERE decision_day = %(day)s AND decision_key = ANY(%(keys)s) AND details ? 'metadata'
"""

_EVENT_IDS = """
SELECT count(*) FROM events
WHERE decision_day = %(day)s AND decision_key = ANY(%(keys)s) AND strpos(event_id, %(unit)s) > 0
"""

# By the decision, or by the hash of the unit: the decision may be gone, or may never have reached the log.
_COMPARISONS = """
UPDATE shadow_comparisons
SET unit_hash = NULL, request_id = '', prompt = NULL, serving_text = NULL, shadow_text = NULL,
    serving_provider_request_id = '', shadow_provider_request_id = ''
WHERE {which} AND (%(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s)
  AND (unit_hash, request_id, prompt, serving_text, shadow_text, serving_provider_request_id, shadow_provider_request_id)
      IS DISTINCT FROM (NULL, '', NULL, NULL, NULL, '', '')
RETURNING incarnation
"""
_JUDGMENTS = """
UPDATE judgments j SET unit_hash = NULL, reason = NULL
FROM judge_runs r
WHERE r.run_id = j.run_id AND {which} AND (%(incarnation)s::int8 IS NULL OR r.incarnation = %(incarnation)s)
  AND (j.unit_hash IS NOT NULL OR j.reason IS NOT NULL)
RETURNING r.incarnation
"""
_BY_KEY, _BY_HASH = "decision_key = ANY(%(keys)s)", "unit_hash = ANY(%(hashes)s)"

# Days that are closed too: nothing else is left of the unit there.
_SHARES = """
DELETE FROM unit_shares
WHERE unit_hash = ANY(%(numbers)s) AND (%(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s)
RETURNING incarnation
"""
_STICKY = f"DELETE FROM sticky_assignments WHERE {_OF_UNIT} RETURNING incarnation"
_INTERLEAVINGS = f"UPDATE interleavings SET unit_id = '' WHERE {_OF_UNIT} RETURNING incarnation"

_TELL = "SELECT pg_notify(%s, json_build_array(%s::int8, %s::text)::text)"

_RECORD = """
INSERT INTO transitions (incarnation, transition_at, kind, from_value, to_value, actor, reason)
VALUES (%s, clock_timestamp(), %s, '', '', %s, %s)
"""

_STORED_DECISIONS = "SELECT decision_key FROM decisions WHERE decision_day = %s AND decision_key = ANY(%s)"
_STORED_EVENTS = """
SELECT count(*) FROM unnest(%s::date[], %s::uuid[], %s::text[]) AS t (day, key, event_id)
JOIN LATERAL (SELECT 1 FROM events e WHERE e.decision_day = t.day AND e.decision_key = t.key AND e.event_id = t.event_id
              LIMIT 1) e ON true
"""


@dataclass(slots=True)
class Erased:
    """Rows in which something was erased, or would be."""

    decisions: int = 0
    #: Events with metadata.
    events: int = 0
    shadow_comparisons: int = 0
    judgments: int = 0
    sticky_assignments: int = 0
    interleavings: int = 0
    #: What was counted of the unit's shares.
    unit_shares: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of a unit."""

    erased: Erased
    #: Days that were left to retention, which has closed them.
    closed_days: tuple[date, ...]
    #: Events whose own id holds the unit's: it decides ties, and stays.
    event_ids: int


class Trace:
    """A unit, and what to find it by."""

    def __init__(self, connection: psycopg.Connection[Any], unit_id: str, incarnation: int | None) -> None:
        """`incarnation` is None for all experiments. Raises StorageError."""
        self.unit_id = unit_id
        self.incarnation = incarnation
        with translated(), connection.transaction():
            keys = connection.execute("SELECT key_id, secret FROM token_keys").fetchall()
        #: What the unit is called where it has no name: its hash by every key there is.
        self.hashes = [TokenCodec(TokenKey(key_id, bytes(secret)), {}).hash_id(unit_id) for key_id, secret in keys]


def erase(connection: psycopg.Connection[Any], trace: Trace, actor: str, reason: str, *, dry_run: bool = False) -> Forgotten:
    """Erase a unit's identifiers; `reason` must not name it. Running it again changes nothing.

    Covers what Postgres has: what waits in a spool is stored with its identifiers later. `dry_run` undoes every step.
    Raises StorageError: then some days may be done, and the next run does the others.
    """
    # One transaction around all of them: what one step finds, another must not find again.
    with translated(), connection.transaction(force_rollback=True) if dry_run else nullcontext():
        return _erase(connection, trace, actor, reason)


def _erase(connection: psycopg.Connection[Any], trace: Trace, actor: str, reason: str) -> Forgotten:
    of_unit = {"unit": trace.unit_id, "incarnation": trace.incarnation}
    erased, closed, event_ids = Erased(), [], 0
    touched: set[int] = set()
    with connection.transaction():
        days: defaultdict[date, set[int]] = defaultdict(set)
        for day, incarnation in connection.execute(_DAYS, of_unit):
            days[day].add(incarnation)
    for day, incarnations in days.items():
        try:
            with translated(), connection.transaction():
                event_ids += _erase_day(connection, day, of_unit, erased)
        except MissingPartitionError:
            closed.append(day)
        else:
            touched |= incarnations
    with connection.transaction():
        touched |= _erase_the_rest(
            connection, {**of_unit, "hashes": trace.hashes, "numbers": [number_of(h) for h in trace.hashes]}, erased
        )
        for incarnation in sorted(touched):
            connection.execute(_RECORD, (incarnation, Kind.ERASURE, actor, reason))
        about = audit.experiment_of(connection, trace.incarnation)
        audit.record(connection, Act("forget", actor, experiment_id=about, reason=reason).about(**asdict(erased)))
    return Forgotten(erased, tuple(closed), event_ids)


def _erase_day(connection: psycopg.Connection[Any], day: date, of_unit: dict[str, Any], erased: Erased) -> int:
    """Erase the decisions of a day, and what hangs on them; returns how many event ids hold the unit's."""
    keys = [key for (key,) in connection.execute(_DECISIONS, {**of_unit, "day": day})]
    of_day = {**of_unit, "day": day, "keys": keys}
    erased.events += connection.execute(_EVENTS, of_day).rowcount
    erased.shadow_comparisons += connection.execute(_COMPARISONS.format(which=_BY_KEY), of_day).rowcount
    erased.judgments += connection.execute(_JUDGMENTS.format(which=f"j.{_BY_KEY}"), of_day).rowcount
    erased.decisions += len(keys)
    row = connection.execute(_EVENT_IDS, of_day).fetchone()
    return int(row[0]) if row else 0


def _erase_the_rest(connection: psycopg.Connection[Any], parameters: dict[str, Any], erased: Erased) -> set[int]:
    """Erase what hangs on no decision, and have the replicas forget the unit; returns the experiments it was of."""
    statements = {
        "sticky_assignments": _STICKY,
        "interleavings": _INTERLEAVINGS,
        "unit_shares": _SHARES,
        "shadow_comparisons": _COMPARISONS.format(which=_BY_HASH),
        "judgments": _JUDGMENTS.format(which=f"j.{_BY_HASH}"),
    }
    touched: set[int] = set()
    for name, statement in statements.items():
        found = [incarnation for (incarnation,) in connection.execute(statement, parameters).fetchall()]
        setattr(erased, name, getattr(erased, name) + len(found))
        touched.update(found)
        if statement is _STICKY:
            # Heard at the commit. A unit that comes back is drawn anew.
            for incarnation in found:
                connection.execute(_TELL, (STICKY_CHANNEL, incarnation, parameters["unit"]))
    return touched


def deployment_of(connection: psycopg.Connection[Any]) -> str:
    """Return the id of the database, which names the spool's directory."""
    with translated(), connection.transaction():
        row = connection.execute("SELECT deployment_id FROM deployment").fetchone()
    assert row is not None  # noqa: S101 - a migration wrote it
    return str(row[0])


def lacking(
    connection: psycopg.Connection[Any], decisions: Sequence[tuple[date, bytes]], events: Sequence[tuple[date, bytes, str]]
) -> int:
    """Return how many of these decisions and events the log has not got, and may still get: their days are kept."""
    with translated(), connection.transaction():
        row = connection.execute("SELECT kept_from FROM retention").fetchone()
        kept_from = row[0] if row is not None and row[0] is not None else date.min
        days = defaultdict(list)
        for day, key in decisions:
            if day >= kept_from:
                days[day].append(UUID(bytes=key))
        missing = sum(
            len(keys) - len(connection.execute(_STORED_DECISIONS, (day, keys)).fetchall()) for day, keys in days.items()
        )
        kept = [event for event in events if event[0] >= kept_from]
        if kept:
            of_days, keys, event_ids = (list(column) for column in zip(*kept, strict=True))
            stored = connection.execute(_STORED_EVENTS, (of_days, [UUID(bytes=key) for key in keys], event_ids)).fetchone()
            missing += len(kept) - (stored[0] if stored else 0)
    return missing
