"""The registry: every experiment's current policy.

Route reads one dict. What is not in it is read from Postgres once for all who ask at the same time;
`router.refreshing` keeps the rest as Postgres has it.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Coroutine, Iterable

from router.budgets import Budgets
from router.errors import NotFoundError, UnavailableError
from router.experiment import SERVING, Definition
from router.known import Entry, Known, RoutedLately
from router.refreshing import PolicySource, Refresher
from router.sticky import StickyUnits
from router.storage.errors import StorageUnavailableError
from router.storage.policies import EvidenceReading
from router.storage.reader import Heard
from router.telemetry.lag import LearningLag

#: Ids that do not exist are looked up again after this long, or as soon as somebody creates one.
_ABSENT_S = 1.0
_ABSENT_KEPT = 10_000
#: Before a call is refused for a state, that state is read again, at most this often.
_CONFIRMED_S = 0.05


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
        self._known = Known()
        self._routed = RoutedLately(clock)
        self._refresher = Refresher(source, clock, self._known, self._routed, self.budgets)
        self._absent: dict[str, float] = {}
        self._lookups: dict[str | int | tuple[str, int], asyncio.Task[object]] = {}

    def current(self, experiment_id: str) -> Entry | None:
        """Return what is known now, without waiting."""
        return self._known.by_id.get(experiment_id)

    def current_incarnation(self, incarnation: int) -> Entry | None:
        """As `current`, by incarnation."""
        return self._known.of(incarnation)

    @property
    def entries(self) -> Collection[Entry]:
        """Every experiment as it is known now."""
        return self._known.entries()

    @property
    def lag(self) -> LearningLag:
        """How long learning takes, for the metrics."""
        return self._refresher.lag

    @property
    def unreadable(self) -> int:
        """How many experiments stay at their last policy because they cannot be read or compiled."""
        return self._refresher.unreadable

    def age_s(self, entry: Entry) -> float:
        """Return for how long the policy version of an entry has been in Postgres, in seconds."""
        return self._clock() - entry.read_at_s + entry.reading.changed_ago_s

    def touch(self, incarnation: int) -> None:
        """Keep this experiment compiled: it was routed."""
        self._routed.add(incarnation)

    def stale_for_s(self) -> float:
        """Return for how long this replica has been unable to refresh, in seconds; 0 when fresh."""
        return self._refresher.stale_for_s()

    async def lookup(self, experiment_id: str) -> Entry:
        """Return an experiment that `current` does not know, reading it once for all who ask at the same time.

        Raises NotFoundError, or UnavailableError if Postgres cannot be asked.
        """
        # A refresh may have found it since.
        if self.current(experiment_id) is None and self._clock() < self._absent.get(experiment_id, -math.inf):
            raise NotFoundError.of_experiment(experiment_id)
        await self._single_flight(experiment_id, lambda: self._find(experiment_id))
        entry = self.current(experiment_id)
        if entry is None:
            raise NotFoundError.of_experiment(experiment_id)
        return entry

    async def lookup_incarnation(self, incarnation: int) -> Entry | None:
        """As `lookup`, by incarnation; None if there is none."""
        await self._single_flight(incarnation, lambda: self._refresher.refresh([incarnation]))
        return self._known.of(incarnation)

    async def routable(self, experiment_id: str, states: Collection[str] = SERVING) -> Entry:
        """Return an experiment with its policy, compiled or read first if need be.

        It is in another state than `states` only as read after this call began: somebody may have started it just now. Its
        policy is None only in a state in which no arm answers. Raises as `lookup`.
        """
        entry = self.current(experiment_id) or await self.lookup(experiment_id)
        if entry.definition.state not in states:
            entry = await self._confirm(entry)
        if entry.definition.serves and entry.policy is None:
            incarnation = entry.definition.incarnation
            self.touch(incarnation)
            await self._single_flight(("compile", incarnation), lambda: self._refresher.compile(incarnation))
            entry = self._known.of(incarnation) or entry
        return entry

    async def _confirm(self, entry: Entry) -> Entry:
        """Read an entry again before a call is refused for it.

        What is returned was read after the call began, or could not be read again. Refusals wait a little for one another,
        so that they cost Postgres little.
        """
        began_s = self._clock()
        await asyncio.sleep(max(0.0, _CONFIRMED_S - (began_s - entry.read_at_s)))
        newest = self._known.of(entry.definition.incarnation) or entry
        with contextlib.suppress(NotFoundError, UnavailableError):
            # What others began to read before this call may end now: then it is read once more.
            for _ in range(2):
                if newest.read_at_s < began_s:
                    newest = await self.lookup(entry.definition.experiment_id)
        return newest

    def wake(self, incarnations: Iterable[int]) -> None:
        """Have these experiments read again soon."""
        changed = set(incarnations)
        if any(incarnation not in self._known for incarnation in changed):
            self._absent.clear()
        self._refresher.wake(changed)

    async def refresh_now(self, incarnation: int) -> None:
        """Read one experiment at once: whoever changed it through this process sees the change on the next call."""
        await self._refresher.refresh([incarnation])

    def seed(self, experiments: Iterable[tuple[Definition, EvidenceReading]], age_s: float) -> None:
        """Know experiments as they were `age_s` seconds ago, until Postgres tells more. Call it before `start`."""
        self._refresher.seed(experiments, age_s)

    async def start(self) -> None:
        """Read the experiments, then keep up with changes until `stop`."""
        await self._refresher.start(Heard(connected=self._sticky.forget_all, changed=self.wake, redrawn=self._sticky.forget))

    async def stop(self) -> None:
        """End the tasks."""
        lookups = list(self._lookups.values())
        for task in lookups:
            task.cancel()
        await asyncio.gather(self._refresher.stop(), *lookups, return_exceptions=True)
        await self._source.close()

    async def _find(self, experiment_id: str) -> None:
        incarnation = await self._source.find(experiment_id)
        if incarnation is not None:
            await self._refresher.refresh([incarnation])
            return
        if len(self._absent) >= _ABSENT_KEPT:
            self._absent.clear()
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
