"""What the decisions of a ramp's stage have shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from bandit.guardrails import Measures, Tally
from bandit.ramp import Metric
from bandit.reward import Rank
from router.experiment import Definition
from router.storage.errors import translated
from router.storage.times import day_of, time_of

# Sorting is for those with a unit alone: where requests are units, every decision counts. The range of days says nothing
# new. Being written out, it is known when the statement is planned: partitions beyond it are neither planned for nor locked.
# That nothing was heard, which is what no_feedback and a derived session_abandoned say, covers no decision.
_MEASURES = """
WITH firsts AS MATERIALIZED (
    SELECT decision_day, decision_key, arm FROM decisions
    WHERE {in_stage} AND unit_id = '' AND arm = ANY(%(arms)s)
    UNION ALL
    SELECT decision_day, decision_key, arm FROM (
        SELECT DISTINCT ON (unit_id) decision_day, decision_key, arm FROM decisions
        WHERE {in_stage} AND unit_id <> '' ORDER BY unit_id, decided_at, decision_key
    ) of_units
    WHERE arm = ANY(%(arms)s)
)
SELECT f.arm, count(*), count(*) FILTER (WHERE o.events > 0),
       count(*) FILTER (WHERE o.retried), count(*) FILTER (WHERE o.rephrased), count(*) FILTER (WHERE o.abandoned),
       count(*) FILTER (WHERE o.called), count(*) FILTER (WHERE o.report ? 'error'),
       count(*) FILTER (WHERE o.report ? 'latency_ms'),
       count(*) FILTER (WHERE (o.report ->> 'latency_ms')::float8 > %(over_ms)s),
       count(*) FILTER (WHERE o.report ? 'cost_usd'),
       coalesce(sum(least((o.report ->> 'cost_usd')::float8, %(clip)s) / %(clip)s)
                FILTER (WHERE o.report ? 'cost_usd'), 0)
FROM firsts f
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE rank >= {sent} OR signal <> 'session_abandoned') AS events,
           bool_or(signal = 'immediate_retry') AS retried,
           bool_or(signal = 'rephrased_query') AS rephrased, bool_or(signal = 'session_abandoned') AS abandoned,
           bool_or(kind = 'call') AS called,
           (array_agg(details ORDER BY received_at DESC, event_id DESC) FILTER (WHERE kind = 'call'))[1] AS report
    FROM events
    WHERE decision_day = f.decision_day AND decision_key = f.decision_key AND decision_day BETWEEN {days}
) o
GROUP BY f.arm
"""

_IN_STAGE = """
incarnation = %(incarnation)s AND decided_at >= %(since)s AND decided_at <= %(until)s AND decision_day BETWEEN {days}
AND reason NOT IN ('forced', 'holdout')
"""

# A partition that is minutes old has no statistics that would tell the planner that keys are looked up.
_PLANNING = """
SELECT set_config(name, 'off', true) FROM unnest('{enable_seqscan,enable_hashjoin,enable_mergejoin,jit}'::text[]) name
"""


async def measure(connection: psycopg.AsyncConnection[Any], definition: Definition, now_us: int) -> Measures:
    """Return the evidence of the stage that the ramp of `definition` is in: see `bandit.guardrails.Tally`.

    Of the decisions made in the stage that have matured by now, neither forced nor of the holdout, each unit's first; of one
    with several call reports, the one received last. The control's are counted only if a guardrail compares with them.
    """
    state, ramp = definition.ramp_state, definition.rules.ramp
    assert state is not None and ramp is not None  # noqa: S101, PT018 - it is on trial
    rule = definition.reward_rules[definition.reward_rule_version]
    until_us = now_us - int(rule.mature_after.total_seconds() * 1e6)
    if until_us < state.stage_since_us:
        return Measures(Tally(), Tally())
    stage = ramp.stages[state.stage]
    rails = {rail.metric: rail for rail in stage.guardrails}
    compared = any(rail.ratio is not None for rail in stage.guardrails)
    challenger, control = challenger_number(definition), _control(definition) if compared else None
    slow, cost = rails.get(Metric.SLOW), rails.get(Metric.COST)
    days = f"date '{day_of(state.stage_since_us)}' AND date '{day_of(until_us)}'"
    statement = _MEASURES.replace("{in_stage}", _IN_STAGE).replace("{days}", days).replace("{sent}", str(int(Rank.SIGNAL)))
    values = {
        "incarnation": definition.incarnation,
        "since": time_of(state.stage_since_us),
        "until": time_of(until_us),
        "arms": [number for number in (challenger, control) if number is not None],
        "over_ms": slow.latency_over_us / 1e3 if slow is not None and slow.latency_over_us is not None else None,
        "clip": cost.clip_usd if cost is not None else None,
    }
    with translated():
        async with connection.transaction():
            await connection.execute(_PLANNING)
            rows = await (await connection.execute(statement, values, prepare=False)).fetchall()
    tallies = {arm: _tally(counts, rails) for arm, *counts in rows}
    return Measures(*(tallies.get(arm, Tally()) for arm in (challenger, control)))


def challenger_number(definition: Definition) -> int | None:
    """Return the number of the arm that is let in: it names a version of it."""
    wanted = definition.rules.ramp_challenger
    return next((arm.number for arm in definition.active_arms if arm.arm_id == wanted), None)


def _control(definition: Definition) -> int | None:
    return next((arm.number for arm in definition.active_arms if arm.is_control), None)


def _tally(counts: Sequence[Any], metrics: Mapping[Metric, object]) -> Tally:
    decisions, with_feedback, retried, rephrased, abandoned, called, failed, timed, slow, priced, cost = counts
    totals = {
        Metric.RETRY: retried,
        Metric.REPHRASE: rephrased,
        Metric.ABANDONMENT: abandoned,
        Metric.ERROR: failed,
        Metric.SLOW: slow,
        Metric.COST: cost,
    }
    reported = {Metric.ERROR: called, Metric.SLOW: timed, Metric.COST: priced}
    return Tally(
        decisions,
        with_feedback,
        {metric: float(total) for metric, total in totals.items() if metric in metrics},
        {metric: count for metric, count in reported.items() if metric in metrics},
    )
