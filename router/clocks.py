"""The clocks and the randomness of a process, so that tests can give others."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _seeded_by_system() -> random.Random:
    # Draws arms and makes keys unique; secrets come from elsewhere.
    return random.Random(random.SystemRandom().getrandbits(256))  # noqa: S311


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks and the randomness of a process."""

    #: Microseconds since the epoch.
    now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    #: Seconds, never stepping back.
    monotonic: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=_seeded_by_system)
