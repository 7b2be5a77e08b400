"""Decisions and the allocations they were drawn from, from the spool to Postgres: storing them twice changes nothing.

Decisions travel as binary COPY. It goes straight into the table, which costs Postgres half of what any INSERT does, as
long as none of them is there already; where one is, through a temporary table.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from router.storage.errors import RefusedRowError, translated


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """A vector that decisions were drawn from."""

    allocation_id: bytes
    incarnation: int
    policy_version: int
    #: Arm numbers, aligned with the probabilities.
    arms: tuple[int, ...]
    probabilities: tuple[float, ...]


class DecisionRow(NamedTuple):
    """A decision as the log keeps it. A named tuple: one is made for every decision."""

    decision_key: bytes
    incarnation: int
    arm: int
    decided_at_us: int
    propensity: float
    policy_version: int
    allocation_id: bytes
    #: The proto's Reason without its prefix, in lower case.
    reason: str
    unit_id: str
    session_id: str
    turn_id: str
    request_id: str
    segment: str
    prompt_fingerprint: str
    prompt_similarity: float | None


_INSERT_ALLOCATION = """
INSERT INTO allocations (allocation_id, incarnation, policy_version, arms, probabilities)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""

_COLUMNS = """
decision_day, decision_key, incarnation, arm, decided_at, propensity, policy_version, allocation_id, reason, unit_id,
session_id, turn_id, request_id, segment, prompt_fingerprint, prompt_similarity
"""
_INCOMING = "CREATE TEMPORARY TABLE IF NOT EXISTS incoming_decisions (LIKE decisions) ON COMMIT DELETE ROWS"
_MERGE = f"INSERT INTO decisions ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming_decisions ON CONFLICT DO NOTHING"

# Binary COPY: each value has its length before it, times count from 2000.
_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TAIL = b"\xff\xff"
_FIXED = struct.Struct("!h ii i16s iq ih iq id iq i16s")
_LENGTH = struct.Struct("!i")
_DOUBLE = struct.Struct("!id")
_NULL, _EMPTY = _LENGTH.pack(-1), _LENGTH.pack(0)
_DAY_US = 86_400_000_000
_EPOCH_DAY = 10_957
_EPOCH_US = _EPOCH_DAY * _DAY_US


async def store_allocations(connection: psycopg.AsyncConnection[Any], allocations: Sequence[AllocationRow]) -> None:
    """Store what is not stored yet, in one transaction."""
    with translated():
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(
                _INSERT_ALLOCATION,
                [
                    (UUID(bytes=a.allocation_id), a.incarnation, a.policy_version, list(a.arms), list(a.probabilities))
                    for a in allocations
                ],
            )


async def copy_decisions(connection: psycopg.AsyncConnection[Any], decisions: Sequence[DecisionRow]) -> None:
    """Store new decisions, in one transaction; AlreadyExistsError, and nothing is stored, if one of them is not new.

    The connection must be in autocommit mode. Partitions of the decisions' days must exist.
    """
    with translated():
        await _copy(connection, "decisions", decisions)


async def merge_decisions(connection: psycopg.AsyncConnection[Any], decisions: Sequence[DecisionRow]) -> None:
    """Store what is not stored yet, in one transaction. Partitions of the decisions' days must exist."""
    with translated():
        async with connection.transaction():
            await connection.execute(_INCOMING)
            await _copy(connection, "incoming_decisions", decisions)
            await connection.execute(_MERGE)


async def _copy(connection: psycopg.AsyncConnection[Any], table: str, decisions: Sequence[DecisionRow]) -> None:
    try:
        data = b"".join((_COPY_HEAD, *map(_encoded, decisions), _COPY_TAIL))
    except struct.error as error:
        raise RefusedRowError(f"a number is out of range: {error}") from error
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        await copy.write(data)


def _encoded(row: DecisionRow) -> bytes:
    key, incarnation, arm, decided_us, propensity, version, allocation, reason = row[:8]
    unit, session, turn, request, segment, fingerprint, similarity = row[8:]
    return b"".join(
        (
            _FIXED.pack(
                *(16, 4, decided_us // _DAY_US - _EPOCH_DAY, 16, key, 8, incarnation, 2, arm),
                *(8, decided_us - _EPOCH_US, 8, propensity, 8, version, 16, allocation),
            ),
            _text(reason),
            _text(unit),
            _text(session),
            _text(turn),
            _text(request),
            _text(segment),
            _text(fingerprint),
            _NULL if similarity is None else _DOUBLE.pack(8, similarity),
        )
    )


def _text(value: str) -> bytes:
    if not value:
        return _EMPTY
    data = value.encode()
    return _LENGTH.pack(len(data)) + data
