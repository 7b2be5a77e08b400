"""Derived signals, silence and maturing: what follows from time going by, about once a second, on the leader.

Protocol
    Of each experiment that derives, the pass goes over its decisions on three occasions, each with a cursor of its own:

    *New*: once it is made, its session is looked at: it may be a retry or a rephrased query, which is about an earlier one.
    *Quiet*: once it is `abandon_after` old, if nothing that counts was sent for it, its session is looked at again. Where
    an event kept the session alive, that is done once more when it would have ended.
    *Silent*: once it is `mature_after` old, if it has no outcome, and silence has a reward, that is its outcome.

    Then `matured_to` moves as far as all of them came, so that what follows from silence is there before it counts.

    Decisions may reach the log late, when a spool drains. The pass remembers how many decisions it saw in every few seconds
    and compares that with the log: the last seconds often, the far past rarely, so that a decision that is late by some
    time is seen within about as much again. What differs is gone over whole. A new leader has seen nothing; it begins where
    outcomes have matured to, and goes over the past in the background, latest first, as far as events can still count.

    Every derived event has an id and a time that follow from the log alone. To derive it twice, here or on another replica,
    changes nothing, so nothing need be remembered, and two leaders at once do no harm.
"""

import heapq
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from bandit.derive import derive_session
from router.controllers.derived_events import session_decision, signal_row, silence_row
from router.storage import maturing
from router.storage.database import Database
from router.storage.derived import DerivationLog, DerivingExperiment, LoggedDecision, RuleVersion, SilentDecision
from router.storage.election import Session
from router.storage.errors import StorageUnavailableError
from router.storage.events import EventRow
from router.storage.times import microseconds
from router.storage.writer import EventWriter

log = logging.getLogger(__name__)

#: Seconds from one pass to the next.
EVERY_S = 1.0
#: Decisions are counted in spans of this length: 15 s.
BUCKET_US = 15_000_000
#: Rows of a page, and pages that one occasion goes over in one pass: experiments take turns.
_PAGE = 2_000
_PAGES = 4
_SESSIONS = 500
_EVENTS = 2_000
#: How far back one look into the past goes at most, and every how many passes the log is compared with what was seen.
_STRETCH_US = 6 * 3_600_000_000
_CHECK_EVERY = 5
#: Spans that are gone over again in one pass.
_LATE_BUCKETS = 500

Row = TypeVar("Row", LoggedDecision, SilentDecision)
Read: TypeAlias = Callable[[int, int, int], Awaitable[list[Row]]]


@dataclass(slots=True)
class _Course:
    """How far the pass has come with one experiment."""

    #: Where it began: the start of a bucket.
    begun_us: int
    #: Decisions made before were looked at when they were new.
    new_us: int
    #: Decisions from here on, and before `new_us`, are in `seen`: how many there were, by bucket.
    past_us: int
    matured_to_us: int | None
    seen: Counter[int] = field(default_factory=Counter)
    #: By version of the rule: decisions made before were looked at when they had become quiet, or silent.
    quiet_us: dict[int, int] = field(default_factory=dict)
    silent_us: dict[int, int] = field(default_factory=dict)
    #: (when, session, since when): sessions that will have been abandoned unless something happens.
    again: list[tuple[int, str, int]] = field(default_factory=list)
    passes: int = 0
    checks: int = 0


