"""Times and days as Postgres has them. Everywhere else they are microseconds since the epoch."""

from datetime import UTC, date, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


def time_of(time_us: int) -> datetime:
    """Return a time given in microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=time_us)


def day_of(time_us: int) -> date:
    """Return the UTC day of a time."""
    return (_EPOCH + timedelta(days=time_us // DAY_US)).date()


def microseconds(length: timedelta) -> int:
    """Return a length of time in microseconds."""
    return length // timedelta(microseconds=1)
