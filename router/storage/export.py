"""What an export asks before it writes a day: how much there is, and whether that has changed since."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from router.rules import reward_rule_of
from router.storage.analysis import Read, Reading
from router.storage.labels import PATTERN

#: A decision reaches Postgres seconds after it was made. After an outage it may take longer: then its day changes once more.
_SPOOLED = timedelta(hours=1)

# Sums that move whenever something of the day was added, replaced or erased. An outcome is what its last winner made it:
# a sum of rewards alone would miss corrections that cancel out. Readers of JSON keep whole numbers up to 2^53.
_SUMS: Mapping[str, str] = {
    "decisions": f"""
        SELECT count(*), count(*) FILTER (WHERE t.unit_id <> '' AND t.unit_id NOT LIKE '{PATTERN}'), 0 FROM decisions t""",
    "events": "SELECT count(*), count(*) FILTER (WHERE t.details ? 'metadata'), 0 FROM events t",
    "outcomes": """
        SELECT count(*),
               coalesce(sum(uuid_hash_extended(t.decision_key, hashtextextended(t.event_id, t.reward_micros))), 0)
                   %% 9007199254740992,
               count(*) FILTER (WHERE t.decided_at > (SELECT matured_to FROM policy_versions
                                                      WHERE incarnation = %(incarnation)s))
        FROM outcomes t""",
}
_OF_DAY = " WHERE t.incarnation = %(incarnation)s AND t.decision_day = %(day)s"

_SNAPSHOT_DAYS = """
SELECT (taken_at AT TIME ZONE 'UTC')::date, count(*) FROM snapshots
WHERE incarnation = %(incarnation)s AND (taken_at AT TIME ZONE 'UTC')::date BETWEEN %(first)s AND %(last)s
GROUP BY 1 ORDER BY 1
"""

_RULES = "SELECT reward_rule FROM reward_rules WHERE incarnation = %(incarnation)s"


def sums_of(reading: Reading, of: Read, dataset: str, day: date) -> tuple[int, ...]:
    """Return the rows of a day and what else tells that it changed, of decisions, events or outcomes."""
    (row,) = reading.all(_SUMS[dataset] + _OF_DAY, {"incarnation": of.incarnation, "day": day})
    return tuple(int(value) for value in row)


def snapshot_days(reading: Reading, of: Read, first: date, last: date) -> dict[date, int]:
    """Return the days on which snapshots were taken, and how many."""
    return dict(reading.all(_SNAPSHOT_DAYS, {"incarnation": of.incarnation, "first": first, "last": last}))


def settled_after(reading: Reading, of: Read, dataset: str) -> timedelta:
    """Return how long after its end a day may still change in the ordinary course of things."""
    if dataset in ("decisions", "snapshots"):
        return _SPOOLED
    rules = reading.all(_RULES, {"incarnation": of.incarnation})
    return max(reward_rule_of(rule).attribution_window for (rule,) in rules) + _SPOOLED


def now_of(reading: Reading) -> datetime:
    """Return Postgres' time at the beginning of what is read: all that was committed until then is seen."""
    ((now,),) = reading.all("SELECT now()", {})
    found: datetime = now
    return found
