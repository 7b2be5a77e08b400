"""A shadow arm never answers, and in state shadow nobody but the control does: whatever is defined and asked."""

from __future__ import annotations

import asyncio
import json
import random
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from definitions import experiments
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.ramp_state import Phase, RampState
from bandit.reward import Evidence
from router.budgets import Budgets
from router.decide import Decider
from router.discounting import Hours
from router.errors import ServiceError
from router.experiment import Definition
from router.journal import Journal
from router.limits import limited_rules
from router.messages import new_definition
from router.policy import Policy, compile_policy
from router.registry import Registry
from router.rules import bucket_table_of, rules_of
from router.services.routing import RouterService
from router.sticky import StickyUnits
from router.storage.experiments import definition_of
from router.storage.sticky import StickyAssignment
from router.tokens import TokenCodec, TokenKey
from router.v1 import routing_pb2, types_pb2
from router.v1.experiments_pb2 import Experiment

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CODEC = TokenCodec(TokenKey(1, bytes(32)), {})
UNITS = st.sampled_from(["", "u-1", "u-2", "u-3"])


def row_of(experiment: Experiment, state: str, ramp_state: RampState | None) -> dict[str, Any]:
    """The row that Postgres would give of a definition: what `definition_of` takes."""
    new = new_definition(experiment)
    row: dict[str, Any] = {
        "incarnation": 1,
        "experiment_id": new.experiment_id,
        "description": "",
        "state": state,
        "etag": "",
        "arms": [
            {
                "arm": number,
                "arm_id": arm.arm_id,
                "version": 1,
                "model": arm.model,
                "family": arm.family,
                "role": "control" if arm.is_control else "shadow" if arm.is_shadow else "challenger",
                "config": {},
                "cap": arm.cap,
                "cost_usd": arm.cost_usd,
                "active": True,
            }
            for number, arm in enumerate(new.arms)
        ],
        "allocation": json.loads(json.dumps(dict(new.allocation))),
        "assignment": dict(new.assignment),
        "reward_rule": dict(new.reward_rule),
        "reward_rule_version": 1,
        "rules": {"1": dict(new.reward_rule)},
        "bucket_table": None,
        "created_at": NOW,
        "updated_at": NOW,
        "definition_version": 1,
        "ramp": dict(new.ramp),
        "ramp_state": None,
        "shadow": dict(new.shadow),
    }
    if new.ramp and ramp_state is not None:
        row["ramp_state"] = {
            "phase": ramp_state.phase.value,
            "stage": ramp_state.stage,
            "version": 1,
            "approved": False,
            "since_us": 0,
            "assessment": None,
        }
    competing = definition_of({**row, "state": "running"}).active_arms
    rules = rules_of(row["allocation"], row["assignment"], row["ramp"], competing)
    limited = limited_rules(rules, competing, ramp_state)
    table = bucket_table_of(replace(rules, allocation=limited.allocation), competing, None)
    row["bucket_table"] = None if table is None else struct.pack(f"!{len(table)}H", *table)
    return row


class Store:
    """Sticky assignments in memory, as the table keeps them."""

    def __init__(self) -> None:
        self.kept: dict[str, StickyAssignment] = {}

    async def claim(
        self, incarnation: int, unit_id: str, *, arm: int, propensity: float, now: datetime, ttl: timedelta | None
    ) -> tuple[StickyAssignment, bool]:
        new = unit_id not in self.kept
        return self.kept.setdefault(unit_id, _assignment(arm, propensity, 1)), new

    async def store(
        self, incarnation: int, unit_id: str, *, previous_epoch: int, arm: int, propensity: float, **_: Any
    ) -> tuple[StickyAssignment, bool]:
        self.kept[unit_id] = _assignment(arm, propensity, previous_epoch + 1)
        return self.kept[unit_id], True


def _assignment(arm: int, propensity: float, epoch: int) -> StickyAssignment:
    return StickyAssignment(arm=arm, propensity=propensity, epoch=epoch, expires_at=None)


