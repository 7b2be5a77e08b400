"""Where a data scientist's call reads, and what it may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from router.embedded import EmbeddedPostgres, read_record
from router.storage.analysis import Read, Reading, reading
from router.storage.connecting import DatabaseUrl, connect
from router.storage.errors import StorageError

_SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")


class AnalysisError(ValueError):
    """What was asked for cannot be given; the message names the argument, its value and what to do."""


@contextmanager
def opened(url: str | Path) -> Iterator[Reading]:
    """Read a database, or the embedded one of a data directory: as its analyst if it runs, else it is started."""
    if isinstance(url, str) and url.startswith(_SCHEMES):
        with reading(DatabaseUrl.parse(url)) as found:
            yield found
        return
    if "://" in str(url):
        # Not shown: it may hold a password.
        raise AnalysisError("url: must begin with postgresql://, or be the data directory of an embedded Postgres")
    directory = Path(url)
    if not (directory / "postgres").is_dir():
        raise AnalysisError(
            f"url {str(url)!r}: is neither a postgresql:// URL nor the data directory of an embedded Postgres"
        )
    record = read_record(directory)
    analyst = None if record is None else DatabaseUrl.parse(record.analyst_url)
    if analyst is not None and _answers(analyst):
        with reading(analyst) as found:
            yield found
        return
    with EmbeddedPostgres(directory) as postgres, reading(DatabaseUrl.parse(postgres.analyst_url)) as found:
        yield found


def _answers(url: DatabaseUrl) -> bool:
    try:
        connect(url).close()
    except StorageError:
        return False
    return True


def experiment_of(reading: Reading, experiment_id: str) -> Read:
    """Return an experiment; AnalysisError if there is none of this id."""
    found = reading.experiment(experiment_id)
    if found is None:
        known = reading.experiment_ids()
        some = ", ".join(map(repr, known[:5])) + (", …" if len(known) > 5 else "") if known else "none at all"
        raise AnalysisError(f"experiment {experiment_id!r}: there is no such experiment in this database, which has {some}")
    return found


def check_range(start: datetime | None, end: datetime | None) -> None:
    """AnalysisError for times without a time zone, and for an empty range."""
    for name, time in (("start", start), ("end", end)):
        if time is not None and (not isinstance(time, datetime) or time.utcoffset() is None):
            raise AnalysisError(
                f"{name} {time!s}: must be a datetime with a time zone, as in datetime(2026, 11, 22, tzinfo=timezone.utc)"
            )
    if start is not None and end is not None and start >= end:
        raise AnalysisError(
            f"start {start.isoformat()}: must be before end {end.isoformat()}, which is not part of the range itself"
        )


def utc(time: datetime | None) -> datetime | None:
    """Return a time in UTC."""
    return None if time is None else time.astimezone(UTC)
