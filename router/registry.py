"""The registry: every experiment's current policy, refreshed as evidence and definitions change.

Protocol
    Route reads one dict. A refresh task, alone, replaces entries: it collects which experiments changed (from
    NOTIFY, from this process's own commits, and from a poll as a net for messages that were lost), reads version,
    definition and evidence in one snapshot, compiles off the event loop, and swaps one reference. Only the newest
    state is ever compiled. Compiling takes at most a fifth of a core: after a compile of t seconds it rests for 4 t.

    Every experiment is known, and those that were routed lately are kept compiled. The others are compiled when somebody
    routes them again, so that ten thousand quiet experiments cost memory for their definitions and no time.

    While Postgres is away the last policies stay, and `stale_for` tells since when.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from router.budgets import Budgets, is_limited
from router.errors import NotFoundError, UnavailableError
from router.experiment import SERVING, Definition
from router.policy import Policy, compile_policy
from router.sticky import StickyUnits
from router.storage.errors import StorageUnavailableError
from router.storage.policies import Digest, EvidenceReading
from router.storage.reader import Heard
from router.telemetry.lag import LearningLag

log = logging.getLogger(__name__)

_POLL_S = 1.0
#: The versions of more experiments than this are compared less often than their sums.
_MANY = 1_000
_COMPARE_MANY_S = 5.0
#: An experiment that nobody routed for this long, or twice as long, is no longer kept compiled.
_IDLE_S = 60.0
_RETRY_S = 0.25
#: A refresh reads at most this many experiments at once.
_CHUNK = 100
#: Share of one core that compiling may take.
_COMPILE_SHARE = 0.2
#: The same where more experiments change at once than this: none of them is waited for as one alone is.
_FEW, _COMPILE_SHARE_OF_MANY = 4, 0.1
#: So many are handed to the thread at once: each time, the event loop has to be woken.
_COMPILED_AT_ONCE = 8
#: Ids that do not exist are looked up again after this long, or as soon as somebody creates one.
_ABSENT_S = 1.0
_ABSENT_KEPT = 10_000
#: Before a call is refused for a state, that state is read again, at most this often.
_CONFIRMED_S = 0.05


class PolicySource(Protocol):
    """Where the registry reads from: `router.storage.reader.PolicyReader`."""

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


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment as this replica knows it."""

    definition: Definition
    reading: EvidenceReading
    #: None where the experiment is not running, or has not been compiled.
    policy: Policy | None
    #: When it was read, by the monotonic clock.
    read_at_s: float

    @property
    def policy_version(self) -> int:
        """The version that was read."""
        return self.reading.policy_version

    @property
    def digest(self) -> Digest:
        """What this experiment adds to the sums."""
        return Digest(1, self.reading.policy_version, self.definition.definition_version)


