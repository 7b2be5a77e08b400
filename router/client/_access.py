"""Who calls, and over what: the API key, TLS, and the refusal to send a key in plain text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import grpc

#: What is asked of the environment where an argument is not given.
API_KEY, TLS_CA = "BANDIT_ROUTER_API_KEY", "BANDIT_ROUTER_TLS_CA"
CLIENT_CERT, CLIENT_KEY = "BANDIT_ROUTER_CLIENT_CERT", "BANDIT_ROUTER_CLIENT_KEY"

#: What may stand in metadata.
_KEY: Final = re.compile(r"[\x21-\x7e]+", re.ASCII).fullmatch
#: Where a target may say how its address is found.
_SCHEME: Final = re.compile(r"^(?:dns|ipv4|ipv6):(?://[^/]*/)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a router: paths of PEM files, or what is in them."""

    #: Who signs the router's certificate; None: whom this system trusts.
    ca: str | Path | bytes | None = None
    #: This client's own certificate and its key, where the router asks for one.
    cert: str | Path | bytes | None = None
    key: str | Path | bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's own. Raises OSError for a file that cannot be read, ValueError for half a pair."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


@dataclass(frozen=True, slots=True)
class Access:
    """How a channel is made, and what each call says of its caller."""

    #: None: plain text.
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)


def access(
    target: str | None,
    *,
    given_channel: bool = False,
    credentials: grpc.ChannelCredentials | None = None,
    api_key: str | None = None,
    tls: Tls | None = None,
    insecure: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """Return how to reach a router; what is not given is asked of the environment, unless the channel is the caller's own.

    Raises ValueError if a key would travel in plain text to another host, unless `insecure` permits it.
    """
    if tls is not None and (given_channel or credentials is not None):
        raise ValueError("tls: the channel or credentials that were given have it already")
    if not given_channel:
        api_key = environment.get(API_KEY) if api_key is None else api_key
        if credentials is None and tls is None:
            tls = _of_environment(environment)
    credentials = tls.credentials() if tls is not None else credentials
    key = (api_key or "").strip()
    if not key:
        return Access(credentials, ())
    if _KEY(key) is None:
        raise ValueError("api_key: is no API key; they look like brk_0123456789ab_…")
    if not given_channel and credentials is None and not insecure and not is_local(target or ""):
        raise ValueError(
            f"the API key would travel to {target!r} in plain text: give tls=Tls(ca=…) or set {TLS_CA}; or insecure=True, on"
            " a network where nobody listens in"
        )
    return Access(credentials, (("authorization", f"Bearer {key}"),))


def is_local(target: str) -> bool:
    """Whether a gRPC target is on this very host, whoever resolves it."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = _SCHEME.sub("", target)
    host = address if ":" not in address or address.endswith("]") else address.rpartition(":")[0]
    host = host.strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _of_environment(environment: Mapping[str, str]) -> Tls | None:
    names = {"ca": environment.get(TLS_CA), "cert": environment.get(CLIENT_CERT), "key": environment.get(CLIENT_KEY)}
    return Tls(**{name: value or None for name, value in names.items()}) if any(names.values()) else None


def _read(pem: str | Path | bytes | None) -> bytes | None:
    return Path(pem).read_bytes() if isinstance(pem, str | Path) else pem
