"""Decisions for tests of the spool: policies, tokens, and a journal to append them to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bandit.allocation import AllocationKind, AllocationRule
from router.experiment import Arm, Definition, Rules
from router.journal import Journal
from router.policy import Policy, compile_policy
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2

INCARNATION = 7


def policy(version: int = 1) -> Policy:
    """The policy of three arms with equal shares."""
    arms = tuple(Arm(n, f"arm-{n}", 1, "", "", False, {}, None, None, True) for n in range(3))
    rule = AllocationRule(AllocationKind.UNIFORM, 0.0, (1.0,) * 3)
    rules = Rules(rule, (1.0, 1.0), "per_request", None)
    now = datetime.now(UTC)
    definition = Definition(INCARNATION, "x", "", "running", "", arms, {}, {}, {}, rules, 1, {}, None, now, now, 1)
    return compile_policy(definition, version, {})


def token(number: int, **fields: Any) -> DecisionToken:
    """The token of a decision that has this number for its key."""
    value = DecisionToken(
        incarnation=INCARNATION,
        decision_key=number.to_bytes(16, "big"),
        arm=number % 3,
        reward_rule_version=1,
        learned=True,
        policy_version=1,
        propensity=1 / 3,
        decided_at_us=1_790_000_000_000_000 + number,
        unit_hash=bytes(8),
        session_hash=bytes(8),
        turn_hash=bytes(8),
        segment="",
    )
    return value._replace(**fields)


def append(journal: Journal, codec: TokenCodec, number: int, *, version: int = 1, flush: bool = True, **fields: Any) -> int:
    """Append a decision of this number, which is also its request id."""
    _, raw = codec.mint(token(number, policy_version=version, **fields))
    current = policy(version)
    assert current.everyone is not None
    request = routing_pb2.RouteRequest(experiment_id="x", unit_id=f"ünit-{number}", request_id=str(number))
    appended = journal.append(raw, routing_pb2.REASON_SAMPLED, current.everyone, current, request)
    if flush:
        journal.flush()
    return appended
