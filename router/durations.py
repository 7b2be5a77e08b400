"""Durations as people write them: 500ms, 30s, 10m, 2h, 30d."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from google.protobuf.duration_pb2 import Duration

#: What a written duration looks like: a decimal number and its unit.
PATTERN: Final = r"^([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)$"
#: How to write one, for messages.
HINT: Final = "write it as 500ms, 30s, 10m, 2h or 30d"

#: Nanoseconds in each unit, the largest first.
_UNITS: Final = {"d": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6}
#: The longest that protobuf's Duration holds: 10,000 years.
_LONGEST: Final = 315_576_000_000 * 10**9


def parse_duration(value: object) -> str:
    """Return the duration in the JSON form of protobuf's Duration, "1.5s". Raises ValueError saying what is wrong."""
    match = re.fullmatch(PATTERN, value) if isinstance(value, str) else None
    if match is None:
        bare = isinstance(value, int | float) and not isinstance(value, bool)
        raise ValueError(f"{value} has no unit" if bare else "is not a duration")
    nanoseconds = Decimal(match[1]) * _UNITS[match[2]]
    if nanoseconds != int(nanoseconds) or nanoseconds > _LONGEST:
        raise ValueError("is finer than a nanosecond, or longer than 10,000 years")
    return f"{nanoseconds / _UNITS['s']:f}s"


def format_duration(duration: Duration) -> str:
    """Return a duration of 0 or more in the largest unit that divides it, or in seconds; `parse_duration` undoes it."""
    total = duration.seconds * _UNITS["s"] + duration.nanos
    for unit, size in _UNITS.items():
        if total and total % size == 0:
            return f"{total // size}{unit}"
    return f"{Decimal(total) / _UNITS['s']:f}s"
