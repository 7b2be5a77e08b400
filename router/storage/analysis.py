"""Readings for data scientists: rows of the logs, a stretch of a day's partition at a time, column by column.

Each column of a stretch travels as one value: the values' own bytes one after the other, and for texts their lengths
besides. So neither side handles single rows, and memory is bounded by the stretch. Needs nothing but SELECT.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.string import ByteaBinaryLoader

from router.experiment import Definition
from router.storage.connecting import DatabaseUrl, connect
from router.storage.errors import translated
from router.storage.experiments import BY_INCARNATION, definition_of


class Kind(Enum):
    """How a value travels: its type in Postgres, and the value that stands for null."""

    UUID = ("uuid", None)
    TIME = ("timestamptz", "'-infinity'")
    DAY = ("date", None)
    SMALLINT = ("int2", "-32768")
    INTEGER = ("int4", "-2147483648")
    BIGINT = ("int8", "-9223372036854775808")
    DOUBLE = ("float8", "'NaN'")
    FLAG = ("bool", None)
    TEXT = ("text", None)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a log."""

    name: str
    kind: Kind
    #: SQL that gives it.
    value: str
    nullable: bool = False

    @property
    def selected(self) -> str:
        """The SQL of its values in one: `decoded` tells how many values a column takes."""
        if self.kind is Kind.TEXT:
            length = f"coalesce(octet_length({self.value}), -1)" if self.nullable else f"octet_length({self.value})"
            return f"string_agg(int4send({length}), ''), coalesce(string_agg({self.value}, ''), '')"
        name, null = self.kind.value
        send = {
            "uuid": "uuid_send",
            "timestamptz": "timestamptz_send",
            "date": "date_send",
            "int2": "int2send",
            "int4": "int4send",
            "int8": "int8send",
            "float8": "float8send",
            "bool": "boolsend",
        }[name]
        value = f"coalesce({self.value}, {null})" if self.nullable else self.value
        return f"string_agg({send}({value}), '')"


@dataclass(frozen=True, slots=True)
class Log:
    """A partitioned table, and what is read of it."""

    table: str
    columns: tuple[Column, ...]
    #: SQL behind the table, which is `t`.
    joined: str
    #: SQL of the time of the decision.
    decided_at: str
    #: Pages of the table, of 8 KiB, that are read at once.
    pages: int


_DECISIONS = (
    Column("decision_key", Kind.UUID, "t.decision_key"),
    Column("decided_at", Kind.TIME, "t.decided_at"),
    Column("arm", Kind.SMALLINT, "t.arm"),
    Column("propensity", Kind.DOUBLE, "t.propensity"),
    Column("policy_version", Kind.BIGINT, "t.policy_version"),
    Column("reason", Kind.TEXT, "t.reason"),
    Column("unit_id", Kind.TEXT, "t.unit_id"),
    Column("session_id", Kind.TEXT, "t.session_id"),
    Column("turn_id", Kind.TEXT, "t.turn_id"),
    Column("request_id", Kind.TEXT, "t.request_id"),
    Column("segment", Kind.TEXT, "t.segment"),
    Column("prompt_fingerprint", Kind.TEXT, "t.prompt_fingerprint"),
    Column("prompt_similarity", Kind.DOUBLE, "t.prompt_similarity", nullable=True),
    Column("allocation_id", Kind.UUID, "t.allocation_id"),
)

_EVENTS = (
    Column("decision_key", Kind.UUID, "t.decision_key"),
    Column("event_id", Kind.TEXT, "t.event_id"),
    Column("decided_at", Kind.TIME, "t.decided_at"),
    Column("occurred_at", Kind.TIME, "t.occurred_at"),
    Column("received_at", Kind.TIME, "t.received_at"),
    Column("arm", Kind.SMALLINT, "t.arm"),
    Column("kind", Kind.TEXT, "t.kind"),
    # Rows of the first release have the name in details.
    Column("signal", Kind.TEXT, "coalesce(t.signal, t.details ->> 'signal')", nullable=True),
    Column("reward", Kind.DOUBLE, "t.reward_micros / 1e6::float8", nullable=True),
    Column("status", Kind.TEXT, "t.status"),
    Column("rank", Kind.SMALLINT, "t.rank"),
    Column("reward_rule_version", Kind.INTEGER, "t.reward_rule_version"),
    Column("policy_version", Kind.BIGINT, "t.policy_version"),
    Column("applied_version", Kind.BIGINT, "t.applied_version", nullable=True),
    Column("details", Kind.TEXT, "t.details::text", nullable=True),
)

_OUTCOMES = (
    Column("decision_key", Kind.UUID, "t.decision_key"),
    Column("decided_at", Kind.TIME, "e.decided_at", nullable=True),
    Column("arm", Kind.SMALLINT, "t.arm"),
    Column("reward", Kind.DOUBLE, "t.reward_micros / 1e6::float8"),
    Column("occurred_at", Kind.TIME, "t.occurred_at"),
    Column("event_id", Kind.TEXT, "t.event_id"),
    Column("waits", Kind.FLAG, "coalesce(t.decided_at > v.matured_to, false)"),
)

