"""The demo from start to end: a service, an experiment, real prompts, the checks, a picture."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
from rich.console import Console

from router.client import CHANNEL_OPTIONS, AsyncRouterClient, RouterError
from router.demo.checks import all_checks
from router.demo.data import Baselines, Table, family, load
from router.demo.drive import CALLERS, Drive
from router.demo.expect import expectation
from router.demo.live import LiveView, Moment, PlainView, Standing, Stopwatch, View
from router.demo.records import read_records
from router.demo.report import Result
from router.demo.service import Service, data_directory, serving
from router.demo.users import units
from router.embedded import read_record
from router.v1 import experiments_pb2, experiments_pb2_grpc, posteriors_pb2, posteriors_pb2_grpc, types_pb2

_TIMEOUT_S = 20.0
#: How often posteriors are read for the view.
_LOOK_S = 0.25
#: Connections; the kernel spreads them over the workers, each by the toss of a coin.
_CHANNELS = 12


@dataclass(frozen=True, slots=True)
class Options:
    """What the command is asked for."""

    #: 9 or 3: which table.
    arms: int
    #: "per_request", "sticky_hash" or "sticky_stored".
    assignment: str
    seed: int
    workers: int
    #: Only so many prompts; None: all.
    prompts: int | None
    #: None draws none.
    picture: Path | None
    #: Keep the service's data here; None: in a temporary directory.
    keep: Path | None
    #: No live view, even on a terminal.
    plain: bool


async def run_demo(options: Options, console: Console) -> Result:
    """Run the demo and return what it found; the service is stopped and its data removed, however this ends.

    Raises ServiceError if the service does not start, dies, or does not take a call. SIGTERM cancels, as Ctrl-C does.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    watch = Stopwatch()
    rng = np.random.default_rng(options.seed)
    whole = load(options.arms)
    table = whole.shuffled(rng, options.prompts)
    sticky = options.assignment != "per_request"
    asked_by = units(len(table.scores), options.seed, rng) if sticky else None
    promised = options.arms == 9 and not sticky and len(table.scores) == len(whole.scores)
    say(
        console,
        f"{len(table.scores):,} real prompts, {len(table.arm_ids)} models; starting the router on its own Postgres …",
    )
    async with contextlib.AsyncExitStack() as stack:
        directory = await stack.enter_async_context(data_directory(options.keep))
        expected = asyncio.create_task(
            asyncio.to_thread(expectation, table.scores, asked_by, promised=promised, seed=options.seed)
        )
        service = await stack.enter_async_context(serving(directory, options.workers))
        experiment_id = f"demo-{options.arms}-arms-{options.assignment}"
        async with connected(service.address) as channels:
            await _create(channels[0], experiment_id, table, options.assignment)
            say(console, f"serving on {service.address} with {options.workers} workers after {watch.lap('start'):.1f} s")
            drive = Drive([AsyncRouterClient(channel=c) for c in channels], experiment_id, table, asked_by, options.seed)
            baselines = table.baselines()
            view = _view(options, console, baselines)
            reader = _Reader(channels[-1], drive, experiment_id)
            with view:
                await unless(service, _drive(drive, reader, view))
            watch.lap("drive")
            say(console, "all feedback acknowledged; checking …")
            standings = (await reader.moment()).standings
        record = read_record(directory)
        assert record is not None  # noqa: S101 - the service runs on it
        records = await asyncio.to_thread(read_records, record, experiment_id, len(drive.answers))
        checks = all_checks(drive.answers, drive.statuses, records, table.arm_ids, await expected, sticky=sticky)
        watch.lap("checks")
        result = Result(
            experiment_id=experiment_id,
            assignment=options.assignment,
            seed=options.seed,
            workers=options.workers,
            table=table,
            baselines=baselines,
            answers=tuple(drive.answers),
            statuses=dict(drive.statuses),
            standings=tuple(standings),
            checks=checks,
            seconds=watch.seconds,
            picture=options.picture,
        )
        if options.picture is not None:
            from router.demo.pictures import draw

            await asyncio.to_thread(draw, result, options.picture)
            watch.lap("picture")
    watch.lap("stop")
    watch.seconds["total"] = watch.total()
    return result


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
    """Give channels that share no connection, so that every worker gets traffic."""
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(min(_CHANNELS, CALLERS))
        ]


