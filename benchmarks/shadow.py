"""What mirroring costs production: the latency of the drop-in clients with shadow rate 1 against that without.

Definition
    Callers in one process ask through a drop-in client, each its next question when the last one is answered. The models are
    the loopback server in a process of its own; an answer takes between 150 and 400 ms, drawn by model and question. Rounds
    take turns: an experiment that mirrors nothing, and one that mirrors every decision to one shadow arm and records it
    with its text. Both ask the same questions of the same serving model, so the provider's part is the same to the
    millisecond, and what differs is the router's and the client's. The latency is that of `create`, from call to return, all
    callers and rounds of one kind together.
"""

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from benchmarks import service
from benchmarks.bench import Bench
from benchmarks.figures import Figure, ratio_at_most
from benchmarks.load import MeasurementError
from router.client import AsyncRouterClient, RouterClient
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc, types_pb2

_LATENCY = "150-400"
_SERVING, _SHADOW = "qwen2.5-7b-instruct", "mistral-7b-instruct-v0.3"
_PLAIN, _MIRRORED = "bench-plain", "bench-mirrored"
#: A call through an SDK takes milliseconds of a core: many more callers would measure a process that is full as it is.
_CALLERS = 16
_MOST = 1.1
_START_S = 30.0
_URL = re.compile(r"ANTHROPIC_BASE_URL=(\S+)")


def mirroring(bench: Bench) -> list[Figure]:
    """Measure both drop-in clients with and without mirrored calls."""
    bench.say("starting the loopback models, and a router that mirrors")
    with _models() as url, service.router(bench.directory / "shadow", workers=bench.settings.workers) as server:
        target = f"127.0.0.1:{server.port}"
        _create(target)
        return [*_compare("asyncio", bench, url, target, _asyncio), *_compare("threads", bench, url, target, _threads)]


def _compare(name: str, bench: Bench, url: str, target: str, run: Callable[..., Any]) -> list[Figure]:
    settings = bench.settings
    # As many questions a round as keep the callers busy for its seconds, at 275 ms an answer.
    asked = max(2, round(settings.seconds / 0.275))
    latencies: dict[str, list[float]] = {_PLAIN: [], _MIRRORED: []}

    def say(number: int, experiment_id: str) -> None:
        bench.say(f"shadow, {name}: round {number + 1} of {2 * settings.rounds}, {experiment_id.removeprefix('bench-')}")

    stats = run(url, target, asked, 2 * settings.rounds, latencies, say)
    expected = _CALLERS * asked * 2 * settings.rounds
    recorded = stats.records.recorded
    details = {
        "callers": _CALLERS,
        "samples": {kind: len(values) for kind, values in latencies.items()},
        "mirrored": stats.mirrors.asked,
        "recorded": recorded,
        "held back": stats.mirrors.busy,
        **{kind: {f"p{p:g}": round(float(np.percentile(v, p)), 2) for p in (50, 90, 99)} for kind, v in latencies.items()},
    }
    if recorded + stats.mirrors.busy < expected:
        raise MeasurementError(f"shadow, {name}: {recorded} of {expected} mirrored calls were recorded: {stats}")
    return [
        ratio_at_most(
            f"Drop-in with shadow rate 1, {name}: p{percentile}",
            float(np.percentile(latencies[_MIRRORED], percentile)),
            "ms",
            float(np.percentile(latencies[_PLAIN], percentile)),
            _MOST,
            "without shadow",
            **details,
        )
        for percentile in (50, 99)
    ]