class Deriver:
    """The duty of the leader to derive and to mature."""

    def __init__(
        self,
        database: Database,
        *,
        clock_us: Callable[[], int],
        announce: Callable[[Iterable[int]], None],
        hash_id: Callable[[str], bytes],
        settle_us: int = 1_000_000,
    ) -> None:
        """`announce` is told whose evidence moved; `hash_id` is that of decision ids.

        Decisions are new for `settle_us`, while the log settles.
        """
        self._log = DerivationLog(database, hash_id)
        self._writer = EventWriter(database)
        self._clock_us = clock_us
        self._announce = announce
        self._settle_us = settle_us
        self._session: Session | None = None
        self._digest: tuple[int, int] | None = None
        self._experiments: list[DerivingExperiment] = []
        self._courses: dict[int, _Course] = {}

    async def close(self) -> None:
        """Let go of connections."""
        await self._log.close()
        await self._writer.close()

    async def work(self, session: Session) -> None:
        """Derive and mature what is due; raises StorageUnavailableError if Postgres went away."""
        if session is not self._session:
            # Another one led meanwhile, perhaps.
            self._session, self._digest = session, None
            self._courses.clear()
        await self._refresh()
        for experiment in self._experiments:
            try:
                await self._pass(session, experiment)
            except StorageUnavailableError:
                raise
            except Exception:
                log.exception("deriving for experiment %d failed; it is tried again", experiment.incarnation)

    async def _refresh(self) -> None:
        digest = await self._log.definitions_digest()
        if digest == self._digest:
            return
        self._experiments, unreadable = await self._log.experiments()
        for incarnation, error in unreadable:
            log.error("nothing is derived for experiment %d, whose reward rules cannot be read: %r", incarnation, error)
        kept = {experiment.incarnation for experiment in self._experiments}
        self._courses = {incarnation: course for incarnation, course in self._courses.items() if incarnation in kept}
        for experiment in self._experiments:
            if (course := self._courses.get(experiment.incarnation)) is not None:
                course.matured_to_us = experiment.matured_to_us
        self._digest = digest

    async def _pass(self, session: Session, experiment: DerivingExperiment) -> None:
        now_us = self._clock_us()
        course = self._courses.get(experiment.incarnation)
        if course is None:
            course = self._courses[experiment.incarnation] = _begun(experiment, now_us)
        matures_us = microseconds(experiment.rules[-1].rule.mature_after)
        if not experiment.derives:
            await self._mature(session, experiment, course, now_us, now_us - matures_us)
            return
        end_us = max(course.new_us, now_us - self._settle_us)
        await self._look_at_new(experiment, course, end_us, now_us)
        reached_us = [course.new_us]
        for rule in experiment.rules:
            reached_us += await self._look_at_quiet(experiment, course, rule, end_us, now_us, matures_us)
            reached_us += await self._look_at_silent(experiment, course, rule, end_us, now_us, matures_us)
        await self._look_again(experiment, course, now_us)
        await self._mature(session, experiment, course, now_us, min(now_us - matures_us, min(reached_us) - 1))
        course.passes += 1
        if course.passes % _CHECK_EVERY == 0:
            await self._compare(experiment, course, now_us)
        await self._look_back(experiment, course, now_us)

    async def _look_at_new(self, experiment: DerivingExperiment, course: _Course, end_us: int, now_us: int) -> None:
        def read(first_us: int, end_us: int, limit: int) -> Awaitable[list[LoggedDecision]]:
            return self._log.decisions(experiment, first_us, end_us, limit)

        async for rows, reached_us in _pages(read, course.new_us, end_us, _PAGES):
            await self._look_at_sessions(experiment, course, rows, now_us)
            course.seen.update(row.decided_at_us // BUCKET_US for row in rows)
            course.new_us = reached_us

    async def _look_at_quiet(
        self, experiment: DerivingExperiment, course: _Course, rule: RuleVersion, end_us: int, now_us: int, matures_us: int
    ) -> list[int]:
        """Look at decisions that may have been abandoned; returns how far it came, if that holds up maturing."""
        if rule.rule.derived.abandon_after is None:
            return []
        after_us = microseconds(rule.rule.derived.abandon_after)
        end_us = min(end_us, now_us - after_us + 1)

        def read(first_us: int, end_us: int, limit: int) -> Awaitable[list[LoggedDecision]]:
            return self._log.quiet(experiment.incarnation, rule, first_us, end_us, limit)

        first_us = course.quiet_us.setdefault(rule.version, min(end_us, course.begun_us))
        async for rows, reached_us in _pages(read, first_us, end_us, _PAGES):
            course.quiet_us[rule.version] = reached_us
            await self._look_at_sessions(experiment, course, rows, now_us)
        return [course.quiet_us[rule.version]] if after_us <= matures_us else []

    async def _look_at_silent(
        self, experiment: DerivingExperiment, course: _Course, rule: RuleVersion, end_us: int, now_us: int, matures_us: int
    ) -> list[int]:
        """Look at decisions that nothing was heard of; returns how far it came, if that holds up maturing."""
        if rule.rule.no_feedback_micros is None:
            return []
        after_us = microseconds(rule.rule.mature_after)
        end_us = min(end_us, now_us - after_us + 1)
        first_us = course.silent_us.setdefault(rule.version, min(end_us, course.begun_us))
        course.silent_us[rule.version] = await self._hear_silence(experiment, rule, first_us, end_us, now_us, _PAGES)
        return [course.silent_us[rule.version]] if after_us <= matures_us else []

    async def _hear_silence(
        self, experiment: DerivingExperiment, rule: RuleVersion, first_us: int, end_us: int, now_us: int, pages: int | None
    ) -> int:
        """Give decisions without an outcome the one of silence; returns how far it came."""

        def read(first_us: int, end_us: int, limit: int) -> Awaitable[list[SilentDecision]]:
            return self._log.silent(experiment.incarnation, rule, first_us, end_us, limit)

        reached = first_us
        async for rows, reached_us in _pages(read, first_us, end_us, pages):
            await self._apply([silence_row(experiment.incarnation, rule, row, now_us) for row in rows])
            reached = reached_us
        return reached

    async def _look_again(self, experiment: DerivingExperiment, course: _Course, now_us: int) -> None:
        due = []
        while course.again and course.again[0][0] <= now_us:
            _, session_id, first_us = heapq.heappop(course.again)
            due.append(LoggedDecision(first_us, session_id))
        await self._look_at_sessions(experiment, course, due, now_us)

    async def _look_at_sessions(
        self, experiment: DerivingExperiment, course: _Course, rows: Sequence[LoggedDecision], now_us: int
    ) -> None:
        """Store what follows about these decisions' sessions, as far back as these decisions can tell."""
        firsts_us: dict[str, int] = {}
        for decided_at_us, session_id in rows:
            if session_id and experiment.reach_us:
                firsts_us[session_id] = min(decided_at_us, firsts_us.get(session_id, decided_at_us))
        names = list(firsts_us)
        for start in range(0, len(names), _SESSIONS):
            wanted = {name: firsts_us[name] - experiment.reach_us for name in names[start : start + _SESSIONS]}
            # What is about a decision follows from those around it, on both sides.
            wider = {name: first_us - experiment.reach_us for name, first_us in wanted.items()}
            found = await self._log.sessions(experiment.incarnation, wider, now_us + 1)
            events: list[EventRow] = []
            for session_id, decisions in found.items():
                known = {(row.decision_key, row.decided_at_us): row for row in decisions}
                of_rule = {key: experiment.rule_of(row.policy_version) for key, row in known.items()}
                derivation = derive_session([session_decision(row, of_rule[key]) for key, row in known.items()], now_us)
                for signal in derivation.signals:
                    key = (signal.decision_key, signal.decided_at_us)
                    if signal.decided_at_us >= wanted[session_id]:
                        events.append(signal_row(experiment.incarnation, of_rule[key], known[key], signal, now_us))
                if derivation.look_again_at_us is not None:
                    last = max(known, key=lambda key: (key[1], key[0]))
                    # Later decisions are come to when they have become quiet.
                    if last[1] < course.quiet_us.get(of_rule[last].version, 0):
                        heapq.heappush(course.again, (derivation.look_again_at_us, session_id, last[1]))
            await self._apply(events)

    async def _compare(self, experiment: DerivingExperiment, course: _Course, now_us: int) -> None:
        """Go over what reached the log late: every other time 15 s back, every fourth time 30 s, and so on."""
        checks = course.checks + 1
        end_us = course.new_us // BUCKET_US * BUCKET_US
        first_us = max(course.past_us, end_us - BUCKET_US * (checks & -checks))
        if first_us < end_us:
            counts = await self._log.counts(experiment, first_us, end_us, BUCKET_US)
            late = [bucket for bucket, count in counts.items() if course.seen.get(bucket, 0) != count]
            for bucket in sorted(late)[:_LATE_BUCKETS]:
                await self._go_over(experiment, course, bucket * BUCKET_US, (bucket + 1) * BUCKET_US, now_us)
            if len(late) > _LATE_BUCKETS:
                return  # the next comparison is the same one
        course.checks = checks
        oldest = (now_us - experiment.window_us) // BUCKET_US
        for bucket in [bucket for bucket in course.seen if bucket < oldest]:
            del course.seen[bucket]

    async def _look_back(self, experiment: DerivingExperiment, course: _Course, now_us: int) -> None:
        """Go over some more of the past, as long as events can still count there."""
        oldest_us = (now_us - experiment.window_us) // BUCKET_US * BUCKET_US
        if course.past_us <= oldest_us:
            return
        first_us = max(oldest_us, course.past_us - _STRETCH_US)
        rows = await self._log.decisions(experiment, first_us, course.past_us, _PAGE, latest=True)
        if len(rows) >= _PAGE:
            # Whole buckets, and at least one.
            earliest = rows[-1].decided_at_us // BUCKET_US * BUCKET_US
            first_us = min(earliest + BUCKET_US, course.past_us - BUCKET_US)
        if rows:
            await self._go_over(experiment, course, first_us, course.past_us, now_us)
        course.past_us = first_us

    async def _go_over(
        self, experiment: DerivingExperiment, course: _Course, first_us: int, end_us: int, now_us: int
    ) -> None:
        """Derive all that follows by now for the decisions of whole buckets."""

        def read(first_us: int, end_us: int, limit: int) -> Awaitable[list[LoggedDecision]]:
            return self._log.decisions(experiment, first_us, end_us, limit)

        seen: Counter[int] = Counter()
        async for rows, _ in _pages(read, first_us, end_us, None):
            await self._look_at_sessions(experiment, course, rows, now_us)
            seen.update(row.decided_at_us // BUCKET_US for row in rows)
        for rule in experiment.rules:
            if rule.rule.no_feedback_micros is not None:
                due_us = min(end_us, now_us - microseconds(rule.rule.mature_after) + 1)
                await self._hear_silence(experiment, rule, first_us, due_us, now_us, None)
        for bucket in range(first_us // BUCKET_US, end_us // BUCKET_US):
            course.seen.pop(bucket, None)
        course.seen.update(seen)

    async def _mature(
        self, session: Session, experiment: DerivingExperiment, course: _Course, now_us: int, to_us: int
    ) -> None:
        """Move the time up to which outcomes count; `to_us` is how far it may move."""
        incarnation, connection = experiment.incarnation, session.connection
        if course.matured_to_us is None:
            if experiment.matures:
                course.matured_to_us = await maturing.begin(connection, incarnation, now_us)
                log.info("outcomes of experiment %d mature from now on", incarnation)
            return
        done = False
        while not done:
            if experiment.matures:
                matured = await maturing.advance(connection, incarnation, to_us)
            else:
                matured = await maturing.finish(connection, incarnation)
            course.matured_to_us, done = matured.matured_to_us, matured.done
            if matured.outcomes:
                self._announce([incarnation])

    async def _apply(self, events: Sequence[EventRow]) -> None:
        distinct = list({event.key: event for event in events}.values())
        for start in range(0, len(distinct), _EVENTS):
            result = await self._writer.apply(distinct[start : start + _EVENTS])
            self._announce(result.moved)


def _begun(experiment: DerivingExperiment, now_us: int) -> _Course:
    """A course that begins where outcomes have matured to, or now: what is before is left to looking back."""
    begins_us = now_us if experiment.matured_to_us is None else min(now_us, experiment.matured_to_us)
    begins_us = max(begins_us, now_us - experiment.window_us) // BUCKET_US * BUCKET_US
    return _Course(begun_us=begins_us, new_us=begins_us, past_us=begins_us, matured_to_us=experiment.matured_to_us)


async def _pages(read: Read[Row], first_us: int, end_us: int, most: int | None) -> AsyncIterator[tuple[list[Row], int]]:
    """Give the pages of a range, each with the time before which there is nothing more; `most` pages at most."""
    pages = 0
    while first_us < end_us and (most is None or pages < most):
        rows = await read(first_us, end_us, _PAGE)
        first_us = end_us if len(rows) < _PAGE else rows[-1].decided_at_us + 1
        pages += 1
        yield rows, first_us
