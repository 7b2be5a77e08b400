"""A TCP port on the loopback address for the server.

Ports are taken from below the range that systems hand out to outgoing connections. In that range, a client
that reconnects to a server which is just being restarted can be given the very port it is connecting to,
connects to itself, and so keeps the server from coming back.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
RANGE = range(20_000, 32_000)
ATTEMPTS = 20


def candidates(preferred: int | None) -> Iterator[int]:
    """Ports that are free now: the preferred one first, if it is; somebody may still take one before it is used."""
    if preferred is not None and is_free(preferred):
        yield preferred
    for port in random.sample(RANGE, ATTEMPTS):  # not a secret
        if is_free(port):
            yield port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    yield port


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As Postgres does: connections of the previous server in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
