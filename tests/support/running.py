"""Routers for tests: real servers on free ports, and what tests say to them and ask of their databases."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from postgres import TestCluster

from router.clocks import Clocks
from router.keeper import Keeper
from router.listening import MAX_MESSAGE_BYTES, Bounds
from router.server import Server
from router.settings import WorkerSettings
from router.storage.replay import ReplayReport, replay
from router.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    interleave_pb2_grpc,
    posteriors_pb2,
    posteriors_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
    types_pb2,
)

DEADLINE_S = 15.0
_event_numbers = itertools.count(1)


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> float:
    """Wait for a condition, which may be awaitable; returns how many seconds that took."""
    started = time.monotonic()
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        elapsed = time.monotonic() - started
        if met:
            return elapsed
        assert elapsed < deadline_s, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Refusal:
    """The error that a call ended in."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: Mapping[str, str]
    #: Description by field.
    violations: Mapping[str, str]
    retry_after_s: float | None
    #: Every byte of it that travels.
    raw: bytes


def refusal_of(status: status_pb2.Status) -> Refusal:
    """Unpack the rich details of a status."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    violations = {violation.field: violation.description for violation in bad.field_violations}
    return Refusal(
        code,
        status.message,
        info.reason,
        info.domain,
        dict(info.metadata),
        violations,
        retry_after_s,
        status.SerializeToString(),
    )


async def refused(call: Awaitable[Any]) -> Refusal:
    """Return the error that a call ends in; it must end in one that carries our details."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} without details: {error.details()}"
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return refusal_of(status)