# LATERAL with a LIMIT: the events are looked up one by one, not hashed by the day for every stretch of it.
_OF_OUTCOMES = """
CROSS JOIN (SELECT matured_to FROM policy_versions WHERE incarnation = %(incarnation)s) v
LEFT JOIN LATERAL (SELECT decided_at FROM events e WHERE e.decision_day = t.decision_day
                   AND e.decision_key = t.decision_key AND e.event_id = t.event_id LIMIT 1) e ON true
"""

#: By the name of the table.
LOGS: Mapping[str, Log] = {
    "decisions": Log("decisions", _DECISIONS, "", "t.decided_at", 256),
    "events": Log("events", _EVENTS, "", "t.decided_at", 128),
    "outcomes": Log("outcomes", _OUTCOMES, _OF_OUTCOMES, "e.decided_at", 256),
}

_STRETCH = """
SELECT count(*), {columns} FROM {table} t {joined}
WHERE t.decision_day = %(day)s AND t.ctid >= %(first)s::tid AND t.ctid < %(last)s::tid AND t.incarnation = %(incarnation)s
  AND ({decided_at} IS NULL OR ({decided_at} >= %(start)s AND {decided_at} < %(end)s))
"""

_PARTITIONS = """
SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), pg_relation_size(c.oid) / current_setting('block_size')::int8
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(%(table)s) AND c.relname ~ ('^' || %(table)s || '_[0-9]{8}$')
  AND to_date(right(c.relname, 8), 'YYYYMMDD') BETWEEN %(first)s AND %(last)s
ORDER BY 1
"""

_ARMS = "SELECT arm, arm_id, version, model FROM arms WHERE incarnation = %s ORDER BY arm"
_ALLOCATIONS = "SELECT allocation_id, arms, probabilities FROM allocations WHERE allocation_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class ReadArm:
    """An arm of an experiment, of any version."""

    number: int
    arm_id: str
    version: int
    model: str


