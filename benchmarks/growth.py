"""Growth: what 10,000 experiments, or ten million events, change; and what a worker's memory is then.

Three routers run side by side on one Postgres, each on a database of its own, and are measured in turn: *small* has ten
experiments and one event, *many* has 10,000 experiments, *long* has ten experiments and ten million events of the last six
days. In *many* the same traffic is measured as in *small*, to its first ten experiments, and then traffic to all of them
alike. Every experiment was routed to at least once before.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks import experiment, grow, processes, reward
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most, described, latency_ms, rate, ratio_at_least, ratio_at_most
from benchmarks.load import Load, Measured, MeasurementError
from benchmarks.subject import Subject
from router.v1 import routing_pb2 as pb

_FEW = tuple(f"bench-{i}" for i in range(10))
_ROUNDS = 3
_SECONDS = 2.0
_MOST_MB = 400


@dataclass(slots=True)
class _Traffic:
    """Traffic to some experiments of one router, and what was measured of it."""

    what: str
    subject: Subject
    requests: tuple[pb.RouteRequest, ...]
    routes: list[Measured] = field(default_factory=list)
    rewards: list[Measured] = field(default_factory=list)


def growth(bench: Bench) -> list[Figure]:
    """Measure the three in turn."""
    quick, seed = bench.settings.quick, bench.settings.seed
    experiments, events = (1_000, 100_000) if quick else (10_000, 10_000_000)
    with contextlib.ExitStack() as stack:
        start = _starter(bench, stack)
        small, many, long = start("small"), start("many"), start("long")
        bench.say(f"growth: adding {experiments:,} experiments")
        added = grow.add_experiments(many.server.database_url, _FEW[0], experiments - len(_FEW))
        everything = experiment.route_requests(seed, (*_FEW, *added))
        bench.say(f"growth: routing to each of {experiments:,} experiments")
        first = iter(experiment.route_messages(everything))
        many.load([Load(experiment.ROUTE, many.connections, first, in_flight=32)], seconds=math.inf, warm_up_s=0)
        memory = [processes.memory_mb(pid) for pid in many.server.workers()]
        bench.say(f"growth: adding {events:,} events")
        _first_event(small)
        _first_event(long)
        grow.add_events(long.server.database_url, events)
        long.events += events
        few = experiment.route_requests(seed, _FEW)
        traffic = [
            _Traffic("", small, few),
            _Traffic(f"10 → {experiments:,} experiments, same traffic", many, few),
            _Traffic(f"10 → {experiments:,} experiments, traffic to all", many, everything),
            _Traffic(f"1 → {events:,} events", long, few),
        ]
        rounds = 2 if quick else _ROUNDS
        for number in range(rounds):
            for each in traffic:
                bench.say(f"growth: {each.what or 'small'}: round {number + 1} of {rounds}")
                _measure(bench, each)
        for subject in (small, many, long):
            subject.verify()
    resident = max(rss for rss, _ in memory)
    details = {"rss_mb": [round(rss, 1) for rss, _ in memory], "pss_mb": [round(pss, 1) for _, pss in memory]}
    name = f"memory of a worker at {experiments:,} experiments"
    return [
        *_changes(traffic[0], traffic[1:]),
        at_most(name, resident, "MB", _MOST_MB, **details),
    ]


def _starter(bench: Bench, stack: contextlib.ExitStack) -> Callable[[str], Subject]:
    server_url = bench.router.server.database_url

    def start(name: str) -> Subject:
        bench.say(f"growth: starting a router with a database of its own: {name}")
        url = stack.enter_context(grow.database(server_url, name))
        subject = stack.enter_context(bench.running(name, url))
        subject.create([experiment.definition(experiment_id) for experiment_id in _FEW])
        return subject

    return start


def _first_event(subject: Subject) -> None:
    ids = subject.decide([pb.RouteRequest(experiment_id=_FEW[0], unit_id="first")], 1)
    subject.load([_reward_load(subject, ids, seed=0)], seconds=math.inf, warm_up_s=0)


def _measure(bench: Bench, traffic: _Traffic) -> None:
    seconds, warm_up_s, subject = _SECONDS, bench.settings.warm_up_s, traffic.subject
    route = Load(experiment.ROUTE, subject.connections, cycle(experiment.route_messages(traffic.requests)), in_flight=32)
    traffic.routes += subject.load([route], seconds=seconds, warm_up_s=warm_up_s)
    ids = subject.decide(traffic.requests, int(1.5 * bench.rewards_per_s * (seconds + warm_up_s)))
    rewards = _reward_load(subject, ids, bench.settings.seed)
    traffic.rewards += subject.load([rewards], seconds=seconds, warm_up_s=warm_up_s)
    bench.rewards_per_s = max(bench.rewards_per_s, traffic.rewards[-1].rate)


def _reward_load(subject: Subject, ids: list[str], seed: int) -> Load:
    messages = iter(experiment.reward_messages(experiment.reward_requests(ids, seed)))
    return Load(experiment.REWARD, subject.connections, messages, in_flight=reward.IN_FLIGHT, check=reward.applied)


def _changes(small: _Traffic, grown: list[_Traffic]) -> list[Figure]:
    if any(measured.calls < 100 for each in (small, *grown) for measured in (*each.routes, *each.rewards)):
        raise MeasurementError("too few calls ended to speak of percentiles")
    figures = []
    for each in grown:
        details = {
            "Route": described(each.routes),
            "Route, small": described(small.routes),
            "Reward": described(each.rewards),
            "Reward, small": described(small.rewards),
        }
        p99, p99_small = latency_ms(each.routes, 99), latency_ms(small.routes, 99)
        figures += [
            ratio_at_most(f"growth, {each.what}: Route p99", p99, "ms", p99_small, 1.2, "small", **details),
            ratio_at_least(
                f"growth, {each.what}: Reward rate", rate(each.rewards), "calls/s", rate(small.rewards), 0.8, "small"
            ),
        ]
    return figures
