"""Segments on disk: whole writes, torn tails, damage, bounds and syncs, whatever the records are."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_until

import router
from router.errors import ResourceExhaustedError
from router.spool import LARGEST_PAYLOAD, Record, SegmentReader, SegmentWriter, frame, frames, next_frame

ROOT = Path(router.__file__).parents[1]
SUFFIX = ".test"
MIB = 1024 * 1024


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_writer(directory: Path, clock: Clock) -> Iterator[Callable[..., SegmentWriter]]:
    made: list[SegmentWriter] = []

    def make(**options: int) -> SegmentWriter:
        writer = SegmentWriter(directory, SUFFIX, **{"segment_bytes": MIB, "limit_bytes": 64 * MIB, **options}, clock=clock)
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def record(number: int, size: int = 20) -> Record:
    return b"T", f"{number:06d}".encode().ljust(size, b".")


def numbers(records: list[Record]) -> list[int]:
    return [int(payload[:6]) for _, payload in records]


def read_all(reader: SegmentReader, limit: int = 1000) -> list[Record]:
    """Drain what can be drained now."""
    found = []
    while True:
        records, end = reader.read(limit)
        if end == reader.drained:
            return found
        found += records
        reader.drained = end


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit on the size of a file stands for a full disk: a write is cut short in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def reading(path: Path) -> Iterator[SegmentReader]:
    reader = SegmentReader(path)
    try:
        yield reader
    finally:
        reader.close()


# Frames


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(0, 400), st.data())
def test_frames_end_where_bytes_are_missing_or_wrong(payloads: list[bytes], cut: int, data: st.DataObject) -> None:
    whole = b"".join(frame(b"X", payload) for payload in payloads)
    assert frames(whole) == ([(b"X", payload) for payload in payloads], len(whole))
    torn = whole[: max(0, len(whole) - cut)]
    kept = [payload for _, payload in frames(torn)[0]]
    assert kept == payloads[: len(kept)]
    if whole:
        position = data.draw(st.integers(0, len(whole) - 1))
        wrong = bytearray(whole)
        wrong[position] ^= 1 << data.draw(st.integers(0, 7))
        end = 0
        for (_, payload), expected in zip(frames(bytes(wrong))[0], payloads, strict=False):
            end += 9 + len(payload)
            assert payload == expected or end > position, "what is before the damage is as it was"


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=100))
def test_the_next_frame_after_any_damage_is_found(damage: bytes, payload: bytes) -> None:
    data = b"?" + damage + frame(b"X", payload) + frame(b"Y", payload)
    found = next_frame(data)
    assert found is not None
    assert found <= 1 + len(damage)
    assert frames(data[found:])[0]


def test_zeros_are_no_frames() -> None:
    """What a power cut leaves of a block that was never written."""
    assert frames(bytes(10_000)) == ([], 0)
    assert next_frame(b"A" + bytes(10_000)) is None


@pytest.mark.parametrize("size", [0, LARGEST_PAYLOAD + 1])
def test_what_could_not_be_read_back_is_not_framed(size: int) -> None:
    with pytest.raises(ValueError, match="cannot be framed"):
        frame(b"X", bytes(size))


# Writing and reading


def test_what_is_appended_is_read_while_the_segment_is_open(directory: Path, make_writer) -> None:
    writer = make_writer()
    (path,) = segments(directory)
    with reading(path) as reader:
        assert reader.read(1000) == ([], 0)
        for number in range(50):
            writer.append(frame(*record(number)))
        assert numbers(read_all(reader)) == list(range(50))
        writer.append([frame(*record(number)) for number in range(50, 60)])
        assert numbers(read_all(reader)) == list(range(50, 60))
        assert not reader.is_finished(), "more may come"
        writer.close()
        assert reader.is_finished()
        reader.remove()
        assert segments(directory) == []
        reader._file = os.open(os.devnull, os.O_RDONLY)


def test_an_append_is_one_write_and_a_record_larger_than_a_chunk_is_read(directory: Path, make_writer) -> None:
    writer = make_writer()
    large = (b"T", random.Random(1).randbytes(LARGEST_PAYLOAD))
    writer.append([frame(*large), frame(*record(1))])
    with reading(segments(directory)[0]) as reader:
        assert read_all(reader, limit=100) == [large, record(1)]


def test_segments_rotate_after_the_write_that_fills_them(directory: Path, make_writer) -> None:
    writer = make_writer(segment_bytes=1_000)
    for number in range(100):
        writer.append(frame(*record(number)))
    paths = segments(directory)
    assert writer.segments == len(paths) == 3
    found = []
    for path in paths:
        with reading(path) as reader:
            found += numbers(read_all(reader))
            assert reader.is_finished() == (path != paths[-1])
    assert found == list(range(100))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)


def test_an_empty_segment_goes_with_its_writer(directory: Path, make_writer) -> None:
    make_writer().close()
    assert list(directory.iterdir()) == []


def test_files_that_never_got_a_name_are_dropped_unless_somebody_makes_them(directory: Path, make_writer) -> None:
    directory.mkdir()
    leftover, fresh, held = (directory / f"{name}.new" for name in ("leftover", "fresh", "held"))
    for path in (leftover, fresh, held):
        path.write_bytes(b"")
    for path in (leftover, held):
        os.utime(path, (0, 0))
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        make_writer()
    assert not leftover.exists()
    assert fresh.exists()
    assert held.exists()


# Torn and damaged


@pytest.mark.parametrize("cut", [1, 10, 19, 25])
def test_a_torn_record_is_waited_for_while_its_writer_lives(directory: Path, make_writer, cut: int) -> None:
    writer = make_writer()
    whole = frame(*record(1)) + frame(*record(2))
    os.write(writer._file, whole[:-cut])
    with reading(segments(directory)[0]) as reader:
        assert numbers(read_all(reader)) == [1]
        for _ in range(3):
            assert reader.read(1000) == ([], reader.drained)
        os.write(writer._file, whole[-cut:])
        assert numbers(read_all(reader)) == [2]
    assert list(directory.glob("*.damaged")) == []


@pytest.mark.parametrize("cut", [1, 10, 19, 25])
def test_a_torn_tail_of_a_dead_writer_is_set_aside(directory: Path, make_writer, cut: int) -> None:
    writer = make_writer()
    whole = frame(*record(1)) + frame(*record(2))
    os.write(writer._file, whole[:-cut])
    writer._size = 1
    writer.close()
    (path,) = segments(directory)
    with reading(path) as reader:
        assert numbers(read_all(reader)) == [1]
        assert reader.is_finished()
    (kept,) = directory.glob("*.damaged")
    assert kept.read_bytes() == whole[len(whole) // 2 : -cut]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("position", [1, 3, 7, 15])
def test_damage_costs_what_it_hit_alone(directory: Path, make_writer, position: int, live: bool) -> None:
    """At any place of a frame but its kind, its length included, and while the segment is still written to."""
    writer = make_writer()
    size = len(frame(*record(0)))
    data = bytearray(b"".join(frame(*record(number)) for number in range(20)))
    data[10 * size + position] ^= 0x55
    writer.append(bytes(data))
    if not live:
        writer.close()
    with reading(segments(directory)[0]) as reader:
        found = read_all(reader)
        found += read_all(reader)  # a live one is looked at twice
        assert numbers(found) == [*range(10), *range(11, 20)]
        if live:
            writer.append(frame(*record(20)))
            assert numbers(read_all(reader)) == [20]
    (kept,) = directory.glob("*.damaged")
    assert kept.read_bytes() == data[10 * size : 11 * size]


def test_a_hole_of_zeros_larger_than_any_chunk_is_passed_over(directory: Path, make_writer) -> None:
    writer = make_writer(segment_bytes=64 * MIB)
    hole = bytes(20 * MIB)
    writer.append([frame(*record(1)), hole, frame(*record(2))])
    writer.close()
    with reading(segments(directory)[0]) as reader:
        assert numbers(read_all(reader)) == [1, 2]
    assert sum(path.stat().st_size for path in directory.glob("*.damaged")) == len(hole)


# Bounds


def test_a_full_spool_refuses_counts_and_takes_again(directory: Path, make_writer, clock: Clock, caplog) -> None:
    writer, other = make_writer(limit_bytes=3_000), make_writer(limit_bytes=3_000)
    size = len(frame(*record(0)))
    for number in range(50):
        other.append(frame(*record(number)))
    taken = 0
    with pytest.raises(ResourceExhaustedError) as raised:  # noqa: PT012 - how many it takes is part of the claim
        while True:
            clock.now += 0.3
            writer.append(frame(*record(taken)))
            taken += 1
    assert 3_000 - size <= (50 + taken) * size <= 3_000, "bytes of other writers count"
    assert raised.value.retry_after_ms
    assert raised.value.reason == "OVERLOADED"
    for _ in range(20):
        with pytest.raises(ResourceExhaustedError):
            writer.append(frame(*record(0)))
    assert writer.refused == 21
    assert sum("the spool is full" in message for message in caplog.messages) == 1, "loud, and not each time"
    # What it has written so far can be drained and go.
    finished = []
    for path in segments(directory):
        with reading(path) as reader:
            read_all(reader)
            if reader.is_finished() and path.stat().st_size:
                finished.append(path)
    assert len(finished) == 1
    finished[0].unlink()
    clock.now += 0.3
    writer.append(frame(*record(taken)))
    clock.now += 10
    with pytest.raises(ResourceExhaustedError):
        writer.append(bytes(5_000))
    assert sum("the spool is full" in message for message in caplog.messages) == 2


def test_a_full_disk_refuses_whole_writes(directory: Path, make_writer, clock: Clock) -> None:
    writer = make_writer()
    taken, refused = [], 0
    with largest_file(1_000):
        for number in range(0, 150, 3):
            clock.now += 1
            try:
                writer.append([frame(*record(n)) for n in range(number, number + 3)])
                taken += range(number, number + 3)
            except ResourceExhaustedError:
                refused += 1
    assert refused == writer.refused > 0
    clock.now += 1
    writer.append(frame(*record(999)))
    writer.close()
    found = []
    for path in segments(directory):
        assert path.stat().st_size <= 1_000 or path == segments(directory)[-1]
        with reading(path) as reader:
            found += numbers(read_all(reader))
            assert reader.is_finished()
    assert found == [*taken, 999], "all of a write or nothing, in order"
    assert list(directory.glob("*.damaged")) == []


def test_a_reader_that_saw_a_part_of_a_failed_write_misses_nothing_after_it(
    directory: Path, make_writer, clock: Clock
) -> None:
    writer = make_writer()
    size = len(frame(*record(0)))
    writer.append([frame(*record(n)) for n in range(4)])
    (path,) = segments(directory)
    with reading(path) as reader:
        # As a reader sees it that looks between the write and the cut.
        with path.open("ab") as file:
            file.write(frame(*record(4)))
        assert numbers(read_all(reader)) == [0, 1, 2, 3, 4]
        os.truncate(path, 4 * size)
        with largest_file(5 * size - 1), pytest.raises(ResourceExhaustedError):
            writer.append(frame(*record(5)))
        clock.now += 1
        writer.append(frame(*record(6)))
        assert read_all(reader) == []
        assert reader.is_finished()
    with reading(segments(directory)[1]) as reader:
        assert numbers(read_all(reader)) == [6]


def test_a_disk_that_refuses_is_left_alone_for_a_moment(make_writer, clock: Clock) -> None:
    writer = make_writer()
    with largest_file(0), pytest.raises(ResourceExhaustedError):
        writer.append(frame(*record(1)))
    with pytest.raises(ResourceExhaustedError, match="a moment ago"):
        writer.append(frame(*record(1)))
    clock.now += 0.2
    writer.append(frame(*record(1)))


# Syncs


async def test_those_who_wait_share_a_sync_and_those_who_come_later_get_another(
    directory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter(directory, SUFFIX, segment_bytes=100, limit_bytes=MIB, durable=True, clock=clock)
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (synced.append(os.fstat(file).st_ino), real(file)))
    rounds: list[int] = []
    sync_files = writer._sync_files
    monkeypatch.setattr(writer, "_sync_files", lambda *args: (rounds.append(len(args[0])), sync_files(*args)))
    for number in range(10):
        writer.append(frame(*record(number)))
    inodes = {path.stat().st_ino for path in segments(directory)}
    await asyncio.gather(*(writer.sync() for _ in range(50)))
    assert set(synced) == inodes, "full segments too"
    assert len(rounds) == 1
    first = asyncio.ensure_future(writer.sync())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(writer.sync()) for _ in range(50)]
    await asyncio.gather(first, *later)
    assert len(rounds) <= 3
    writer.close()
    for path in segments(directory):
        with reading(path) as reader:
            assert reader.is_complete()


async def test_a_sync_that_fails_is_told_to_those_who_wait_and_the_segment_is_left(
    directory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter(directory, SUFFIX, segment_bytes=MIB, limit_bytes=MIB, durable=True, clock=clock)
    writer.append(frame(*record(1)))

    def broken(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output"):
            await writer.sync()
    writer.append(frame(*record(2)))
    await writer.sync()
    assert len(segments(directory)) == 2
    assert writer.refused == 1
    writer.close()


# Processes that die

WRITING_PROCESS = """
import sys
from pathlib import Path
from router.spool import SegmentWriter, frame

writer = SegmentWriter(Path(sys.argv[1]), ".test", segment_bytes=20_000, limit_bytes=1 << 30)
number = 0
while True:
    writer.append([frame(b"T", b"%06d" % n) for n in range(number, number + 7)])
    number += 7
    print(number, flush=True)
"""


def complete(path: Path) -> bool:
    with reading(path) as reader:
        return reader.is_complete()


def test_kill_9_of_a_writer_leaves_all_that_it_has_written(directory: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    with answers.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", WRITING_PROCESS, str(directory)], stdout=file, cwd=ROOT)
        try:
            wait_until(lambda: answers.read_text().count("\n") > 2_000, "it writes")
            # It may have gone on to the next one since.
            wait_until(lambda: not complete(segments(directory)[-1]), "the newest is still being written")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    acknowledged = int(answers.read_text().split("\n")[-2])
    found = []
    for path in segments(directory):
        with reading(path) as reader:
            found += numbers(read_all(reader))
            assert reader.is_finished(), "its lock ended with it"
    assert found == list(range(len(found)))
    assert acknowledged <= len(found) <= acknowledged + 7
