"""Shadow comparisons: what was answered beside what was served, and what that costs a day.

Protocol
    A record is one statement: the comparison, unless this decision and arm have one, and then its cost, added to the sum of
    the day. So a record that is repeated is counted once, wherever the first one was cut off.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from router.storage.times import day_of, time_of

#: A page ends before it would exceed this, in bytes of text; it has one comparison at least.
_PAGE_BYTES = 8 * 1024 * 1024
#: Rows of dropped days that are deleted in one transaction.
_DELETED_AT_ONCE = 2_000

# Another version of the arm may have been in force when the decision was made: that one was called.
_TARGET = """
SELECT x.experiment_id, x.shadow, s.arm_id, a.arm, a.cost_usd
FROM experiments x
LEFT JOIN arms s ON s.incarnation = x.incarnation AND s.arm = %(serving_arm)s
LEFT JOIN LATERAL (
    SELECT arm, cost_usd FROM arms a
    WHERE a.incarnation = x.incarnation AND a.arm_id = %(arm_id)s
    ORDER BY (a.created_at <= %(decided_at)s AND coalesce(a.retired_at > %(decided_at)s, true)) DESC, a.active DESC,
             a.version DESC
    LIMIT 1
) a ON true
WHERE x.incarnation = %(incarnation)s
"""

_SPENT = "SELECT incarnation, cost_usd FROM shadow_spend WHERE incarnation = ANY(%s) AND day = %s"

# ctid: each transaction deletes what it found, however many there are.
_DELETE = """
DELETE FROM shadow_comparisons
WHERE ctid = ANY(ARRAY(SELECT ctid FROM shadow_comparisons
                       WHERE decision_day < (SELECT kept_from FROM retention) LIMIT %s))
"""


class AnswerRow(NamedTuple):
    """How one arm answered; None where it was not reported, or text is off."""

    text: str | None
    model: str
    stop_reason: str
    provider_request_id: str
    latency_us: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    #: The kind of failure; empty where the call succeeded.
    error: str


class ComparisonRow(NamedTuple):
    """A comparison, as it is kept."""

    decision_key: bytes
    #: Numbers of the arms.
    shadow_arm: int
    serving_arm: int
    decided_at_us: int
    recorded_at_us: int
    #: None without a unit.
    unit_hash: bytes | None
    request_id: str
    #: "full", "truncated" or "off".
    text_mode: str
    prompt: str | None
    serving: AnswerRow
    shadow: AnswerRow


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be known of an experiment before a comparison of it is stored."""

    experiment_id: str
    #: ShadowRule in protobuf JSON; empty where there is none.
    shadow: Mapping[str, Any]
    #: None if there is no arm of this number.
    serving_arm_id: str | None
    #: The version of the shadow arm that was called, or None if there is no arm of this id, and what a call costs.
    shadow_arm: int | None
    cost_usd: float | None


class Recorded(NamedTuple):
    """What became of a record."""

    #: Whether there was none of this decision and arm.
    new: bool
    #: US dollars of the experiment and the day with it; None if it is not new.
    spent_usd: float | None


_ANSWER = AnswerRow._fields
_COLUMNS = (
    *("decision_key", "shadow_arm", "serving_arm", "decided_at", "recorded_at", "unit_hash", "request_id", "text_mode"),
    *("prompt", *(f"serving_{name}" for name in _ANSWER), *(f"shadow_{name}" for name in _ANSWER)),
)
_NAMES = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))

_RECORD = sql.SQL("""
WITH stored AS (
    INSERT INTO shadow_comparisons (incarnation, decision_day, {names})
    VALUES (%s, %s, {values}) ON CONFLICT (decision_key, shadow_arm) DO NOTHING RETURNING 1
),
spent AS (
    INSERT INTO shadow_spend AS s (incarnation, day, cost_usd, calls) SELECT %s, %s, %s, 1 FROM stored
    ON CONFLICT (incarnation, day) DO UPDATE SET cost_usd = s.cost_usd + excluded.cost_usd, calls = s.calls + 1
    RETURNING s.cost_usd
)
SELECT (SELECT count(*) FROM stored), (SELECT cost_usd FROM spent)
""").format(names=_NAMES, values=sql.SQL(", ").join([sql.Placeholder()] * len(_COLUMNS)))

