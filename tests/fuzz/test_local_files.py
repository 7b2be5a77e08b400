"""Files that the router left on disk, in any state: segments of the spool, the saved copy, the embedded server's record.

Reading them never crashes, never takes for a record what is none, and reports what was set aside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import fuzzing
import pytest
from decisions import append
from hypothesis import given
from hypothesis import strategies as st
from running import Router, assert_replay_agrees, event, query, scalar

from router.deployment import find_deployment
from router.drain import Drainer
from router.embedded import EmbeddedPostgresError, read_record
from router.embedded.record import RECORD, ServerRecord, write_record
from router.feedback_spool import FeedbackSpool
from router.feedback_spool import decode as decode_event
from router.journal import Journal
from router.journal import decode as decode_decision
from router.sinks import DecisionSink, EventSink
from router.spool import Record, SegmentReader, frame, frames
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import StorageError
from router.storage.migrate import needed_revision
from router.storage.reader import PolicyReader
from router.storage.saved import FILE, Origin, SavedFile
from router.storage.token_keys import load_codec
from router.storage.writer import DecisionWriter, EventWriter
from router.tokens import TokenKey

# Segments

_RECORDS = st.lists(st.tuples(st.sampled_from([b"A", b"D", b"E"]), st.binary(min_size=1, max_size=60)), max_size=8)
_GARBAGE = st.binary(max_size=40) | st.integers(1, 300).map(bytes) | st.just(b"E\0\0\0\x05") | st.just(b"D\0\x0f\xff\xff")


@st.composite
def damaged(draw: st.DrawFn) -> tuple[list[Record], list[Record], bytes]:
    """Records; those of them that no damage touched; and the segment that they were in."""
    records: list[Record] = draw(_RECORDS)
    whole, parts = [], []
    for record in records:
        written = frame(*record)
        kind = draw(st.sampled_from(["keep", "keep", "flip", "garbage", "cut", "drop", "double"]))
        if kind == "flip":
            bit = draw(st.integers(8, 8 * len(written) - 1))  # beyond its kind, which the sinks check
            written = (int.from_bytes(written, "big") ^ 1 << (8 * len(written) - 1 - bit)).to_bytes(len(written), "big")
        elif kind == "garbage":
            written = draw(_GARBAGE) + written
        elif kind == "cut":
            written = written[: draw(st.integers(0, len(written) - 1))]
        elif kind == "drop":
            written = b""
        elif kind == "double":
            written *= 2
        if kind in ("keep", "garbage", "double"):
            whole.append(record)
        parts.append(written)
    return records, whole, b"".join(parts) + draw(st.just(b"") | _GARBAGE)


@fuzzing.bounded(75)
@given(damaged(), st.integers(1, 200))
def _read_damaged(directory: Path, segment: tuple[list[Record], list[Record], bytes], limit: int) -> None:
    records, whole, data = segment
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    path = directory / "0001-a.journal"
    path.write_bytes(data)
    reader = SegmentReader(path)
    found: list[Record] = []
    while not reader.is_finished():
        read, end = reader.read(limit)
        found += read
        assert end > reader.drained or not read
        reader.drained = max(end, reader.drained)
    reader.close()
    assert all(record in records for record in found), "no record that was not written"
    assert [record for record in dict.fromkeys(found) if record in whole] == list(dict.fromkeys(whole)), "none is lost"
    set_aside = sum(file.stat().st_size for file in directory.glob("*.damaged"))
    assert set_aside + sum(len(frame(*record)) for record in found) == len(data), "every byte is accounted for"


def test_damaged_segments(tmp_path: Path) -> None:
    _read_damaged(tmp_path / "spool")


@fuzzing.bounded(50)
@given(st.binary(max_size=200), st.sampled_from([b"A", b"D", b"E", b"Z"]))
def test_records_of_any_content(payload: bytes, kind: bytes) -> None:
    """As after damage that a checksum does not show: understood, or refused with a reason."""
    for decode in (decode_decision, decode_event):
        with contextlib.suppress(ValueError):
            decode((kind, payload))


async def test_a_drain_of_damaged_segments_counts_what_is_whole_and_nothing_else(
    router: Router, database: Database, tmp_path: Path
) -> None:
    """Damage at 200 places, and 400 sound records of damaged content: genuine events count once, and evidence is theirs."""
    await router.run()
    rng = random.Random(20)
    spool = tmp_path / "another"
    journal, feedback = Journal(spool), FeedbackSpool(spool)
    codec = await load_codec(database)
    for number in range(60):
        append(journal, codec, number)
    ids = [(await router.route(unit_id=f"{n}")).decision_id for n in range(60)]
    at_us = int(datetime.now(UTC).timestamp() * 1e6)
    feedback.extend((event(id, 1.0, event_id="genuine").SerializeToString(), at_us) for id in ids)
    await feedback.sync()
    journal.close()
    feedback.close()
    originals = {path: path.read_bytes() for path in [*spool.glob("*.journal"), *spool.glob("*.events")]}
    assert len(originals) == 2
    for path, data in originals.items():
        records, _ = frames(data)
        for n in range(100):
            hurt = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                start = rng.randrange(len(hurt))
                hurt[start : start + rng.choice([0, 1, 1, 40])] = rng.randbytes(rng.choice([0, 1, 1, 40]))
            path.with_name(f"{n:020d}-hurt{path.suffix}").write_bytes(
                hurt[: rng.choice([len(hurt), rng.randrange(len(hurt))])]
            )
        changed = bytearray()
        for _ in range(200):
            kind, payload = rng.choice(records)
            content = bytearray(payload)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            changed += frame(
                rng.choice([kind, b"Z"]), bytes(content[: rng.choice([len(content), rng.randint(1, len(content))])])
            )
        path.with_name(f"{200:020d}-changed{path.suffix}").write_bytes(changed)
    sinks = [
        DecisionSink(DecisionWriter(database)),
        EventSink(
            EventWriter(database),
            codec,
            reload_codec=lambda: load_codec(database),
            definitions=PolicyReader(database).definitions,
            announce=lambda moved: None,
        ),
    ]
    drainer = Drainer(spool, sinks, rng=rng)
    drainer.start()
    await drainer.stop(timeout_s=60)
    assert not [*spool.glob("*.journal"), *spool.glob("*.events")], "nothing is stuck"
    assert [*spool.glob("*.damaged")]
    assert drainer.refused > 50
    assert [*spool.glob("*.refused")]
    assert await scalar(router.url, "SELECT count(*) FROM events WHERE event_id = 'genuine'") == 60
    # Tokens are signed, so an event that damage changed is still about a decision of ours: one outcome for each at most.
    assert await scalar(router.url, "SELECT sum(n)::int8 FROM evidence") == 60
    stored = await query(router.url, "SELECT count(*) FROM decisions WHERE request_id ~ '^[0-9]+$' AND request_id::int < 60")
    assert stored[0][0] >= 60
    await assert_replay_agrees(router.url)
    assert (await router.route()).decision_id


# The saved copy


def _copy(path: Path) -> bytes:
    path.parent.mkdir(parents=True)
    with contextlib.closing(SavedFile(path)) as file, file.transaction():
        file.save_origin(Origin(UUID(int=7), "127.0.0.1:1/name", needed_revision(), datetime.now(UTC)))
        file.save_keys([TokenKey(1, bytes(32))])
    return path.read_bytes()


def test_a_damaged_saved_copy_is_an_error_that_says_so(tmp_path: Path) -> None:
    """With Postgres away, a start reads the copy: it succeeds, or ends in the one error that a start may end in."""
    path = tmp_path / "spool" / "deployment" / FILE
    data = _copy(path)
    database = Database(DatabaseUrl.parse("postgresql://nobody@127.0.0.1:1/name"))
    kinds = ["flip", "flip", "flip", "cut", "zeros", "noise", "empty"]

    @fuzzing.bounded(30)
    @given(st.sampled_from(kinds), st.integers(0, len(data) - 1), st.integers(1, 2000), st.binary(min_size=1, max_size=300))
    def start(kind: str, at: int, length: int, noise: bytes) -> None:
        hurt = bytearray(data)
        if kind == "flip":
            hurt[at] ^= 1 << length % 8
        elif kind == "cut":
            del hurt[at:]
        elif kind == "zeros":
            hurt[at : at + length] = bytes(len(hurt[at : at + length]))
        elif kind == "noise":
            hurt[at : at + len(noise)] = noise
        else:
            hurt.clear()
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(hurt)
        with contextlib.suppress(StorageError):
            asyncio.run(find_deployment(database, tmp_path / "spool"))

    start()


# The record of the embedded server

_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
_FIELDS = st.dictionaries(st.sampled_from(["port", "pid", "url", "analyst_url", "x"]), _JSON, max_size=5)


@fuzzing.bounded(50)
@given(st.binary(max_size=60) | (_FIELDS | _JSON).map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 100_000))
def _read_record(directory: Path, content: bytes) -> None:
    (directory / RECORD).write_bytes(content)
    try:
        record = read_record(directory)
    except EmbeddedPostgresError:
        record = None
    if record is not None:
        types = [type(value) for value in (record.port, record.pid, record.url, record.analyst_url)]
        assert types == [int, int, str, str]


def test_the_record_of_the_embedded_server(tmp_path: Path) -> None:
    _read_record(tmp_path)
    write_record(tmp_path, ServerRecord(1, 2, "u", "a"))
    assert read_record(tmp_path) == ServerRecord(1, 2, "u", "a")


@pytest.mark.parametrize("field", ["port", "pid", "url", "analyst_url"])
def test_a_record_with_a_field_of_another_type_is_not_believed(tmp_path: Path, field: str) -> None:
    good = {"port": 1, "pid": 2, "url": "u", "analyst_url": "a"}
    (tmp_path / RECORD).write_text(json.dumps({**good, field: None}))
    with pytest.raises(EmbeddedPostgresError, match=field):
        read_record(tmp_path)