async def _create(channel: grpc.aio.Channel, experiment_id: str, table: Table, assignment: str) -> None:
    costs = None if table.costs is None else table.costs.mean(axis=0)
    arms = [
        types_pb2.Arm(
            arm_id=arm_id,
            model=model,
            family=family(model),
            role=types_pb2.ROLE_CHALLENGER,
            cost_usd=None if costs is None else float(costs[i]),
        )
        for i, (arm_id, model) in enumerate(zip(table.arm_ids, table.models, strict=True))
    ]
    experiment = experiments_pb2.Experiment(
        experiment_id=experiment_id,
        description=f"Thompson Sampling on {table.name}",
        arms=arms,
        allocation=experiments_pb2.AllocationRule(kind=experiments_pb2.AllocationRule.KIND_THOMPSON),
        assignment=experiments_pb2.AssignmentRule(kind=f"KIND_{assignment.upper()}"),
        # A user's week goes by in a minute.
        reward_rule=experiments_pb2.RewardRule(unit_share=0),
    )
    stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
    await stub.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=experiment), timeout=_TIMEOUT_S)
    await stub.StartExperiment(experiments_pb2.StartExperimentRequest(experiment_id=experiment_id), timeout=_TIMEOUT_S)


def _view(options: Options, console: Console, baselines: Baselines) -> View:
    if options.plain or not console.is_terminal:
        return PlainView(console, baselines)
    return LiveView(console, baselines, f"bandit-router demo · {options.assignment} · seed {options.seed}")


class _Reader:
    """Reads how the arms stand."""

    def __init__(self, channel: grpc.aio.Channel, drive: Drive, experiment_id: str) -> None:
        self._stub = posteriors_pb2_grpc.PosteriorServiceStub(channel)
        self._drive = drive
        self._request = posteriors_pb2.GetPosteriorRequest(experiment_id=experiment_id)
        self._started = asyncio.get_running_loop().time()

    async def moment(self) -> Moment:
        """Return the present one."""
        reply = await self._stub.GetPosterior(self._request, timeout=_TIMEOUT_S)
        drive = self._drive
        chosen = Counter(answer.arm for answer in drive.answers)
        standings = [
            Standing(
                arm.arm_id,
                chosen[i],
                arm.allocation,
                arm.n,
                arm.mean,
                arm.lower,
                arm.upper,
                arm.probability_best,
            )
            for i, arm in enumerate(reply.arms)
        ]
        decisions = len(drive.answers)
        return Moment(
            standings,
            decisions,
            len(drive.table.scores),
            drive.events,
            drive.reward_sum / max(decisions, 1),
            reply.policy_version,
            asyncio.get_running_loop().time() - self._started,
        )


async def _drive(drive: Drive, reader: _Reader, view: View) -> None:
    async with asyncio.TaskGroup() as group:
        driving = group.create_task(drive.run())
        while not driving.done():
            view.show(await reader.moment())
            await asyncio.wait([driving], timeout=_LOOK_S)
    view.show(await reader.moment())


async def unless(service: Service, work: Coroutine[None, None, None]) -> None:
    """Do the work; if the service dies meanwhile, that is the error, and not what it does to the calls."""
    working = asyncio.ensure_future(work)
    dying = asyncio.ensure_future(service.died())
    try:
        await asyncio.wait([working, dying], return_when=asyncio.FIRST_COMPLETED)
        if working.done() and working.exception() is not None:
            # A service that is about to be found dead fails the calls first.
            await asyncio.wait([dying], timeout=1.0)
        if dying.done():
            await dying
        await working
    except ExceptionGroup as group:
        refused, _ = group.split((RouterError, grpc.RpcError))
        if refused is None:
            raise
        raise service.failure(f"a call failed: {_first(refused)}") from group
    finally:
        for task in (working, dying):
            task.cancel()
        await asyncio.gather(working, dying, return_exceptions=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return an error that is no group."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
