"""A router under measurement, and the account of what it acknowledged.

Postgres must agree with the account in the end: every decision, every event, one outcome each, and the evidence's n. A row
too few or too many ends the run.
"""

import math
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import grpc
import psycopg

from benchmarks import experiment, service
from benchmarks.h2 import Connection, framed
from benchmarks.load import Load, Measured, MeasurementError, run
from router.v1 import experiments_pb2, experiments_pb2_grpc
from router.v1 import routing_pb2 as pb

METHODS = (experiment.ROUTE, experiment.BATCH_ROUTE, experiment.REWARD, experiment.BATCH_REWARD)
_SETTLE_S = 120.0
_BATCH = 1_000


@dataclass(slots=True)
class Subject:
    """A router, connections to it, and what it acknowledged so far."""

    server: service.Server
    pool: service.Pool
    #: Decisions and events that its database must hold.
    decisions: int = 0
    events: int = 0
    #: Other servers whose CPU time belongs to a measurement.
    beside: list[service.Server] = field(default_factory=list)

    @property
    def connections(self) -> Sequence[Connection]:
        """Connections that work, for the next load."""
        return self.pool.connections()

    def create(self, definitions: Sequence[experiments_pb2.Experiment]) -> None:
        """Create experiments and start them."""
        with grpc.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
            for definition in definitions:
                stub.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=definition), timeout=30)
                started = experiments_pb2.StartExperimentRequest(experiment_id=definition.experiment_id)
                stub.StartExperiment(started, timeout=30)

    def load(self, loads: Sequence[Load], *, seconds: float, warm_up_s: float) -> list[Measured]:
        """Run loads for one round, once nothing of the round before is left to do.

        With infinite `seconds`, until every message of theirs is answered. Single calls go into the account; of batches only
        the caller knows the size.
        """
        self.settle()
        measured = run(
            loads,
            warm_up_s=0.0 if math.isinf(seconds) else warm_up_s,
            seconds=seconds,
            cpu=service.cpu_meter([self.server, *self.beside]).read,
        )
        for each in measured:
            self.decisions += each.acknowledged.get(experiment.ROUTE, 0)
            self.events += each.acknowledged.get(experiment.REWARD, 0)
        return measured

    def decide(self, requests: Sequence[pb.RouteRequest], count: int) -> list[str]:
        """Make `count` decisions, with these requests in turn, and return their ids once all are in Postgres."""
        endless = cycle(requests)
        ids: list[str] = []
        while len(ids) < count:
            call = pb.BatchRouteRequest(requests=islice(endless, min(_BATCH, count - len(ids))))
            reply = unary(self.connections[0], experiment.BATCH_ROUTE, call.SerializeToString())
            for result in pb.BatchRouteResponse.FromString(reply).results:
                if not result.response.decision_id:
                    raise MeasurementError(f"BatchRoute refused a request: {result}")
                ids.append(result.response.decision_id)
        self.decisions += len(ids)
        self.settle()
        return ids

    def settle(self) -> None:
        """Wait until Postgres holds every decision that was answered, so that no round pays for another's work."""
        self._wait("decisions", self.decisions)

    def verify(self) -> None:
        """Compare Postgres with the account. Raises MeasurementError."""
        self.settle()
        # Events that were answered as spooled are on their way.
        self._wait("events", self.events)
        with self._database() as database:
            for what, query in (("outcomes", "count(*) FROM outcomes"), ("evidence", "coalesce(sum(n), 0) FROM evidence")):
                stored = _number(database, query)
                if stored != self.events:
                    raise MeasurementError(f"{what}: {stored}, but {self.events} events were acknowledged")

    def _wait(self, table: str, expected: int) -> None:
        give_up = time.monotonic() + _SETTLE_S
        with self._database() as database:
            while True:
                stored = _number(database, f"count(*) FROM {table}")
                if stored == expected:
                    return
                if stored > expected or time.monotonic() > give_up:
                    raise MeasurementError(f"{table}: {stored} in Postgres, {expected} were acknowledged")
                time.sleep(0.05)  # between two looks at the count

    def _database(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server.database_url, autocommit=True)


def _number(database: psycopg.Connection[Any], query: str) -> int:
    row = database.execute(f"SELECT {query}".encode()).fetchone()
    assert row is not None, "an aggregate has one row"
    return int(row[0])


def unary(connection: Connection, method: str, message: bytes, deadline_s: float = 60.0) -> bytes:
    """Make one call and return its reply. Raises MeasurementError unless it succeeds."""
    connection.call(method, framed(message), None)
    give_up = time.monotonic() + deadline_s
    while time.monotonic() < give_up:
        connection.flush()
        select.select([connection], [connection] if connection.wants_to_write else [], [], 1.0)
        for reply in connection.receive():
            if reply.status:
                text = connection.messages.get(reply.status, "")
                raise MeasurementError(f"{method} ended with status {reply.status}: {text}")
            return reply.message
    raise MeasurementError(f"{method} did not end within {deadline_s:.0f} s")
