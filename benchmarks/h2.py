"""A gRPC client of raw HTTP/2 frames that costs a small part of what the measured server costs.

Model
    One non-blocking TCP connection carries many unary calls. A request is a HEADERS and a DATA frame. Its header fields
    enter the peer's HPACK table with the first call, as those of other gRPC clients do; from then on a header block is
    constant bytes. The peer is told to keep no table for its own headers (SETTINGS_HEADER_TABLE_SIZE 0), so its blocks are
    constant bytes too: each different one is decoded once. So every call's `grpc-status` is known, and no call pays for
    a decoder.

Assumes
    The peer is a gRPC server on a trusted network: no padding, no priorities, no CONTINUATION, no compression. Whatever
    breaks that raises ProtocolError; nothing is passed over in silence.

Source
    RFC 9113 (HTTP/2), RFC 7541 (HPACK), "gRPC over HTTP2" in the gRPC documentation.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpack import Decoder, Encoder

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = struct.Struct(">HBBBI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_PADDED_OR_PRIORITY = 0x28
_TABLE_SIZE, _MOST_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 3, 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_LAST_STREAM = 2**31 - 1
_RECEIVE_BYTES = 1 << 18
_HANDSHAKE_S = 10.0
#: gRPC servers refuse calls at random once 1,000 wait. Further calls wait here; in an open loop that counts as latency.
_MOST_PENDING = 450

#: What a call ends with that the peer reset, beside gRPC's own statuses.
RESET = -1
#: What a call ends with whose reply is not one whole message.
TORN = -2


class ConnectionLostError(Exception):
    """The connection ended with calls in flight, or could not be made."""


class ProtocolError(Exception):
    """The peer does something that this client does not know."""


def framed(message: bytes) -> bytes:
    """Return a message as gRPC sends it: not compressed, with its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of one call."""

    #: What the caller gave to recognise the call.
    tag: Any
    #: The gRPC status code; RESET or TORN where there is none.
    status: int
    #: The message; empty if there is none.
    message: bytes


class Connection:
    """One connection. `call` queues, `flush` sends, `receive` returns what has ended."""

    def __init__(self, host: str, port: int, methods: Sequence[str], deadline_s: float = 10.0) -> None:
        """Connect. `methods` are the full names of the methods that will be called, `/package.Service/Method`.

        Raises ConnectionLostError.
        """
        common = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", f"{host}:{port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "bandit-router-benchmarks"),
            ("grpc-timeout", f"{int(deadline_s * 1000)}m"),
        ]
        self._headers = {method: [*common[:2], (":path", method), *common[2:]] for method in methods}
        self._unseen = set(methods)
        self._encoder = Encoder()
        self._blocks: dict[str, bytes] = {}
        self._decoder = Decoder()
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        #: grpc-status by header block; None for the headers that come before a message.
        self._statuses: dict[bytes, int | None] = {}
        #: An example of grpc-message by status.
        self.messages: dict[int, str] = {}
        self._streams: dict[int, list[Any]] = {}
        self._next_stream = 1
        self._window = self._initial_window = _DEFAULT_WINDOW
        self._max_frame = 16_384
        self._most_streams = _MOST_PENDING
        #: Calls that wait until the peer lets another stream begin.
        self._queued: deque[tuple[str, bytes, object]] = deque()
        #: Requests that wait for the peer's window: stream, rest of the message.
        self._waiting: deque[tuple[int, memoryview]] = deque()
        self._stream_windows: dict[int, int] = {}
        self._received = 0
        self._out: list[bytes] = []
        self._unsent = b""
        self._rest = b""
        self._settled = False
        try:
            self._socket = socket.create_connection((host, port), timeout=_HANDSHAKE_S)
        except OSError as error:
            raise ConnectionLostError(f"cannot connect to {host}:{port}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._handshake()

    def fileno(self) -> int:
        """The socket, for select."""
        return self._socket.fileno()

    @property
    def local_port(self) -> int:
        """This end's port, by which the worker at the other end can be found."""
        return int(self._socket.getsockname()[1])

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._streams) + len(self._queued)

    @property
    def wants_to_write(self) -> bool:
        """Whether the kernel took less than there was to send."""
        return bool(self._unsent)

    def close(self) -> None:
        """Close it, whatever is in flight."""
        self._socket.close()

    def call(self, method: str, message: bytes, tag: object) -> None:
        """Queue one call with a `framed` message. It begins once the peer lets another stream begin."""
        if len(self._streams) >= self._most_streams:
            self._queued.append((method, message, tag))
            return
        stream = self._next_stream
        if stream > _LAST_STREAM:
            raise ProtocolError("this connection has used up its stream ids: make another")
        self._next_stream = stream + 2
        self._streams[stream] = [tag, b""]
        block = self._blocks.get(method) or self._block(method)
        size = len(message)
        number = stream.to_bytes(4, "big")
        out = self._out
        out += ((len(block) << 16 | _HEADERS << 8 | _END_HEADERS).to_bytes(5, "big"), number, block)
        if size <= self._window and size <= self._initial_window and size <= self._max_frame and not self._waiting:
            self._window -= size
            out += ((size << 16 | _DATA << 8 | _END_STREAM).to_bytes(5, "big"), number, message)
        else:
            self._stream_windows[stream] = self._initial_window
            self._waiting.append((stream, memoryview(message)))
            self._send_waiting()

    def flush(self) -> None:
        """Send what was queued, as far as the kernel takes it. Raises ConnectionLostError."""
        data = self._unsent + b"".join(self._out) if self._unsent else b"".join(self._out)
        self._out.clear()
        if not data:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lost(str(error)) from error
        self._unsent = data[sent:]

    def receive(self) -> list[Reply]:
        """Read once and return the calls that ended with it. Raises ConnectionLostError and ProtocolError."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._lost(str(error)) from error
        if not data:
            raise self._lost("the peer closed it")
        if self._rest:
            data = self._rest + data
        replies: list[Reply] = []
        streams, statuses = self._streams, self._statuses
        position, end = 0, len(data)
        while end - position >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            body = position + 9
            after = body + (high << 8 | low)
            if after > end:
                break
            position = after
            if kind == _HEADERS:
                if flags & _PADDED_OR_PRIORITY or not flags & _END_HEADERS:
                    raise ProtocolError(f"HEADERS with flags {flags:#x}")
                block = data[body:after]
                status = statuses[block] if block in statuses else self._decoded(block)
                if flags & _END_STREAM:
                    tag, message = streams.pop(stream)
                    replies.append(_ended(tag, status, message))
            elif kind == _DATA:
                if flags:
                    raise ProtocolError(f"DATA with flags {flags:#x}: a gRPC reply ends with trailers")
                streams[stream][1] += data[body:after]
                self._received += after - body
            else:
                ended = self._control(kind, flags, stream, data[body:after])
                if ended is not None:
                    replies.append(ended)
        self._rest = data[position:]
        while self._queued and len(self._streams) < self._most_streams:
            self.call(*self._queued.popleft())
        if self._received > _LARGEST_WINDOW // 2:
            self._out.append(_window_update(self._received))
            self._received = 0
        return replies

    def _handshake(self) -> None:
        settings = struct.pack(">HIHI", _TABLE_SIZE, 0, _INITIAL_WINDOW, _LARGEST_WINDOW)
        self._out += [_PREFACE, _frame(_SETTINGS, 0, 0, settings), _window_update(_LARGEST_WINDOW - _DEFAULT_WINDOW)]
        give_up = time.monotonic() + _HANDSHAKE_S
        while not self._settled:
            self.flush()
            readable, _, _ = select.select([self], [], [], max(0.0, give_up - time.monotonic()))
            if not readable:
                raise ConnectionLostError(f"no HTTP/2 settings within {_HANDSHAKE_S:.0f} s")
            self.receive()
        self.flush()

    def _block(self, method: str) -> bytes:
        block: bytes = self._encoder.encode(self._headers[method])
        if method in self._unseen:
            # Its path is new in the peer's table, and moves every other entry by one.
            self._unseen.remove(method)
            self._blocks.clear()
        else:
            self._blocks[method] = block
        return block

    def _decoded(self, block: bytes) -> int | None:
        fields = {str(name): str(value) for name, value in self._decoder.decode(block)}
        if fields.get(":status", "200") != "200":
            raise ProtocolError(f"HTTP status {fields[':status']}")
        text = fields.get("grpc-status")
        status = None if text is None else int(text)
        if status:
            self.messages.setdefault(status, fields.get("grpc-message", ""))
        if not status:
            # A failure's text may differ with each call, and would only fill memory.
            self._statuses[block] = status
        return status

    def _control(self, kind: int, flags: int, stream: int, body: bytes) -> Reply | None:
        if kind == _SETTINGS:
            if not flags & _ACK:
                self._take_settings(body)
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(body, "big")
            if stream == 0:
                self._window += increment
            elif stream in self._stream_windows:
                self._stream_windows[stream] += increment
            self._send_waiting()
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, body))
        elif kind == _RST_STREAM:
            self._stream_windows.pop(stream, None)
            found = self._streams.pop(stream, None)
            code = int.from_bytes(body, "big")
            if found is not None:  # after a reply that is whole, a reset only says that our half may end
                self.messages.setdefault(RESET, f"stream reset with code {code}")
                return Reply(found[0], RESET, b"")
        elif kind == _GOAWAY:
            raise self._lost(f"GOAWAY with code {int.from_bytes(body[4:8], 'big')} {body[8:].decode(errors='replace')}")
        else:
            raise ProtocolError(f"frame of type {kind}")
        return None

    def _take_settings(self, body: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", body):
            if name == _INITIAL_WINDOW:
                for stream in self._stream_windows:
                    self._stream_windows[stream] += value - self._initial_window
                self._initial_window = value
            elif name == _MOST_STREAMS:
                self._most_streams = min(value, _MOST_PENDING)
            elif name == _MAX_FRAME:
                self._max_frame = value
        self._settled = True
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what the windows allow, in order: a later small request does not overtake an earlier large one."""
        while self._waiting:
            stream, rest = self._waiting[0]
            if stream not in self._streams:
                self._waiting.popleft()  # the peer refused it before it was sent
                continue
            size = min(len(rest), self._max_frame, self._window, self._stream_windows[stream])
            if size <= 0:
                return
            self._window -= size
            self._stream_windows[stream] -= size
            last = size == len(rest)
            self._out.append(_frame(_DATA, _END_STREAM if last else 0, stream, bytes(rest[:size])))
            if last:
                self._waiting.popleft()
                del self._stream_windows[stream]
            else:
                self._waiting[0] = (stream, rest[size:])

    def _lost(self, why: str) -> ConnectionLostError:
        return ConnectionLostError(f"connection lost with {self.in_flight} calls in flight: {why}")


def _ended(tag: object, status: int | None, message: bytes) -> Reply:
    if status is None:
        return Reply(tag, TORN, b"")
    if status == 0 and (len(message) < 5 or message[0] or int.from_bytes(message[1:5], "big") != len(message) - 5):
        return Reply(tag, TORN, b"")
    return Reply(tag, status, message[5:])


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return (len(body) << 16 | kind << 8 | flags).to_bytes(5, "big") + stream.to_bytes(4, "big") + body


def _window_update(increment: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, increment.to_bytes(4, "big"))
