"""What a check finds, and how checks are run: one that fails in a way that nobody foresaw is a problem, not the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import grpc

from router.embedded import EmbeddedPostgresError
from router.storage.errors import StorageError

Level: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    level: Level
    #: What was found, and what follows from it.
    detail: str
    #: What to do about it; empty where nothing has to be done.
    remedy: str = ""


#: A name, and what to do: it gives findings under its name or others.
Check: TypeAlias = tuple[str, Callable[[], Iterable[Finding]]]


def found_by(checks: Iterable[Check]) -> list[Finding]:
    """Run every check."""
    return [finding for name, look in checks for finding in _found(name, look)]


def _found(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except (StorageError, EmbeddedPostgresError) as error:
        return [Finding(name, "problem", str(error))]
    except OSError as error:
        return [Finding(name, "problem", f"{error.filename or 'system'}: {error.strerror or error}")]
    except grpc.RpcError as error:
        return [Finding(name, "problem", f"the call failed: {error}")]
