"""How a server listens: its port, with TLS or without, and what it puts up with from a peer."""

from dataclasses import dataclass

import grpc

from router.certificates import Certificates
from router.settings import WorkerSettings
from router.tls import TlsFiles

MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one worker takes. Whoever goes beyond is refused or cut off, and the others are served."""

    #: Connections at a time.
    connections: int = 4096
    #: Calls at a time: on one connection, and in all.
    calls_of_connection: int = 1024
    calls: int = 8192
    #: Metadata of a call, in bytes.
    metadata_bytes: int = 8 * 1024
    #: A connection must have said hello by then, TLS included.
    handshake_s: float = 10.0
    #: Pings without data may come this often; one that has sent more than a few too soon is told to go away.
    ping_every_s: float = 10.0
    ping_strikes: int = 2
    #: A peer that is silent this long is asked whether it lives, and has this long to answer.
    keepalive_s: float = 60.0
    keepalive_answer_s: float = 20.0
    #: Connections without calls are closed after this long.
    idle_s: float = 1800.0
    #: With client certificates: connections are made anew, and certificates looked at again, after this long.
    age_s: float = 3600.0


def server_options(bounds: Bounds, settings: WorkerSettings) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments."""
    options = [
        ("grpc.so_reuseport", 1),  # workers share the port that the supervisor holds
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),
        # The second is where refusal is certain; between the two it would be by lot.
        ("grpc.max_metadata_size", bounds.metadata_bytes),
        ("grpc.absolute_max_metadata_size", bounds.metadata_bytes),
        ("grpc.max_concurrent_streams", bounds.calls_of_connection),
        ("grpc.max_allowed_incoming_connections", bounds.connections),
        ("grpc.server_handshake_timeout_ms", _ms(bounds.handshake_s)),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(bounds.ping_every_s)),
        ("grpc.http2.max_ping_strikes", bounds.ping_strikes),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _ms(bounds.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(bounds.keepalive_answer_s)),
        ("grpc.max_connection_idle_ms", _ms(bounds.idle_s)),
    ]
    if settings.tls_client_ca:
        options.append(("grpc.max_connection_age_ms", _ms(bounds.age_s)))
    return options


def new_server(settings: WorkerSettings, bounds: Bounds | None = None) -> grpc.aio.Server:
    """Return a server that does not listen yet."""
    bounds = bounds or Bounds()
    return grpc.aio.server(options=server_options(bounds, settings), maximum_concurrent_rpcs=bounds.calls)


def listen(server: grpc.aio.Server, settings: WorkerSettings) -> int:
    """Open the port; returns its number. Raises OSError, CertificateError."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    try:
        if not settings.tls_cert:
            return server.add_insecure_port(address)
        files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        return server.add_secure_port(address, Certificates(files).credentials())
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is another program using it?") from error


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
