"""Start: from the command to the first decision, on the data directory that the run has filled.

The router is stopped as an operator stops it, and started again. The time is from before `bandit-router serve` is executed
until the reply to the first Route: the interpreter's start, the embedded Postgres, migrations that find nothing to do, the
worker and its policies are all in it.
"""

import time
from statistics import median

from benchmarks import experiment
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.subject import unary

_MOST_S = 2.5


def first_answer(bench: Bench) -> list[Figure]:
    """Start some times and take the median."""
    decisions, events = bench.router.decisions, bench.router.events
    request = experiment.route_requests(bench.settings.seed)[0].SerializeToString()
    times_s = []
    for number in range(bench.settings.rounds):
        bench.say(f"start: {number + 1} of {bench.settings.rounds}")
        bench.close()
        began = time.perf_counter()
        with bench.running("router") as subject:
            unary(subject.connections[0], experiment.ROUTE, request)
            times_s.append(time.perf_counter() - began)
            decisions += 1
            subject.decisions, subject.events = decisions, events
            subject.verify()
    name = "start to first answer, existing data directory"
    details = {"start_s": [round(seconds, 2) for seconds in times_s], "decisions": decisions, "events": events}
    return [at_most(name, median(times_s), "s", _MOST_S, **details)]
