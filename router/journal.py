"""The decision journal: every answered decision is on local disk before its reply, and in Postgres soon after.

Layout
    A spool directory holds segments, one open one a process. A segment is a sequence of records::

        kind 1 | payload length 4 | CRC-32 of the payload 4 | payload

    Kind D is a decision (its signed token and the ids that the token only hashes), kind A the allocation that the
    decisions after it were drawn from.

Protocol
    The owner of a segment holds a lock on it. A segment without a lock belongs to a process that died: whoever finds it
    locks it, drains it and removes it. Draining stores what is not stored yet, so a segment may be drained twice. A record
    cut short can only be the last one, and was never answered.

    Writes are not synced: a killed process loses nothing, a power cut may lose the last decisions. Their rewards still
    count, since the token is the receipt.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from router.errors import ResourceExhaustedError, ServiceError
from router.policy import Choice, Policy
from router.storage.decisions import AllocationRow, DecisionRow
from router.storage.errors import RefusedRowError, StorageError, StorageUnavailableError
from router.tokens import TokenCodec
from router.v1 import routing_pb2

log = logging.getLogger(__name__)

_FRAME = struct.Struct("!cII")
_DECISION, _ALLOCATION = b"D", b"A"
_HEAD = struct.Struct("!HB16s")
_ALLOCATION_HEAD = struct.Struct("!16sQQH")
_SEPARATOR = "\x1f"  # ids hold no control characters
_REASONS = tuple(name.removeprefix("REASON_").lower() for name in routing_pb2.Reason.DESCRIPTOR.values_by_name)
SEGMENT_BYTES = 8 * 1024 * 1024
#: Most bytes of undrained journal on disk; beyond them Route refuses rather than lose a decision.
SPOOL_BYTES = 1024 * 1024 * 1024
_CHUNK_BYTES = 512 * 1024
_DRAIN_S = 0.05
_ADOPT_S = 5.0
_RETRY_S = 1.0


class DecisionStore(Protocol):
    """Where decisions go: `router.storage.writer.Writer`."""

    async def store(self, allocations: Sequence[AllocationRow], decisions: Sequence[DecisionRow]) -> None:
        """Store what is not stored yet; raises StorageError."""

    async def close(self) -> None:
        """Let go of the connection."""


@dataclass(slots=True)
class _Segment:
    """A segment this process holds the lock of."""

    path: Path
    file: int
    #: Bytes written by its owner.
    size: int
    #: Bytes stored in Postgres.
    drained: int = 0
    #: Whether more may be written to it.
    is_open: bool = True


class Journal:
    """The journal of one process."""

    def __init__(
        self,
        directory: Path,
        store: DecisionStore,
        codec: TokenCodec,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        spool_bytes: int = SPOOL_BYTES,
    ) -> None:
        self._directory = directory
        self._store = store
        self._codec = codec
        self._segment_bytes = segment_bytes
        self._spool_bytes = spool_bytes
        self._segments: list[_Segment] = []
        self._current = self._new_segment()
        self._logged_allocations: set[bytes] = set()
        self._undrained = 0
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def append(
        self,
        token: bytes,
        reason: routing_pb2.Reason,
        choice: Choice,
        policy: Policy,
        request: routing_pb2.RouteRequest,
    ) -> None:
        """Write one decision to disk.

        Raises ResourceExhaustedError if the spool is full or the disk refuses.
        """
        if self._undrained > self._spool_bytes:
            raise ResourceExhaustedError(
                f"the decision journal holds {self._undrained} bytes that Postgres has not taken", retry_after_ms=1000
            )
        if self._current.size >= self._segment_bytes:
            self._rotate()
        if choice.allocation_id not in self._logged_allocations:
            self._write(_ALLOCATION, _allocation_payload(choice, policy))
            self._logged_allocations.add(choice.allocation_id)
        similarity = repr(request.prompt_similarity) if request.HasField("prompt_similarity") else ""
        texts = _SEPARATOR.join(
            (
                request.unit_id,
                request.session_id,
                request.turn_id,
                request.request_id,
                request.prompt_fingerprint,
                similarity,
            )
        )
        self._write(_DECISION, _HEAD.pack(len(token), reason, choice.allocation_id) + token + texts.encode())
        self._work.set()

    def start(self) -> None:
        """Begin to drain."""
        self._task = asyncio.create_task(self._run(), name="journal")

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Drain what can be drained, then let go. What is left is drained by the next process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._current.is_open = False
        try:
            async with asyncio.timeout(timeout_s):
                for segment in list(self._segments):
                    await self._drain(segment)
        except (TimeoutError, StorageError) as error:
            log.warning("the decision journal keeps %d bytes for the next start: %s", self._undrained, error)
        for segment in self._segments:
            os.close(segment.file)
        self._segments.clear()
        await self._store.close()

    @property
    def undrained_bytes(self) -> int:
        """Bytes on disk that Postgres does not have yet."""
        return self._undrained

    def _write(self, kind: bytes, payload: bytes) -> None:
        record = _FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload
        segment = self._current
        try:
            written = os.write(segment.file, record)
        except OSError as error:
            raise _disk_refuses(error) from error
        if written != len(record):
            # A part of a record would hide everything after it.
            os.ftruncate(segment.file, segment.size)
            raise _disk_refuses(OSError("the disk is full"))
        segment.size += written
        self._undrained += written

    def _new_segment(self) -> _Segment:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        temporary = self._directory / f"{name}.new"
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # Locked before it has the name by which others look for segments.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = temporary.with_suffix(".journal")
        temporary.rename(path)
        segment = _Segment(path, file, 0)
        self._segments.append(segment)
        return segment

    def _rotate(self) -> None:
        try:
            fresh = self._new_segment()
        except OSError as error:
            raise _disk_refuses(error) from error
        self._current.is_open = False
        self._current = fresh
        self._logged_allocations.clear()

    async def _run(self) -> None:
        adopted_at = 0.0
        while True:
            loop = asyncio.get_running_loop()
            try:
                if loop.time() - adopted_at > _ADOPT_S or not adopted_at:
                    adopted_at = loop.time()
                    self._adopt()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._work.wait(), _ADOPT_S)
                self._work.clear()
                for segment in list(self._segments):
                    await self._drain(segment)
                if self._failing:
                    log.info("the decision journal drains again")
                self._failing = False
                await asyncio.sleep(_DRAIN_S)
            except StorageUnavailableError as error:
                if not self._failing:
                    log.warning("decisions wait in the journal: %s", error)
                self._failing = True
                self._work.set()
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("draining the decision journal failed; it goes on")
                self._work.set()
                await asyncio.sleep(_RETRY_S)

    async def _drain(self, segment: _Segment) -> None:
        """Store what a segment holds; remove it once no more can come."""
        while segment.drained < segment.size:
            data = os.pread(segment.file, min(_CHUNK_BYTES, segment.size - segment.drained), segment.drained)
            allocations, decisions, used = parse_records(data, self._codec)
            if not used:
                used = self._set_aside(segment)
            elif allocations or decisions:
                await self._stored(allocations, decisions)
            segment.drained += used
            self._undrained -= used
        if not segment.is_open:
            segment.path.unlink(missing_ok=True)
            os.close(segment.file)
            self._segments.remove(segment)

    async def _stored(self, allocations: list[AllocationRow], decisions: list[DecisionRow]) -> None:
        """Store a chunk; what Postgres refuses for good is bisected out, logged, and holds nothing else up."""
        try:
            await self._store.store(allocations, decisions)
        except RefusedRowError as error:
            halves = [(allocations, []), ([], decisions)] if allocations and decisions else _halves(allocations, decisions)
            if not halves:
                refused = [row.allocation_id.hex() for row in allocations] + [row.decision_key.hex() for row in decisions]
                log.error("Postgres refuses %s for good: %s", refused, error)
            for half in halves:
                await self._stored(*half)

    def _set_aside(self, segment: _Segment) -> int:
        """Keep for people what is not a record, up to the next one that is; returns its size.

        A tail that a crash cut short was never answered; anything else is damage to the disk.
        """
        rest = os.pread(segment.file, segment.size - segment.drained, segment.drained)
        gap = rest[: _next_record(rest)]
        path = segment.path.with_suffix(f".{segment.drained}.damaged")
        with contextlib.suppress(OSError):  # a full disk must not keep the records after it from Postgres
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(file, gap)
            os.close(file)
        log.error(
            "%s: %d bytes from byte %d on are no record; kept as %s", segment.path.name, len(gap), segment.drained, path
        )
        return len(gap)

    def _adopt(self) -> None:
        """Take over the segments of processes that died."""
        own = {segment.path for segment in self._segments}
        for path in sorted(self._directory.glob("*.journal")):
            if path in own:
                continue
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            size = os.fstat(file).st_size
            self._segments.append(_Segment(path, file, size, is_open=False))
            self._undrained += size
            self._work.set()
            log.info("adopted journal segment %s with %d bytes", path.name, size)


def parse_records(data: bytes, codec: TokenCodec) -> tuple[list[AllocationRow], list[DecisionRow], int]:
    """Return the whole, undamaged records at the start of `data` and how many bytes they take.

    A record that says nothing to this process, such as one signed with a key that it lacks, is logged and passed over.
    """
    allocations: list[AllocationRow] = []
    decisions: list[DecisionRow] = []
    used = 0
    for kind, payload, end in _frames(data):
        try:
            if kind == _ALLOCATION:
                allocations.append(_allocation_row(payload))
            elif kind == _DECISION:
                decisions.append(_decision_row(payload, codec))
        except (ServiceError, ValueError, struct.error) as error:
            log.error("a record of the decision journal is passed over: %s: %s", error, payload.hex())
        used = end
    return allocations, decisions, used


def _halves(
    allocations: list[AllocationRow], decisions: list[DecisionRow]
) -> list[tuple[list[AllocationRow], list[DecisionRow]]]:
    """Divide a chunk of one kind; nothing if it cannot be divided."""
    a, d = len(allocations) // 2, len(decisions) // 2
    if not a and not d:
        return []
    return [(allocations[:a], decisions[:d]), (allocations[a:], decisions[d:])]


def _next_record(data: bytes) -> int:
    """Return where the next whole, undamaged record begins after the first byte; the end if there is none."""
    for offset in range(1, len(data) - _FRAME.size):
        if data[offset : offset + 1] in (_DECISION, _ALLOCATION):
            _, length, checksum = _FRAME.unpack_from(data, offset)
            start = offset + _FRAME.size
            if (
                length <= _CHUNK_BYTES
                and start + length <= len(data)
                and zlib.crc32(data[start : start + length]) == checksum
            ):
                return offset
    return len(data)


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    offset = 0
    while offset + _FRAME.size <= len(data):
        kind, length, checksum = _FRAME.unpack_from(data, offset)
        end = offset + _FRAME.size + length
        payload = data[offset + _FRAME.size : end]
        if end > len(data) or zlib.crc32(payload) != checksum:
            return
        yield kind, payload, end
        offset = end


def _allocation_payload(choice: Choice, policy: Policy) -> bytes:
    arms = [arm.number for arm in policy.arms]
    head = _ALLOCATION_HEAD.pack(choice.allocation_id, policy.definition.incarnation, policy.policy_version, len(arms))
    return head + struct.pack(f"!{len(arms)}H{len(arms)}d", *arms, *choice.probabilities.tolist())


def _allocation_row(payload: bytes) -> AllocationRow:
    allocation_id, incarnation, policy_version, count = _ALLOCATION_HEAD.unpack_from(payload)
    values = struct.unpack_from(f"!{count}H{count}d", payload, _ALLOCATION_HEAD.size)
    return AllocationRow(allocation_id, incarnation, policy_version, values[:count], values[count:])


def _decision_row(payload: bytes, codec: TokenCodec) -> DecisionRow:
    token_bytes, reason, allocation_id = _HEAD.unpack_from(payload)
    token = codec.open_raw(payload[_HEAD.size : _HEAD.size + token_bytes])
    unit, session, turn, request, fingerprint, similarity = payload[_HEAD.size + token_bytes :].decode().split(_SEPARATOR)
    return DecisionRow(
        decision_key=token.decision_key,
        incarnation=token.incarnation,
        arm=token.arm,
        decided_at_us=token.decided_at_us,
        propensity=token.propensity,
        policy_version=token.policy_version,
        allocation_id=allocation_id,
        reason=_REASONS[reason],
        unit_id=unit,
        session_id=session,
        turn_id=turn,
        request_id=request,
        segment=token.segment,
        prompt_fingerprint=fingerprint,
        prompt_similarity=float(similarity) if similarity else None,
    )


def _disk_refuses(error: OSError) -> ResourceExhaustedError:
    log.error("the decision journal cannot be written, so Route refuses: %s", error)
    return ResourceExhaustedError(f"the decision journal cannot be written: {error.strerror or error}", retry_after_ms=1000)
