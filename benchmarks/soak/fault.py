"""A fault under load: the service works, breaks and is mended; then the books are closed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.soak import figures
from benchmarks.soak.books import Balance, settled
from benchmarks.soak.figures import Figure
from benchmarks.soak.ledger import REWARDS, ROUTES, Call, Ledger
from benchmarks.soak.load import Load
from benchmarks.soak.stage import Stage, wait_until
from router.client import Status


@dataclass(frozen=True, slots=True)
class Observed:
    """What happened around one fault. Times are seconds of the monotonic clock."""

    fault: str
    stage: Stage
    ledger: Ledger
    balance: Balance
    injected_at: float
    healing_at: float
    #: Until an event was applied again after mending began, and everything was back.
    recovered_s: float
    ended_at: float

    def during(self, methods: frozenset[str]) -> list[Call]:
        """Return the calls that were under way between the fault and its mending."""
        return [
            c for c in self.ledger.calls if c.method in methods and c.ended > self.injected_at and c.began < self.healing_at
        ]


Promise = Callable[[Observed], Figure]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks under load, and is mended."""

    name: str
    inject: Callable[[Stage], None]
    promises: tuple[Promise, ...]
    #: None where the service mends itself.
    heal: Callable[[Stage], None] | None = None
    #: What must be seen before mending; None: nothing.
    seen: Callable[[Ledger, float], bool] | None = None
    #: What must be the case for the fault to be over, besides an event that is applied.
    over: Callable[[Stage], bool] | None = None
    #: How long it lasts at least, in seconds, in a short run.
    lasts_s: float = 0.0


def run(
    fault: Fault, stage: Stage, *, events: int, longer: float = 1.0, threads: int = 4, pause_s: float = 0.004
) -> Observed:
    """Put the service under load, break and mend it, and close the books.

    `events` are acknowledged before the fault, and again after it; it lasts `longer` times as long as in a short run.
    """
    stage.kept["experiments"] = ids = stage.experiments(fault.name)
    with Load(stage.service.target, ids, threads=threads, pause_s=pause_s) as load:
        load.wait_for_acknowledged(events)
        injected_at = time.monotonic()
        fault.inject(stage)
        seen = fault.seen
        if seen is not None:
            load.wait(lambda ledger: seen(ledger, injected_at), f"{fault.name}: its effects are seen", 60)
        # How long the fault lasts is what is being tried, and not a wait for something.
        time.sleep(max(0.0, injected_at + fault.lasts_s * longer - time.monotonic()))
        healing_at = time.monotonic()
        if fault.heal is not None:
            fault.heal(stage)
        load.wait(lambda ledger: _applied_since(ledger, healing_at), f"{fault.name}: an event is applied again", 60)
        over = fault.over
        if over is not None:
            wait_until(lambda: over(stage), f"{fault.name}: everything is back", 60)
        recovered_s = time.monotonic() - healing_at
        load.wait(_is_fresh, f"{fault.name}: policies are fresh")
        load.wait_for_acknowledged(events)
    ended_at = time.monotonic()
    balance = settled(stage.service.url, load.ledger, ids, stage.service.target)
    return Observed(fault.name, stage, load.ledger, balance, injected_at, healing_at, recovered_s, ended_at)


def figures_of(fault: Fault, observed: Observed) -> list[Figure]:
    """Return what was promised for a fault, and whether it held."""
    return [promise(observed) for promise in (_books_balance, *fault.promises)]


def _applied_since(ledger: Ledger, moment: float) -> bool:
    return any(Status.APPLIED in call.statuses and call.began > moment for call in ledger.last(REWARDS, 100))


def _is_fresh(ledger: Ledger) -> bool:
    calls = ledger.last(ROUTES, 8)
    return len(calls) == 8 and not any(call.stale_s for call in calls)


def spooled(ledger: Ledger, since: float) -> bool:
    """Whether events are answered SPOOLED."""
    return any(Status.SPOOLED in call.statuses and call.began > since for call in ledger.last(REWARDS, 100))


def spooled_and_stale(ledger: Ledger, since: float) -> bool:
    """Whether events are answered SPOOLED, and decisions say how old their policy is."""
    return spooled(ledger, since) and any(call.stale_s and call.began > since for call in ledger.last(ROUTES, 100))


def refused(ledger: Ledger, since: float) -> bool:
    """Whether decisions are refused, many of them."""
    return len(ledger.failures(ROUTES, since)) >= 50


def _books_balance(o: Observed) -> Figure:
    note = ", ".join(f"{name} {count}" for name, count in o.balance.errors.items())
    return figures.none_of(f"{o.fault}: wrong entries in the books", o.balance.wrong, "entries", note)
