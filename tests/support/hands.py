"""A clock that is set by hand."""

from dataclasses import replace
from datetime import UTC, datetime

from router.clocks import Clocks

HOUR_US = 3_600_000_000
#: Noon of a day in 2026.
NOON_US = 1_790_000_000_000_000 // (24 * HOUR_US) * (24 * HOUR_US) + 12 * HOUR_US


class Hand:
    """Says what it was set to, in microseconds since the epoch."""

    def __init__(self, now_us: int = NOON_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us

    @property
    def clocks(self) -> Clocks:
        """A router's clocks that go by it."""
        return replace(Clocks(), now_us=self)


def next_hour_us() -> int:
    """Return the beginning of the hour after the present one."""
    return (int(datetime.now(UTC).timestamp() * 1e6) // HOUR_US + 1) * HOUR_US
