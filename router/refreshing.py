"""Refreshing: what changes in Postgres becomes policies.

Protocol
    One task, alone, replaces entries: it collects which experiments changed (from NOTIFY, from this process's own
    commits, and from a poll as a net for messages that were lost), reads version, definition and evidence in one
    snapshot, compiles off the event loop, and swaps one reference. Only the newest state is ever compiled. Compiling
    takes at most a fifth of a core: after a compile of t seconds it rests for 4 t.

    Only experiments that were routed lately are compiled. Ten thousand quiet ones cost memory for their definitions and no
    time.

    While Postgres is away the last policies stay, and `stale_for_s` tells since when.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Protocol

from router.budgets import Budgets, is_limited
from router.experiment import Definition
from router.known import Entry, Known, RoutedLately
from router.policy import Policy, compile_policy
from router.storage.errors import StorageUnavailableError
from router.storage.policies import Digest, EvidenceReading
from router.storage.reader import Heard
from router.telemetry.lag import LearningLag

log = logging.getLogger(__name__)

_POLL_S = 1.0
#: The versions of more experiments than this are compared less often than their sums.
_MANY = 1_000
_COMPARE_MANY_S = 5.0
_RETRY_S = 0.25
#: A refresh reads at most this many experiments at once.
_CHUNK = 100
#: Share of one core that compiling may take.
_COMPILE_SHARE = 0.2
#: The same where more experiments change at once than this: none of them is waited for as one alone is.
_FEW, _COMPILE_SHARE_OF_MANY = 4, 0.1
#: So many are handed to the thread at once: each time, the event loop has to be woken.
_COMPILED_AT_ONCE = 8


class PolicySource(Protocol):
    """Where policies are read from: `router.storage.reader.PolicyReader`."""

    async def read(
        self, incarnations: Sequence[int], known: dict[int, int]
    ) -> tuple[list[Definition], list[EvidenceReading]]:
        """Return evidence, and definitions whose version differs from `known`, in one snapshot."""

    async def find(self, experiment_id: str) -> int | None:
        """Return the incarnation of an experiment id."""

    async def digest(self) -> Digest:
        """Return sums that differ whenever the version of an experiment does."""

    async def shadow_spend(self, incarnations: Collection[int], day: date) -> Mapping[int, float]:
        """Return the US dollars that shadow calls of these experiments cost that day; nothing of those without any."""

    async def versions(self) -> dict[int, tuple[int, int]]:
        """Return (policy version, definition version) of every experiment."""

    async def listen(self, heard: Heard) -> None:
        """Pass on what other processes say, for as long as the connection lasts."""

    async def close(self) -> None:
        """Let go of connections."""


class Refresher:
    """Keeps what is known as Postgres has it."""

    def __init__(
        self,
        source: PolicySource,
        clock: Callable[[], float],
        known: Known,
        routed: RoutedLately,
        budgets: Budgets,
    ) -> None:
        """`clock` is monotonic, in seconds. `budgets` are kept up to date with what shadow calls cost."""
        self._source = source
        self._clock = clock
        self._known = known
        self._routed = routed
        self._budgets = budgets
        self._changed: set[int] = set()
        self._unreadable: set[int] = set()
        self._work = asyncio.Event()
        self._fresh_at = clock()
        self._stale = False
        self._compared_at = float("-inf")
        #: How long learning takes, for the metrics.
        self.lag = LearningLag(clock)
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def unreadable(self) -> int:
        """How many experiments stay at their last policy because they cannot be read or compiled."""
        return len(self._unreadable)

    def stale_for_s(self) -> float:
        """Return for how long this replica has been unable to refresh, in seconds; 0 when fresh."""
        age = self._clock() - self._fresh_at
        return age if self._stale or age > 3 * _POLL_S else 0.0

    def wake(self, incarnations: Iterable[int]) -> None:
        """Have these experiments read again soon."""
        self._changed.update(incarnations)
        if self._changed:
            self._work.set()

    def seed(self, experiments: Iterable[tuple[Definition, EvidenceReading]], age_s: float) -> None:
        """Know experiments as they were `age_s` seconds ago, until Postgres tells more. Call it before `start`."""
        self._fresh_at = self._clock() - age_s
        for definition, reading in experiments:
            self._swap(Entry(definition, reading, None, self._fresh_at))

    async def start(self, heard: Heard) -> None:
        """Read the experiments, then keep up with changes until `stop`; `heard` is told what other processes say."""
        with contextlib.suppress(StorageUnavailableError):
            await self._poll()
            await self._refresh_changed(limit=2 * _CHUNK)
        self._tasks = [
            asyncio.create_task(self._keep(lambda: self._source.listen(heard)), name="registry-follow"),
            asyncio.create_task(self._keep(self._poll_forever), name="registry-poll"),
            asyncio.create_task(self._keep(self._refresh_forever), name="registry-refresh"),
        ]

    async def stop(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._compiler.shutdown(wait=False, cancel_futures=True)

    async def refresh(self, incarnations: Sequence[int]) -> float:
        """Read these experiments now; returns the seconds that compiling took."""
        known = {i: e.definition.definition_version for i in incarnations if (e := self._known.of(i))}
        read_at_s = self._clock()
        definitions, readings = await self._source.read(incarnations, known)
        returned_at_s = self._clock()
        self._contact()
        fresh = {definition.incarnation: definition for definition in definitions}
        newer: list[tuple[Definition, EvidenceReading]] = []
        for reading in readings:
            entry = self._known.of(reading.incarnation)
            definition = fresh.get(reading.incarnation) or (entry.definition if entry else None)
            if definition is not None and not (entry and entry.policy_version > reading.policy_version):
                newer.append((definition, reading))
        await self._read_spend([definition.incarnation for definition, _ in newer if is_limited(definition)])
        seconds = 0.0
        for start in range(0, len(newer), _COMPILED_AT_ONCE):
            chunk = newer[start : start + _COMPILED_AT_ONCE]
            before = [self._known.of(reading.incarnation) for _, reading in chunk]
            seconds += await self._put(chunk, read_at_s)
            for (_, reading), entry in zip(chunk, before, strict=True):
                if entry is not None and entry.policy_version < reading.policy_version:
                    self.lag.learned(reading.changed_ago_s + self._clock() - returned_at_s)
        return seconds

    async def compile(self, incarnation: int) -> None:
        """Compile an experiment that is known, if somebody routes by it and it has no policy yet."""
        entry = self._known.of(incarnation)
        if entry is not None and entry.definition.serves and entry.policy is None:
            await self._put([(entry.definition, entry.reading)], entry.read_at_s)

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` again whenever it ends: Postgres may be away, and a fault must not end learning."""
        while True:
            try:
                await work()
            except StorageUnavailableError as error:
                if not self._stale:
                    log.warning("policies are stale from now on: %s", error)
                self._stale = True
            except Exception:  # whatever it is, learning goes on
                log.exception("refreshing policies failed; it goes on")
            await asyncio.sleep(_RETRY_S)

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            await self._poll()

    async def _poll(self) -> None:
        """Find what a lost message would have said."""
        digest = await self._source.digest()
        await self._read_spend(self._budgets.limited)
        self._contact()
        self._routed.forget()
        waits = digest.experiments > _MANY and self._clock() - self._compared_at < _COMPARE_MANY_S
        if digest != self._known.digest and not waits:
            self._compared_at = self._clock()
            self.wake(self._known.outdated(await self._source.versions()))

    async def _read_spend(self, incarnations: Collection[int]) -> None:
        if incarnations:
            day = self._budgets.today()
            self._budgets.learn(day, incarnations, await self._source.shadow_spend(incarnations, day))

    async def _refresh_forever(self) -> None:
        while True:
            await self._work.wait()
            started = self._clock()
            changed = len(self._changed)
            compiling = await self._refresh_changed(limit=_CHUNK)
            took = self._clock() - started
            # Reading thousands of experiments, as after a start, must leave time for calls.
            share = _COMPILE_SHARE if changed <= _FEW else _COMPILE_SHARE_OF_MANY
            rest = took if changed > _CHUNK else compiling * (1 / share - 1) - (took - compiling)
            if rest > 0:
                await asyncio.sleep(rest)

    async def _refresh_changed(self, limit: int) -> float:
        """Refresh up to `limit` changed experiments; returns the seconds that compiling took."""
        batch = [self._changed.pop() for _ in range(min(limit, len(self._changed)))]
        if not self._changed:
            self._work.clear()
        try:
            return await self.refresh(batch) if batch else 0.0
        except (StorageUnavailableError, asyncio.CancelledError):
            self.wake(batch)
            raise
        except Exception:
            # A row that this version cannot read stops its own experiment, no other.
            return sum([await self._refresh_alone(incarnation) for incarnation in batch])

    async def _refresh_alone(self, incarnation: int) -> float:
        try:
            seconds = await self.refresh([incarnation])
        except (StorageUnavailableError, asyncio.CancelledError):
            self.wake([incarnation])
            raise
        except Exception:  # whatever is wrong with its rows, the others are refreshed
            if incarnation not in self._unreadable:
                log.exception("experiment %d cannot be read or compiled: its last policy stays", incarnation)
            self._unreadable.add(incarnation)
            return 0.0
        self._unreadable.discard(incarnation)
        return seconds

    async def _put(self, readings: Sequence[tuple[Definition, EvidenceReading]], read_at_s: float) -> float:
        """Compile those that somebody routes by, together, and put all in place; returns the seconds that took."""
        used = [
            (definition, reading, self._known.policy(definition.incarnation))
            for definition, reading in readings
            if definition.serves and definition.incarnation in self._routed
        ]
        policies: dict[int, Policy] = {}
        seconds = 0.0
        if used:
            started = self._clock()
            compiled = await asyncio.get_running_loop().run_in_executor(self._compiler, _compiled, used)
            policies = {policy.definition.incarnation: policy for policy in compiled}
            seconds = self._clock() - started
        for definition, reading in readings:
            self._swap(Entry(definition, reading, policies.get(definition.incarnation), read_at_s))
        return seconds

    def _swap(self, entry: Entry) -> None:
        before = self._known.policy(entry.definition.incarnation)
        if self._known.put(entry):
            self._budgets.follow(entry.definition)
            _tell_of_shortfall(before, entry.policy)

    def _contact(self) -> None:
        if self._stale:
            log.info("policies are fresh again after %.1f s", self._clock() - self._fresh_at)
        self._fresh_at = self._clock()
        self._stale = False


def _tell_of_shortfall(before: Policy | None, now: Policy | None) -> None:
    """Log once that a ceiling cannot be kept, and once that it is again."""
    was, said = (None if of is None or of.pooled.price is None else of.pooled.price.shortfall for of in (before, now))
    if said and now is not None and not was:
        log.warning("%s: traffic goes where it costs the least: %s", now.definition.experiment_id, said)
    elif was and now is not None and not said:
        log.info("%s: the cost ceiling is kept again", now.definition.experiment_id)


def _compiled(arguments: Sequence[tuple[Definition, EvidenceReading, Policy | None]]) -> list[Policy]:
    return [
        compile_policy(definition, reading.policy_version, reading.evidence, previous, reading.hours, reading.by_segment)
        for definition, reading, previous in arguments
    ]
