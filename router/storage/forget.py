"""Forgetting a unit: its identifiers are erased wherever they stand, and what was learned from it stays.

What the evidence rests on is not touched: arms, propensities, policy versions, event ids, ranks, rewards, outcomes. So sums
and replay are the same before and after, to the last digit.

In the place of the unit's name and hash its rows get a label (`router.storage.labels`), so that they stay those of one unit.
With their label they keep what was taken of its shares: silence counts no more for having been forgotten. What was taken
under the unit's own hash is erased: a unit that comes back is a new one, with a whole share. What had counted of it stays,
and corrects as before.

Protocol
    A day of decisions goes in one transaction, with all that hangs on them: events, comparisons, judgments, and the label's
    shares. The rest follows in a last one, with the records in `transitions` and the audit log, which do not name the unit.
    A crash in between leaves nothing half erased, and the next run goes on, under another label. Days that retention has
    closed are left to it: they are about to be dropped.
"""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

import psycopg

from router.storage import audit
from router.storage.audit import Act
from router.storage.errors import MissingPartitionError, translated
from router.storage.sticky import STICKY_CHANNEL
from router.storage.traces import Trace
from router.storage.transitions import Kind

_OF_EXPERIMENT = "(%(incarnation)s::int8 IS NULL OR incarnation = %(incarnation)s)"
_OF_UNIT = f"unit_id = %(unit)s AND {_OF_EXPERIMENT}"
_BY_KEY, _BY_HASH = "decision_key = ANY(%(keys)s)", "unit_hash = ANY(%(hashes)s)"
# Metadata has the unit's hash beside it: its decision may never have reached the log.
_BY_METADATA = f"details ->> 'unit_hash' = ANY(%(hex_hashes)s) AND {_OF_EXPERIMENT}"

# Of an experiment that was made meanwhile there is no label.
_LABEL = """
coalesce((SELECT l.label FROM unnest(%(incarnations)s::int8[], %(labels)s::text[]) l (of, label)
          WHERE l.of = incarnation), '')
"""
_LABEL_HASH = """
(SELECT l.hash FROM unnest(%(incarnations)s::int8[], %(label_hashes)s::bytea[]) l (of, hash)
 WHERE l.of = {incarnation} AND unit_hash IS NOT NULL)
"""

_DAYS = f"""
SELECT decision_day, incarnation FROM decisions WHERE {_OF_UNIT}
UNION
SELECT decision_day, incarnation FROM events WHERE {_BY_METADATA}
ORDER BY 1
"""

_DECISIONS = f"""
UPDATE decisions SET unit_id = {_LABEL}, session_id = '', turn_id = '', request_id = '', prompt_fingerprint = ''
WHERE decision_day = %(day)s AND {_OF_UNIT} RETURNING decision_key
"""

# Whoever has the hash of what was sent, and the key, could try one phone number after the other.
_EVENTS = """
UPDATE events SET details = nullif(details - '{{metadata,unit_hash}}'::text[], '{{}}'::jsonb), content = ''
WHERE decision_day = %(day)s AND {which} AND details ? 'metadata'
"""

_EVENT_IDS = """
SELECT count(*) FROM events
WHERE decision_day = %(day)s AND decision_key = ANY(%(keys)s) AND strpos(event_id, %(unit)s) > 0
"""

# Copied: while days are left that have the unit's name, what was taken holds for both. Taken from under the name at last.
_LABEL_SHARES = """
INSERT INTO unit_shares (unit_hash, incarnation, share_day, n)
SELECT l.hash, s.incarnation, s.share_day, max(s.n)
FROM unnest(%(incarnations)s::int8[], %(label_numbers)s::int8[]) l (of, hash)
JOIN unit_shares s ON s.incarnation = l.of AND s.unit_hash = ANY(%(numbers)s)
JOIN (SELECT DISTINCT incarnation FROM decisions WHERE decision_day = %(day)s AND decision_key = ANY(%(keys)s)) d
     ON d.incarnation = s.incarnation
WHERE s.share_day IN (%(day)s, '-infinity')
GROUP BY 1, 2, 3
ON CONFLICT (unit_hash, incarnation, share_day) DO UPDATE SET n = greatest(unit_shares.n, excluded.n)
"""

