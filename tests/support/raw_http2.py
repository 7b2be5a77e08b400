"""HTTP/2 by hand, for clients that no library would be: frames on a socket, without flow control or manners."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def headers(path: str, authority: str = "test", timeout: str = "") -> bytes:
    """The header block of a gRPC call, without compression."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": authority, "te": "trailers"}
    fields["content-type"] = "application/grpc"
    if timeout:
        fields["grpc-timeout"] = timeout
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def message(data: bytes) -> bytes:
    """A gRPC message in one DATA payload."""
    return struct.pack("!BI", 0, len(data)) + data


def call(stream: int, path: str, data: bytes) -> bytes:
    """A whole call, in frames of at most 16 KiB."""
    body = message(data)
    parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    frames = [frame(HEADERS, END_HEADERS, stream, headers(path))]
    frames += [frame(DATA, END_STREAM if n == len(parts) - 1 else 0, stream, part) for n, part in enumerate(parts)]
    return b"".join(frames)


def connect(port: int) -> socket.socket:
    """A connection that has said hello."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return connection


def _text(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 127, "longer ones take several bytes for their length"
    return bytes([len(data)]) + data
