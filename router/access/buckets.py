"""A token bucket: so many a second, and so many at once after a pause."""

from collections.abc import Callable


class TokenBucket:
    """Tokens that come back at a rate.

    A batch may take more than there are: whoever comes next waits until that is paid back. So a batch of any size gets
    through, and over time nobody gets more than the rate.
    """

    __slots__ = ("_at_s", "_clock", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        """`rate` a second, at most `burst` (≥ 1) at once; `clock` is monotonic, in seconds."""
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._tokens = burst
        self._at_s = clock()

    def wait_s(self) -> float:
        """Return how long it takes until there is a whole token; 0 if there is one."""
        now_s = self._clock()
        self._tokens = min(self.burst, self._tokens + self.rate * (now_s - self._at_s))
        self._at_s = now_s
        return max(0.0, (1.0 - self._tokens) / self.rate)

    def take(self, count: int) -> float:
        """Take `count` tokens if there is one at all; else take none. Returns the wait of `wait_s`."""
        wait_s = self.wait_s()
        if not wait_s:
            self._tokens -= count
        return wait_s
