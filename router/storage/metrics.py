"""What users did after the decisions of an experiment, counted by period and arm.

Decisions are read by the index on experiment and time, their events and outcomes by primary key; only the partitions of
the days asked for are looked at. An event counts unless it came after the attribution window, or only says that nothing
was heard.

Nothing is learned from units that are held out, so their decisions have no outcomes. What these would be is folded here from
their events, by the order that `bandit.reward` states and the rule in force when they were made; where that rule gives
silence a reward, those that have matured without a word have it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from router.storage.database import Connection
from router.storage.times import time_of


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in periods of equal length, of which the last may be cut short. Microseconds since the epoch."""

    start_us: int
    #: Not part of it.
    end_us: int
    period_us: int

    @property
    def periods(self) -> int:
        """How many periods there are, the last one included."""
        return -(-(self.end_us - self.start_us) // self.period_us)

    def period(self, number: int) -> tuple[int, int]:
        """Return when a period begins and ends."""
        start = self.start_us + number * self.period_us
        return start, min(start + self.period_us, self.end_us)


class Recorded(NamedTuple):
    """When the first and the last decision that is kept were made, in microseconds since the epoch."""

    first_us: int | None
    last_us: int | None
    #: Postgres' clock.
    as_of: datetime


class ArmCounts(NamedTuple):
    """The decisions of one period for one version of an arm, and how many of them had which events."""

    period: int
    arm: int
    #: Whether they are those of units that are held out.
    holdout: bool
    interactions: int
    covered: int
    retries: int
    rephrases: int
    abandonments: int
    follow_ups: int
    completions: int
    #: Decisions with an outcome, and the sum of their rewards in millionths.
    outcomes: int
    reward_micros: int


class RuleRewards(NamedTuple):
    """What one version of the reward rule says of signals and of silence, in millionths."""

    reward_rule_version: int
    #: By the signal's name in the log; neutral signals are left out.
    signals: Mapping[str, int]
    #: None where silence says nothing.
    no_feedback: int | None
    #: How old a decision is before its silence counts, in microseconds.
    mature_after_us: int


class HeldOutOutcomes(NamedTuple):
    """The outcomes of decisions for units that are held out, of one period and one version of an arm."""

    period: int
    arm: int
    outcomes: int
    reward_micros: int
    #: Decisions whose outcome is a numeric reward that the log does not hold.
    unknown: int


_RECORDED = """
SELECT (extract(epoch FROM min(decided_at)) * 1000000)::int8, (extract(epoch FROM max(decided_at)) * 1000000)::int8, now()
FROM decisions WHERE incarnation = :incarnation
"""

_PERIOD = "(extract(epoch FROM d.decided_at - :start) * 1000000)::int8 / CAST(:period_us AS int8)"
_IN_SPAN = """
d.incarnation = :incarnation AND d.decided_at >= :start AND d.decided_at < :end
AND d.decision_day BETWEEN :first_day AND :last_day
"""
_OF_DECISION = """
decision_day = d.decision_day AND decision_key = d.decision_key AND decision_day BETWEEN :first_day AND :last_day
"""

# Rows of releases before signals had a column of their own name them in details.
_COUNTS = f"""
SELECT {_PERIOD} AS period, d.arm, d.reason = 'holdout' AS holdout, count(*),
       count(*) FILTER (WHERE e.covered), count(*) FILTER (WHERE e.retry), count(*) FILTER (WHERE e.rephrase),
       count(*) FILTER (WHERE e.abandonment), count(*) FILTER (WHERE e.follow_up), count(*) FILTER (WHERE e.completion),
       count(o.reward_micros), coalesce(sum(o.reward_micros), 0)::int8
FROM decisions d
LEFT JOIN LATERAL (
    SELECT true AS covered, bool_or(signal = 'immediate_retry') AS retry, bool_or(signal = 'rephrased_query') AS rephrase,
           bool_or(signal = 'session_abandoned') AS abandonment, bool_or(signal = 'follow_up_question') AS follow_up,
           bool_or(signal = 'task_completed') AS completion
    FROM (SELECT coalesce(signal, details ->> 'signal') AS signal FROM events
          WHERE {_OF_DECISION} AND status <> 'late' AND kind <> 'no_feedback') s
    HAVING count(*) > 0
) e ON true
LEFT JOIN LATERAL (SELECT reward_micros FROM outcomes WHERE {_OF_DECISION} LIMIT 1) o ON true
WHERE {_IN_SPAN} AND d.reason <> 'forced'
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""

# The log of decisions names the policy, not the rule: `reward_rules` says from which policy on a rule is in force.
_HELD_OUT = f"""
WITH of_signal AS (
    SELECT * FROM unnest(CAST(:signal_versions AS int4[]), CAST(:signals AS text[]), CAST(:rewards AS int4[]))
                  r (version, signal, reward_micros)
),
of_silence AS (
    SELECT * FROM unnest(CAST(:silent_versions AS int4[]), CAST(:silent_rewards AS int4[]),
                         CAST(:matured_until AS timestamptz[])) r (version, reward_micros, matured_until)
),
outcomes AS (
    SELECT {_PERIOD} AS period, d.arm, o.kind, coalesce(o.reward_micros, q.reward_micros) AS reward_micros
    FROM decisions d
    LEFT JOIN LATERAL (
        SELECT e.kind, CASE WHEN e.kind = 'reward' THEN (e.details ->> 'reward_micros')::int4 ELSE r.reward_micros END
                       AS reward_micros
        FROM (SELECT * FROM events WHERE {_OF_DECISION} AND status <> 'late') e
        LEFT JOIN of_signal r ON r.version = e.reward_rule_version AND r.signal = e.signal
        WHERE e.kind = 'reward' OR r.reward_micros IS NOT NULL
        ORDER BY e.rank DESC, e.occurred_at DESC, e.event_id COLLATE "C" DESC LIMIT 1
    ) o ON true
    LEFT JOIN of_silence q ON o.kind IS NULL AND d.decided_at <= q.matured_until AND q.version = (
        SELECT max(r.version) FROM reward_rules r
        WHERE r.incarnation = d.incarnation AND coalesce(r.policy_version, 0) <= d.policy_version)
    WHERE {_IN_SPAN} AND d.reason = 'holdout'
)
SELECT period, arm, count(reward_micros), coalesce(sum(reward_micros), 0)::int8,
       count(*) FILTER (WHERE kind = 'reward' AND reward_micros IS NULL)
FROM outcomes
GROUP BY 1, 2
ORDER BY 1, 2
"""

# A partition that is minutes old has no statistics that would tell the planner that keys are looked up.
_PLANNING = """
SELECT set_config(name, 'off', true) FROM unnest('{enable_seqscan,enable_hashjoin,enable_mergejoin,jit}'::text[]) name
"""


async def plan_for_keys(connection: Connection) -> None:
    """Have the statements of this transaction look keys up, whatever the planner believes of the tables."""
    await connection.execute(text(_PLANNING))


async def read_recorded(connection: Connection, incarnation: int) -> Recorded:
    """Return what the log spans of an experiment."""
    return Recorded(*(await connection.execute(text(_RECORDED), {"incarnation": incarnation})).one())


async def read_counts(connection: Connection, incarnation: int, span: Span) -> list[ArmCounts]:
    """Return what happened in each period with decisions, by arm; forced decisions do not count."""
    await plan_for_keys(connection)
    rows = await connection.execute(text(_COUNTS), _of(incarnation, span))
    return [ArmCounts(*row) for row in rows]


async def read_held_out(
    connection: Connection, incarnation: int, span: Span, rules: Sequence[RuleRewards], now_us: int
) -> list[HeldOutOutcomes]:
    """Return the outcomes that decisions for units which are held out would have, by these rules."""
    await plan_for_keys(connection)
    signals = [(rule.reward_rule_version, *signal) for rule in rules for signal in rule.signals.items()]
    silent = [rule for rule in rules if rule.no_feedback is not None]
    parameters = {
        "signal_versions": [version for version, _, _ in signals],
        "signals": [signal for _, signal, _ in signals],
        "rewards": [micros for _, _, micros in signals],
        "silent_versions": [rule.reward_rule_version for rule in silent],
        "silent_rewards": [rule.no_feedback for rule in silent],
        "matured_until": [time_of(now_us - rule.mature_after_us) for rule in silent],
    }
    rows = await connection.execute(text(_HELD_OUT), {**_of(incarnation, span), **parameters})
    return [HeldOutOutcomes(*row) for row in rows]


def _of(incarnation: int, span: Span) -> dict[str, Any]:
    start, end = time_of(span.start_us), time_of(span.end_us)
    days: dict[str, date] = {"first_day": start.date(), "last_day": time_of(span.end_us - 1).date()}
    return {"incarnation": incarnation, "start": start, "end": end, "period_us": span.period_us, **days}
