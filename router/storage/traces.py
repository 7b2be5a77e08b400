"""What a unit is found by that is to be forgotten, what it is called afterwards, and whether the log has all of it yet."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

import psycopg

from router.storage.errors import translated
from router.storage.labels import new_label
from router.storage.shares import number_of
from router.tokens import TokenCodec, TokenKey

# The oldest first: it names units.
_KEYS = "SELECT key_id, secret FROM token_keys ORDER BY created_at, key_id"

_STORED_DECISIONS = "SELECT decision_key FROM decisions WHERE decision_day = %s AND decision_key = ANY(%s)"
_STORED_EVENTS = """
SELECT count(*) FROM unnest(%s::date[], %s::uuid[], %s::text[]) AS t (day, key, event_id)
JOIN LATERAL (SELECT 1 FROM events e WHERE e.decision_day = t.day AND e.decision_key = t.key AND e.event_id = t.event_id
              LIMIT 1) e ON true
"""


class Trace:
    """A unit that is to be forgotten, in one experiment or in all."""

    def __init__(self, connection: psycopg.Connection[Any], unit_id: str, incarnation: int | None) -> None:
        """`incarnation` is None for all experiments. Raises StorageError."""
        self.unit_id = unit_id
        self.incarnation = incarnation
        with translated(), connection.transaction():
            keys = [TokenKey(key_id, bytes(secret)) for key_id, secret in connection.execute(_KEYS)]
            incarnations = [found for (found,) in connection.execute("SELECT incarnation FROM experiments")]
        #: The ids of the keys that may have signed its decisions.
        self.key_ids = frozenset(key.key_id for key in keys)
        codecs = [TokenCodec(key, {}) for key in keys]
        #: What the unit is called where it has no name: its hash by every key there is.
        self.hashes = [codec.hash_id(unit_id) for codec in codecs]
        #: What it is called from now on: something else in each experiment, so that they cannot be joined.
        self.labels = {found: new_label() for found in incarnations}
        self._label_hashes = [codecs[0].hash_id(label) if codecs else bytes(8) for label in self.labels.values()]

    def is_of(self, incarnation: int) -> bool:
        """Whether it is to be forgotten in this experiment."""
        return self.incarnation in (None, incarnation)

    def label_of(self, incarnation: int) -> str:
        """Return what it is called in an experiment, which the database need not have any more."""
        return self.labels.get(incarnation) or new_label()

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What statements name it by."""
        return {
            "unit": self.unit_id,
            "incarnation": self.incarnation,
            "hashes": self.hashes,
            "hex_hashes": [found.hex() for found in self.hashes],
            "numbers": [number_of(found) for found in self.hashes],
            "incarnations": list(self.labels),
            "labels": list(self.labels.values()),
            "label_hashes": self._label_hashes,
            "label_numbers": [number_of(found) for found in self._label_hashes],
        }


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
