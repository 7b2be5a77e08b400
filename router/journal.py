"""The decision journal: every answered decision is on local disk before its reply, and in Postgres soon after.

What is in the records of `.journal` segments, and how a worker writes them. The keeper drains them (`router.drain`).

    D   token length 2 | reason 1 | allocation id 16 | signed token | unit, session, turn, request, fingerprint, similarity
    A   allocation id 16 | incarnation 8 | policy version 8 | count 2 | arm numbers 2 each | probabilities 8 each

The texts of a decision are in UTF-8, separated by unit separators. Its allocation, the vector that it was drawn from,
stands before it in the same segment, once.

Writes are not synced: a killed process loses nothing, a power cut may lose the last decisions. Their rewards still count,
since the token is the receipt.
"""

import struct
from pathlib import Path
from zlib import crc32

from router.errors import ResourceExhaustedError
from router.policy import Choice, Policy
from router.spool import Record, SegmentWriter, frame
from router.spool.frames import HEAD
from router.storage.decisions import AllocationRow, DecisionRow
from router.tokens import parse_token
from router.v1 import routing_pb2

SUFFIX = ".journal"
_DECISION, _ALLOCATION = b"D", b"A"
_DECISION_HEAD = struct.Struct("!HB16s")
_ALLOCATION_HEAD = struct.Struct("!16sQQH")
_SEPARATOR = "\x1f"  # ids hold no control characters
_REASONS = tuple(name.removeprefix("REASON_").lower() for name in routing_pb2.Reason.DESCRIPTOR.values_by_name)
SEGMENT_BYTES = 8 * 1024 * 1024
#: Most bytes of journal on disk; beyond them Route refuses rather than lose a decision.
SPOOL_BYTES = 1024 * 1024 * 1024


class Journal:
    """The journal of one process."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES, spool_bytes: int = SPOOL_BYTES) -> None:
        """Begin a segment; raises OSError if nothing can be written there."""
        self._writer = SegmentWriter(directory, SUFFIX, segment_bytes=segment_bytes, limit_bytes=spool_bytes)
        self._segment = self._writer.segments
        #: Allocations in the segment, or collected for it.
        self._logged: set[bytes] = set()
        self._collected: list[bytes] = []
        self._appended = 0
        #: The last refusal, and the number of the last decision that it dropped.
        self._refusal: ResourceExhaustedError | None = None
        self._dropped = 0

    @property
    def refused(self) -> int:
        """Writes that the disk or the bound of the spool refused."""
        return self._writer.refused

    @property
    def used_bytes(self) -> int:
        """Bytes of all journals in the spool, stored ones included while their segment is open."""
        return self._writer.used_bytes

    def append(
        self,
        token: bytes,
        reason: routing_pb2.Reason,
        choice: Choice,
        policy: Policy,
        request: routing_pb2.RouteRequest,
    ) -> int:
        """Collect one decision for the next `flush`; returns the number to give it where others may flush first."""
        collected, allocation_id = self._collected, choice.allocation_id
        if allocation_id not in self._logged:
            self._logged.add(allocation_id)
            collected.append(frame(_ALLOCATION, _allocation_payload(choice, policy)))
        similarity = repr(request.prompt_similarity) if request.HasField("prompt_similarity") else ""
        payload = b"%b%b%b" % (
            _DECISION_HEAD.pack(len(token), reason, allocation_id),
            token,
            f"{request.unit_id}\x1f{request.session_id}\x1f{request.turn_id}\x1f{request.request_id}"
            f"\x1f{request.prompt_fingerprint}\x1f{similarity}".encode(),
        )
        collected.append(HEAD.pack(_DECISION, len(payload), crc32(payload)) + payload)
        self._appended += 1
        return self._appended

    def flush(self, since: int | None = None) -> None:
        """Write what is collected, with one system call; then those decisions are made.

        Raises ResourceExhaustedError if the spool is full or the disk refuses: nothing of it is written, and all of it is
        dropped. Whoever lets others run between `append` and `flush` gives the first number it got as `since`: the flush
        of another may have dropped its records, and then this one raises too.
        """
        if self._collected:
            collected, self._collected = self._collected, []
            try:
                self._writer.append(collected)
            except ResourceExhaustedError as error:
                self._dropped, self._refusal = self._appended, error
                self._logged.clear()
                raise
            if self._writer.segments != self._segment:
                self._segment = self._writer.segments
                self._logged.clear()
        if since is not None and self._refusal is not None and since <= self._dropped:
            raise self._refusal

    def close(self) -> None:
        """Let go of the segment, without what was not flushed."""
        self._writer.close()


def decode(record: Record) -> AllocationRow | DecisionRow:
    """Return the row of a record; raises ValueError if it has another layout."""
    kind, payload = record
    try:
        if kind == _DECISION:
            return _decision_row(payload)
        if kind == _ALLOCATION:
            return _allocation_row(payload)
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"a record of kind {kind!r} is none of a journal")


def _allocation_payload(choice: Choice, policy: Policy) -> bytes:
    arms = [arm.number for arm in policy.arms]
    head = _ALLOCATION_HEAD.pack(choice.allocation_id, policy.definition.incarnation, policy.policy_version, len(arms))
    return head + struct.pack(f"!{len(arms)}H{len(arms)}d", *arms, *choice.probabilities.tolist())


def _allocation_row(payload: bytes) -> AllocationRow:
    allocation_id, incarnation, policy_version, count = _ALLOCATION_HEAD.unpack_from(payload)
    values = struct.unpack_from(f"!{count}H{count}d", payload, _ALLOCATION_HEAD.size)
    return AllocationRow(allocation_id, incarnation, policy_version, values[:count], values[count:])


def _decision_row(payload: bytes) -> DecisionRow:
    token_bytes, reason, allocation_id = _DECISION_HEAD.unpack_from(payload)
    end = _DECISION_HEAD.size + token_bytes
    token = parse_token(payload[_DECISION_HEAD.size : end])
    unit, session, turn, request, fingerprint, similarity = payload[end:].decode().split(_SEPARATOR)
    return DecisionRow(
        token.decision_key,
        token.incarnation,
        token.arm,
        token.decided_at_us,
        token.propensity,
        token.policy_version,
        allocation_id,
        _REASONS[reason],
        unit,
        session,
        turn,
        request,
        token.segment,
        fingerprint,
        float(similarity) if similarity else None,
    )