class OneExperiment:
    """The registry of a process that knows one policy, which the test replaces."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.policy: Policy | None = None

    def current(self, experiment_id: str) -> Any:
        return SimpleNamespace(policy=self.policy, definition=cast(Policy, self.policy).definition)

    def touch(self, incarnation: int) -> None:
        """Nothing."""

    def stale_for_s(self) -> float:
        return 0.0


@st.composite
def requests(draw: st.DrawFn, experiment: Experiment) -> routing_pb2.RouteRequest:
    names = [*(arm.arm_id for arm in experiment.arms), "nobody"]
    return routing_pb2.RouteRequest(
        experiment_id=experiment.experiment_id,
        unit_id=draw(UNITS),
        session_id=draw(st.sampled_from(["", "s"])),
        turn_id=draw(st.sampled_from(["", "0", "7", "x"])),
        request_id=draw(st.sampled_from(["", "r-1", "r-2"])),
        eligible_arm_ids=draw(st.lists(st.sampled_from(names), max_size=3, unique=True)),
        force_arm_id=draw(st.sampled_from(["", "", *names])),
        force_control=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def stories(draw: st.DrawFn) -> tuple[Experiment, list[tuple[str, RampState | None, list[routing_pb2.RouteRequest]]]]:
    """A definition, and chapters: a state, a ramp's, and what is asked meanwhile."""
    experiment = draw(experiments())
    chapters = []
    for _ in range(draw(st.integers(1, 3))):
        phase = draw(st.none() | st.sampled_from(list(Phase)))
        ramp_state = None if phase is None else RampState(phase, 0, 0, version=1)
        asked = draw(st.lists(requests(experiment), min_size=1, max_size=5))
        chapters.append((draw(st.sampled_from(["running", "shadow"])), ramp_state, asked))
    return experiment, chapters


@given(stories(), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=8, max_size=8))
@settings(deadline=None, max_examples=80)
def test_a_shadow_arm_never_answers(story: Any, evidence: list[tuple[int, int]]) -> None:
    asyncio.run(told(*story, dict(enumerate(_evidence(s, f) for s, f in evidence))))


def _evidence(successes: int, failures: int) -> Evidence:
    return Evidence(successes * 1_000_000, failures * 1_000_000, successes + failures)


async def told(experiment: Experiment, chapters: Any, evidence: Mapping[int, Evidence]) -> None:
    """Decide all that is asked, singly and in a batch, on one process that keeps what it remembers."""
    budgets = Budgets(lambda: int(NOW.timestamp() * 1e6))
    registry, sticky = OneExperiment(budgets), StickyUnits(Store(), lambda: NOW.timestamp())
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory))
        decider = Decider(
            cast(Registry, registry), sticky, CODEC, journal, lambda: int(NOW.timestamp() * 1e6), random.Random(7)
        )
        service = RouterService(decider, cast(Any, None), cast(Any, None))
        for version, (state, ramp_state, asked) in enumerate(chapters, 1):
            definition = definition_of(row_of(experiment, state, ramp_state))
            registry.policy = compile_policy(
                definition, version, evidence, hours=Hours(0, {"": {}}), by_segment={"": evidence}
            )
            budgets.learn(NOW.date(), [1], {})
            # What a request id was answered before stays its answer, whatever the state is now.
            fresh = [_renamed(request, version) for request in asked]
            replies = []
            for request in fresh:
                try:
                    replies.append(
                        (request, routing_pb2.RouteResponse.FromString(await service.Route(request, cast(Any, None))))
                    )
                except ServiceError:
                    continue
            batch = routing_pb2.BatchRouteRequest(requests=fresh)
            results = routing_pb2.BatchRouteResponse.FromString(await service.BatchRoute(batch, cast(Any, None))).results
            answered = [(q, r.response) for q, r in zip(fresh, results, strict=True) if r.HasField("response")]
            assert len(answered) == len(replies)
            for request, reply in [*replies, *answered]:
                _check(definition, request, reply)
        journal.close()


def _renamed(request: routing_pb2.RouteRequest, version: int) -> routing_pb2.RouteRequest:
    renamed = routing_pb2.RouteRequest()
    renamed.CopyFrom(request)
    renamed.request_id = f"{request.request_id}-{version}" if request.request_id else ""
    return renamed


def _check(definition: Definition, request: routing_pb2.RouteRequest, reply: routing_pb2.RouteResponse) -> None:
    arms = {arm.arm_id: arm for arm in definition.arms}
    served = arms[reply.arm.arm_id]
    forced = reply.reason == routing_pb2.REASON_FORCED
    assert not served.is_shadow
    assert forced == bool(request.force_arm_id or request.force_control)
    if definition.state == "shadow" and not request.force_arm_id:
        assert served.is_control
        assert (reply.propensity, forced or reply.reason == routing_pb2.REASON_SAMPLED) == (1.0, True)
    if request.force_control:
        assert served.is_control
    for entry in reply.allocation:
        assert not arms[entry.arm_id].is_shadow
    mirrored = [arm.arm_id for arm in reply.shadow_arms]
    rule = definition.rules.shadow
    assert served.arm_id not in mirrored
    if forced or rule is None or rule.rate == 0.0:
        assert mirrored == []
    elif mirrored or rule.rate == 1.0:
        assert mirrored == [arm.arm_id for arm in definition.mirrored_arms]
    wanted = f"TEXT_MODE_{rule.text.upper()}" if rule is not None and mirrored else "TEXT_MODE_UNSPECIFIED"
    assert reply.shadow_text == types_pb2.TextMode.Value(wanted)
