"""Route beside the echo, alone and with rewards; BatchRoute beside Route."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

from benchmarks import experiment
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, described, latency_ms, rate, ratio_at_least, ratio_at_most
from benchmarks.h2 import Connection
from benchmarks.load import Load, Measured, MeasurementError
from router.v1 import routing_pb2 as pb

IN_FLIGHT = (1, 32, 256)
_BATCH = 100


def unary(bench: Bench) -> list[Figure]:
    """Route in a closed loop."""
    figures = []
    messages = _messages(bench)
    for in_flight in IN_FLIGHT:
        name = f"Route, {in_flight} in flight"

        def load(connections: Sequence[Connection], in_flight: int = in_flight) -> Load:
            return Load(experiment.ROUTE, connections, messages, in_flight=in_flight)

        ours, echo = bench.compare(name, load)
        details = {"ours": described(ours), "echo": described(echo)}
        figures += [
            ratio_at_least(f"{name}: rate", rate(ours), "calls/s", rate(echo), 0.85, "echo", **details),
            ratio_at_most(f"{name}: p99", latency_ms(ours, 99), "ms", latency_ms(echo, 99), 1.3, "echo"),
        ]
    return figures


def pairs(bench: Bench) -> list[Figure]:
    """Route and then the Reward of its decision; 64 pairs in flight. The echo answers both calls."""
    messages = _messages(bench)
    tails = cycle(experiment.reward_tails(bench.settings.seed))

    def then(reply: bytes) -> bytes:
        return experiment.reward_after(reply, next(tails))

    def load(connections: Sequence[Connection]) -> Load:
        return Load(experiment.ROUTE, connections, messages, in_flight=64, then=(experiment.REWARD, then))

    name = "Route then Reward, 64 in flight"
    ours, echo = bench.compare(name, load)
    details = {"ours": described(ours), "echo": described(echo)}
    return [ratio_at_least(f"{name}: rate", rate(ours), "pairs/s", rate(echo), 0.5, "two echo calls", **details)]


def mixed(bench: Bench) -> list[Figure]:
    """Route 500 times a second, with and without 1,000 rewards a second, 10 or 1 in a call; all in open loops."""
    router, settings = bench.router, bench.settings
    messages = _messages(bench)
    alone: list[Measured] = []
    batched: list[Measured] = []
    single: list[Measured] = []
    of_echo: list[Measured] = []
    # Those who send feedback are not those who ask for arms, and have connections of their own.
    feedback = bench.pool(router.server)

    def route() -> Load:
        return Load(experiment.ROUTE, router.connections, messages, rate=500)

    def requests() -> list[pb.RewardRequest]:
        ids = bench.decision_ids(int(1_100 * (settings.seconds + settings.warm_up_s)))
        return experiment.reward_requests(ids, settings.seed)

    def echo_load(method: str, rate: float, messages: Iterator[bytes]) -> Callable[[Sequence[Connection]], Load]:
        return lambda connections: Load(method, connections, messages, rate=rate)

    for number in range(settings.rounds):
        say = f"Route, 500/s: round {number + 1} of {settings.rounds}"
        bench.say(f"{say}, alone")
        alone += bench.load([route()])
        bench.say(f"{say}, beside 1,000 rewards/s in batches")
        calls = iter(experiment.batch_reward_messages(requests(), experiment.REWARDS_A_CALL))
        rate = 1_000 / experiment.REWARDS_A_CALL
        loads = bench.load([route(), Load(experiment.BATCH_REWARD, feedback.connections(), calls, rate=rate)])
        router.events += experiment.REWARDS_A_CALL * loads[1].acknowledged[experiment.BATCH_REWARD]
        batched.append(loads[0])
        bench.say(f"{say}, beside 1,000 rewards/s one by one")
        events = experiment.reward_messages(requests())
        single.append(bench.load([route(), Load(experiment.REWARD, feedback.connections(), iter(events), rate=1_000)])[0])
        bench.say(f"{say}, the echo beside 1,000 calls/s")
        of_echo.append(
            bench.load_echo(echo_load(experiment.ROUTE, 500, messages), echo_load(experiment.REWARD, 1_000, cycle(events)))[
                0
            ]
        )
    feedback.close()
    figures = []
    for kind, beside in (("in batches of 10", batched), ("one by one", single)):
        details = {"with rewards": described(beside), "alone": described(alone)}
        if beside is single:
            details["echo, with as many calls"] = described(of_echo)
        for percentile in (50, 99):
            name = f"Route, 500/s beside 1,000 rewards/s {kind}: p{percentile}"
            value, baseline = latency_ms(beside, percentile), latency_ms(alone, percentile)
            figures.append(ratio_at_most(name, value, "ms", baseline, 1.5, "without rewards", **details))
            details = {}
    return figures


def batch(bench: Bench) -> list[Figure]:
    """BatchRoute, 100 requests a call, 8 calls in flight, beside Route, 32 in flight."""
    name = f"BatchRoute, {_BATCH} a call"
    batches = cycle(experiment.batch_route_messages(bench.settings.seed, _BATCH))
    singles = _messages(bench)
    router = bench.router
    of_batches: list[Measured] = []
    of_singles: list[Measured] = []
    for number in range(bench.settings.rounds):
        bench.say(f"{name}: round {number + 1} of {bench.settings.rounds}")
        load = Load(experiment.BATCH_ROUTE, router.connections, batches, in_flight=8, check=_whole)
        of_batches += bench.load([load])
        router.decisions += _BATCH * of_batches[-1].acknowledged[experiment.BATCH_ROUTE]
        bench.say(f"{name}: round {number + 1} of {bench.settings.rounds}, Route")
        of_singles += bench.load([Load(experiment.ROUTE, router.connections, singles, in_flight=32)])
    value, baseline = _BATCH * rate(of_batches), rate(of_singles)
    details = {"batches": described(of_batches), "Route": described(of_singles)}
    return [
        replace(
            at_least(f"{name}: rate", value, "decisions/s", 100_000, **details), baseline=baseline, ratio=value / baseline
        )
    ]


def _messages(bench: Bench) -> Iterator[bytes]:
    return cycle(experiment.route_messages(experiment.route_requests(bench.settings.seed)))


_seen: set[int] = set()


def _whole(reply: bytes, sent_ns: int, ended_ns: int) -> None:
    """Look into the first reply of each length: it must have a decision for every request."""
    if len(reply) not in _seen:
        _seen.add(len(reply))
        results = pb.BatchRouteResponse.FromString(reply).results
        if len(results) != _BATCH or not all(result.response.decision_id for result in results):
            raise MeasurementError(f"BatchRoute did not answer every request: {results}")
