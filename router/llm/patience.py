"""Patience with providers: how long to rest before a call is made again, and what a failure may have cost."""

from __future__ import annotations

import random
from typing import Final

#: A failure of these kinds may have been answered, and billed, all the same.
MAYBE_BILLED: Final = frozenset({"timeout", "connection", "malformed", "error"})
#: Longer than this no server is waited for.
MOST_PATIENCE_S: Final = 120.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


def pause_s(attempt: int, retry_after_s: float | None, rng: random.Random) -> float:
    """Return the seconds to rest after the `attempt`-th failure, from 1: at least what the server asked for.

    Those who failed together must not come back together: half of a pause, and a tenth beyond what was asked for, is random.
    """
    backoff = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (attempt - 1)) * (0.5 + 0.5 * rng.random())
    return max(backoff, (retry_after_s or 0.0) * (1.0 + 0.1 * rng.random()))
