"""The laboratory: runs the simulations of a section on all cores, with streams that do not depend on how many there are.

Every job has a seed of its own, spawned from the run's seed, the section and the place of the job, and jobs are cut the same
way on every machine. So figures are reproduced by the same versions of numpy and scipy, whatever the number of workers.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import numpy as np

SEED = 20_260_101
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lab:
    """What a section gets."""

    seed: int
    #: Few runs, for development: figures are not to be quoted.
    quick: bool
    #: Told what is being done.
    say: Callable[[str], None]
    #: Told how many of how many jobs of this section are done.
    advance: Callable[[int, int], None]
    executor: Executor
    #: Told the processor seconds of each job: on a busy machine they say more than the time it took.
    spent: Callable[[float], None]
    #: Part of what its streams are named by.
    section: str

    def runs(self, full: int, quick: int) -> int:
        """Return how many runs to make."""
        return quick if self.quick else full

    def spread(self, work: Callable[..., T], jobs: Sequence[tuple[object, ...]], what: str) -> list[T]:
        """Return `work(rng, *job)` of every job, in the order of the jobs; `what` names them and their streams.

        `work` is a function of a module: other processes import it.
        """
        self.say(what)
        entropy = [self.seed, crc32(f"{self.section}: {what}".encode())]
        seeds = np.random.SeedSequence(entropy).spawn(len(jobs))
        futures = {
            self.executor.submit(_run, work, seed, job): i for i, (seed, job) in enumerate(zip(seeds, jobs, strict=True))
        }
        results: dict[int, T] = {}
        try:
            for done in as_completed(futures):
                results[futures[done]], seconds = done.result()
                self.spent(seconds)
                self.advance(len(results), len(jobs))
        finally:
            for future in futures:
                future.cancel()
        return [results[i] for i in range(len(jobs))]


def _run(work: Callable[..., T], seed: np.random.SeedSequence, job: tuple[object, ...]) -> tuple[T, float]:
    began = _processor_s()
    result = work(np.random.default_rng(seed), *job)
    return result, _processor_s() - began


def _processor_s() -> float:
    """User and system time of this process and of those that it waited for."""
    return sum(os.times()[:4])


@contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Run worker processes until the end of the block; whatever they are doing then is dropped."""
    # Two workers on two cores: threads within them would only get in each other's way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor
    finally:
        # Ends in seconds where a run was stopped in the middle of a long job.
        children = multiprocessing.active_children()
        executor.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
