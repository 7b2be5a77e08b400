"""Frames: how records stand in a segment, so that a torn or damaged one is told from a whole one.

    kind 1 | payload length 4 | CRC-32 of the payload 4 | payload

Big endian. A kind is an upper-case ASCII letter, and no payload is empty: zeros, which is what a lost block reads as, are
never a frame.
"""

import re
import struct
import zlib
from typing import TypeAlias

HEAD = struct.Struct("!cII")
#: Bytes of one payload at most: an event with the longest metadata takes 40 KiB.
LARGEST_PAYLOAD = 1024 * 1024 - 1
#: What the head of a frame may begin with.
_CANDIDATE = re.compile(rb"[A-Z]\x00[\x00-\x0f]", re.DOTALL)


#: Kind and payload. A plain tuple: one is made for every decision.
Record: TypeAlias = tuple[bytes, bytes]


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return the frame of a record."""
    if not 0 < len(payload) <= LARGEST_PAYLOAD:
        raise ValueError(f"a record of {len(payload)} bytes cannot be framed")
    return HEAD.pack(kind, len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes, at_most: int | None = None) -> tuple[list[Record], int]:
    """Return the records at the start of `data`, up to the first frame that is not whole and sound, and where they end."""
    records: list[Record] = []
    add, unpack, crc32, size = records.append, HEAD.unpack_from, zlib.crc32, HEAD.size
    offset, available = 0, len(data)
    while offset + size < available and len(records) != at_most:
        kind, length, checksum = unpack(data, offset)
        end = offset + size + length
        payload = data[offset + size : end]
        if end > available or not length or crc32(payload) != checksum:
            break
        add((kind, payload))
        offset = end
    return records, offset


def next_frame(data: bytes, start: int = 1) -> int | None:
    """Return where the first whole, sound frame at or after `start` begins; None if there is none."""
    for candidate in _CANDIDATE.finditer(data, start):
        offset = candidate.start()
        if offset + HEAD.size >= len(data):
            return None
        _, length, checksum = HEAD.unpack_from(data, offset)
        begin = offset + HEAD.size
        if 0 < length <= len(data) - begin and zlib.crc32(data[begin : begin + length]) == checksum:
            return offset
    return None
