"""The demo of a strategy from start to end: a service, its experiments, the checks."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from router.demo import ab, canary, interleaved, shadow
from router.demo.data import Table, load
from router.demo.live import Stopwatch
from router.demo.records import Records, read_records
from router.demo.run import connected, say, unless
from router.demo.scene import Board, Scene, Story
from router.demo.service import data_directory, serving
from router.embedded import read_record

#: Besides the bandit, which is the demo of `router.demo.run`.
_PLAYS: Final[dict[str, Callable[[Scene, Table], Awaitable[Any]]]] = {
    "canary": canary.play,
    "ab": ab.play,
    "interleave": interleaved.play,
    "shadow": shadow.play,
}


async def run_strategy(
    strategy: str, console: Console, *, seed: int, workers: int, keep: Path | None, plain: bool
) -> tuple[Story, dict[str, float]]:
    """Run the demo of a strategy; returns what it found and the seconds it took. Errors as `run_demo`."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    watch = Stopwatch()
    table = load(9)
    say(console, f"{len(table.scores):,} real prompts; starting the router on its own Postgres …")
    async with contextlib.AsyncExitStack() as stack:
        directory = await stack.enter_async_context(data_directory(keep))
        service = await stack.enter_async_context(serving(directory, workers))
        say(console, f"serving on {service.address} with {workers} workers after {watch.lap('start'):.1f} s")
        found: list[Any] = []

        async def perform() -> None:
            async with connected(service.address) as channels:
                with Board(console, f"bandit-router demo · {strategy} · seed {seed}", plain=plain) as board:
                    scene = Scene(channels, board, seed)
                    found.append(await _PLAYS[strategy](scene, table))
                if strategy == "canary":
                    found.append({trial.experiment_id: await scene.transitions(trial.experiment_id) for trial in found[0]})

        await unless(service, perform())
        watch.lap("drive")
        say(console, "all feedback acknowledged; checking …")
        record = read_record(directory)
        assert record is not None  # noqa: S101 - the service runs on it
        story = await asyncio.to_thread(_judged, strategy, found, lambda name, n: read_records(record, name, n))
        watch.lap("checks")
    watch.lap("stop")
    return story, {**watch.seconds, "total": watch.total()}


def _judged(strategy: str, found: list[Any], read: Callable[[str, int], Records]) -> Story:
    table = load(9)
    match strategy:
        case "canary":
            trials, transitions = found
            records = {trial.experiment_id: read(trial.experiment_id, trial.decisions) for trial in trials}
            return canary.story(trials, transitions, records)
        case "ab":
            return ab.story(found[0], table, read(ab.EXPERIMENT, len(found[0])))
        case "shadow":
            asked = sum(one.mirrored for one in found[0].served)
            other = read(shadow.EXPERIMENTS[1], len(found[0].served) - asked)
            return shadow.story(found[0], table, (read(shadow.EXPERIMENTS[0], asked), other))
        case _:
            turns = interleaved.SESSIONS * interleaved.TURNS
            return interleaved.story(found[0], table, read(interleaved.EXPERIMENT, turns))
