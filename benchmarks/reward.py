"""Reward: one event a call beside the echo, and 1,000 events a call beside a plain COPY. Durable: fsync is on."""

import math
from collections.abc import Sequence
from itertools import cycle
from statistics import median

from benchmarks import experiment
from benchmarks.bench import Bench
from benchmarks.copying import CopyTarget
from benchmarks.figures import Figure, at_least, described, rate, ratio_at_least
from benchmarks.h2 import Connection
from benchmarks.load import Load, Measured, MeasurementError
from router.v1 import routing_pb2 as pb

IN_FLIGHT = 256
_BATCH = 1_000
_BATCHES_IN_FLIGHT = 4
_BATCHES_A_ROUND = 60


def unary(bench: Bench) -> list[Figure]:
    """Reward in a closed loop, each event for a decision of its own."""
    name = f"Reward, {IN_FLIGHT} in flight"
    settings, router = bench.settings, bench.router
    echo_messages = cycle(_messages(bench, ["A" * 132] * experiment.REQUESTS))
    of_router: list[Measured] = []
    of_echo: list[Measured] = []

    def echo_load(connections: Sequence[Connection]) -> Load:
        return Load(experiment.REWARD, connections, echo_messages, in_flight=IN_FLIGHT)

    for number in range(settings.rounds):
        events = iter(_messages(bench, bench.decision_ids(bench.events_a_round)))
        bench.say(f"{name}: round {number + 1} of {settings.rounds}, router")
        of_router += bench.load([Load(experiment.REWARD, router.connections, events, in_flight=IN_FLIGHT, check=applied)])
        bench.rewards_per_s = of_router[-1].rate
        bench.say(f"{name}: round {number + 1} of {settings.rounds}, echo")
        of_echo += bench.load_echo(echo_load)
    details = {"ours": described(of_router), "echo": described(of_echo)}
    return [ratio_at_least(f"{name}: rate", rate(of_router), "calls/s", rate(of_echo), 0.5, "echo", **details)]


def batch(bench: Bench) -> list[Figure]:
    """BatchReward, four batches in flight, and COPY of the very rows that it made into another database of that server."""
    name = f"BatchReward, {_BATCH:,} a call"
    settings, router = bench.settings, bench.router
    batches = _BATCHES_A_ROUND // (4 if settings.quick else 1)
    measured: list[Measured] = []
    copied: list[float] = []
    with CopyTarget(router.server.database_url) as target:
        for number in range(settings.rounds):
            ids = bench.decision_ids(batches * _BATCH)
            requests = experiment.reward_requests(ids, settings.seed)
            calls = iter(experiment.batch_reward_messages(requests, _BATCH))
            bench.say(f"{name}: round {number + 1} of {settings.rounds}, router")
            load = Load(experiment.BATCH_REWARD, router.connections, calls, in_flight=_BATCHES_IN_FLIGHT, check=_all_applied)
            measured += router.load([load], seconds=math.inf, warm_up_s=0)
            rows = target.rows_after(router.events, _BATCH)
            router.events += len(ids)
            bench.say(f"{name}: round {number + 1} of {settings.rounds}, COPY")
            copied.append(target.copy(rows))
    value = _BATCH * rate(measured)
    details = {"ours": described(measured), "copy_events_per_s": [round(events_per_s) for events_per_s in copied]}
    return [
        at_least(f"{name}: rate", value, "events/s", 35_000, **details),
        ratio_at_least(f"{name}: beside COPY", value, "events/s", median(copied), 0.3, "COPY, no fold"),
    ]


def applied(reply: bytes, sent_ns: int, ended_ns: int) -> None:
    """Refuse a reply to Reward that does not say that the event is stored and folded; it begins with its status."""
    if reply[:2] != bytes((0x08, pb.STATUS_APPLIED)):
        raise MeasurementError(f"a Reward was answered {pb.RewardResponse.FromString(reply)}")


def _messages(bench: Bench, decision_ids: Sequence[str]) -> list[bytes]:
    return experiment.reward_messages(experiment.reward_requests(decision_ids, bench.settings.seed))


def _all_applied(reply: bytes, sent_ns: int, ended_ns: int) -> None:
    results = pb.BatchRewardResponse.FromString(reply).results
    refused = next((result for result in results if result.response.status != pb.STATUS_APPLIED), None)
    if len(results) != _BATCH or refused is not None:
        raise MeasurementError(f"BatchReward did not apply every event: {len(results)} results, among them {refused}")
