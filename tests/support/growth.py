"""Databases with many experiments, days and rows, made by hand, and what they add up to."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any

import psycopg
from running import query

from bandit.reward import Candidate, Evidence, fold
from router.storage.events import SESSION, EventRow, EventStatus

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
#: Midnight of the first day.
BASE_US = 1_790_000_000_000_000 // DAY_US * DAY_US


def day(number: int) -> date:
    """The UTC day of that number, from 0."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=BASE_US + number * DAY_US)).date()


def add_experiments(url: str, count: int, arms: int) -> None:
    """Insert experiments with the incarnations 1 to `count`, under the ids x-1, x-2, …"""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment,"
            " reward_rule, reward_rule_version) SELECT i, 'x-' || i, '', 'running', '', '{}', '{}', '{}', 1"
            " FROM generate_series(1, %s) i",
            (count,),
        )
        connection.execute("INSERT INTO policy_versions (incarnation) SELECT incarnation FROM experiments")
        connection.execute(
            "INSERT INTO arms (incarnation, arm, position, arm_id, version, model, family, role, config, active)"
            " SELECT incarnation, a, a, 'a' || a, 1, '', '', 'challenger', '{}', true"
            " FROM experiments, generate_series(0, %s) a",
            (arms - 1,),
        )


async def event_connection(url: str, options: str = "") -> psycopg.AsyncConnection[Any]:
    """A connection that events may be applied on."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, options=f"-c timezone=UTC {options}")
    await connection.execute(SESSION)
    return connection


def event_row(
    decision: int, day_number: int = 0, event: str = "e", reward: int | None = 1_000_000, **fields: Any
) -> EventRow:
    """An event of a decision of that day; rewards in millionths."""
    decided_at_us = fields.pop("decided_at_us", BASE_US + day_number * DAY_US + decision * 1_000_003 % DAY_US)
    values = {
        "decision_key": blake2b(b"%d" % decision, digest_size=16).digest(),
        "event_id": event,
        "incarnation": 1,
        "arm": 0,
        "segment": "",
        "kind": "reward",
        "signal": None,
        "rank": 4,
        "decided_at_us": decided_at_us,
        "occurred_at_us": decided_at_us,
        "received_at_us": decided_at_us,
        "reward_micros": reward,
        "status": EventStatus.NEUTRAL if reward is None else EventStatus.APPLIED,
        "reward_rule_version": 1,
        "policy_version": 1,
        "content": b"%12d" % (-1 if reward is None else reward),
        "details": None,
    }
    return EventRow(**{**values, **fields})  # type: ignore[arg-type]


def random_event(rng: random.Random, days: int, decisions: int = 200, experiments: int = 2, arms: int = 3) -> EventRow:
    """One of a limited number of events; what it says follows from its key, as with a producer that repeats itself."""
    decision, number = rng.randrange(decisions), rng.randrange(8)
    of_decision, own = random.Random(f"{decision}"), random.Random(f"{decision}/{number}")
    day_number = of_decision.randrange(days)
    incarnation = 1 + of_decision.randrange(experiments)
    return event_row(
        decision,
        day_number,
        f"e{number}",
        own.choice([None, 0, 1_000_000, own.randrange(1_000_001)]),
        incarnation=incarnation,
        arm=own.randrange(arms),
        rank=own.choice([2, 3, 4]),
        decided_at_us=BASE_US + day_number * DAY_US + own.choice([0, HOUR_US, DAY_US - 1]),
        occurred_at_us=BASE_US + day_number * DAY_US + own.randrange(4),
    )


def folded(rows: Iterable[EventRow]) -> dict[tuple[int, int], Evidence]:
    """The evidence by incarnation and arm, from the first event of each key: the definition, in Python."""
    known: dict[tuple[bytes, int, str], EventRow] = {}
    for event in rows:
        known.setdefault(event.key, event)
    decisions = defaultdict(list)
    for event in known.values():
        if event.reward_micros is not None:
            candidate = Candidate(event.rank, event.occurred_at_us, event.event_id, event.reward_micros)
            decisions[event.key[:2]].append((candidate, event))
    evidence: defaultdict[tuple[int, int], Evidence] = defaultdict(Evidence)
    for candidates in decisions.values():
        winner = fold(candidate for candidate, _ in candidates)
        event = next(event for candidate, event in candidates if candidate is winner)
        evidence[(event.incarnation, event.arm)] += Evidence.of(event.reward_micros)
    return dict(evidence)


async def stored_evidence(url: str, table: str = "evidence_all") -> dict[tuple[int, int], Evidence]:
    """What the database has, by incarnation and arm."""
    rows = await query(
        url,
        "SELECT incarnation, arm, sum(success_micros)::int8, sum(failure_micros)::int8, sum(n)::int8"
        f" FROM {table} GROUP BY incarnation, arm HAVING sum(n) > 0",
    )
    return {(incarnation, arm): Evidence(s, f, n) for incarnation, arm, s, f, n in rows}
