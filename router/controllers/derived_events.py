"""What is derived, as rows of events: each has an id and a time that follow from the log, so that it is stored once."""

import json
from hashlib import blake2b

from bandit.derive import Derived, SessionDecision
from bandit.reward import Rank
from router.feedback import DERIVED, unit_share
from router.storage.derived import UNLEARNED, DecisionInSession, RuleVersion, SilentDecision
from router.storage.events import EventRow, EventStatus
from router.storage.times import microseconds

NO_FEEDBACK = "no_feedback"
_DETAILS = json.dumps({"source": "derived"})


def session_decision(row: DecisionInSession, rule: RuleVersion) -> SessionDecision:
    """Return what derivation looks at."""
    return SessionDecision(
        row.decision_key,
        row.decided_at_us,
        row.turn_id,
        row.request_id,
        row.prompt_similarity,
        rule.derive,
        row.answered,
        row.heard_at_us,
    )


def signal_row(incarnation: int, rule: RuleVersion, row: DecisionInSession, signal: Derived, now_us: int) -> EventRow:
    """Return the event of a derived signal. About decisions that are never learned from it is neutral, as sent ones are."""
    reward_micros = None if row.reason in UNLEARNED else rule.rule.signal_micros[signal.signal]
    name = signal.signal.name.lower()
    return _row(incarnation, rule, row, name, "signal", Rank.DERIVED, signal.occurred_at_us, reward_micros, now_us)


def silence_row(incarnation: int, rule: RuleVersion, row: SilentDecision, now_us: int) -> EventRow:
    """Return the event of a matured decision that nothing was heard of. It is of a kind of its own: it is no signal."""
    occurred_at_us = row.decided_at_us + microseconds(rule.rule.mature_after)
    reward_micros = rule.rule.no_feedback_micros
    return _row(incarnation, rule, row, NO_FEEDBACK, NO_FEEDBACK, Rank.NO_FEEDBACK, occurred_at_us, reward_micros, now_us)


def _row(
    incarnation: int,
    rule: RuleVersion,
    row: DecisionInSession | SilentDecision,
    name: str,
    kind: str,
    rank: Rank,
    occurred_at_us: int,
    reward_micros: int | None,
    now_us: int,
) -> EventRow:
    unit, share = unit_share(rule.rule, row.unit_hash)
    return EventRow(
        decision_key=row.decision_key,
        event_id=DERIVED + name,
        incarnation=incarnation,
        arm=row.arm,
        segment=row.segment,
        kind=kind,
        signal=name if kind == "signal" else None,
        rank=rank,
        decided_at_us=row.decided_at_us,
        occurred_at_us=occurred_at_us,
        received_at_us=max(now_us, occurred_at_us),
        reward_micros=reward_micros,
        status=EventStatus.NEUTRAL if reward_micros is None else EventStatus.APPLIED,
        reward_rule_version=rule.version,
        policy_version=row.policy_version,
        # The same however often it is derived, so that no repetition is taken for a contradiction.
        content=blake2b(name.encode(), digest_size=8).digest(),
        details=_DETAILS,
        unit_hash=unit,
        share=share,
    )
