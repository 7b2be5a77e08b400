"""Vitals: what the leader computes of every experiment for the metrics, now and then and never in the way.

Each time it has a fraction of a second: experiments whose figures are oldest come first, and what is known stays until it
is computed anew. So ten experiments are up to date within seconds and hundreds within minutes.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from router.standing import Standing, standing_of
from router.storage import vitals
from router.storage.database import Database
from router.storage.election import Session
from router.storage.errors import StorageError, translated
from router.storage.snapshots import Readings, read_readings
from router.storage.times import day_of
from router.storage.vitals import Coverage, Version
from router.telemetry import catalogue
from router.telemetry.tallies import Sample

#: How often, and for how long at a time, in seconds.
EVERY_S: Final = 5.0
_SHARE_S: Final = 0.5
#: Running experiments with series of their own: those that changed last.
MOST_EXPERIMENTS: Final = 500
#: Figures of an experiment that does not change are computed anew after this long.
_COVERAGE_S: Final = 60.0
_ORPHANS_S: Final = 300.0
_AT_ONCE: Final = 10
#: Feedback takes this long at least, and a decision reaches Postgres in it.
GRACE_US: Final = 15 * 60 * 1_000_000
_DAY_US: Final = 24 * 3_600 * 1_000_000


class Vitals:
    """What a keeper knows of experiments while it leads."""

    def __init__(self, database: Database, clock_us: Callable[[], int], *, grace_us: int = GRACE_US) -> None:
        """`clock_us` gives microseconds since the epoch; decisions and events are looked at once they are `grace_us` old."""
        self._database = database
        self._clock_us = clock_us
        self._grace_us = grace_us
        self._session: Session | None = None
        self._states: dict[str, int] = {}
        self._newest: list[Version] = []
        #: By incarnation.
        self._found: dict[int, _Found] = {}
        self._orphans: tuple[int, int] | None = None
        self._orphans_at = float("-inf")

    async def work(self, session: Session) -> None:
        """Bring figures up to date, for as long as its share of time lasts."""
        clock = asyncio.get_running_loop().time
        until = clock() + _SHARE_S
        with translated():
            async with self._database.snapshot() as connection:
                self._states = await vitals.read_states(connection)
                self._newest = await vitals.read_newest(connection, MOST_EXPERIMENTS)
            known = {version.incarnation: version for version in self._newest}
            self._found = {incarnation: self._found.get(incarnation) or _Found() for incarnation in known}
            if clock() - self._orphans_at > _ORPHANS_S:
                self._orphans_at = clock()
                self._orphans = await self._read_orphans()
            await self._believe([v for v in self._newest if self._found[v.incarnation].versions != v[2:4]], until)
            due = [i for i, found in self._found.items() if clock() - found.covered_at > _COVERAGE_S]
            for incarnation in sorted(due, key=lambda i: self._found[i].covered_at):
                if clock() > until:
                    break
                await self._cover(incarnation, clock())

    def samples(self) -> Iterator[Sample]:
        """Return the figures."""
        for state, count in self._states.items():
            yield catalogue.EXPERIMENTS.name, (state,), count
        answering = sum(self._states.get(state, 0) for state in ("running", "shadow"))
        yield catalogue.HIDDEN.name, (), max(0, answering - len(self._newest))
        for version in self._newest:
            yield from _of_version(version)
            yield from self._found[version.incarnation].samples(version.experiment_id)
        if self._orphans is not None:
            sampled, orphans = self._orphans
            yield catalogue.ORPHANS_SAMPLED.name, (), sampled
            if sampled:
                yield catalogue.ORPHANS.name, (), orphans / sampled

    async def _believe(self, changed: Sequence[Version], until: float) -> None:
        """Compute posteriors of experiments that changed, those first that were computed longest ago."""
        clock = asyncio.get_running_loop().time
        queue = sorted(vitals.incarnations_of(changed), key=lambda i: self._found[i].believed_at)
        for start in range(0, len(queue), _AT_ONCE):
            if clock() > until:
                return
            async with self._database.snapshot() as connection:
                readings = await read_readings(connection, queue[start : start + _AT_ONCE])
            # Off the event loop: the keeper drains the spool there.
            standings = await asyncio.to_thread(lambda: [_standing(found) for found in readings])  # noqa: B023 - awaited
            for found, standing in zip(readings, standings, strict=True):
                self._found[found.reading.incarnation].believe(found, standing, clock())

    async def _cover(self, incarnation: int, now: float) -> None:
        found = self._found[incarnation]
        found.covered_at = now
        if found.readings is None:
            return
        definition = found.readings.definition
        rule = definition.reward_rules[definition.reward_rule_version]
        until_us = self._clock_us() - max(self._grace_us, int(rule.mature_after.total_seconds() * 1e6))
        try:
            async with self._database.snapshot() as connection:
                found.coverage = await vitals.read_coverage(connection, incarnation, until_us - _DAY_US, until_us)
        except StorageError:
            # Too many to look at in time: no figure is better than an old one.
            found.coverage = []
            raise

    async def _read_orphans(self) -> tuple[int, int]:
        now_us = self._clock_us()
        async with self._database.snapshot() as connection:
            return await vitals.read_orphans(connection, day_of(now_us), now_us - self._grace_us)


class _Found:
    """The figures of one experiment."""

    def __init__(self) -> None:
        self.readings: Readings | None = None
        self.standing: Standing | None = None
        #: Policy and definition version of what is known.
        self.versions: tuple[int, int] = (-1, -1)
        self.coverage: Sequence[Coverage] = ()
        self.believed_at = self.covered_at = float("-inf")

    def believe(self, readings: Readings, standing: Standing, now: float) -> None:
        """Take a new posterior."""
        reading = readings.reading
        self.readings, self.standing, self.believed_at = readings, standing, now
        self.versions = (reading.policy_version, reading.definition_version)

    def samples(self, experiment_id: str) -> Iterator[Sample]:
        """Return the figures of active arms; of an arm with several versions, those of the active one."""
        standing, readings = self.standing, self.readings
        if standing is None or readings is None:
            return
        regret = 0.0
        for i, arm in enumerate(standing.arms):
            if not arm.active:
                continue
            labels = (experiment_id, arm.arm_id)
            regret += float(standing.allocation[i] * standing.expected_loss[i])
            yield catalogue.ALLOCATION.name, labels, float(standing.allocation[i])
            yield catalogue.PROBABILITY_BEST.name, labels, float(standing.probability_best[i])
            yield catalogue.EXPECTED_LOSS.name, labels, float(standing.expected_loss[i])
            yield catalogue.MEAN.name, labels, float(standing.alpha[i] / (standing.alpha[i] + standing.beta[i]))
            yield catalogue.OUTCOMES.name, labels, standing.evidence[i].n
        yield catalogue.EXPECTED_REGRET.name, (experiment_id,), regret
        active = {arm.number: arm.arm_id for arm in readings.definition.active_arms}
        for arm_number, decisions, covered in self.coverage:
            if arm_number in active and decisions:
                labels = (experiment_id, active[arm_number])
                yield catalogue.COVERAGE.name, labels, covered / decisions
                yield catalogue.COVERAGE_DECISIONS.name, labels, decisions


def _of_version(version: Version) -> Iterator[Sample]:
    labels = (version.experiment_id,)
    yield catalogue.COMMITTED_VERSION.name, labels, version.policy_version
    if version.kept_version is not None and version.kept_at_us is not None:
        yield catalogue.SNAPSHOT_VERSION.name, labels, version.kept_version
        yield catalogue.SNAPSHOT_TIME.name, labels, version.kept_at_us / 1e6


def _standing(found: Readings) -> Standing:
    reading = found.reading
    return standing_of(found.definition, reading.policy_version, reading.by_segment, reading.hours)
