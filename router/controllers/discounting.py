"""The leader's clock of discounted evidence: at each new hour these experiments get another policy version."""

from collections.abc import Callable, Iterable

from bandit.discount import bucket_start
from router.storage.discounting import move_hours
from router.storage.election import Session
from router.storage.errors import translated

#: How soon after the full hour a posterior is seen from it, in seconds.
EVERY_S = 5.0


class HourHand:
    """What the leader does about discounted experiments."""

    def __init__(self, clock_us: Callable[[], int], announce: Callable[[Iterable[int]], None]) -> None:
        """`clock_us` gives microseconds since the epoch; `announce` tells replicas which experiments changed."""
        self._clock_us = clock_us
        self._announce = announce

    async def work(self, session: Session) -> None:
        """Have every discounted experiment seen from the present hour; none ever moves back."""
        with translated():
            moved = await move_hours(session.connection, bucket_start(self._clock_us()))
        self._announce(moved)
