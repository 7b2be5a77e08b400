"""The decision journal: one write for what is answered together, all of it or none, and what is read back of it."""

from __future__ import annotations

import resource
import struct
import timeit
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from decisions import INCARNATION, append, policy, token

from router.errors import ResourceExhaustedError
from router.journal import Journal, decode
from router.spool import frames
from router.storage.decisions import AllocationRow, DecisionRow
from router.tokens import TokenCodec, TokenKey
from router.v1 import routing_pb2

CODEC = TokenCodec(TokenKey(1, bytes(32)), {})


@pytest.fixture
def make_journal(tmp_path: Path) -> Iterator[Callable[..., Journal]]:
    made: list[Journal] = []

    def make(**limits: int) -> Journal:
        made.append(Journal(tmp_path / "spool", **limits))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


def rows(directory: Path) -> list[AllocationRow | DecisionRow]:
    return [decode(record) for path in sorted(directory.glob("*.journal")) for record in frames(path.read_bytes())[0]]


def request_ids(directory: Path) -> list[int]:
    return [int(row.request_id) for row in rows(directory) if isinstance(row, DecisionRow)]


def test_what_is_flushed_is_read_back_with_every_field(make_journal, tmp_path: Path) -> None:
    journal = make_journal()
    current = policy(9)
    assert current.everyone is not None
    made = token(5, segment="mobile", policy_version=9)
    request = routing_pb2.RouteRequest(
        experiment_id="x",
        unit_id="ünit",
        session_id="session",
        turn_id="turn",
        request_id="request",
        prompt_fingerprint="ab+/=",
        prompt_similarity=0.0,
    )
    journal.append(CODEC.mint(made)[1], routing_pb2.REASON_STICKY, current.everyone, current, request)
    journal.flush()
    allocation, decision = rows(tmp_path / "spool")
    allocation_id = current.everyone.allocation_id
    assert allocation == AllocationRow(
        allocation_id, INCARNATION, 9, (0, 1, 2), tuple(current.everyone.probabilities.tolist())
    )
    assert decision == DecisionRow(
        made.decision_key,
        INCARNATION,
        made.arm,
        made.decided_at_us,
        made.propensity,
        9,
        allocation_id,
        "sticky",
        "ünit",
        "session",
        "turn",
        "request",
        "mobile",
        "ab+/=",
        0.0,
    )


def test_every_segment_holds_the_allocations_of_its_decisions(make_journal, tmp_path: Path) -> None:
    journal = make_journal(segment_bytes=1_000)
    for number in range(60):
        append(journal, CODEC, number, version=1 + number // 20)
    paths = sorted((tmp_path / "spool").glob("*.journal"))
    assert len(paths) > 5
    for path in paths:
        known: set[bytes] = set()
        for record in frames(path.read_bytes())[0]:
            row = decode(record)
            if isinstance(row, AllocationRow):
                assert row.allocation_id not in known, "once is enough"
                known.add(row.allocation_id)
            else:
                assert row.allocation_id in known


def test_nothing_is_written_before_the_flush_and_all_of_it_by_one_call(
    make_journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal()
    for number in range(100):
        append(journal, CODEC, number, flush=False)
    assert rows(tmp_path / "spool") == []
    writes = []
    real = journal._writer.append
    monkeypatch.setattr(journal._writer, "append", lambda data: (writes.append(len(data)), real(data)))
    journal.flush()
    journal.flush()
    assert len(writes) == 1
    assert request_ids(tmp_path / "spool") == list(range(100))


def test_a_refused_flush_drops_its_decisions_and_their_allocation_is_written_again(make_journal, tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: a write is cut short in its middle."""
    journal = make_journal()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    append(journal, CODEC, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        for number in range(1, 21):
            append(journal, CODEC, number, version=2, flush=False)
        with pytest.raises(ResourceExhaustedError) as raised:
            journal.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.reason == "OVERLOADED"
    assert raised.value.retry_after_ms
    assert request_ids(tmp_path / "spool") == [0]
    journal.flush()
    assert request_ids(tmp_path / "spool") == [0], "they were never made"
    journal._writer._left_alone_until = 0.0
    append(journal, CODEC, 100, version=2)
    assert request_ids(tmp_path / "spool") == [0, 100]
    allocations = [row.policy_version for row in rows(tmp_path / "spool") if isinstance(row, AllocationRow)]
    assert allocations == [1, 2]
    assert journal.refused == 1


def test_a_call_learns_that_the_flush_of_another_dropped_its_decisions(make_journal, tmp_path: Path) -> None:
    journal = make_journal(spool_bytes=1_000)
    first = append(journal, CODEC, 1, flush=False)
    with pytest.raises(ResourceExhaustedError):  # noqa: PT012 - the other call
        for number in range(2, 30):
            append(journal, CODEC, number, flush=False)
        journal.flush()
    with pytest.raises(ResourceExhaustedError):
        journal.flush(first)
    assert rows(tmp_path / "spool") == []
    later = append(journal, CODEC, 30, flush=False)
    journal.flush(later)
    assert request_ids(tmp_path / "spool") == [30]


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\xff" * 30, struct.pack("!HB16s", 4, 200, bytes(16)) + b"abcd"])
@pytest.mark.parametrize("kind", [b"D", b"A", b"Z"])
def test_what_is_no_record_of_a_journal_is_a_value_error(kind: bytes, payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it is wrong
        decode((kind, payload))


def test_segments_of_the_release_before_are_read() -> None:
    """Bytes as version 0.1.0 wrote them."""
    raw = CODEC.mint(token(3))[1]
    texts = "\x1f".join(("unit", "", "", "3", "", "0.25")).encode()
    decision = struct.pack("!HB16s", len(raw), 2, b"a" * 16) + raw + texts
    allocation = struct.pack("!16sQQH2H2d", b"a" * 16, INCARNATION, 4, 2, 0, 1, 0.25, 0.75)
    data = b"".join(
        struct.pack("!cII", kind, len(payload), zlib.crc32(payload)) + payload
        for kind, payload in ((b"A", allocation), (b"D", decision))
    )
    first, second = map(decode, frames(data)[0])
    assert first == AllocationRow(b"a" * 16, INCARNATION, 4, (0, 1), (0.25, 0.75))
    assert isinstance(second, DecisionRow)
    assert (second.unit_id, second.request_id, second.prompt_similarity, second.reason) == ("unit", "3", 0.25, "sticky")


def test_an_append_takes_microseconds(make_journal) -> None:
    """Far above what it takes, so that a busy machine does not fail it: it guards against another order of magnitude."""
    journal = make_journal()
    current = policy()
    assert current.everyone is not None
    raw = CODEC.mint(token(1))[1]
    request = routing_pb2.RouteRequest(experiment_id="x", unit_id="user-123456")

    def some() -> None:
        for _ in range(1_000):
            journal.append(raw, routing_pb2.REASON_SAMPLED, current.everyone, current, request)
        journal.flush()

    assert min(timeit.repeat(some, number=1, repeat=5)) / 1_000 < 30e-6
