"""What the spool of a host holds of a unit, and what `forget` takes out of it."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

from router.feedback_spool import SUFFIX as EVENTS
from router.feedback_spool import decode as decode_event
from router.journal import SUFFIX as JOURNAL
from router.journal import decode as decode_decision
from router.spool import Record, aside
from router.storage.decisions import DecisionRow
from router.storage.times import day_of
from router.storage.traces import Trace
from router.tokens import parse_token

_DAMAGED = ".damaged"


@dataclass(slots=True)
class Spooled:
    """What the spool's files have of a unit, stored already or not."""

    #: Day and key of decisions in segments.
    decisions: list[tuple[date, bytes]] = field(default_factory=list)
    #: Day and key of the decision, and the event's own id, of events in segments.
    events: list[tuple[date, bytes, str]] = field(default_factory=list)
    #: The segments.
    files: set[Path] = field(default_factory=set)
    #: Records that were set aside, by their file.
    refused: dict[Path, int] = field(default_factory=dict)
    #: Files with something in them that cannot be read.
    may_hold: list[Path] = field(default_factory=list)


def spooled(directory: Path, trace: Trace) -> Spooled:
    """Return what the files of a spool have of a unit."""
    found = Spooled()
    for path in sorted(directory.glob(f"*{JOURNAL}")):
        for record in _records(path):
            decision = _decision(record) if record else None
            if decision is not None and _is_its(decision, trace):
                found.decisions.append((day_of(decision.decided_at_us), decision.decision_key))
                found.files.add(path)
    for path in sorted(directory.glob(f"*{EVENTS}")):
        for record in _records(path):
            event = _event(record) if record else None
            if event is not None and event.is_of(trace):
                found.events.append((day_of(event.decided_at_us), event.decision_key, event.event_id))
                found.files.add(path)
    for path in sorted(directory.glob(f"*{aside.SUFFIX}")):
        whether = [None if record is None else _holds(path, record, trace) for record in _records(path)]
        if any(whether):
            found.refused[path] = whether.count(True)
        if None in whether:
            found.may_hold.append(path)
    found.may_hold += sorted(directory.glob(f"*{_DAMAGED}"))
    # Written twice where a write was repeated.
    found.decisions, found.events = list(dict.fromkeys(found.decisions)), list(dict.fromkeys(found.events))
    return found


def take_out(found: Spooled, trace: Trace) -> None:
    """Take the unit's records out of what was set aside. Raises OSError."""
    for path in found.refused:
        aside.take_out(path, partial(_surely_holds, path, trace))


def _surely_holds(path: Path, trace: Trace, record: Record) -> bool:
    return _holds(path, record, trace) is True


def _holds(path: Path, record: Record, trace: Trace) -> bool | None:
    """Whether a record that was set aside is of the unit; None if that cannot be told."""
    if path.name.endswith(f"{JOURNAL}{aside.SUFFIX}"):
        try:
            row = decode_decision(record)
        except ValueError:
            return None
        return isinstance(row, DecisionRow) and _is_its(row, trace)
    event = _event(record)
    if event is None:
        return None
    # The hash of a unit by a key that is not known is not known.
    return event.is_of(trace) or (False if event.key_id in trace.key_ids or not any(event.unit_hash) else None)


@dataclass(frozen=True, slots=True)
class _Event:
    """What the decision id of an event says. Nobody but the router writes there: whether it is signed need not be asked."""

    event_id: str
    incarnation: int
    decision_key: bytes
    decided_at_us: int
    unit_hash: bytes
    key_id: int

    def is_of(self, trace: Trace) -> bool:
        return self.unit_hash in trace.hashes and trace.is_of(self.incarnation)


def _event(record: Record) -> _Event | None:
    try:
        request, _ = decode_event(record)
        raw = urlsafe_b64decode(request.decision_id + "=" * (-len(request.decision_id) % 4))
        token = parse_token(raw)
    except ValueError:
        return None
    key_id = int.from_bytes(raw[1:5], "big")
    return _Event(request.event_id, token.incarnation, token.decision_key, token.decided_at_us, token.unit_hash, key_id)


def _decision(record: Record) -> DecisionRow | None:
    try:
        row = decode_decision(record)
    except ValueError:
        return None
    return row if isinstance(row, DecisionRow) else None


def _is_its(row: DecisionRow, trace: Trace) -> bool:
    return row.unit_id == trace.unit_id and trace.is_of(row.incarnation)


def _records(path: Path) -> Iterator[Record | None]:
    """Give the records of a file, and None for what is none; a file that is gone by now is stored."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for record, _ in aside.pieces(data):
        yield record