# Sizes are known without reading the texts, which the rows that are left out never need.
_PAGE = sql.SQL("""
SELECT found, (extract(epoch FROM decided_at) * 1000000)::bigint, (extract(epoch FROM recorded_at) * 1000000)::bigint,
       {names}
FROM (
    SELECT *, count(*) OVER () AS found, row_number() OVER ranked AS number, sum(bytes) OVER ranked AS total
    FROM (
        SELECT *, coalesce(octet_length(prompt), 0)::int8 + coalesce(octet_length(serving_text), 0)
               + coalesce(octet_length(shadow_text), 0) + 1000 AS bytes
        FROM shadow_comparisons
        WHERE incarnation = %(incarnation)s AND (decided_at, decision_key, shadow_arm) < (%(at)s, %(key)s, %(arm)s)
          AND (%(arms)s::int2[] IS NULL OR shadow_arm = ANY(%(arms)s))
        ORDER BY decided_at DESC, decision_key DESC, shadow_arm DESC LIMIT %(limit)s
    ) c
    WINDOW ranked AS (ORDER BY decided_at DESC, decision_key DESC, shadow_arm DESC)
) c
WHERE number = 1 OR total <= {bytes}
ORDER BY number
""").format(names=_NAMES, bytes=sql.Literal(_PAGE_BYTES))


async def read_target(
    connection: psycopg.AsyncConnection[Any], incarnation: int, serving_arm: int, arm_id: str, decided_at_us: int
) -> Target | None:
    """Return what the record of a decision rests on, as the experiment is now; None if it is gone."""
    values = {
        "incarnation": incarnation,
        "serving_arm": serving_arm,
        "arm_id": arm_id,
        "decided_at": time_of(decided_at_us),
    }
    row = await (await connection.execute(_TARGET, values)).fetchone()
    return None if row is None else Target(*row)


async def record(
    connection: psycopg.AsyncConnection[Any], incarnation: int, row: ComparisonRow, day: date, cost_usd: float
) -> Recorded:
    """Store a comparison and add its cost to the day, unless it is stored already."""
    values = (
        UUID(bytes=row.decision_key),
        row.shadow_arm,
        row.serving_arm,
        time_of(row.decided_at_us),
        time_of(row.recorded_at_us),
        row.unit_hash,
        row.request_id,
        row.text_mode,
        row.prompt,
        *row.serving,
        *row.shadow,
    )
    told = (incarnation, day_of(row.decided_at_us), *values, incarnation, day, cost_usd)
    found = await (await connection.execute(_RECORD, told)).fetchone()
    assert found is not None  # noqa: S101 - it has one row
    return Recorded(bool(found[0]), found[1])


async def read_page(
    connection: psycopg.AsyncConnection[Any],
    incarnation: int,
    arms: Sequence[int] | None,
    before: tuple[int, bytes, int] | None,
    limit: int,
) -> tuple[list[ComparisonRow], bool]:
    """Return up to `limit` comparisons, newest decision first, and whether there are more.

    Only of these shadow arms, if given, and only those behind `before`: time of the decision, its key, and shadow arm. A
    page with long texts has fewer.
    """
    behind: tuple[object, UUID, int] = ("infinity", UUID(int=0), 0)
    if before is not None:
        behind = (time_of(before[0]), UUID(bytes=before[1]), before[2])
    at, key, arm = behind
    values = {"incarnation": incarnation, "arms": arms, "at": at, "key": key, "arm": arm, "limit": limit + 1}
    rows = await (await connection.execute(_PAGE, values)).fetchall()
    found = [_comparison(*row[1:]) for row in rows[:limit]]
    return found, bool(rows) and rows[0][0] > len(found)


def _comparison(
    decided_at_us: int, recorded_at_us: int, key: UUID, shadow_arm: int, serving_arm: int, *rest: Any
) -> ComparisonRow:
    _, _, unit_hash, request_id, text_mode, prompt, *answers = rest
    return ComparisonRow(
        key.bytes,
        shadow_arm,
        serving_arm,
        decided_at_us,
        recorded_at_us,
        unit_hash,
        request_id,
        text_mode,
        prompt,
        AnswerRow(*answers[: len(_ANSWER)]),
        AnswerRow(*answers[len(_ANSWER) :]),
    )


async def read_spend(connection: psycopg.AsyncConnection[Any], incarnations: Collection[int], day: date) -> dict[int, float]:
    """Return the US dollars that shadow calls of these experiments cost on a day; nothing of those without any."""
    cursor = await connection.execute(_SPENT, (list(incarnations), day), prepare=True)
    return dict(await cursor.fetchall())


async def delete_dropped(connection: psycopg.AsyncConnection[Any]) -> int:
    """Delete the comparisons of days that are not kept any more, some at a time; returns how many there were."""
    total, deleted = 0, _DELETED_AT_ONCE
    while deleted == _DELETED_AT_ONCE:
        async with connection.transaction():
            deleted = (await connection.execute(_DELETE, (_DELETED_AT_ONCE,))).rowcount
        total += deleted
    return total
