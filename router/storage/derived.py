"""What the derivation of signals reads: experiments that derive or mature, their decisions, and their sessions.

Reads go by the indexes `decisions_incarnation` and `decisions_session` and touch the partitions of the days in question
alone. They are planned with the values at hand, and told never to read a table from end to end: a partition that is
minutes old has no statistics.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from bandit.derive import DeriveRule
from router.experiment import RewardRule
from router.rules import reward_rule_of
from router.storage.database import Database
from router.storage.errors import translated
from router.storage.policies import read_digest_alone
from router.storage.times import microseconds, time_of

#: Of one session no more decisions are looked at, the latest ones, nor events of one decision: ids may be misused.
SESSION_DECISIONS = 1_000
_HEARD_EVENTS = 1_000
_LAST_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """A reward rule, and the policies that decisions by it are drawn from."""

    version: int
    rule: RewardRule
    #: The first policy, and the one after the last.
    since: int
    until: int
    #: What is derived by it; None if nothing is.
    derive: DeriveRule | None


@dataclass(frozen=True, slots=True)
class DerivingExperiment:
    """An experiment that derives signals, or whose outcomes mature, or did."""

    incarnation: int
    #: Its rules, oldest first; the last one is in force.
    rules: tuple[RuleVersion, ...]
    #: Outcomes of decisions until then count; None: all do.
    matured_to_us: int | None

    @property
    def matures(self) -> bool:
        """Whether outcomes are to wait."""
        return self.rules[-1].rule.mature_after > timedelta(0)

    @property
    def derives(self) -> bool:
        """Whether anything follows from decisions and silence."""
        return any(_derives(rule) for rule in self.rules)

    @property
    def since(self) -> int:
        """Decisions drawn from earlier policies say nothing."""
        return min((rule.since for rule in self.rules if _derives(rule)), default=_LAST_VERSION)

    @property
    def window_us(self) -> int:
        """How long after a decision an event may count."""
        return max(rule.rule.window_us for rule in self.rules)

    @property
    def reach_us(self) -> int:
        """How far apart decisions of a session say something of one another; 0 if never."""
        return max((rule.derive.reach_us for rule in self.rules if rule.derive is not None), default=0)

    def rule_of(self, policy_version: int) -> RuleVersion:
        """Return the rule that was in force where decisions were drawn from this policy."""
        return next((rule for rule in reversed(self.rules) if rule.since <= policy_version), self.rules[0])


class LoggedDecision(NamedTuple):
    """Where a decision is in time, and its session."""

    decided_at_us: int
    session_id: str


class SilentDecision(NamedTuple):
    """A decision that has no outcome."""

    decision_key: bytes
    arm: int
    #: The one that its evidence is kept under.
    segment: str
    decided_at_us: int
    policy_version: int
    #: As in its decision id.
    unit_hash: bytes


class DecisionInSession(NamedTuple):
    """A decision of a session, with what was heard of it."""

    session_id: str
    decision_key: bytes
    arm: int
    #: The one that its evidence is kept under.
    segment: str
    decided_at_us: int
    policy_version: int
    reason: str
    turn_id: str
    request_id: str
    prompt_similarity: float | None
    #: As in its decision id.
    unit_hash: bytes
    #: When events that were sent happened.
    heard_at_us: tuple[int, ...]
    #: Whether one of them counts, or would within its unit's share; of a decision that never counts, whether one is a
    #: signal or a reward.
    answered: bool


#: Reasons of decisions that are never learned from.
UNLEARNED = ("forced", "holdout")

_PLANS = """
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET plan_cache_mode = force_custom_plan
"""

_EXPERIMENTS = """
SELECT v.incarnation, (extract(epoch FROM v.matured_to) * 1000000)::int8,
       json_agg(json_build_array(r.version, coalesce(r.policy_version, 0), r.reward_rule) ORDER BY r.version)
FROM policy_versions v JOIN reward_rules r USING (incarnation)
WHERE v.matured_to IS NOT NULL OR v.incarnation IN (
    SELECT incarnation FROM reward_rules WHERE reward_rule ?| array['derived', 'matureAfter', 'noFeedback'])
