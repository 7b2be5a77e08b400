"""Lines of the log about a call say which experiment, arm, decision, session and turn it was about."""

from __future__ import annotations

import logging

import pytest
from running import Router, StoppableCluster, arm, experiment, refused

from router.decide import Decider
from router.interceptors import log_fields
from router.v1 import interleave_pb2, posteriors_pb2, routing_pb2


def test_the_fields_of_each_kind_of_request():
    route = routing_pb2.RouteRequest(experiment_id="e", unit_id="someone", session_id="s", turn_id="3", force_arm_id="a")
    assert log_fields(route) == {"experiment_id": "e", "session_id": "s", "turn_id": "3", "arm_id": "a"}
    assert log_fields(routing_pb2.RewardRequest(decision_id="d", event_id="x")) == {"decision_id": "d"}
    assert log_fields(posteriors_pb2.GetMetricsRequest(experiment_id="e")) == {"experiment_id": "e"}
    compared = interleave_pb2.CompareTurnsRequest(experiment_id="e", arm_id="a", other_arm_id="b")
    assert log_fields(compared) == {"experiment_id": "e", "arm_id": "a"}
    assert log_fields(interleave_pb2.CreditRequest(interleaving_id="i")) == {"interleaving_id": "i"}
    assert log_fields(routing_pb2.BatchRouteRequest()) == {}
    assert log_fields(object()) == {}


async def test_a_fault_says_what_it_was_about(
    router: Router, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def fail(*_: object) -> None:
        raise RuntimeError("a secret of the implementation")

    await router.run()
    monkeypatch.setattr(Decider, "_pick", fail)
    refusal = await refused(router.route(session_id="s-1", turn_id="2", unit_id="someone"))
    (record,) = [r for r in caplog.records if r.name == "router.interceptors"]
    fields = {name: getattr(record, name) for name in ("experiment_id", "session_id", "turn_id", "error_id")}
    assert fields == {
        "experiment_id": "support",
        "session_id": "s-1",
        "turn_id": "2",
        "error_id": refusal.metadata["error_id"],
    }
    assert "someone" not in str(vars(record)), "who it was is not for the log"


async def test_a_call_that_postgres_ended_says_so_too(
    start_router, stoppable: StoppableCluster, stoppable_url: str, caplog: pytest.LogCaptureFixture
):
    router = await start_router(stoppable_url)
    await router.run(experiment(arms=[arm("a"), arm("b")]))
    stoppable.stop()
    caplog.set_level(logging.WARNING)
    await refused(router.posteriors.GetMetrics(posteriors_pb2.GetMetricsRequest(experiment_id="support")))
    records = [r for r in caplog.records if r.name == "router.interceptors"]
    assert [record.experiment_id for record in records] == ["support"]  # type: ignore[attr-defined]
