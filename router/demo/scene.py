"""What every strategy's demo needs: a router, clients, an experiment from its file, and somewhere to show how it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import grpc.aio
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from router.client import AsyncRouterClient, Decision, RewardEvent, RouteRequest, RouterError
from router.config import load_experiment_file
from router.demo.checks import Check
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc, interleave_pb2_grpc, posteriors_pb2, posteriors_pb2_grpc

_TIMEOUT_S = 30.0
_ACTOR = "demo"
#: How long a worker may take to hear that an experiment was started.
_START_S, _START_PAUSE_S = 5.0, 0.02
_DRAIN_S, _DRAIN_PAUSE_S = 20.0, 0.1
#: Without a terminal there is a line now and then.
_LINE_EVERY_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Story:
    """What the demo of a strategy found."""

    strategy: str
    #: Name and value, in the order in which they are shown.
    numbers: Mapping[str, str]
    #: The end of the picture that was shown while it ran.
    picture: RenderableType
    checks: tuple[Check, ...]
    #: The same for programs.
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def text(self) -> RenderableType:
        """Return the end of the demo as it is printed."""
        numbers = [Text.assemble((f"{name:<24}", "dim"), value) for name, value in self.numbers.items()]
        checks = [
            Text.assemble(("✓ ", "bold green") if check.ok else ("✗ ", "bold red"), f"{check.name}: ", (check.detail, "dim"))
            for check in self.checks
        ]
        return Group(Text(), self.picture, Text(), *numbers, Text(), *checks)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        checks = [{**asdict(check), "numbers": dict(check.numbers)} for check in self.checks]
        return {"passed": self.passed, "strategy": self.strategy, **self.figures, "checks": checks}


class Board:
    """Shows a picture that changes: live on a terminal, else a line now and then."""

    def __init__(self, console: Console, title: str, *, plain: bool) -> None:
        self._console = console
        self._title = title
        self._live = (
            None if plain or not console.is_terminal else Live(console=console, refresh_per_second=8, transient=True)
        )
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*raised)

    def show(self, picture: RenderableType, line: str) -> None:
        """Show this picture, or its line if it is time for one."""
        if self._live is not None:
            self._live.update(Group(Rule(self._title, align="left", style="cyan"), picture))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class Scene:
    """A running router, as the demo of a strategy meets it."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], board: Board, seed: int) -> None:
        self.board = board
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.channel = channels[0]
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(channels[0])
        self.posteriors = posteriors_pb2_grpc.PosteriorServiceStub(channels[0])
        self.interleave = interleave_pb2_grpc.InterleaveServiceStub(channels[0])
        self._clients = [AsyncRouterClient(channel=channel) for channel in channels]
        self._calls = 0

    async def apply(self, text: str) -> pb.Experiment:
        """Create the experiment of a file and start it, or update it."""
        loaded = load_experiment_file(text)
        wanted = loaded.experiment
        try:
            await self.experiments.CreateExperiment(
                pb.CreateExperimentRequest(experiment=wanted, actor=_ACTOR), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            update = pb.UpdateExperimentRequest(experiment=wanted, actor=_ACTOR)
            return (await self.experiments.UpdateExperiment(update, timeout=_TIMEOUT_S)).experiment
        if loaded.state == "shadow":
            shadow = pb.ShadowExperimentRequest(experiment_id=wanted.experiment_id, actor=_ACTOR)
            return (await self.experiments.ShadowExperiment(shadow, timeout=_TIMEOUT_S)).experiment
        start = pb.StartExperimentRequest(experiment_id=wanted.experiment_id, actor=_ACTOR)
        return (await self.experiments.StartExperiment(start, timeout=_TIMEOUT_S)).experiment

    async def read(self, experiment_id: str) -> pb.Experiment:
        """Return an experiment."""
        request = pb.GetExperimentRequest(experiment_id=experiment_id)
        return (await self.experiments.GetExperiment(request, timeout=_TIMEOUT_S)).experiment

    async def transitions(self, experiment_id: str) -> list[pb.Transition]:
        """Return what changed an experiment, the latest first."""
        request = pb.ListTransitionsRequest(experiment_id=experiment_id, page_size=1000)
        return list((await self.experiments.ListTransitions(request, timeout=_TIMEOUT_S)).transitions)

    async def posterior(self, experiment_id: str) -> posteriors_pb2.GetPosteriorResponse:
        """Return what is believed of the arms of an experiment."""
        request = posteriors_pb2.GetPosteriorRequest(experiment_id=experiment_id)
        reply: posteriors_pb2.GetPosteriorResponse = await self.posteriors.GetPosterior(request, timeout=_TIMEOUT_S)
        return reply

    async def stored(self, experiment_id: str, decisions: int) -> None:
        """Wait until so many decisions are in Postgres: they get there a moment after their replies."""
        request = posteriors_pb2.GetMetricsRequest(experiment_id=experiment_id)
        give_up_at = time.monotonic() + _DRAIN_S
        while time.monotonic() < give_up_at:
            reply = await self.posteriors.GetMetrics(request, timeout=_TIMEOUT_S)
            if sum(arm.interactions for arm in reply.metrics) >= decisions:
                return
            await asyncio.sleep(_DRAIN_PAUSE_S)

    async def route(self, requests: Sequence[RouteRequest]) -> list[Decision]:
        """Have these requests decided, each call on another connection, so by any worker."""
        give_up_at = time.monotonic() + _START_S
        while True:
            found = await self._client().batch_route(requests, timeout=_TIMEOUT_S)
            refused = next((one for one in found if isinstance(one, RouterError)), None)
            if refused is None:
                return [one for one in found if isinstance(one, Decision)]
            # Workers hear within milliseconds of an experiment that was started on another one.
            waits = refused.reason in ("EXPERIMENT_NOT_RUNNING", "EXPERIMENT_NOT_FOUND")
            if not waits or time.monotonic() > give_up_at:
                raise refused
            await asyncio.sleep(_START_PAUSE_S)

    async def reward(self, events: Sequence[RewardEvent]) -> None:
        """Tell these events."""
        for result in await self._client().batch_reward(events, timeout=_TIMEOUT_S):
            if isinstance(result, RouterError):
                raise result

    def _client(self) -> AsyncRouterClient:
        self._calls += 1
        return self._clients[self._calls % len(self._clients)]
