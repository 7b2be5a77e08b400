"""Events that could not be committed in time, on local disk until the keeper commits them.

What is in the records of `.events` segments, and how a worker writes them::

    R   format 1 | received at, microseconds since the epoch 8 | RewardRequest in protobuf

The request is kept as it came: what it means is found out when it is stored, by the rule in force when its decision was
made. Its time of receipt is that of its arrival here.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import DecodeError

from router.spool import Record, SegmentWriter, frame
from router.v1 import routing_pb2

SUFFIX = ".events"
_KIND = b"R"
_FORMAT = 1
_HEAD = struct.Struct("!BQ")
SEGMENT_BYTES = 8 * 1024 * 1024
#: Most bytes of events on disk; beyond them Reward refuses.
SPOOL_BYTES = 1024 * 1024 * 1024


class FeedbackSpool:
    """The spooled events of one process."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES, spool_bytes: int = SPOOL_BYTES) -> None:
        """Begin a segment; raises OSError if nothing can be written there."""
        self._writer = SegmentWriter(directory, SUFFIX, segment_bytes=segment_bytes, limit_bytes=spool_bytes, durable=True)

    @property
    def refused(self) -> int:
        """Writes that the disk or the bound of the spool refused."""
        return self._writer.refused

    @property
    def used_bytes(self) -> int:
        """Bytes of all spooled events, stored ones included while their segment is open."""
        return self._writer.used_bytes

    def append(self, request: bytes, received_at_us: int) -> None:
        """Write one event, a serialized RewardRequest. It is spooled once a `sync` that began afterwards returns.

        Raises ResourceExhaustedError if the spool is full or the disk refuses.
        """
        self.extend([(request, received_at_us)])

    def extend(self, events: Iterable[tuple[bytes, int]]) -> None:
        """As `append`, for several events with one system call: all of them or none."""
        self._writer.append([frame(_KIND, _HEAD.pack(_FORMAT, at_us) + request) for request, at_us in events])

    async def sync(self) -> None:
        """Return once what was appended before is on disk; callers who wait at the same time share a sync.

        Raises OSError if the disk refuses: then an event may be spooled or not.
        """
        await self._writer.sync()

    def close(self) -> None:
        """Let go of the segment."""
        self._writer.close()


def decode(record: Record) -> tuple[routing_pb2.RewardRequest, int]:
    """Return an event's request and its time of receipt; raises ValueError if the record has another layout."""
    kind, payload = record
    if kind != _KIND or len(payload) < _HEAD.size:
        raise ValueError(f"a record of kind {kind!r} is none of a spooled event")
    layout, received_at_us = _HEAD.unpack_from(payload)
    if layout != _FORMAT:
        raise ValueError(f"its format is {layout}, which this version does not know")
    try:
        return routing_pb2.RewardRequest.FromString(payload[_HEAD.size :]), received_at_us
    except DecodeError as error:
        raise ValueError(f"it is no RewardRequest: {error}") from error
