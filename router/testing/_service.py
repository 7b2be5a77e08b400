"""What the fake answers: the contract of RouterService with a uniform or scripted choice in place of learning."""

from __future__ import annotations

import random
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from router.client import _messages
from router.client._requests import RouteRequest, as_arm
from router.client._values import Arm, Decision, Reason, Status, TextMode
from router.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
)
from router.testing._values import FakeComparison, FakeExperiment, FakeReward
from router.testing._wire import RpcFailure
from router.v1 import routing_pb2, shadow_pb2, types_pb2
from router.validation import validate

_DECISION_ID: Final = re.compile(r"fake_(?P<router>[0-9a-f]{32})_(?P<number>[0-9]{1,9})")


class Service:
    """The router's side of the fake: messages in, messages or errors out, one call at a time."""

    def __init__(
        self,
        experiments: dict[str, FakeExperiment],
        elsewhere: Callable[[], FakeExperiment | None],
        seed: int,
    ) -> None:
        """Serve `experiments`, and for every other id what `elsewhere` returns, if anything."""
        self._experiments, self._elsewhere, self._seed = experiments, elsewhere, seed
        self._lock = threading.Lock()
        self._router_id = uuid.uuid4().hex
        self._decisions: dict[str, Decision] = {}
        self._replies: dict[tuple[str, str], routing_pb2.RouteResponse] = {}
        self._rewards: list[FakeReward] = []
        self._comparisons: dict[tuple[str, str], FakeComparison] = {}
        self._events: set[tuple[str, str]] = set()
        self._units: dict[tuple[str, str], str] = {}
        #: By decision id, and by experiment and unit the decisions with an outcome.
        self._unit_of: dict[str, str] = {}
        self._counted: dict[tuple[str, str], set[str]] = {}
        self._draws: dict[str, random.Random] = {}
        self._turns: dict[str, int] = {}
        self._methods: dict[str, Callable[[Any], Message]] = {
            "Route": self._route,
            "BatchRoute": self._batch_route,
            "Reward": self._reward,
            "BatchReward": self._batch_reward,
            "RecordShadow": self._record_shadow,
            # Of the standard health service.
            "Check": lambda _: health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING),
        }
        #: Whether to fail every call as if no router answered.
        self.unreachable = False

    def answer(self, method: str, request: Message) -> Message:
        """Return the reply of a call. Raises RpcFailure."""
        with self._lock:
            if self.unreachable:
                raise RpcFailure(grpc.StatusCode.UNAVAILABLE, "the fake router is unreachable")
            try:
                return self._methods[method](request)
            except ServiceError as error:
                raise RpcFailure.of(error) from None

    def decisions(self) -> tuple[Decision, ...]:
        """Return every decision so far, oldest first."""
        with self._lock:
            return tuple(self._decisions.values())

    def rewards(self) -> tuple[FakeReward, ...]:
        """Return every event taken so far, oldest first."""
        with self._lock:
            return tuple(self._rewards)

    def comparisons(self) -> tuple[FakeComparison, ...]:
        """Return every comparison so far, oldest first."""
        with self._lock:
            return tuple(self._comparisons.values())

    def _batch_route(self, batch: routing_pb2.BatchRouteRequest) -> routing_pb2.BatchRouteResponse:
        validate(batch)
        reply = routing_pb2.BatchRouteResponse()
        sent: dict[tuple[tuple[str, float], ...], int] = {}
        for request in batch.requests:
            result = reply.results.add()
            try:
                result.response.CopyFrom(self._route(request))
            except ServiceError as error:
                result.error.CopyFrom(error.to_status())
                continue
            vector = tuple(_messages.probabilities(result.response.allocation).items())
            if vector not in sent:
                sent[vector] = len(sent)
                reply.allocations.add().entries.extend(result.response.allocation)
            result.response.allocation_index = sent[vector]
            result.response.ClearField("allocation")
        return reply

    def _batch_reward(self, batch: routing_pb2.BatchRewardRequest) -> routing_pb2.BatchRewardResponse:
        validate(batch)
        reply = routing_pb2.BatchRewardResponse()
        for request in batch.requests:
            result = reply.results.add()
            try:
                result.response.CopyFrom(self._reward(request))
            except ServiceError as error:
                result.error.CopyFrom(error.to_status())
        return reply

    def _route(self, request: routing_pb2.RouteRequest) -> routing_pb2.RouteResponse:
        validate(request)
        experiment = self._experiment(request.experiment_id)
        arms = experiment.arms_by_id()
        for arm_id in (*request.eligible_arm_ids, request.force_arm_id):
            if arm_id and arm_id not in arms:
                raise InvalidArgumentError(
                    f"arm {arm_id!r} is not an active arm of experiment {request.experiment_id!r}",
                    reason="ARM_NOT_FOUND",
                    metadata={"arm_id": arm_id},
                )
        if request.force_control and request.force_arm_id:
            rule = "is true, and force_arm_id names an arm too: only one of them can answer"
            raise InvalidArgumentError.of_field("force_control", rule)
        if experiment.sticky and not request.unit_id:
            raise InvalidArgumentError.of_field("unit_id", "is required, because the assignment is sticky")
        asked = (request.experiment_id, request.request_id)
        if request.request_id and asked in self._replies:
            return self._replies[asked]
        arm_id, allocation, reason = self._choose(request, experiment, list(arms))
        reply = routing_pb2.RouteResponse(
            decision_id=f"fake_{self._router_id}_{len(self._decisions)}",
            experiment_id=request.experiment_id,
            arm=_routed(arms[arm_id]),
            propensity=1.0 if reason == routing_pb2.REASON_FORCED else allocation[arm_id],
            allocation=[types_pb2.ArmProbability(arm_id=name, probability=p) for name, p in allocation.items()],
            policy_version=1,
            reason=reason,
        )
        if reason != routing_pb2.REASON_FORCED:
            _mirror(experiment, reply)
        if request.request_id:
            self._replies[asked] = reply
        given = RouteRequest(request.experiment_id, session_id=request.session_id, turn_id=request.turn_id)
        self._decisions[reply.decision_id] = _messages.decision(reply, given)
        self._unit_of[reply.decision_id] = request.unit_id
        return reply

    def _experiment(self, experiment_id: str) -> FakeExperiment:
        experiment = self._experiments.get(experiment_id) or self._elsewhere()
        if experiment is None:
            raise NotFoundError.of_experiment(experiment_id)
        self._experiments[experiment_id] = experiment
        if not experiment.running:
            raise FailedPreconditionError(
                f"experiment {experiment_id!r} is paused",
                reason="EXPERIMENT_NOT_RUNNING",
                metadata={"state": "paused"},
            )
        return experiment

    def _choose(
        self, request: routing_pb2.RouteRequest, experiment: FakeExperiment, arm_ids: list[str]
    ) -> tuple[str, dict[str, float], routing_pb2.Reason]:
        """Return the arm, the vector it counts as drawn from, and why."""
        eligible = [arm_id for arm_id in arm_ids if not request.eligible_arm_ids or arm_id in request.eligible_arm_ids]
        allocation = _allocation(experiment, arm_ids, eligible)
        forced = (experiment.control or arm_ids[0]) if request.force_control else request.force_arm_id
        if forced:
            return forced, allocation, routing_pb2.REASON_FORCED
        unit = (request.experiment_id, request.unit_id)
        kept = self._units.get(unit) if experiment.sticky else None
        if kept is not None and allocation.get(kept):
            return kept, allocation, routing_pb2.REASON_STICKY
        arm_id = self._next(request.experiment_id, experiment, eligible)
        if not allocation.get(arm_id):
            raise FailedPreconditionError(
                f"the test chose arm {arm_id!r} for experiment {request.experiment_id!r}, "
                f"but the request permits only {eligible}",
                reason="NO_ELIGIBLE_ARM",
            )
        if experiment.sticky:
            self._units[unit] = arm_id
        return arm_id, allocation, routing_pb2.REASON_SAMPLED

    def _next(self, experiment_id: str, experiment: FakeExperiment, eligible: Sequence[str]) -> str:
        if isinstance(experiment.choose, str):
            return experiment.choose
        if experiment.choose:
            turn = self._turns.get(experiment_id, 0)
            self._turns[experiment_id] = turn + 1
            return experiment.choose[turn % len(experiment.choose)]
        # One generator per experiment: another experiment's traffic must not change a test's draws.
        draw = self._draws.setdefault(experiment_id, random.Random(f"{self._seed}:{experiment_id}"))  # noqa: S311
        return draw.choice(eligible)

    def _reward(self, request: routing_pb2.RewardRequest) -> routing_pb2.RewardResponse:
        validate(request)
        decision = self._decision(request.decision_id)
        event = (request.decision_id, request.event_id)
        status = Status.DUPLICATE if event in self._events else _status(request, decision)
        if status is Status.APPLIED and not self._takes_share(decision):
            status = Status.LIMITED
        self._events.add(event)
        self._rewards.append(FakeReward.of(request, decision, status))
        return routing_pb2.RewardResponse(status=f"STATUS_{status.name}", arm_id=decision.arm.arm_id)

    def _takes_share(self, decision: Decision) -> bool:
        """Whether an outcome of the decision counts within its unit's share; a correction does."""
        unit, share = self._unit_of.get(decision.decision_id, ""), self._experiments[decision.experiment_id].unit_share
        if unit and share:
            counted = self._counted.setdefault((decision.experiment_id, unit), set())
            if decision.decision_id not in counted and len(counted) >= share:
                return False
            counted.add(decision.decision_id)
        return True

    def _record_shadow(self, request: shadow_pb2.RecordShadowRequest) -> shadow_pb2.RecordShadowResponse:
        validate(request)
        decision = self._decision(request.decision_id)
        experiment = self._experiments[decision.experiment_id]
        known = {arm.arm_id for arm in (*experiment.arms_by_id().values(), *map(as_arm, experiment.shadow_arms))}
        if request.arm_id not in known - {decision.arm.arm_id}:
            raise InvalidArgumentError(
                f"arm_id: {request.arm_id!r} is not an arm that the decision could be mirrored to",
                reason="ARM_NOT_FOUND",
                metadata={"arm_id": request.arm_id},
            )
        key = (request.decision_id, request.arm_id)
        if key in self._comparisons:
            return shadow_pb2.RecordShadowResponse(duplicate=True)
        self._comparisons[key] = FakeComparison.of(request, decision)
        return shadow_pb2.RecordShadowResponse()

    def _decision(self, decision_id: str) -> Decision:
        found = _DECISION_ID.fullmatch(decision_id)
        if found is None:
            reason, what = "DECISION_ID_MALFORMED", "is not one that a router gave"
        elif found["router"] != self._router_id:
            reason, what = "DECISION_ID_FOREIGN", "was given by another router"
        elif decision_id not in self._decisions:
            reason, what = "DECISION_ID_TAMPERED", "was altered"
        else:
            return self._decisions[decision_id]
        raise InvalidArgumentError.of_field("decision_id", what, reason=reason)


