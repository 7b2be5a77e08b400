"""What the keeper reports."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from router import feedback_spool, journal
from router.controllers.leader import Leader
from router.controllers.vitals import Vitals
from router.drain import Drainer
from router.reporting.process import process_samples
from router.sinks import EventSink
from router.storage.database import Database
from router.telemetry import catalogue
from router.telemetry.tallies import Sample

_LIMITS = {journal.SUFFIX: journal.SPOOL_BYTES, feedback_spool.SUFFIX: feedback_spool.SPOOL_BYTES}


@dataclass(slots=True)
class KeeperReport:
    """The parts of a keeper that know something."""

    directory: Path
    drainer: Drainer
    events: EventSink
    database: Database
    #: Once there are any.
    leader: Leader | None = None
    vitals: Vitals | None = None

    def samples(self) -> Iterator[Sample]:
        """Return every value, as of now."""
        for drain in self.drainer.drains:
            kind = (drain.what,)
            yield catalogue.SPOOL_WAITING.name, kind, drain.undrained_bytes
            yield catalogue.SPOOL_OLDEST.name, kind, drain.oldest_s
            yield catalogue.SPOOL_USED.name, kind, _bytes_of(self.directory, drain.suffix)
            yield catalogue.SPOOL_LIMIT.name, kind, _LIMITS[drain.suffix]
            yield catalogue.SPOOL_STORED.name, kind, drain.stored
            yield catalogue.SPOOL_SET_ASIDE.name, kind, drain.refused
        yield catalogue.CONTRADICTIONS.name, (), self.events.contradictions
        yield from self._led()
        yield from process_samples("keeper", self.database)

    def _led(self) -> Iterator[Sample]:
        leader, vitals = self.leader, self.vitals
        leads = leader is not None and leader.leads
        yield catalogue.LEADER.name, (), int(leads)
        if leader is None or vitals is None:
            return
        for duty, failures in leader.failures.items():
            yield catalogue.DUTY_FAILURES.name, (duty,), failures
        if leads:
            for duty, done_at in leader.done_at.items():
                yield catalogue.DUTY_DONE.name, (duty,), done_at
            yield from vitals.samples()


def _bytes_of(directory: Path, suffix: str) -> int:
    used = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                with contextlib.suppress(FileNotFoundError):
                    used += entry.stat().st_size
    return used