# By the decision, or by the hash of the unit: the decision may be gone, or may never have reached the log.
_COMPARISONS = f"""
UPDATE shadow_comparisons
SET unit_hash = {_LABEL_HASH.format(incarnation="incarnation")}, request_id = '', prompt = NULL, serving_text = NULL,
    shadow_text = NULL, serving_provider_request_id = '', shadow_provider_request_id = ''
WHERE {{which}} AND {_OF_EXPERIMENT}
  AND (unit_hash, request_id, prompt, serving_text, shadow_text, serving_provider_request_id, shadow_provider_request_id)
      IS DISTINCT FROM (NULL, '', NULL, NULL, NULL, '', '')
RETURNING incarnation
"""
_JUDGMENTS = f"""
UPDATE judgments j SET unit_hash = {_LABEL_HASH.format(incarnation="r.incarnation")}, reason = NULL
FROM judge_runs r
WHERE r.run_id = j.run_id AND {{which}} AND (%(incarnation)s::int8 IS NULL OR r.incarnation = %(incarnation)s)
  AND (j.unit_hash IS NOT NULL OR j.reason IS NOT NULL)
RETURNING r.incarnation
"""

# Days that are closed too: nothing else is left of the unit there.
_SHARES = f"""
DELETE FROM unit_shares WHERE unit_hash = ANY(%(numbers)s) AND {_OF_EXPERIMENT} RETURNING incarnation
"""
_STICKY = f"DELETE FROM sticky_assignments WHERE {_OF_UNIT} RETURNING incarnation"
_INTERLEAVINGS = f"UPDATE interleavings SET unit_id = {_LABEL} WHERE {_OF_UNIT} RETURNING incarnation"

_TELL = "SELECT pg_notify(%s, json_build_array(%s::int8, %s::text)::text)"

_RECORD = """
INSERT INTO transitions (incarnation, transition_at, kind, from_value, to_value, actor, reason)
VALUES (%s, clock_timestamp(), %s, '', '', %s, %s)
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


def erase(connection: psycopg.Connection[Any], trace: Trace, actor: str, reason: str, *, dry_run: bool = False) -> Forgotten:
    """Erase a unit's identifiers; `reason` must not name it. Running it again changes nothing.

    Covers what Postgres has: what waits in a spool is stored with its identifiers later. `dry_run` undoes every step.
    Raises StorageError: then some days may be done, and the next run does the others.
    """
    # One transaction around all of them: what one step finds, another must not find again.
    with translated(), connection.transaction(force_rollback=True) if dry_run else nullcontext():
        return _erase(connection, trace, actor, reason)


def _erase(connection: psycopg.Connection[Any], trace: Trace, actor: str, reason: str) -> Forgotten:
    of_unit = trace.parameters
    erased, closed, event_ids = Erased(), [], 0
    touched: set[int] = set()
    with connection.transaction():
        days: defaultdict[date, set[int]] = defaultdict(set)
        for day, incarnation in connection.execute(_DAYS, of_unit):
            days[day].add(incarnation)
    for day, incarnations in days.items():
        try:
            with translated(), connection.transaction():
                event_ids += _erase_day(connection, {**of_unit, "day": day}, erased)
        except MissingPartitionError:
            closed.append(day)
        else:
            touched |= incarnations
    with connection.transaction():
        touched |= _erase_the_rest(connection, of_unit, erased)
        for incarnation in sorted(touched):
            connection.execute(_RECORD, (incarnation, Kind.ERASURE, actor, reason))
        about = audit.experiment_of(connection, trace.incarnation)
        audit.record(connection, Act("forget", actor, experiment_id=about, reason=reason).about(**asdict(erased)))
    return Forgotten(erased, tuple(closed), event_ids)


def _erase_day(connection: psycopg.Connection[Any], of_day: Mapping[str, Any], erased: Erased) -> int:
    """Erase the decisions of a day, and what hangs on them; returns how many event ids hold the unit's."""
    keys = [key for (key,) in connection.execute(_DECISIONS, of_day)]
    of_day = {**of_day, "keys": keys}
    by_key = connection.execute(_EVENTS.format(which=_BY_KEY), of_day).rowcount
    by_metadata = connection.execute(_EVENTS.format(which=_BY_METADATA), of_day).rowcount
    comparisons = connection.execute(_COMPARISONS.format(which=_BY_KEY), of_day).rowcount
    judgments = connection.execute(_JUDGMENTS.format(which=f"j.{_BY_KEY}"), of_day).rowcount
    row = connection.execute(_EVENT_IDS, of_day).fetchone()
    connection.execute(_LABEL_SHARES, of_day)
    # Counted only once nothing of the day was refused.
    erased.decisions += len(keys)
    erased.events += by_key + by_metadata
    erased.shadow_comparisons += comparisons
    erased.judgments += judgments
    return int(row[0]) if row else 0


def _erase_the_rest(connection: psycopg.Connection[Any], parameters: Mapping[str, Any], erased: Erased) -> set[int]:
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
