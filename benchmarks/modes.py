"""How grpcio itself answers, by server mode: what the choice of mode rests on (docs/decisions/0016).

The echo answers Route in each mode, in turn, round by round, with its processes free to run on every core or held on one:

    aio      grpc.aio on uvloop, as the router runs
    asyncio  grpc.aio on the event loop of the standard library
    threads  grpc.server with eight threads

    python -m benchmarks.modes [--rounds N] [--workers N]
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import cycle

from rich.console import Console
from rich.table import Table

from benchmarks import experiment, service
from benchmarks.figures import latency_ms, rate
from benchmarks.load import Load, Measured, run

_MODES = ("aio", "asyncio", "threads")
_IN_FLIGHT = (1, 32, 256)
_SEED = 20_260_101


def main(arguments: Sequence[str]) -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    messages = cycle(experiment.route_messages(experiment.route_requests(_SEED)))
    table = Table("mode", "cores", *(f"{n} in flight: calls/s, p50, p99 ms, CPU µs" for n in _IN_FLIGHT))
    console = Console(width=150)
    with contextlib.ExitStack() as stack:
        pools: dict[tuple[str, bool], tuple[service.Server, service.Pool]] = {}
        for mode in _MODES:
            for pinned in (False, True):
                server = stack.enter_context(service.echo(mode, options.workers))
                if pinned:
                    for number, pid in enumerate(server.workers()):
                        _hold(pid, number % (os.cpu_count() or 1))
                pools[mode, pinned] = (server, service.Pool(server, (experiment.ROUTE,), 4 * options.workers))
        measured: dict[tuple[str, bool, int], list[Measured]] = {}
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}", style="dim")
            for (mode, pinned), (server, pool) in pools.items():
                for in_flight in _IN_FLIGHT:
                    load = Load(experiment.ROUTE, pool.connections(), messages, in_flight=in_flight)
                    cpu = service.cpu_meter([server]).read
                    measured.setdefault((mode, pinned, in_flight), []).extend(
                        run([load], warm_up_s=0.3, seconds=options.seconds, cpu=cpu)
                    )
        for mode, pinned in pools:
            cells = [_cell(measured[mode, pinned, in_flight]) for in_flight in _IN_FLIGHT]
            table.add_row(mode, "one" if pinned else "any", *cells)
    console.print(table)


def _hold(pid: int, core: int) -> None:
    """Hold every thread of a process on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def _cell(rounds: Sequence[Measured]) -> str:
    cpu = sorted(measured.cpu_s.get("echo", 0.0) * 1e6 / measured.calls for measured in rounds)[len(rounds) // 2]
    return f"{rate(rounds):,.0f}, {latency_ms(rounds, 50):.3g}, {latency_ms(rounds, 99):.3g}, {cpu:.0f}"


if __name__ == "__main__":
    main(sys.argv[1:])
