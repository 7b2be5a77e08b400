"""The ramp controller: looks at every challenger on trial, and makes what follows from the evidence happen.

It remembers nothing but its own pace: what a ramp is and was is in Postgres, so whoever leads next goes on from there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bandit.canary import step
from bandit.ramp_state import OPEN, Phase, RampState, Transition
from router.experiment import Definition
from router.messages import assessment_document
from router.storage import ramps
from router.storage.election import Session
from router.storage.errors import StorageUnavailableError
from router.storage.experiments import definition_of

log = logging.getLogger(__name__)

#: How often ramps are looked at, in seconds.
EVERY_S = 2.0
#: The share of the time that the looks at one ramp may take: its stage may hold many millions of decisions.
_SHARE = 0.1


class RampController:
    """What the leader does about ramps."""

    def __init__(self, clock_us: Callable[[], int], announce: Callable[[Iterable[int]], None], *, every_s: float) -> None:
        """`clock_us` gives microseconds since the epoch; `announce` tells the replicas which experiments changed.

        `look` is called every `every_s` seconds.
        """
        self._clock_us = clock_us
        self._announce = announce
        self._every_us = int(every_s * 1e6)
        #: By incarnation, before when it is not looked at again, by the event loop's clock.
        self._not_before: dict[int, float] = {}

    async def look(self, session: Session) -> None:
        """Look at each ramp once, on the connection that holds the leadership. A fault of one holds up no other."""
        rows = await ramps.read_open(session.connection)
        clock = asyncio.get_running_loop().time
        began = {row["incarnation"]: self._not_before.get(row["incarnation"], clock()) for row in rows}
        self._not_before = began
        for row in rows:
            incarnation, started = row["incarnation"], clock()
            if started < began[incarnation]:
                continue
            try:
                await self._look_at(session, row)
            except StorageUnavailableError:
                raise
            except Exception:
                log.exception("the ramp of %r cannot be judged: it stays as it is", row["experiment_id"])
            began[incarnation] = started + (clock() - started) / _SHARE

    async def _look_at(self, session: Session, row: Mapping[str, Any]) -> None:
        definition = definition_of(row)
        ramp, state = definition.rules.ramp, definition.ramp_state
        if ramp is None or state is None:
            return
        now_us = self._clock_us()
        measures = await ramps.measure(session.connection, definition, now_us)
        assessment = step(ramp, state, measures, now_us)
        next_us = [now_us + self._every_us, *([] if assessment.next_check_us is None else [assessment.next_check_us])]
        after = assessment.transition.to_phase if assessment.transition is not None else state.phase
        document = assessment_document(
            assessment, measures.challenger.decisions, now_us, min(next_us) if after in OPEN else None
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
