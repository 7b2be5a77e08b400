"""What a router process is told at its start."""

import json
import os
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from router.logs import LogFormat

#: The role of the process that is the keeper; the others are workers.
KEEPER = "keeper"


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its value and what to do."""


class StartError(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on."""

    host: str
    #: 0 asks the system for a free one.
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Accept HOST:PORT, with an IPv6 host in brackets. Beyond loopback is refused."""
        host, colon, port = text.rpartition(":")
        host = host.strip("[]")
        if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65_535 or not host:
            raise SettingsError(f"--listen {text!r}: must be HOST:PORT, as in 127.0.0.1:50051")
        if not _is_loopback(host):
            raise SettingsError(
                f"--listen {text!r}: only loopback addresses are served (127.0.0.1, [::1], localhost), because there are"
                " neither keys nor TLS yet: put a proxy that authenticates in front"
            )
        return cls("127.0.0.1" if host == "localhost" else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def retention_days(text: str) -> int:
    """Return the days of a text such as 90d."""
    days = text.removesuffix("d")
    if not (text.endswith("d") and days.isascii() and days.isdecimal() and 1 <= int(days) <= 36_500):
        raise SettingsError(f"--retention {text!r}: must be a number of days, as in 90d; leave it out to keep all for ever")
    return int(days)


def default_data_dir() -> Path:
    """Where data lives unless told otherwise: $XDG_DATA_HOME/bandit-router."""
    base = os.environ.get("XDG_DATA_HOME")
    return Path(base) / "bandit-router" if base else Path.home() / ".local" / "share" / "bandit-router"


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What `bandit-router serve` is told."""

    address: Address
    #: None runs the embedded Postgres in the data directory.
    database_url: str | None
    data_dir: Path
    workers: int
    log_level: str
    #: Days of decisions and events that are kept; None is for ever.
    retention_days: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What one worker process needs."""

    host: str
    port: int
    database_url: str
    #: Segments and the saved copy go below it, in a directory for each deployment.
    spool_dir: str
    log_level: str = "info"
    #: "text" or "json".
    log_format: LogFormat = "text"
    #: Days of decisions and events that are kept, besides today's; None is for ever.
    retention_days: int | None = None

    def to_json(self) -> str:
        """Return one line for the worker's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))
