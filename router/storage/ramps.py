"""Ramps: where each stands, and what changes it.

Protocol
    Whatever changes a ramp locks the row of its experiment, then compares the ramp's version and sets the next one, in
    one transaction with the row of `transitions`, the buckets of a stable A/B experiment, the etag and the policy
    version. So each transition happens once, and who looked at an older version changes nothing.

    The leader writes on the connection that holds its leadership: when that is lost, so is what it had not committed, and
    its successor finds either all of a transition or nothing of it.
"""

import json
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bandit.canary import Assessment, start
from bandit.ramp import Ramp
from bandit.ramp_state import AUTOMATIC, OPEN, Phase, RampState, Transition, abort, apply
from router.experiment import Definition
from router.storage import experiments
from router.storage.errors import ConcurrentChangeError, translated
from router.storage.measures import challenger_number
from router.storage.times import time_of
from router.storage.transitions import Change, Kind, record

_BEGIN = """
INSERT INTO ramps (incarnation, phase, stage, stage_since, version, approved) VALUES (%s, %s, %s, %s, %s, %s)
"""

_SET = """
UPDATE ramps SET phase = %s, stage = %s, stage_since = %s, version = %s, approved = %s, assessment = %s
WHERE incarnation = %s AND version = %s
"""

_ASSESS = "UPDATE ramps SET assessment = %s WHERE incarnation = %s AND version = %s"


async def read_open(connection: psycopg.AsyncConnection[Any]) -> list[Mapping[str, Any]]:
    """Return what `experiments.definition_of` takes, of the running experiments whose challenger is on trial."""
    with translated():
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(experiments.RAMPING, ([phase.value for phase in OPEN],))
            return list(await cursor.fetchall())


async def settle(
    connection: psycopg.AsyncConnection[Any],
    looked_at: Definition,
    assessment: Assessment,
    document: Mapping[str, Any],
    now_us: int,
) -> bool:
    """Store a look, and what follows from it, in one transaction; False if the experiment changed since, and nothing is.

    `document` is the assessment as RampAssessment in protobuf JSON.
    """
    with translated():
        async with connection.transaction():
            if assessment.transition is None:
                return await _assess(connection, looked_at, document, now_us)
            current = await experiments.read_alone(connection, looked_at.incarnation, for_update=True)
            if current is None or current.state != "running" or current.definition_version != looked_at.definition_version:
                return False
            await move(connection, current, assessment.transition, document)
            return True


async def _assess(
    connection: psycopg.AsyncConnection[Any], definition: Definition, document: Mapping[str, Any], now_us: int
) -> bool:
    assert definition.ramp_state is not None  # noqa: S101 - it was looked at
    values = (json.dumps(dict(document)), definition.incarnation, definition.ramp_state.version)
    if (await connection.execute(_ASSESS, values)).rowcount != 1:
        return False
    before, after = outcomes(definition.ramp_assessment), outcomes(document)
    if before != after:
        change = Change(now_us, AUTOMATIC, "; ".join(document.get("missing", ())))
        await record(connection, definition.incarnation, Kind.VERDICT, before, after, change, document)
    return True


def outcomes(document: Mapping[str, Any] | None) -> str:
    """Return the outcome of a stage and of each guardrail, for people; empty where there was no look."""
    if document is None:
        return ""
    rails = [f"{_word(rail['metric'])} {_word(rail['outcome'])}" for rail in document.get("verdicts", ())]
    return f"{_word(document['outcome'])} ({', '.join(rails)})"


def _word(name: str) -> str:
    """METRIC_RETRY is retry."""
    return name.partition("_")[2].lower()


