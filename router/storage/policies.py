"""Evidence and policy versions, as replicas read them; and the messages by which replicas wake one another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bandit.reward import Evidence

CHANNEL = "bandit_router"
#: An incarnation has up to 19 digits.
_PER_PAYLOAD = 350


@dataclass(frozen=True, slots=True)
class EvidenceReading:
    """The evidence of one experiment at one policy version."""

    incarnation: int
    policy_version: int
    definition_version: int
    #: By arm number.
    evidence: Mapping[int, Evidence]
    #: Postgres' clock at the reading.
    as_of: datetime


async def read_evidence(connection: AsyncConnection, incarnations: Sequence[int]) -> list[EvidenceReading]:
    """Return consistent readings, version and evidence from one snapshot, of those experiments that exist."""
    rows = await connection.execute(
        text(
            "SELECT v.incarnation, v.policy_version, v.definition_version, now() AS as_of, e.arm,"
            " e.success_micros::bigint AS success_micros, e.failure_micros::bigint AS failure_micros, e.n::bigint AS n"
            " FROM policy_versions v LEFT JOIN LATERAL (SELECT arm, sum(success_micros) AS success_micros,"
            " sum(failure_micros) AS failure_micros, sum(n) AS n FROM evidence"
            " WHERE evidence.incarnation = v.incarnation GROUP BY arm) e ON true"
            " WHERE v.incarnation = ANY(:incarnations)"
        ),
        {"incarnations": list(incarnations)},
    )
    found: dict[int, EvidenceReading] = {}
    for row in rows:
        reading = found.get(row.incarnation)
        if reading is None:
            reading = EvidenceReading(row.incarnation, row.policy_version, row.definition_version, {}, row.as_of)
            found[row.incarnation] = reading
        if row.arm is not None:
            assert isinstance(reading.evidence, dict)  # noqa: S101 - made above
            reading.evidence[row.arm] = Evidence(row.success_micros, row.failure_micros, row.n)
    return list(found.values())


async def read_versions(connection: AsyncConnection) -> dict[int, tuple[int, int]]:
    """Return (policy version, definition version) of every experiment, by incarnation."""
    rows = await connection.execute(text("SELECT incarnation, policy_version, definition_version FROM policy_versions"))
    return {row.incarnation: (row.policy_version, row.definition_version) for row in rows}


def notifications(incarnations: Iterable[int]) -> list[str]:
    """Return the payloads that say that these experiments changed, each within Postgres' limit of 8,000 bytes."""
    words = [str(incarnation) for incarnation in sorted(incarnations)]
    return [",".join(words[i : i + _PER_PAYLOAD]) for i in range(0, len(words), _PER_PAYLOAD)]


def notified(payload: str) -> list[int]:
    """Return the incarnations of a payload; what is not a number is left out."""
    return [int(word) for word in payload.split(",") if word.isdigit()]
