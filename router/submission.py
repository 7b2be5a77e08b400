"""Submissions: the events of one call, and what becomes of each."""

import asyncio
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeAlias

from google.protobuf.message import Message

from router.errors import ServiceError

#: Longest that a call waits for its commit.
PATIENCE_S = 1.0
#: What a call needs to answer after its wait.
_MARGIN_S = 0.05


class Fate(Enum):
    """What became of an event that did not fail."""

    #: Durable and counted now.
    STORED = 1
    #: Its id was known.
    KNOWN = 2
    #: Durable on this host's disk.
    SPOOLED = 3
    #: Its decision's day is no longer kept.
    DROPPED = 4
    #: Durable, and not counted: the unit's share is taken.
    LIMITED = 5


Outcome: TypeAlias = Fate | ServiceError


class Submission:
    """The events of one call, on their way."""

    __slots__ = ("done", "give_up_at", "left", "outcomes", "received_at_us", "requests")

    def __init__(
        self, requests: Sequence[Message], received_at_us: int, give_up_at: float, done: asyncio.Future[None]
    ) -> None:
        self.requests = requests
        self.received_at_us = received_at_us
        #: By the event loop's clock.
        self.give_up_at = give_up_at
        self.outcomes: list[Outcome | None] = [None] * len(requests)
        self.left = len(requests)
        #: Resolved once every event has its outcome.
        self.done = done

    def settle(self, position: int, outcome: Outcome) -> None:
        """Give an event its outcome, unless it has one."""
        if self.outcomes[position] is None:
            self.outcomes[position] = outcome
            self.left -= 1
            if not self.left and not self.done.done():
                self.done.set_result(None)


def patience_s(deadline_s: float | None) -> float:
    """Return how long a call may wait for its commit, given the seconds that its client still waits for it."""
    if deadline_s is None:
        return PATIENCE_S
    return min(max(deadline_s - _MARGIN_S, deadline_s / 2), PATIENCE_S)


def unsettled(submissions: Iterable[Submission]) -> list[tuple[Submission, int]]:
    """Return the (submission, position) of each event without an outcome."""
    return [(s, position) for s in submissions for position, outcome in enumerate(s.outcomes) if outcome is None]