@dataclass
class Router:
    """A server and a keeper in this process, with a channel to the server."""

    server: Server
    keeper: Keeper | None
    url: str
    channel: grpc.aio.Channel
    closed: bool = False
    routing: routing_pb2_grpc.RouterServiceStub = field(init=False)
    experiments: experiments_pb2_grpc.ExperimentServiceStub = field(init=False)
    posteriors: posteriors_pb2_grpc.PosteriorServiceStub = field(init=False)
    interleaving: interleave_pb2_grpc.InterleaveServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.routing = routing_pb2_grpc.RouterServiceStub(self.channel)
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(self.channel)
        self.posteriors = posteriors_pb2_grpc.PosteriorServiceStub(self.channel)
        self.interleaving = interleave_pb2_grpc.InterleaveServiceStub(self.channel)

    @classmethod
    async def start(
        cls,
        url: str,
        spool: Path,
        clocks: Clocks | None = None,
        *,
        keeper: bool = True,
        bounds: Bounds | None = None,
        **fields: Any,
    ) -> Router:
        """Start a server on a free port, and a keeper beside it; `fields` are those of WorkerSettings."""
        settings = WorkerSettings(host="127.0.0.1", port=0, database_url=url, spool_dir=str(spool), **fields)
        server = Server(settings, clocks, bounds)
        await server.start()
        background = Keeper(settings, clocks) if keeper else None
        if background is not None:
            await background.start()
        return cls(server, background, url, channel_to(server.port))

    async def close(self) -> None:
        """Stop the server, then the keeper, and let go of the channel."""
        if not self.closed:
            self.closed = True
            await self.channel.close()
            await self.server.stop()
        keeper, self.keeper = self.keeper, None
        if keeper is not None:
            await keeper.stop()

    async def route(self, experiment_id: str = "support", **fields: Any) -> routing_pb2.RouteResponse:
        """Route one request."""
        return await self.routing.Route(routing_pb2.RouteRequest(experiment_id=experiment_id, **fields))

    async def batch_route(self, requests: Iterable[routing_pb2.RouteRequest]) -> routing_pb2.BatchRouteResponse:
        """Route several requests."""
        return await self.routing.BatchRoute(routing_pb2.BatchRouteRequest(requests=requests))

    async def reward(self, decision_id: str, reward: float | None = None, **fields: Any) -> routing_pb2.RewardResponse:
        """Send one event, with an id of its own unless told otherwise."""
        return await self.routing.Reward(event(decision_id, reward, **fields))

    async def batch_reward(self, requests: Iterable[routing_pb2.RewardRequest]) -> list[routing_pb2.BatchRewardResult]:
        """Send several events."""
        reply = await self.routing.BatchReward(routing_pb2.BatchRewardRequest(requests=requests))
        return list(reply.results)

    async def posterior(self, experiment_id: str = "support") -> posteriors_pb2.GetPosteriorResponse:
        """Read the posterior."""
        request = posteriors_pb2.GetPosteriorRequest(experiment_id=experiment_id)
        return await self.posteriors.GetPosterior(request)

    async def arms(self, experiment_id: str = "support") -> dict[str, posteriors_pb2.ArmPosterior]:
        """Read the posterior of the active arms, by arm id."""
        reply = await self.posterior(experiment_id)
        return {arm.arm_id: arm for arm in reply.arms if arm.state == types_pb2.ARM_STATE_ACTIVE}

    async def create(self, definition: experiments_pb2.Experiment, **fields: Any) -> experiments_pb2.Experiment:
        """Create an experiment."""
        request = experiments_pb2.CreateExperimentRequest(experiment=definition, **fields)
        return (await self.experiments.CreateExperiment(request)).experiment

    async def get(self, experiment_id: str = "support") -> experiments_pb2.Experiment:
        """Read an experiment."""
        request = experiments_pb2.GetExperimentRequest(experiment_id=experiment_id)
        return (await self.experiments.GetExperiment(request)).experiment

    async def update(self, definition: experiments_pb2.Experiment, **fields: Any) -> experiments_pb2.Experiment:
        """Replace a definition."""
        request = experiments_pb2.UpdateExperimentRequest(experiment=definition, **fields)
        return (await self.experiments.UpdateExperiment(request)).experiment

    async def move(
        self, verb: str, experiment_id: str = "support", etag: str = "", **fields: Any
    ) -> experiments_pb2.Experiment:
        """Call StartExperiment and its like."""
        request = getattr(experiments_pb2, f"{verb}ExperimentRequest")(experiment_id=experiment_id, etag=etag, **fields)
        return (await getattr(self.experiments, f"{verb}Experiment")(request)).experiment

    async def ramp(self, verb: str, experiment_id: str = "support", **fields: Any) -> experiments_pb2.Experiment:
        """Call ApproveRamp and its like."""
        request = getattr(experiments_pb2, f"{verb}RampRequest")(experiment_id=experiment_id, **fields)
        return (await getattr(self.experiments, f"{verb}Ramp")(request)).experiment

    async def transitions(self, experiment_id: str = "support", kind: str = "") -> list[experiments_pb2.Transition]:
        """Read the newest hundred transitions, oldest first, of one kind if one is given: "RAMP"."""
        request = experiments_pb2.ListTransitionsRequest(experiment_id=experiment_id)
        found = (await self.experiments.ListTransitions(request)).transitions
        wanted = experiments_pb2.Transition.Kind.Value(f"KIND_{kind or 'UNSPECIFIED'}")
        return [transition for transition in reversed(found) if not kind or transition.kind == wanted]

    async def run(self, definition: experiments_pb2.Experiment | None = None) -> experiments_pb2.Experiment:
        """Create an experiment and start it."""
        definition = definition or experiment()
        await self.create(definition)
        return await self.move("Start", definition.experiment_id)

    async def learn(self, arm_id: str, successes: int, failures: int = 0, experiment_id: str = "support") -> None:
        """Reward decisions for one arm."""
        requests = [
            routing_pb2.RouteRequest(experiment_id=experiment_id, unit_id=f"learn-{n}", eligible_arm_ids=[arm_id])
            for n in range(successes + failures)
        ]
        routed = await self.batch_route(requests)
        events = [
            event(result.response.decision_id, 1.0 if n < successes else 0.0) for n, result in enumerate(routed.results)
        ]
        for result in await self.batch_reward(events):
            assert result.response.status == routing_pb2.STATUS_APPLIED, result
            assert result.response.arm_id == arm_id


