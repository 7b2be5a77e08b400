"""The learning lag: from a Reward acknowledged by one process to the next Route, on another process, that has learned.

Definition
    Two routers, A and B, each with its own processes, on one database. A takes 1,000 rewards a second, ten in a call, B
    answers 500 Routes a second, all of one experiment of nine arms. Of every other call, the moment is noted at which A's
    reply arrives. The policy version that includes it is then read from Postgres; since further rewards commit meanwhile,
    the version read may be later than need be, never earlier. The lag is the time from that moment to the *sending* of the
    first later Route whose reply, by B, names that policy version or a later one.

    Routes are 2 ms apart, so a lag below 2 ms cannot be told from one of 0: on average the figure is 1 ms too long. A Route
    that waits before B looks at it may learn meanwhile, so where B is slow the figure flatters; the details hold the time to
    that Route's *reply* too, which is never too short.
"""

import threading
import time
from collections.abc import Iterator
from itertools import cycle
from queue import SimpleQueue

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks import experiment
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most, described
from benchmarks.load import Load, MeasurementError
from router.v1 import routing_pb2 as pb

_REWARDS_PER_S = 1_000
_ROUTES_PER_S = 500
_EVERY = 2
_SAMPLES = 1_000
_LONGEST_LAG_S = 2.0
#: A router that falls behind gets this long in all.
_MOST_S = 60.0
_VERSION = "SELECT policy_version FROM policy_versions JOIN experiments USING (incarnation) WHERE experiment_id = %s"


class _Versions:
    """Reads, in a thread, the policy version as of each moment that it is given."""

    def __init__(self, database_url: str) -> None:
        self._moments: SimpleQueue[int | None] = SimpleQueue()
        #: (moment, version)
        self.read: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._run, args=(database_url,), daemon=True)
        self._thread.start()

    def note(self, moment_ns: int) -> None:
        """Read the version of this moment, soon."""
        self._moments.put(moment_ns)

    def stop(self) -> None:
        """Read what is left to read, and end."""
        self._moments.put(None)
        self._thread.join()

    def _run(self, database_url: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as database:
            while (moment_ns := self._moments.get()) is not None:
                row = database.execute(_VERSION, (experiment.EXPERIMENT,), prepare=True).fetchone()
                assert row is not None, "the experiment exists"
                self.read.append((moment_ns, row[0]))


def learning(bench: Bench) -> list[Figure]:
    """Measure the lag of some hundred rewards."""
    settings, router = bench.settings, bench.router
    samples = _SAMPLES // 3 if settings.quick else _SAMPLES
    calls = samples * _EVERY
    events = experiment.reward_requests(bench.decision_ids(calls * experiment.REWARDS_A_CALL), settings.seed)
    batches = experiment.batch_reward_messages(events, experiment.REWARDS_A_CALL)
    requests = experiment.route_messages(experiment.route_requests(settings.seed))
    #: (sent, version, replied)
    routes: list[tuple[int, int, int]] = []
    acknowledged, newest_ns = 0, 0

    def on_reward(reply: bytes, sent_ns: int, ended_ns: int) -> None:
        nonlocal acknowledged, newest_ns
        acknowledged, newest_ns = acknowledged + 1, ended_ns
        if acknowledged % _EVERY == 0:
            versions.note(ended_ns)

    def on_route(reply: bytes, sent_ns: int, ended_ns: int) -> None:
        routes.append((sent_ns, pb.RouteResponse.FromString(reply).policy_version, ended_ns))

    def until_learned() -> Iterator[bytes]:
        # The Routes go on for longer than the rewards, so that the last of these can be seen to arrive.
        for message in cycle(requests):
            if acknowledged == calls and time.perf_counter_ns() - newest_ns > _LONGEST_LAG_S * 1e9:
                return
            yield message

    bench.say("learning lag: starting a second router")
    with bench.running("replica", router.server.database_url) as replica:
        bench.say(f"learning lag: {_REWARDS_PER_S:,} rewards/s here, {_ROUTES_PER_S} Routes/s there")
        versions = _Versions(router.server.database_url)
        router.beside.append(replica.server)
        rate = _REWARDS_PER_S / experiment.REWARDS_A_CALL
        reward = Load(experiment.BATCH_REWARD, router.connections, iter(batches), rate=rate, check=on_reward)
        route = Load(experiment.ROUTE, replica.connections, until_learned(), rate=_ROUTES_PER_S, check=on_route)
        try:
            measured = router.load([reward, route], seconds=_MOST_S, warm_up_s=0)
        finally:
            versions.stop()
            router.beside.clear()
        router.events += len(events)
        router.settle()
    to_sending_ms, to_reply_ms = lags(versions.read, routes) / 1e6
    p50, p99 = (float(np.percentile(to_sending_ms, p)) for p in (50, 99))
    details = {
        "samples": len(to_sending_ms),
        "lag_ms": _percentiles(to_sending_ms),
        "lag_to_reply_ms": _percentiles(to_reply_ms),
        "rewards": described(measured[:1]),
        "routes": described(measured[1:]),
    }
    name = f"learning lag at {_REWARDS_PER_S:,} rewards/s"
    return [
        at_most(f"{name}: p50", p50, "ms", 10, **details),
        at_most(f"{name}: p99", p99, "ms", 50),
    ]


def lags(noted: list[tuple[int, int]], routes: list[tuple[int, int, int]]) -> NDArray[np.float64]:
    """Return the lag of each noted (moment, version), from (sent, version, replied) of Routes; all times in nanoseconds.

    The result is (2, len(noted)): to the sending of the first later Route that has learned, and to its reply. Raises
    MeasurementError if one was never learned.
    """
    sent, versions, replied = np.array(sorted(routes)).T
    # A replica's version never falls, and replies may overtake one another: known by then is the highest so far.
    known = np.maximum.accumulate(versions)
    moments, wanted = np.array(noted).T
    first = np.maximum(np.searchsorted(sent, moments), np.searchsorted(known, wanted))
    if first.max() == len(routes):
        raise MeasurementError(f"policy version {wanted.max()} did not reach the other process")
    return np.array([sent[first] - moments, replied[first] - moments], dtype=np.float64)


def _percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (10, 50, 90, 99, 100)}