async def move(
    connection: psycopg.AsyncConnection[Any],
    current: Definition,
    transition: Transition,
    document: Mapping[str, Any] | None = None,
) -> None:
    """Make a transition of the ramp of an experiment that was read for update, in the transaction under way.

    `document` is the assessment that it follows from, if any. Raises ConcurrentChangeError if it is for another version.
    """
    state = current.ramp_state
    assert state is not None  # noqa: S101 - the transition is one of it
    try:
        after = apply(state, transition)
    except ValueError as error:
        raise ConcurrentChangeError(str(error)) from error
    # What was seen in one stage says nothing of the next.
    kept = (document or current.ramp_assessment) if after.stage == state.stage else None
    await _set(connection, current.incarnation, state.version, after, kept)
    change = Change(transition.at_us, transition.actor, transition.reason)
    await record(connection, current.incarnation, Kind.RAMP, _shown(state), _shown(after), change, document)
    await experiments.ramp_changed(connection, current)


async def follow(connection: psycopg.AsyncConnection[Any], before: Definition, after: Definition, change: Change) -> bool:
    """Begin, start over or end a ramp as a change of its experiment asks, in the transaction of that change.

    `after` was read for update. Returns whether anything was done.
    """
    ramp, state = after.rules.ramp, after.ramp_state
    if ramp is None and state is None:
        return False
    if ramp is None:
        await connection.execute("DELETE FROM ramps WHERE incarnation = %s", (after.incarnation,))
        await _tell(connection, after, state, None, change, "the definition has no ramp any more")
    elif state is None:
        if after.state != "running":
            return False
        await _start(connection, after, ramp, change, "the ramp begins")
    elif after.state == "concluded":
        if state.phase not in OPEN:
            return False
        await move(connection, after, abort(state, change.actor, change.at_us, _said("concluded", change)))
        return True
    elif why := _redefined(before, after):
        await _start(connection, after, ramp, change, f"the ramp starts over: {why}")
    else:
        return False
    await experiments.ramp_changed(connection, after)
    return True


def _redefined(before: Definition, after: Definition) -> str:
    """Return why what was seen of the challenger says nothing of the one to come; empty if it does."""
    old, new = before.rules, after.rules
    assert new.ramp is not None  # noqa: S101 - there is a ramp
    if old.ramp is None or old.ramp.stages != new.ramp.stages:
        return "its stages changed"
    if old.ramp_challenger != new.ramp_challenger:
        return "its challenger is another arm"
    if challenger_number(before) != challenger_number(after):
        return "its challenger has another model or config"
    return ""


async def _start(
    connection: psycopg.AsyncConnection[Any], definition: Definition, ramp: Ramp, change: Change, why: str
) -> None:
    state, first = definition.ramp_state, start(ramp, change.at_us)
    if state is None:
        values = (definition.incarnation, *_columns(first))
        await connection.execute(_BEGIN, values)
    else:
        first = RampState(first.phase, first.stage, first.stage_since_us, state.version + 1)
        await _set(connection, definition.incarnation, state.version, first, None)
    await _tell(connection, definition, state, first, change, why)


async def _tell(
    connection: psycopg.AsyncConnection[Any],
    definition: Definition,
    before: RampState | None,
    after: RampState | None,
    change: Change,
    why: str,
) -> None:
    said = Change(change.at_us, change.actor, _said(why, change))
    await record(connection, definition.incarnation, Kind.RAMP, _shown(before), _shown(after), said)


async def _set(
    connection: psycopg.AsyncConnection[Any],
    incarnation: int,
    version: int,
    state: RampState,
    assessment: Mapping[str, Any] | None,
) -> None:
    document = None if assessment is None else json.dumps(dict(assessment))
    if (await connection.execute(_SET, (*_columns(state), document, incarnation, version))).rowcount != 1:
        raise ConcurrentChangeError(f"the ramp is no longer at version {version}")


def _columns(state: RampState) -> tuple[object, ...]:
    return (state.phase.value, state.stage, time_of(state.stage_since_us), state.version, state.approved)


def _said(why: str, change: Change) -> str:
    return f"{why}: {change.reason}" if change.reason else why


def _shown(state: RampState | None) -> str:
    if state is None:
        return ""
    approved = ", approved" if state.approved and state.phase is not Phase.PROMOTED else ""
    return f"{state.phase.value}, stage {state.stage + 1}{approved}"
