"""The ramp controller: looks at every challenger on trial, and makes what follows from the evidence happen.

It remembers nothing but its own pace: what a ramp is and was is in Postgres, so whoever leads next goes on from there.
Reading the evidence of a stage takes long where the stage holds millions of decisions, and the leader has other duties. So
it is read on a connection of the pool, and a look takes up what has been read by then. Writing is the leader's alone.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bandit.canary import step
from bandit.guardrails import Measures
from bandit.ramp_state import OPEN, Phase, RampState, Transition
from router.experiment import Definition
from router.messages import assessment_document
from router.storage import measures, ramps
from router.storage.database import Database, driver_of
from router.storage.election import Session
from router.storage.errors import StorageUnavailableError
from router.storage.experiments import definition_of

log = logging.getLogger(__name__)

#: How often ramps are looked at, in seconds.
EVERY_S = 2.0
#: How long a look waits for evidence that is being read.
_PATIENCE_S = 0.5
#: The share of the time that reading the evidence of one ramp may take.
_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What was read of the stage of one ramp."""

    definition: Definition
    measures: Measures
    #: The time of the look: what was younger than that, or not mature, was left out.
    now_us: int


class RampController:
    """What the leader does about ramps."""

    def __init__(
        self,
        database: Database,
        clock_us: Callable[[], int],
        announce: Callable[[Iterable[int]], None],
        *,
        every_s: float,
    ) -> None:
        """`clock_us` gives microseconds since the epoch; `announce` tells the replicas which experiments changed.

        `look` is called every `every_s` seconds.
        """
        self._database = database
        self._clock_us = clock_us
        self._announce = announce
        self._every_us = int(every_s * 1e6)
        #: By incarnation, what is being read, one after the other.
        self._reading: dict[int, asyncio.Task[_Evidence]] = {}
        self._turn = asyncio.Lock()
        #: By incarnation, before when it is not read again, by the event loop's clock.
        self._not_before: dict[int, float] = {}

    async def look(self, session: Session) -> None:
        """Look at each ramp once, on the connection that holds the leadership. A fault of one holds up no other."""
        rows = {row["incarnation"]: row for row in await ramps.read_open(session.connection)}
        now = asyncio.get_running_loop().time()
        self._not_before = {i: at for i, at in self._not_before.items() if i in rows}
        for incarnation, row in rows.items():
            if incarnation not in self._reading and now >= self._not_before.get(incarnation, now):
                self._reading[incarnation] = asyncio.create_task(self._read(row), name="ramp")
        if self._reading:
            await asyncio.wait(self._reading.values(), timeout=_PATIENCE_S)
        for incarnation, task in list(self._reading.items()):
            if task.done():
                del self._reading[incarnation]
                await self._judge(session, rows.get(incarnation), task)

    async def close(self) -> None:
        """End what is being read."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, row: Mapping[str, Any]) -> _Evidence:
        clock = asyncio.get_running_loop().time
        async with self._turn:
            began = clock()
            try:
                definition, now_us = definition_of(row), self._clock_us()
                async with self._database.snapshot() as connection:
                    found = await measures.measure(await driver_of(connection), definition, now_us)
                return _Evidence(definition, found, now_us)
            finally:
                self._not_before[row["incarnation"]] = began + (clock() - began) / _SHARE

    async def _judge(self, session: Session, row: Mapping[str, Any] | None, task: asyncio.Task[_Evidence]) -> None:
        if row is None:
            task.exception()  # it is on trial no longer: nobody wants to know
            return
        try:
            evidence = task.result()
        except StorageUnavailableError as error:
            log.warning("the evidence of the ramp of %r cannot be read: %s", row["experiment_id"], error)
            return
        except Exception:
            log.exception("the evidence of the ramp of %r cannot be read: it stays as it is", row["experiment_id"])
            return
        try:
            await self._settle(session, evidence)
        except StorageUnavailableError:
            raise
        except Exception:
            log.exception("the ramp of %r cannot be judged: it stays as it is", row["experiment_id"])

    async def _settle(self, session: Session, evidence: _Evidence) -> None:
        definition, found, now_us = evidence.definition, evidence.measures, evidence.now_us
        ramp, state = definition.rules.ramp, definition.ramp_state
        assert ramp is not None and state is not None  # noqa: S101, PT018 - it was measured
        assessment = step(ramp, state, found, now_us)
        next_us = [now_us + self._every_us, *([] if assessment.next_check_us is None else [assessment.next_check_us])]
        after = assessment.transition.to_phase if assessment.transition is not None else state.phase
        document = assessment_document(
            assessment, found.challenger.decisions, now_us, min(next_us) if after in OPEN else None
        )
        if not await ramps.settle(session.connection, definition, assessment, document, now_us):
            return
        if assessment.transition is not None:
            self._announce([definition.incarnation])
            _tell(definition, state, assessment.transition)
        elif assessment.warning and not (definition.ramp_assessment or {}).get("warning"):
            log.warning("the ramp of %r: %s", definition.experiment_id, assessment.warning)


def _tell(definition: Definition, state: RampState, transition: Transition) -> None:
    level = logging.WARNING if transition.to_phase is Phase.ROLLED_BACK else logging.INFO
    change = f"{state.phase.value}, stage {state.stage + 1} to {transition.to_phase.value}, stage {transition.to_stage + 1}"
    log.log(level, "the ramp of %r went from %s: %s", definition.experiment_id, change, transition.reason)