def channel_to(port: int) -> grpc.aio.Channel:
    """A channel that takes replies of any size and never shares a connection."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", 2 * MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


def event(decision_id: str, reward: float | None = None, **fields: Any) -> routing_pb2.RewardRequest:
    """An event with an id of its own unless told otherwise."""
    fields.setdefault("event_id", f"event-{next(_event_numbers)}")
    if reward is not None:
        fields["reward"] = reward
    return routing_pb2.RewardRequest(decision_id=decision_id, **fields)


def arm(arm_id: str, **fields: Any) -> types_pb2.Arm:
    """An arm whose model is named after it; `config` is a dict."""
    config = fields.pop("config", {"max_tokens": 1024})
    message = types_pb2.Arm(arm_id=arm_id, **{"model": f"model-{arm_id}", **fields})
    message.config.update(config)
    return message


def experiment(
    experiment_id: str = "support",
    arms: Iterable[str | types_pb2.Arm] = ("a", "b"),
    *,
    kind: str = "THOMPSON",
    floor: float | None = None,
    weights: Mapping[str, float] | None = None,
    prior: tuple[float, float] | None = None,
    assignment: str = "PER_REQUEST",
    unit: str = "USER",
    ttl_s: int | None = None,
    holdout: float = 0.0,
    window_s: int | None = None,
    unit_share: int | None = None,
    signals: Mapping[int, float | None] | None = None,
    description: str = "",
    etag: str = "",
    ramp: experiments_pb2.RampRule | None = None,
) -> experiments_pb2.Experiment:
    """A definition; arms may be given by id."""
    pb = experiments_pb2
    allocation = pb.AllocationRule(kind=f"KIND_{kind}", floor=floor, weights=weights)
    if prior is not None:
        allocation.prior.CopyFrom(pb.BetaPrior(alpha=prior[0], beta=prior[1]))
    ttl = None if ttl_s is None else Duration(seconds=ttl_s)
    rule = pb.RewardRule(
        signals=[pb.SignalReward(signal=signal, reward=reward) for signal, reward in (signals or {}).items()],
        attribution_window=None if window_s is None else Duration(seconds=window_s),
        unit_share=unit_share,
    )
    return pb.Experiment(
        experiment_id=experiment_id,
        description=description,
        arms=[arm(a) if isinstance(a, str) else a for a in arms],
        allocation=allocation,
        assignment=pb.AssignmentRule(kind=f"KIND_{assignment}", unit=f"UNIT_{unit}", ttl=ttl, holdout=holdout),
        reward_rule=rule,
        etag=etag,
        ramp=ramp,
    )


@dataclass
class StoppableCluster:
    """A cluster whose server can be stopped and started again, on the same port and with the same data."""

    cluster: TestCluster

    def stop(self) -> None:
        """Stop the server, as for maintenance: whoever is connected is cut off."""
        if self.cluster._admin is not None:
            self.cluster._admin.close()
            self.cluster._admin = None
        self.cluster.postgres.stop()

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.cluster._admin is None:
            self.cluster.start()


def _query(url: str, statement: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters or None)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


async def query(url: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own and return its rows, if it has any.

    In a thread: the statement may have to wait for a lock that a router in this process holds.
    """
    return await asyncio.to_thread(_query, url, statement, parameters)


async def scalar(url: str, statement: str, *parameters: object) -> Any:
    """Return the only value of the only row."""
    ((value,),) = await query(url, statement, *parameters)
    return value


async def until_scalar(url: str, statement: str, value: object) -> None:
    """Wait until a statement gives this value."""
    found: object = None

    async def equal() -> bool:
        nonlocal found
        found = await scalar(url, statement)
        return found == value

    try:
        await until(equal, statement)
    except AssertionError as error:
        raise AssertionError(f"{statement}: {found!r}, expected {value!r}") from error


def _replay(url: str) -> ReplayReport:
    with psycopg.connect(url) as connection:
        return replay(connection)


async def assert_replay_agrees(url: str) -> ReplayReport:
    """The evidence is what the log of events says, to the last digit."""
    report = await asyncio.to_thread(_replay, url)
    assert report.agrees, report.disagreements
    return report


async def terminate_others(url: str) -> int:
    """Cut every other connection to this database; returns how many there were."""
    rows = await query(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )
    return len(rows)


@contextlib.contextmanager
def locked(url: str, table: str, where: str = "true") -> Any:
    """Hold rows of a table, so that whoever wants them waits."""
    with psycopg.connect(url) as connection:
        connection.execute(f"SELECT 1 FROM {table} WHERE {where} FOR UPDATE")
        yield connection
        connection.rollback()


async def until_waiting(url: str, table: str = "policy_versions", backends: int = 1) -> None:
    """Wait until so many backends of this database wait for a lock, by statements that name this table."""
    await until_scalar(
        url,
        f"SELECT count(*) >= {backends} FROM pg_stat_activity WHERE datname = current_database()"
        f" AND wait_event_type = 'Lock' AND query LIKE '%{table}%'",
        True,
    )
