"""What a router process is told at its start."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Self

from router.logs import LogFormat
from router.tls import CertificateError, TlsFiles, read_files

log = logging.getLogger(__name__)

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
    def parse(cls, text: str, option: str = "--listen", example: str = "127.0.0.1:50051") -> Self:
        """Accept HOST:PORT: an IP address, in brackets if it is IPv6, or localhost."""
        host, colon, port = text.rpartition(":")
        host = host.strip("[]")
        if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65_535 or not host:
            raise SettingsError(f"{option} {text!r}: must be HOST:PORT, as in {example}")
        if host != "localhost" and _ip(host) is None:
            raise SettingsError(
                f"{option} {text!r}: {host!r} is no IP address: give one of this host's, or 0.0.0.0 for all of them"
            )
        return cls("127.0.0.1" if host == "localhost" else host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        found = _ip(self.host)
        return found is not None and found.is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Exposure:
    """Who can reach the service, and what it asks of them."""

    #: Whether calls need an API key.
    keys: bool
    #: None: plain text.
    tls: TlsFiles | None

    @classmethod
    def checked(cls, address: Address, auth: str | None, tls: TlsFiles | None, *, insecure: bool) -> Self:
        """Return what a service of this address is to ask; `auth` is "keys", "none" or None for the default.

        Beyond loopback that is keys and TLS: SettingsError says what is missing, unless `insecure` permits it.
        """
        keys = not address.is_loopback if auth is None else auth == "keys"
        if not address.is_loopback and not insecure:
            missing = [
                *([] if keys else ["--auth none: anybody who reaches it could route, reward and change experiments"]),
                *([] if tls else ["no --tls-cert and --tls-key: keys and traffic would travel in plain text"]),
            ]
            if missing:
                raise SettingsError(
                    f"--listen {address} is beyond loopback, with {'; and '.join(missing)}. Give keys and TLS"
                    " (docs/security.md), listen on 127.0.0.1 behind a proxy that does both, or say --insecure"
                )
        return cls(keys, tls)

    def warn(self, address: Address) -> None:
        """Say in the log what `--insecure` permitted."""
        if not address.is_loopback and not self.keys:
            log.warning("--insecure: anybody who reaches %s can route, reward and change experiments", address)
        if not address.is_loopback and self.tls is None:
            log.warning("--insecure: whoever listens in on %s reads keys and traffic", address)


def tls_files(cert: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
    """Return the files that options name, absolute and found good; None without any. Raises SettingsError."""
    if not cert and not key and not client_ca:
        return None
    if not cert or not key:
        raise SettingsError("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
    files = TlsFiles(*(str(Path(name).absolute()) if name else "" for name in (cert, key, client_ca)))
    try:
        read_files(files)
    except CertificateError as error:
        raise SettingsError(str(error)) from None
    return files


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
    exposure: Exposure = Exposure(keys=False, tls=None)
    #: Where metrics and health are served over HTTP; None: nowhere.
    metrics_address: Address | None = None


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
    #: Whether calls need an API key.
    keys: bool = False
    #: Files; empty for plain text. With a client CA, clients need a certificate.
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    #: The file, open already, over which the supervisor asks for reports; None: nobody asks.
    report_fd: int | None = None

    def to_json(self) -> str:
        """Return one line for the worker's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))