def _mirror(experiment: FakeExperiment, reply: routing_pb2.RouteResponse) -> None:
    arms = [as_arm(arm) for arm in experiment.shadow_arms]
    if arms:
        limit = experiment.shadow_text_limit if experiment.shadow_text is TextMode.TRUNCATED else 0
        mode = f"TEXT_MODE_{experiment.shadow_text.name}"
        reply.MergeFrom(routing_pb2.RouteResponse(shadow_arms=map(_routed, arms), shadow_text=mode, shadow_text_limit=limit))


def _allocation(experiment: FakeExperiment, arm_ids: Sequence[str], eligible: Sequence[str]) -> dict[str, float]:
    """Return the vector over all arms: 1 for a fixed choice, else the eligible ones alike."""
    drawn = [experiment.choose] if isinstance(experiment.choose, str) else eligible
    return {arm_id: 1 / len(drawn) if arm_id in drawn and arm_id in eligible else 0.0 for arm_id in arm_ids}


def _status(request: routing_pb2.RewardRequest, decision: Decision) -> Status:
    # Of a forced decision nothing is learned, whatever happened after it.
    forced = decision.reason is Reason.FORCED
    neutral = request.HasField("call") or request.signal == types_pb2.SIGNAL_FOLLOW_UP_QUESTION
    return Status.NEUTRAL if forced or neutral else Status.APPLIED


def _routed(arm: Arm) -> routing_pb2.RoutedArm:
    config = struct_pb2.Struct()
    config.update(dict(arm.config))
    return routing_pb2.RoutedArm(arm_id=arm.arm_id, model=arm.model, config=config)