@dataclass(frozen=True, slots=True)
class Read:
    """An experiment that is read."""

    incarnation: int
    experiment_id: str
    arms: tuple[ReadArm, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rows of a log: their number, and for each column the bytes of its values, big endian, one after the other.

    Of a text these are the lengths (int4, -1 for null), and then the texts.
    """

    rows: int
    values: Mapping[str, tuple[bytes, ...]]


class Reading:
    """A database that is read from one state throughout. Raises StorageError."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        """The connection is in a read-only transaction: see `reading`."""
        self._connection = connection

    def experiment(self, experiment_id: str) -> Read | None:
        """Return an experiment with the arms it ever had, None if there is none of this id."""
        with translated():
            found = self._connection.execute(
                "SELECT incarnation FROM experiments WHERE experiment_id = %s", (experiment_id,)
            ).fetchone()
            if found is None:
                return None
            arms = self._connection.execute(_ARMS, found).fetchall()
        return Read(found[0], experiment_id, tuple(ReadArm(*arm) for arm in arms))

    def definition(self, of: Read) -> Definition:
        """Return the definition of an experiment as it is now."""
        with translated(), self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(BY_INCARNATION, (of.incarnation,)).fetchone()
        if row is None:
            raise LookupError(f"experiment {of.experiment_id!r} is not in the database that it was read from")
        return definition_of(row)

    def experiment_ids(self) -> list[str]:
        """Return the ids of all experiments."""
        with translated():
            rows = self._connection.execute("SELECT experiment_id FROM experiments ORDER BY 1").fetchall()
        return [name for (name,) in rows]

    def days(self, log: Log, first: date = date.min, last: date = date.max) -> list[tuple[date, int]]:
        """Return the days that have a partition, of `first` to `last`, oldest first, with its pages."""
        with translated():
            rows = self._connection.execute(_PARTITIONS, {"table": log.table, "first": first, "last": last}).fetchall()
        return [(day, pages) for day, pages in rows]

    def stretches(
        self, log: Log, of: Read, day: date, pages: int, start: datetime | None = None, end: datetime | None = None
    ) -> Iterator[Stretch]:
        """Give the rows of one day whose decision was made in [start, end), in no particular order."""
        columns = ", ".join(column.selected for column in log.columns)
        statement = _STRETCH.format(columns=columns, table=log.table, joined=log.joined, decided_at=log.decided_at)
        for first in range(0, pages, log.pages):
            parameters = {
                "incarnation": of.incarnation,
                "day": day,
                "first": f"({first},0)",
                "last": f"({first + log.pages},0)",
                "start": start or "-infinity",
                "end": end or "infinity",
            }
            with translated(), self._connection.cursor(binary=True) as cursor:
                # Texts are wanted as the bytes that they travel as.
                cursor.adapters.register_loader("text", ByteaBinaryLoader)
                row = cursor.execute(statement, parameters, prepare=False).fetchone()
            if row is not None and row[0]:
                values = iter(row[1:])
                yield Stretch(
                    row[0],
                    {
                        c.name: (next(values),) if c.kind is not Kind.TEXT else (next(values), next(values))
                        for c in log.columns
                    },
                )

    def allocations(self, ids: Sequence[bytes]) -> dict[bytes, tuple[list[int], list[float]]]:
        """Return vectors that decisions were drawn from, by id: the numbers of the arms, and their probabilities."""
        with translated(), self._connection.cursor(binary=True) as cursor:
            rows = cursor.execute(_ALLOCATIONS, ([UUID(bytes=i) for i in ids],)).fetchall()
        return {found.bytes: (arms, probabilities) for found, arms, probabilities in rows}

    def all(self, query: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows of a query of this package that has few."""
        with translated():
            return self._connection.execute(query, parameters).fetchall()

    def rows(self, query: str, parameters: Mapping[str, object], at_once: int = 10_000) -> Iterator[list[tuple[Any, ...]]]:
        """Give the rows of one of the queries below, some at a time."""
        with translated(), self._connection.cursor("analysis") as cursor:
            cursor.execute(query, parameters)
            while found := cursor.fetchmany(at_once):
                yield found


#: By the posterior of an arm at a snapshot, of all traffic and then of segments: %(experiment_id)s, %(start)s, %(end)s.
SNAPSHOTS = """
SELECT '' AS segment, policy_version, taken_at, arm_id, arm_version, active, alpha, beta, n, mean, probability_best,
       expected_loss, allocation, matured_to
FROM posterior_history
WHERE experiment_id = %(experiment_id)s AND taken_at >= %(start)s AND taken_at < %(end)s
UNION ALL
SELECT segment, policy_version, taken_at, arm_id, arm_version, active, alpha, beta, n, mean, probability_best,
       expected_loss, allocation, matured_to
FROM posterior_segments
WHERE experiment_id = %(experiment_id)s AND taken_at >= %(start)s AND taken_at < %(end)s
ORDER BY taken_at, policy_version, segment, arm_id, arm_version
"""

#: By arm and day: %(experiment_id)s, %(first)s, %(last)s.
METRICS = """
SELECT day, arm_id, arm_version, holdout, interactions, covered, retries, rephrases, abandonments, follow_ups, completions,
       outcomes, mean_reward
FROM arm_metrics
WHERE experiment_id = %(experiment_id)s AND day >= %(first)s AND day <= %(last)s
ORDER BY day, arm_id, arm_version, holdout
"""

#: By shadow comparison: %(incarnation)s, %(start)s, %(end)s, %(text)s.
COMPARISONS = """
SELECT c.decision_key::text, c.decided_at, c.recorded_at, a.arm_id, a.version, s.arm_id, s.version, c.text_mode,
       CASE WHEN %(text)s THEN c.prompt END, CASE WHEN %(text)s THEN c.serving_text END,
       CASE WHEN %(text)s THEN c.shadow_text END,
       c.serving_model, c.serving_latency_us / 1e3::float8, c.serving_input_tokens, c.serving_output_tokens,
       c.serving_cost_usd, c.serving_error,
       c.shadow_model, c.shadow_latency_us / 1e3::float8, c.shadow_input_tokens, c.shadow_output_tokens, c.shadow_cost_usd,
       c.shadow_error
FROM shadow_comparisons c
JOIN arms a ON a.incarnation = c.incarnation AND a.arm = c.serving_arm
JOIN arms s ON s.incarnation = c.incarnation AND s.arm = c.shadow_arm
WHERE c.incarnation = %(incarnation)s AND c.decided_at >= %(start)s AND c.decided_at < %(end)s
ORDER BY c.decided_at, c.decision_key, c.shadow_arm
"""


@contextmanager
def reading(url: DatabaseUrl) -> Iterator[Reading]:
    """Connect, and see one state of the database. Days that are read are not dropped meanwhile. Raises StorageError."""
    connection = connect(url)
    try:
        yield from _reading(connection)
    finally:
        connection.close()


def _reading(connection: psycopg.Connection[Any]) -> Iterator[Reading]:
    with translated():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # Before the first reading: a day that is dropped in between would be gone.
        connection.execute("LOCK TABLE decisions, events, outcomes IN ACCESS SHARE MODE")
    yield Reading(connection)


def span_of(of: Read, start: datetime | None, end: datetime | None) -> dict[str, object]:
    """Return the parameters of a question about the decisions of [start, end), with the days that these are in."""
    return {
        "incarnation": of.incarnation,
        "start": start or "-infinity",
        "end": end or "infinity",
        "first": "-infinity" if start is None else start.astimezone(UTC).date(),
        "last": "infinity" if end is None else end.astimezone(UTC).date(),
    }