def _asyncio(
    url: str, target: str, asked: int, rounds: int, latencies: dict[str, list[float]], say: Callable[[int, str], None]
) -> Any:
    from anthropic import AsyncAnthropic

    from router.llm import AsyncRoutedAnthropic

    async def caller(create: Any, experiment_id: str, number: int, count: int, into: list[float]) -> None:
        for turn in range(count):
            started = time.perf_counter()
            await create(experiment_id=experiment_id, max_tokens=200, messages=_question(number, turn))
            into.append((time.perf_counter() - started) * 1e3)

    async def everything() -> Any:
        async with (
            AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as client,
            AsyncRouterClient(target) as router,
            AsyncRoutedAnthropic(client, router) as routed,
        ):
            for number in range(-1, rounds):
                for experiment_id in _order(number):
                    # The first round makes connections, and is not counted.
                    into: list[float] = [] if number < 0 else latencies[experiment_id]
                    say(number, experiment_id)
                    callers = (
                        caller(routed.messages.create, experiment_id, n, 2 if number < 0 else asked, into)
                        for n in range(_CALLERS)
                    )
                    await asyncio.gather(*callers)
                    await asyncio.to_thread(_settle, routed)
            return routed.stats()

    return asyncio.run(everything())


def _threads(
    url: str, target: str, asked: int, rounds: int, latencies: dict[str, list[float]], say: Callable[[int, str], None]
) -> Any:
    from anthropic import Anthropic

    from router.llm import RoutedAnthropic

    def caller(create: Any, experiment_id: str, number: int, count: int, into: list[float]) -> None:
        for turn in range(count):
            started = time.perf_counter()
            create(experiment_id=experiment_id, max_tokens=200, messages=_question(number, turn))
            into.append((time.perf_counter() - started) * 1e3)

    with (
        Anthropic(base_url=url, api_key="any", max_retries=0) as client,
        RouterClient(target) as router,
        RoutedAnthropic(client, router) as routed,
    ):
        for number in range(-1, rounds):
            for experiment_id in _order(number):
                into: list[float] = [] if number < 0 else latencies[experiment_id]
                say(number, experiment_id)
                arguments = (routed.messages.create, experiment_id)
                threads = [
                    threading.Thread(target=caller, args=(*arguments, n, 2 if number < 0 else asked, into))
                    for n in range(_CALLERS)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                _settle(routed)
        return routed.stats()


def _order(number: int) -> tuple[str, str]:
    """The two kinds in turn, each first as often as the other."""
    return (_PLAIN, _MIRRORED) if number % 2 == 0 else (_MIRRORED, _PLAIN)


def _question(caller: int, turn: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"[prompt {97 * caller + turn}] " + "What would you do about it, and why? " * 20}]


def _settle(routed: Any) -> None:
    """Wait until the mirrored calls of a round are over: the next round must not pay for them."""
    deadline = time.monotonic() + _START_S
    while True:
        stats = routed.stats()
        if stats.mirrors.asked == stats.records.recorded + stats.records.lost:
            return
        if time.monotonic() > deadline:
            raise MeasurementError(f"mirrored calls did not end: {stats}")
        time.sleep(0.05)


@contextlib.contextmanager
def _models() -> Iterator[str]:
    command = [sys.executable, "-m", "router.llm.loopback", "--listen", "127.0.0.1:0", "--latency", _LATENCY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        assert process.stdout is not None, "asked for when it was started"
        found = _URL.search(process.stdout.readline())
        if found is None:
            raise MeasurementError("the loopback models did not start")
        yield found[1]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _create(target: str) -> None:
    """Create and start the two experiments: one arm serves, so that both kinds call the same model."""
    serving = types_pb2.Arm(arm_id="serving", model=_SERVING, role=types_pb2.ROLE_CONTROL)
    rival = types_pb2.Arm(arm_id="rival", model=_SERVING)
    shadow = types_pb2.Arm(arm_id="shadow", model=_SHADOW, role=types_pb2.ROLE_SHADOW)
    rule = pb.ShadowRule(rate=1.0, text=types_pb2.TEXT_MODE_FULL)
    with grpc.insecure_channel(target) as channel:
        experiments = experiments_pb2_grpc.ExperimentServiceStub(channel)
        for experiment_id, arms in ((_PLAIN, (serving, rival)), (_MIRRORED, (serving, rival, shadow))):
            definition = pb.Experiment(experiment_id=experiment_id, arms=arms)
            if experiment_id == _MIRRORED:
                definition.shadow.CopyFrom(rule)
            experiments.CreateExperiment(pb.CreateExperimentRequest(experiment=definition))
            experiments.StartExperiment(pb.StartExperimentRequest(experiment_id=experiment_id))
