"""Transitions: the log of what changed in each experiment and its ramp, with who and why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg

from router.storage.times import time_of

_LAST_ID = 2**63 - 1

_INSERT = """
INSERT INTO transitions (incarnation, transition_at, kind, from_value, to_value, actor, reason, assessment)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""

_PAGE = """
SELECT transition_id, transition_at, kind, from_value, to_value, actor, reason, assessment
FROM transitions WHERE incarnation = %s AND transition_id < %s ORDER BY transition_id DESC LIMIT %s
"""


class Kind(StrEnum):
    """What can change; the names of the proto's Transition.Kind without its prefix."""

    DEFINITION = "definition"
    STATE = "state"
    RAMP = "ramp"
    VERDICT = "verdict"
    IMPORT = "import"
    ERASURE = "erasure"


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes something, when and why."""

    #: Microseconds since the epoch.
    at_us: int
    #: Empty if it is not known.
    actor: str = ""
    reason: str = ""


class TransitionRow(NamedTuple):
    """A change, as it is kept."""

    transition_id: int
    at: datetime
    kind: str
    from_value: str
    to_value: str
    actor: str
    reason: str
    #: RampAssessment in protobuf JSON; None for what people ask for.
    assessment: Mapping[str, Any] | None


async def record(
    connection: psycopg.AsyncConnection[Any],
    incarnation: int,
    kind: Kind,
    from_value: str,
    to_value: str,
    change: Change,
    assessment: Mapping[str, Any] | None = None,
) -> None:
    """Write a transition, in the transaction of what it tells of."""
    document = None if assessment is None else json.dumps(dict(assessment))
    values = (incarnation, time_of(change.at_us), kind, from_value, to_value, change.actor, change.reason, document)
    await connection.execute(_INSERT, values)


async def read_page(
    connection: psycopg.AsyncConnection[Any], incarnation: int, before: int | None, limit: int
) -> list[TransitionRow]:
    """Return up to `limit` transitions of an experiment, newest first: those with an id below `before`, if given."""
    cursor = await connection.execute(_PAGE, (incarnation, _LAST_ID if before is None else before, limit))
    return [TransitionRow(*row) for row in await cursor.fetchall()]
