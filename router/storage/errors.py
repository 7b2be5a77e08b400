"""What storage raises: drivers' exceptions stay behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy.exc
from psycopg import errors as pg


class StorageError(Exception):
    """Storage refused; the message says why and what to do."""


class StorageUnavailableError(StorageError):
    """Postgres cannot be reached, or cannot write just now. The same call may succeed later."""


class RefusedRowError(StorageError):
    """Postgres refused a value: the same call will never succeed."""


class AlreadyExistsError(StorageError):
    """A row with this key exists."""


class ConcurrentChangeError(StorageError):
    """Somebody else changed the row since it was read."""


#: SQLSTATE classes and codes under which the same statement may succeed later.
_TRANSIENT_CLASSES = ("08", "53", "57", "58", "40", "55")
_READ_ONLY = "25006"


def translate(error: psycopg.Error) -> StorageError:
    """Return our error for a driver's."""
    sqlstate = error.sqlstate
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, pg.UniqueViolation):
        return AlreadyExistsError(text)
    if sqlstate is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return StorageUnavailableError(text) if lost else RefusedRowError(text)
    if sqlstate[:2] in _TRANSIENT_CLASSES or sqlstate == _READ_ONLY:
        return StorageUnavailableError(text)
    return RefusedRowError(text)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what drivers raise within into our errors."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig) from error
        raise StorageUnavailableError(str(error.orig)) from error
    except sqlalchemy.exc.TimeoutError as error:
        raise StorageUnavailableError("every connection of the pool is in use") from error
    except OSError as error:
        raise StorageUnavailableError(str(error)) from error