GROUP BY v.incarnation
"""

_US = "(extract(epoch FROM d.decided_at) * 1000000)::int8"
# As the rules in force name it: see `router.segments`.
_SEGMENT = """
CASE WHEN (SELECT allocation #> '{segments,names}' FROM experiments WHERE incarnation = %(incarnation)s) ? d.segment
     THEN d.segment ELSE '' END
"""
_RANGE = """
d.incarnation = %(incarnation)s AND d.decided_at >= %(first)s AND d.decided_at < %(end)s
AND d.decision_day BETWEEN %(first_day)s AND %(last_day)s
"""
# Not `<> ''`: that would invite the planner to go through every session of the experiment.
_IN_SESSION = "length(d.session_id) > 0"
_RULE = "d.policy_version >= %(since)s AND d.policy_version < %(until)s"
_OUTCOME = """
(SELECT true FROM outcomes o WHERE o.decision_day = d.decision_day AND o.decision_key = d.decision_key
 AND o.decision_day BETWEEN %(first_day)s AND %(last_day)s {condition} LIMIT 1) IS NULL
"""
_PAGE = "ORDER BY d.decided_at {direction} FETCH FIRST %(limit)s ROWS WITH TIES"

_DECISIONS = f"""
SELECT {_US}, d.session_id FROM decisions d WHERE {_RANGE} AND d.policy_version >= %(since)s {_PAGE}
"""
_QUIET = f"""
SELECT {_US}, d.session_id FROM decisions d
WHERE {_RANGE} AND {_RULE} AND {_IN_SESSION} AND {_OUTCOME.replace("{condition}", "AND o.rank >= 2")} {_PAGE}
"""
_SILENT = f"""
SELECT d.decision_key, d.arm, {_SEGMENT}, {_US}, d.policy_version, d.unit_id FROM decisions d
WHERE {_RANGE} AND {_RULE} AND d.reason <> ALL(%(unlearned)s) AND {_OUTCOME.replace("{condition}", "")} {_PAGE}
"""
_COUNTS = f"""
SELECT {_US} / %(bucket_us)s, count(*) FROM decisions d WHERE {_RANGE} AND d.policy_version >= %(since)s GROUP BY 1
"""

# The times are written so that no index finds them: without statistics it would look as cheap to go through all decisions of
# the time as through those of the session.
_SESSIONS = f"""
SELECT d.session_id, d.decision_key, d.arm, {_SEGMENT}, {_US}, d.policy_version, d.reason, d.turn_id,
       d.request_id, d.prompt_similarity, d.unit_id, h.heard, coalesce(h.answered, false)
FROM unnest(%(sessions)s::text[], %(firsts)s::timestamptz[]) s (session_id, first)
CROSS JOIN LATERAL (
    SELECT * FROM decisions d
    WHERE d.incarnation = %(incarnation)s AND d.session_id = s.session_id AND d.session_id <> ''
      AND d.decided_at + interval '0' >= s.first AND d.decided_at + interval '0' < %(end)s
      AND d.decision_day BETWEEN %(first_day)s AND %(last_day)s
    ORDER BY d.decided_at DESC LIMIT {SESSION_DECISIONS}
) d
CROSS JOIN LATERAL (
    SELECT array_agg((extract(epoch FROM e.occurred_at) * 1000000)::int8) AS heard,
           bool_or(e.reward_micros IS NOT NULL OR e.status = 'limited'
                   OR e.kind <> 'call' AND d.reason = ANY(%(unlearned)s)) AS answered
    FROM (SELECT occurred_at, reward_micros, kind, status FROM events e
          WHERE e.decision_day = d.decision_day AND e.decision_key = d.decision_key AND e.rank >= 2
            AND e.decision_day BETWEEN %(first_day)s AND %(last_day)s
          LIMIT {_HEARD_EVENTS}) e
) h
"""


class DerivationLog:
    """What is read again and again, on a connection of its own. Methods raise StorageError.

    Ranges are of the times of decisions, their end excluded. Pages hold `limit` rows, or a few more that share the time of
    the last one, in the order of their times: the next page begins right after it.
    """

    def __init__(self, database: Database, hash_id: Callable[[str], bytes]) -> None:
        """`hash_id` gives what a decision id has of a unit: `TokenCodec.hash_id`."""
        self._database = database
        self._hash_id = hash_id
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None

    async def definitions_digest(self) -> tuple[int, int]:
        """Return what differs whenever a definition does."""
        with translated():
            digest = await read_digest_alone(await self._connected())
        return digest.experiments, digest.definition_versions

    async def experiments(self) -> tuple[list[DerivingExperiment], list[tuple[int, Exception]]]:
        """Return the experiments that derive or mature, and those with a rule that this version cannot read."""
        found, unreadable = [], []
        for incarnation, matured_to_us, rules in await self._rows(_EXPERIMENTS, {}):
            try:
                found.append(DerivingExperiment(incarnation, _rule_versions(rules), matured_to_us))
            except Exception as error:  # one of a newer version must not hold up the others
                unreadable.append((incarnation, error))
        return found, unreadable

    async def decisions(
        self, experiment: DerivingExperiment, first_us: int, end_us: int, limit: int, *, latest: bool = False
    ) -> list[LoggedDecision]:
        """Return a page of the decisions in a range; with `latest` the last page, latest first."""
        statement = _DECISIONS.replace("{direction}", "DESC" if latest else "")
        parameters = {**_range(experiment.incarnation, first_us, end_us), "since": experiment.since, "limit": limit}
        rows = await self._rows(statement, parameters)
        return [LoggedDecision(*row) for row in rows]

    async def quiet(
        self, incarnation: int, rule: RuleVersion, first_us: int, end_us: int, limit: int
    ) -> list[LoggedDecision]:
        """Return a page of the decisions by a rule, in a session, that nothing was sent for which counts."""
        rows = await self._rows(
            _QUIET.replace("{direction}", ""), {**_range(incarnation, first_us, end_us), **_by(rule), "limit": limit}
        )
        return [LoggedDecision(*row) for row in rows]

    async def silent(
        self, incarnation: int, rule: RuleVersion, first_us: int, end_us: int, limit: int
    ) -> list[SilentDecision]:
        """Return a page of the decisions by a rule that have no outcome and could have one."""
        parameters = {**_range(incarnation, first_us, end_us), **_by(rule), "limit": limit, "unlearned": list(UNLEARNED)}
        rows = await self._rows(_SILENT.replace("{direction}", ""), parameters)
        return [SilentDecision._make((key.bytes, *rest, self._hash_id(unit_id))) for key, *rest, unit_id in rows]

    async def counts(self, experiment: DerivingExperiment, first_us: int, end_us: int, bucket_us: int) -> dict[int, int]:
        """Return how many decisions of a range there are by bucket: its number is the time divided by `bucket_us`."""
        parameters = _range(experiment.incarnation, first_us, end_us)
        return dict(await self._rows(_COUNTS, {**parameters, "since": experiment.since, "bucket_us": bucket_us}))

    async def sessions(
        self, incarnation: int, firsts_us: Mapping[str, int], end_us: int
    ) -> dict[str, list[DecisionInSession]]:
        """Return the decisions of sessions from the time given for each until `end_us`: the last `SESSION_DECISIONS`."""
        parameters = {
            **_range(incarnation, min(firsts_us.values()), end_us),
            "sessions": list(firsts_us),
            "firsts": [time_of(first_us) for first_us in firsts_us.values()],
            "unlearned": list(UNLEARNED),
        }
        found: dict[str, list[DecisionInSession]] = {}
        for session_id, key, *middle, unit_id, heard, answered in await self._rows(_SESSIONS, parameters):
            unit_hash = self._hash_id(unit_id)
            row = DecisionInSession._make((session_id, key.bytes, *middle, unit_hash, tuple(heard or ()), answered))
            found.setdefault(session_id, []).append(row)
        return found

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.connect(autocommit=True)
            await self._connection.execute(_PLANS)
        return self._connection

    async def _rows(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated():
            try:
                connection = await self._connected()
                return await (await connection.execute(statement, parameters, prepare=False)).fetchall()
            except psycopg.OperationalError:
                await self.close()
                raise


def _rule_versions(rules: Sequence[tuple[int, int, Any]]) -> tuple[RuleVersion, ...]:
    ends = [since for _, since, _ in rules[1:]] + [_LAST_VERSION]
    versions = []
    for (version, since, document), until in zip(rules, ends, strict=True):
        rule = reward_rule_of(document)
        versions.append(RuleVersion(version, rule, since, until, _derive_rule(rule) if rule.derived.any else None))
    return tuple(versions)


def _derive_rule(rule: RewardRule) -> DeriveRule:
    derived = rule.derived
    return DeriveRule(
        retry_within_us=None if derived.retry_within is None else microseconds(derived.retry_within),
        abandon_after_us=None if derived.abandon_after is None else microseconds(derived.abandon_after),
        rephrased_similarity=derived.rephrased_similarity,
        rephrased_within_us=microseconds(derived.rephrased_within),
        window_us=rule.window_us,
    )


def _derives(rule: RuleVersion) -> bool:
    return rule.derive is not None or rule.rule.no_feedback_micros is not None


def _range(incarnation: int, first_us: int, end_us: int) -> dict[str, Any]:
    first, end = time_of(first_us), time_of(end_us)
    last_day = (end - timedelta(microseconds=1)).date()
    return {"incarnation": incarnation, "first": first, "end": end, "first_day": first.date(), "last_day": last_day}


def _by(rule: RuleVersion) -> dict[str, int]:
    return {"since": rule.since, "until": rule.until}