class Registry:
    """Current policies by experiment id."""

    def __init__(
        self, source: PolicySource, clock: Callable[[], float], sticky: StickyUnits, budgets: Budgets | None = None
    ) -> None:
        """`clock` is monotonic, in seconds. `sticky` is told of units that other replicas drew anew.

        `budgets` are kept up to date with what shadow calls cost; by default those of this host's clock.
        """
        self._sticky = sticky
        self.budgets = budgets or Budgets()
        self._source = source
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._by_incarnation: dict[int, Entry] = {}
        self._absent: dict[str, float] = {}
        self._lookups: dict[str | int | tuple[str, int], asyncio.Task[object]] = {}
        self._changed: set[int] = set()
        self._unreadable: set[int] = set()
        self._work = asyncio.Event()
        self._fresh_at = clock()
        self._stale = False
        #: Sums over what this replica knows.
        self._digest = Digest(0, 0, 0)
        self._compared_at = float("-inf")
        #: Incarnations routed since the last rotation, and before it.
        self._used: set[int] = set()
        self._used_before: set[int] = set()
        self._rotated_at = clock()
        #: How long learning takes, for the metrics.
        self.lag = LearningLag(clock)
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._tasks: list[asyncio.Task[None]] = []

    def current(self, experiment_id: str) -> Entry | None:
        """Return what is known now, without waiting."""
        return self._entries.get(experiment_id)

    def current_incarnation(self, incarnation: int) -> Entry | None:
        """As `current`, by incarnation."""
        return self._by_incarnation.get(incarnation)

    @property
    def entries(self) -> Collection[Entry]:
        """Every experiment as it is known now."""
        return self._entries.values()

    @property
    def unreadable(self) -> int:
        """How many experiments stay at their last policy because they cannot be read or compiled."""
        return len(self._unreadable)

    def age_s(self, entry: Entry) -> float:
        """Return for how long the policy version of an entry has been in Postgres, in seconds."""
        return self._clock() - entry.read_at_s + entry.reading.changed_ago_s

    def touch(self, incarnation: int) -> None:
        """Keep this experiment compiled: it was routed."""
        self._used.add(incarnation)

    def stale_for_s(self) -> float:
        """Return for how long this replica has been unable to refresh, in seconds; 0 when fresh."""
        age = self._clock() - self._fresh_at
        return age if self._stale or age > 3 * _POLL_S else 0.0

    async def lookup(self, experiment_id: str) -> Entry:
        """Return an experiment that `current` does not know, reading it once for all who ask at the same time.

        Raises NotFoundError, or UnavailableError if Postgres cannot be asked.
        """
        until = self._absent.get(experiment_id)
        if until is not None and self._clock() < until:
            raise NotFoundError.of_experiment(experiment_id)
        await self._single_flight(experiment_id, lambda: self._find(experiment_id))
        entry = self._entries.get(experiment_id)
        if entry is None:
            raise NotFoundError.of_experiment(experiment_id)
        return entry

    async def routable(self, experiment_id: str, states: Collection[str] = SERVING) -> Entry:
        """Return an experiment with its policy, compiled or read first if need be.

        It is in another state than `states` only as read after this call began: somebody may have started it just now. Its
        policy is None only in a state in which no arm answers. Raises as `lookup`.
        """
        entry = self._entries.get(experiment_id) or await self.lookup(experiment_id)
        if entry.definition.state not in states:
            entry = await self._confirm(entry)
        if entry.definition.serves and entry.policy is None:
            incarnation = entry.definition.incarnation
            self.touch(incarnation)
            await self._single_flight(("compile", incarnation), lambda: self._compile_now(incarnation))
            entry = self._by_incarnation[incarnation]
        return entry

    async def _compile_now(self, incarnation: int) -> None:
        entry = self._by_incarnation[incarnation]
        if entry.definition.serves and entry.policy is None:
            await self._put([(entry.definition, entry.reading)], entry.read_at_s)

    async def _confirm(self, entry: Entry) -> Entry:
        """Read an entry again before a call is refused for it.

        What is returned was read after the call began, or could not be read again. Refusals wait a little for one another,
        so that they cost Postgres little.
        """
        began_s = self._clock()
        await asyncio.sleep(max(0.0, _CONFIRMED_S - (began_s - entry.read_at_s)))
        newest = self._by_incarnation.get(entry.definition.incarnation, entry)
        if newest.read_at_s >= began_s:
            return newest
        with contextlib.suppress(NotFoundError, UnavailableError):
            return await self.lookup(entry.definition.experiment_id)
        return entry

    async def lookup_incarnation(self, incarnation: int) -> Entry | None:
        """As `lookup`, by incarnation; None if there is none."""
        await self._single_flight(incarnation, lambda: self._refresh([incarnation]))
        return self._by_incarnation.get(incarnation)

    def wake(self, incarnations: Iterable[int]) -> None:
        """Have these experiments read again soon."""
        changed = set(incarnations)
        if not changed <= self._by_incarnation.keys():
            self._absent.clear()
        self._changed |= changed
        if self._changed:
            self._work.set()

    async def refresh_now(self, incarnation: int) -> None:
        """Read one experiment at once: whoever changed it through this process sees the change on the next call."""
        await self._refresh([incarnation])

    def seed(self, experiments: Iterable[tuple[Definition, EvidenceReading]], age_s: float) -> None:
        """Know experiments as they were `age_s` seconds ago, until Postgres tells more. Call it before `start`."""
        self._fresh_at = self._clock() - age_s
        for definition, reading in experiments:
            self._swap(Entry(definition, reading, None, self._fresh_at))

    async def start(self) -> None:
        """Read the running experiments, then keep up with changes until `stop`."""
        with contextlib.suppress(StorageUnavailableError):
            await self._poll()
            await self._refresh_changed(limit=2 * _CHUNK)
        self._tasks = [
            asyncio.create_task(self._keep(self._follow), name="registry-follow"),
            asyncio.create_task(self._keep(self._poll_forever), name="registry-poll"),
            asyncio.create_task(self._keep(self._refresh_forever), name="registry-refresh"),
        ]

    async def stop(self) -> None:
        """End the tasks."""
        tasks = [*self._tasks, *self._lookups.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._compiler.shutdown(wait=False, cancel_futures=True)
        await self._source.close()

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` again whenever it ends: Postgres may be away, and a fault must not end learning."""
        while True:
            try:
                await work()
            except StorageUnavailableError as error:
                if not self._stale:
                    log.warning("policies are stale from now on: %s", error)
                self._stale = True
            except Exception:
                log.exception("refreshing policies failed; it goes on")
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        await self._source.listen(Heard(connected=self._sticky.forget_all, changed=self.wake, redrawn=self._sticky.forget))

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            await self._poll()

    async def _poll(self) -> None:
        """Find what a lost message would have said."""
        digest = await self._source.digest()
        await self._read_spend(self.budgets.limited)
        self._contact()
        if self._clock() - self._rotated_at > _IDLE_S:
            self._rotated_at = self._clock()
            self._used_before, self._used = self._used, set()
        if digest == self._digest or (digest.experiments > _MANY and self._clock() - self._compared_at < _COMPARE_MANY_S):
            return
        self._compared_at = self._clock()
        versions = await self._source.versions()
        self.wake(
            incarnation
            for incarnation, version in versions.items()
            if (entry := self._by_incarnation.get(incarnation)) is None
            or (entry.policy_version, entry.definition.definition_version) != version
        )

    async def _read_spend(self, incarnations: Collection[int]) -> None:
        if incarnations:
            day = self.budgets.today()
            self.budgets.learn(day, incarnations, await self._source.shadow_spend(incarnations, day))

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
            return await self._refresh(batch) if batch else 0.0
        except (StorageUnavailableError, asyncio.CancelledError):
            self.wake(batch)
            raise
        except Exception:
            # A row that this version cannot read stops its own experiment, no other.
            return sum([await self._refresh_alone(incarnation) for incarnation in batch])

    async def _refresh_alone(self, incarnation: int) -> float:
        try:
            seconds = await self._refresh([incarnation])
        except (StorageUnavailableError, asyncio.CancelledError):
            self.wake([incarnation])
            raise
        except Exception:
            if incarnation not in self._unreadable:
                log.exception("experiment %d cannot be read or compiled: its last policy stays", incarnation)
            self._unreadable.add(incarnation)
            return 0.0
        self._unreadable.discard(incarnation)
        return seconds

    async def _refresh(self, incarnations: Sequence[int]) -> float:
        known = {i: e.definition.definition_version for i in incarnations if (e := self._by_incarnation.get(i))}
        read_at_s = self._clock()
        definitions, readings = await self._source.read(incarnations, known)
        returned_at_s = self._clock()
        self._contact()
        fresh = {definition.incarnation: definition for definition in definitions}
        newer: list[tuple[Definition, EvidenceReading]] = []
        for reading in readings:
            entry = self._by_incarnation.get(reading.incarnation)
            definition = fresh.get(reading.incarnation) or (entry.definition if entry else None)
            if definition is not None and not (entry and entry.policy_version > reading.policy_version):
                newer.append((definition, reading))
        await self._read_spend([definition.incarnation for definition, _ in newer if is_limited(definition)])
        seconds = 0.0
        for start in range(0, len(newer), _COMPILED_AT_ONCE):
            chunk = newer[start : start + _COMPILED_AT_ONCE]
            before = [self._by_incarnation.get(reading.incarnation) for _, reading in chunk]
            seconds += await self._put(chunk, read_at_s)
            for (_, reading), entry in zip(chunk, before, strict=True):
                if entry is not None and entry.policy_version < reading.policy_version:
                    self.lag.learned(reading.changed_ago_s + self._clock() - returned_at_s)
        return seconds

    async def _put(self, readings: Sequence[tuple[Definition, EvidenceReading]], read_at_s: float) -> float:
        """Compile those that somebody routes by, together, and put all in place; returns the seconds that took."""
        used = [
            (definition, reading, self._policy(definition.incarnation))
            for definition, reading in readings
            if definition.serves and self._is_used(definition.incarnation)
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

    def _policy(self, incarnation: int) -> Policy | None:
        entry = self._by_incarnation.get(incarnation)
        return None if entry is None else entry.policy

    def _is_used(self, incarnation: int) -> bool:
        return incarnation in self._used or incarnation in self._used_before

    def _swap(self, entry: Entry) -> None:
        newest = self._by_incarnation.get(entry.definition.incarnation)
        # While this one was compiled, a direct refresh may have put in a newer one.
        if newest is not None and newest.policy_version > entry.policy_version:
            return
        self._entries[entry.definition.experiment_id] = entry
        self._by_incarnation[entry.definition.incarnation] = entry
        self.budgets.follow(entry.definition)
        _tell_of_shortfall(None if newest is None else newest.policy, entry.policy)
        before = Digest(0, 0, 0) if newest is None else newest.digest
        self._digest = Digest(*(known - b + a for known, b, a in zip(self._digest, before, entry.digest, strict=True)))

    async def _find(self, experiment_id: str) -> None:
        incarnation = await self._source.find(experiment_id)
        if incarnation is not None:
            await self._refresh([incarnation])
        elif len(self._absent) < _ABSENT_KEPT:
            self._absent[experiment_id] = self._clock() + _ABSENT_S

    async def _single_flight(
        self, key: str | int | tuple[str, int], work: Callable[[], Coroutine[None, None, object]]
    ) -> None:
        task = self._lookups.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._lookups[key] = task
            task.add_done_callback(lambda _: self._lookups.pop(key, None))
        try:
            await asyncio.shield(task)
        except StorageUnavailableError as error:
            raise UnavailableError(
                f"Postgres cannot be reached, and this replica has not seen {key!r} yet", retry_after_ms=1000
            ) from error

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
