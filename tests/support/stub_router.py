"""A router that decides what a test wants and keeps what it is told, for tests of what calls models."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from router.v1 import routing_pb2, routing_pb2_grpc, shadow_pb2, shadow_pb2_grpc, types_pb2


@dataclass
class StubRouter(routing_pb2_grpc.RouterServiceServicer, shadow_pb2_grpc.ShadowServiceServicer):
    """Routes every request to `arm`, and to `control` where that is forced. Attributes may change between calls."""

    #: Model and config by arm id.
    arms: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    arm: str = "chosen"
    control: str = ""
    shadows: Sequence[str] = ()
    text: str = "FULL"
    limit: int = 0
    #: Statuses that calls of RecordShadow or BatchReward end in before one succeeds.
    failing: dict[str, list[grpc.StatusCode]] = field(default_factory=dict)
    routed: list[routing_pb2.RouteRequest] = field(default_factory=list)
    rewards: list[routing_pb2.RewardRequest] = field(default_factory=list)
    records: list[shadow_pb2.RecordShadowRequest] = field(default_factory=list)
    #: Cleared to hold calls of BatchReward and RecordShadow up.
    open: threading.Event = field(default_factory=threading.Event)
    target: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def Route(self, request: routing_pb2.RouteRequest, context: grpc.ServicerContext) -> routing_pb2.RouteResponse:
        self.routed.append(request)
        if request.force_control and not self.control:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no control")
        arm = self.control if request.force_control else request.force_arm_id or self.arm
        shadows = () if request.force_control else self.shadows
        return routing_pb2.RouteResponse(
            decision_id=f"{arm}-{request.request_id or next(self._numbers)}",
            experiment_id=request.experiment_id,
            arm=self._arm(arm),
            propensity=1.0 if request.force_control else 0.5,
            reason=routing_pb2.REASON_FORCED if request.force_control else routing_pb2.REASON_SAMPLED,
            policy_version=3,
            shadow_arms=[self._arm(shadow) for shadow in shadows],
            shadow_text=types_pb2.TextMode.Value(f"TEXT_MODE_{self.text}"),
            shadow_text_limit=self.limit,
        )

    def BatchReward(
        self, request: routing_pb2.BatchRewardRequest, context: grpc.ServicerContext
    ) -> routing_pb2.BatchRewardResponse:
        self._hindered("BatchReward", context)
        self.rewards.extend(request.requests)
        applied = routing_pb2.RewardResponse(status=routing_pb2.STATUS_NEUTRAL)
        results = [routing_pb2.BatchRewardResult(response=applied) for _ in request.requests]
        return routing_pb2.BatchRewardResponse(results=results)

    def RecordShadow(
        self, request: shadow_pb2.RecordShadowRequest, context: grpc.ServicerContext
    ) -> shadow_pb2.RecordShadowResponse:
        self._hindered("RecordShadow", context)
        known = any((r.decision_id, r.arm_id) == (request.decision_id, request.arm_id) for r in self.records)
        self.records.append(request)
        return shadow_pb2.RecordShadowResponse(duplicate=known)

    def calls(self) -> Mapping[str, routing_pb2.CallReport]:
        """The reports so far, by decision id."""
        return {reward.decision_id: reward.call for reward in self.rewards}

    def _hindered(self, method: str, context: grpc.ServicerContext) -> None:
        self.open.wait(30)
        if self.failing.get(method):
            context.abort(self.failing[method].pop(0), "hindered by the test")

    def _arm(self, arm_id: str) -> routing_pb2.RoutedArm:
        model, config = self.arms[arm_id]
        message = routing_pb2.RoutedArm(arm_id=arm_id, model=model)
        message.config.update(config)
        return message


@contextmanager
def serve_stub() -> Iterator[StubRouter]:
    """A stub on a free port."""
    stub = StubRouter()
    stub.open.set()
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool)
        routing_pb2_grpc.add_RouterServiceServicer_to_server(stub, server)
        shadow_pb2_grpc.add_ShadowServiceServicer_to_server(stub, server)
        stub.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield stub
        finally:
            stub.open.set()
            server.stop(None).wait()
