"""What storage raises: drivers' exceptions stay behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg


class StorageError(Exception):
    """Storage refused; the message says why and what to do."""


class StorageUnavailableError(StorageError):
    """Postgres cannot be reached, or cannot write just now. The same call may succeed later."""


class RefusedRowError(StorageError):
    """Postgres refused a value: the same call will never succeed."""


class MissingPartitionError(StorageError):
    """A day that something was to be stored in has no partition, or takes nothing any more: see `ensure_partitions`."""


class AlreadyExistsError(StorageError):
    """A row with this key exists."""


class ConcurrentChangeError(StorageError):
    """Somebody else changed the row since it was read."""


#: The constraint that closes the partition of a day which is about to be dropped: no row satisfies it.
CLOSED_DAY = "day_is_closed"
#: SQLSTATE classes and codes under which the same statement may succeed later.
_TRANSIENT_CLASSES = ("08", "53", "57", "58", "40", "55")
_READ_ONLY = "25006"
#: Those that a value is to blame for: data exceptions, integrity constraints, limits, exceptions raised by triggers.
_ROW_CLASSES = ("22", "23", "54", "P0")


def translate(error: psycopg.Error) -> StorageError:
    """Return our error for a driver's."""
    sqlstate = error.sqlstate
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, pg.UniqueViolation):
        return AlreadyExistsError(text)
    # Postgres reports a partition that is missing as a violated check without a name.
    if isinstance(error, pg.CheckViolation) and error.diag.constraint_name in (None, CLOSED_DAY):
        return MissingPartitionError(text)
    if sqlstate is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return StorageUnavailableError(text) if lost else RefusedRowError(text)
    if sqlstate[:2] in _TRANSIENT_CLASSES or sqlstate == _READ_ONLY:
        return StorageUnavailableError(text)
    # A table that is missing or a privilege that was revoked says nothing about what was to be written.
    return RefusedRowError(text) if sqlstate[:2] in _ROW_CLASSES else StorageError(text)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what drivers raise within into our errors."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error
    except OSError as error:
        raise StorageUnavailableError(str(error)) from error
    except Exception as error:
        if (ours := _of_sqlalchemy(error)) is None:
            raise
        raise ours from error


def _of_sqlalchemy(error: Exception) -> StorageError | None:
    """Return our error for one of SQLAlchemy's; None for others."""
    # Commands that never use it must not wait for this import.
    import sqlalchemy.exc

    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return translate(error.orig) if isinstance(error.orig, psycopg.Error) else StorageUnavailableError(str(error.orig))
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return StorageUnavailableError("every connection of the pool is in use")
    return None
