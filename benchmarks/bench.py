"""What every measurement shares: the settings, and the router and the echo that are measured."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import experiment, machine, service
from benchmarks.h2 import Connection
from benchmarks.load import Load, Measured, run
from benchmarks.subject import METHODS, Subject

SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often to measure."""

    seed: int = SEED
    workers: int = 1
    rounds: int = 3
    #: Of one round.
    seconds: float = 3.0
    warm_up_s: float = 0.5
    quick: bool = False

    @classmethod
    def of(cls, *, quick: bool, seed: int, workers: int) -> "Settings":
        """The settings of a full run, or of a quick one whose figures are for development only."""
        if quick:
            return cls(seed=seed, workers=workers, rounds=2, seconds=1.5, warm_up_s=0.3, quick=True)
        return cls(seed=seed, workers=workers)


@dataclass(slots=True)
class Bench:
    """One run. Servers start when the first measurement asks for them."""

    settings: Settings
    #: Told what is being done.
    say: Callable[[str], None]
    directory: Path
    #: What Reward did last, in calls a second: how many decisions a round can use.
    rewards_per_s: float = 4_000.0
    #: The router's Postgres: version and settings.
    postgres: dict[str, str] = field(default_factory=dict)
    _router: Subject | None = None
    _echo: tuple[service.Server, service.Pool] | None = None
    _servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def router(self) -> Subject:
        """The router under measurement, with the experiment running."""
        if self._router is None:
            self.say("starting the router")
            self._router = self._servers.enter_context(self.running("router"))
            if not self.postgres:
                self.postgres = machine.postgres(self._router.server.database_url)
            self._router.create([experiment.definition()])
        return self._router

    @contextlib.contextmanager
    def running(self, name: str, database_url: str | None = None) -> Iterator[Subject]:
        """Run a router of its own data directory until the end of the block."""
        context = service.router(self.directory / name, workers=self.settings.workers, database_url=database_url)
        with context as server, contextlib.closing(self.pool(server)) as pool:
            yield Subject(server, pool)

    def compare(self, what: str, load: Callable[[Sequence[Connection]], Load]) -> tuple[list[Measured], list[Measured]]:
        """Measure the router and the echo in turn, so that a drift of the machine falls on both alike."""
        of_router, of_echo = [], []
        for number in range(self.settings.rounds):
            self.say(f"{what}: round {number + 1} of {self.settings.rounds}, router")
            of_router += self.load([load(self.router.connections)])
            self.router.settle()
            self.say(f"{what}: round {number + 1} of {self.settings.rounds}, echo")
            of_echo += self.load_echo(load)
        return of_router, of_echo

    def load(self, loads: Sequence[Load], subject: Subject | None = None) -> list[Measured]:
        """Run loads against the router, or another one, for one round."""
        settings = self.settings
        return (subject or self.router).load(loads, seconds=settings.seconds, warm_up_s=settings.warm_up_s)

    def load_echo(self, *loads: Callable[[Sequence[Connection]], Load]) -> list[Measured]:
        """Run loads against the echo for one round."""
        if self._echo is None:
            self.say("starting the echo")
            server = self._servers.enter_context(service.echo(workers=self.settings.workers))
            self._echo = (server, self.pool(server))
        server, pool = self._echo
        settings = self.settings
        cpu = service.cpu_meter([server]).read
        made = [load(pool.connections()) for load in loads]
        return run(made, warm_up_s=settings.warm_up_s, seconds=settings.seconds, cpu=cpu)

    def decision_ids(self, count: int) -> list[str]:
        """Make this many decisions of the experiment and return their ids."""
        self.say(f"making {count:,} decisions to reward")
        return self.router.decide(experiment.route_requests(self.settings.seed), count)

    @property
    def events_a_round(self) -> int:
        """More events than one round of Reward can use: a round that runs out ends early, which is no harm."""
        return int(1.5 * self.rewards_per_s * (self.settings.seconds + self.settings.warm_up_s))

    def verify(self) -> None:
        """Compare the router's account with its database. Raises MeasurementError."""
        if self._router is not None:
            self.say("comparing Postgres with what was acknowledged")
            self._router.verify()

    def close(self) -> None:
        """Stop the servers; the next measurement that asks for one starts it anew, on what data there is."""
        self._router = self._echo = None
        self._servers.close()

    def abandon(self, log: Path) -> None:
        """Let go of what failed: the router's log is kept in `log`, its data are not."""
        self.close()
        written = self.directory / "router" / "service.log"
        if written.exists():
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(written.read_text(errors="replace"))
        for data in self.directory.iterdir():
            shutil.rmtree(data, ignore_errors=True)

    def pool(self, server: service.Server) -> service.Pool:
        """Connections to a server: one, or four for each of several workers."""
        return service.Pool(server, METHODS, 1 if self.settings.workers == 1 else 4 * self.settings.workers)


@contextlib.contextmanager
def bench(settings: Settings, say: Callable[[str], None]) -> Iterator[Bench]:
    """Give a run with a directory of its own on the disk that temporary files are on; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bandit-router-bench-", ignore_cleanup_errors=True) as directory:
        context = Bench(settings, say, Path(directory))
        try:
            yield context
        finally:
            context.close()
