"""What the options of `keys` take: durations, rates, and ids of keys."""

from datetime import timedelta
from typing import Any

import click

from router.access.keys import is_key_id
from router.durations import HINT, parse_duration

_RATES = {"s": 1.0, "m": 60.0, "h": 3600.0}


class _Lifetime(click.ParamType[timedelta]):
    """A duration above 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            found = timedelta(seconds=float(parse_duration(value).removesuffix("s")))
        except (ValueError, OverflowError) as error:
            self.fail(f"{value!r}: {error}; {HINT}", param, ctx)
        if found <= timedelta(0) or found > timedelta(days=36_500):
            self.fail(f"{value!r} must be above 0, and at most 36500d", param, ctx)
        return found


class _Rate(click.ParamType[float]):
    """Calls in a second, a minute or an hour."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        count, slash, unit = value.partition("/")
        if not slash or unit not in _RATES or not (count.isascii() and count.isdecimal()) or not 0 < int(count) <= 10**9:
            self.fail(f"{value!r} is not a rate, as in 500/s, 60/m or 1000/h", param, ctx)
        return int(count) / _RATES[unit]


DURATION, RATE = _Lifetime(), _Rate()


class _KeyId(click.ParamType[str]):
    """The id of an API key, as `keys list` shows it. The key itself is refused, and not repeated."""

    name = "key_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_key_id(value):
            self.fail("is not the id of a key: 12 characters that `bandit-router keys list` shows", param, ctx)
        return str(value)


KEY_ID = _KeyId()
