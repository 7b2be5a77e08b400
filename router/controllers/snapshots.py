"""The keeper of history: takes snapshots of posteriors while they change.

A posterior that has learned much since its last snapshot (a hundredth more outcomes, or another definition) is kept within
seconds; one that has changed in any way, within five minutes. So the history is dense where something happens, and an
experiment of N outcomes has about 100 ln N snapshots beside twelve an hour. Posteriors of segments are kept
together with that of all traffic.
"""

import asyncio
from collections.abc import Callable, Sequence

from router.standing import standings_of
from router.storage import snapshots
from router.storage.database import Database
from router.storage.election import Session
from router.storage.errors import translated
from router.storage.snapshots import Kept, Readings, Snapshot
from router.storage.times import time_of

#: How often changes are looked for, in seconds: there is at most one snapshot of an experiment in that time.
EVERY_S = 1.0
#: A change is kept within this time.
_WITHIN_US = 300_000_000
#: The growth of the number of outcomes that is kept at once.
_GROWTH = 1.01
#: Experiments that are read and computed together.
_AT_ONCE = 50
#: The share of the time that taking snapshots may take.
_SHARE = 0.2


class Historian:
    """What the leader does about snapshots. It remembers the last ones for as long as it leads."""

    def __init__(self, database: Database, clock_us: Callable[[], int], *, share: float = _SHARE) -> None:
        """`clock_us` gives microseconds since the epoch; `share` is how much of the time may go into this."""
        self._database = database
        self._clock_us = clock_us
        self._share = share
        self._session: Session | None = None
        #: By incarnation.
        self._kept: dict[int, Kept] = {}
        #: By incarnation, the definition that it was last kept, or looked at, with.
        self._definitions: dict[int, int] = {}
        #: Before when nothing is done, by the event loop's clock.
        self._not_before = float("-inf")

    async def work(self, session: Session) -> None:
        """Take the snapshots that are due, the oldest first, as many as the share of time allows."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._not_before:
            return
        with translated():
            if session is not self._session:
                self._kept = await snapshots.read_last(session.connection)
                self._session = session
            now_us = self._clock_us()
            versions = await snapshots.read_versions(session.connection)
            changed = [i for i, version in versions.items() if self._has_changed(i, version, now_us)]
            changed.sort(key=lambda i: self._kept[i].taken_at_us if i in self._kept else 0)
            for start in range(0, len(changed), _AT_ONCE):
                await self._keep(session, changed[start : start + _AT_ONCE], now_us)
                if clock() - began > EVERY_S:
                    break
        self._not_before = clock() + (clock() - began) * (1 / self._share - 1) - EVERY_S

    def _has_changed(self, incarnation: int, version: int, now_us: int) -> bool:
        kept = self._kept.get(incarnation)
        return kept is None or (kept.policy_version != version and now_us - kept.taken_at_us >= EVERY_S * 1e6)

    async def _keep(self, session: Session, incarnations: Sequence[int], now_us: int) -> None:
        async with self._database.snapshot() as connection:
            readings = await snapshots.read_readings(connection, incarnations)
        due = [found for found in readings if self._is_due(found, now_us)]
        # Off the event loop: the keeper drains the spool there.
        taken = await asyncio.to_thread(lambda: [snapshot for found in due for snapshot in _taken(found, now_us)])
        await snapshots.write(session.connection, taken)
        for found in due:
            incarnation = found.reading.incarnation
            self._kept[incarnation] = Kept(found.reading.policy_version, now_us, _outcomes(found))
            self._definitions[incarnation] = found.reading.definition_version

    def _is_due(self, found: Readings, now_us: int) -> bool:
        incarnation = found.reading.incarnation
        kept = self._kept.get(incarnation)
        if kept is None or now_us - kept.taken_at_us >= _WITHIN_US:
            return True
        if self._definitions.setdefault(incarnation, found.reading.definition_version) != found.reading.definition_version:
            return True
        return _outcomes(found) > _GROWTH * kept.outcomes


def _outcomes(found: Readings) -> int:
    return sum(counted.n for counted in found.reading.evidence.values())


def _taken(found: Readings, now_us: int) -> list[Snapshot]:
    """Return the snapshot of all traffic, and those of segments that have posteriors of their own."""
    reading, rule = found.reading, found.definition.rules.segments
    segments = ("", *(rule.names if rule is not None else ()))
    return [
        Snapshot(
            reading.incarnation,
            time_of(now_us),
            found.matured_to,
            found.kept_from,
            standing,
        )
        for standing in standings_of(found.definition, reading.policy_version, reading.by_segment, reading.hours, segments)
    ]
