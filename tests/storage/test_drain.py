"""The drain: what is in the spool reaches Postgres once, whatever dies, is damaged or goes away in between."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decisions import append
from running import (
    Router,
    assert_replay_agrees,
    event,
    experiment,
    query,
    scalar,
    terminate_others,
    until,
    until_scalar,
)

import router
from router.drain import Drainer
from router.feedback_spool import FeedbackSpool
from router.journal import Journal
from router.sinks import DecisionSink, EventSink
from router.spool import frame, frames
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import StorageUnavailableError
from router.storage.reader import PolicyReader
from router.storage.token_keys import load_codec
from router.storage.writer import DecisionWriter, EventWriter
from router.tokens import TokenCodec, TokenKey
from router.v1 import types_pb2

ROOT = Path(router.__file__).parents[1]
COUNT = "SELECT count(*) FROM decisions"
EVENTS = "SELECT count(*) FROM events"


@pytest.fixture
async def codec(database: Database) -> TokenCodec:
    return await load_codec(database)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "a-deployment"


@pytest.fixture
def make_journal(spool: Path) -> Iterator[Callable[..., Journal]]:
    made: list[Journal] = []

    def make(**limits: int) -> Journal:
        made.append(Journal(spool, **limits))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


@pytest.fixture
async def drain(database: Database, codec: TokenCodec, spool: Path) -> AsyncIterator[Callable[..., Drainer]]:
    """Starts drains of the spool; they end with the test."""
    made: list[Drainer] = []

    def start(**changed: Any) -> Drainer:
        made.append(drainer_of(database, codec, spool, **changed))
        made[-1].start()
        return made[-1]

    yield start
    for drainer in made:
        await drainer.stop()


def drainer_of(
    database: Database, codec: TokenCodec, spool: Path, decisions: Any = None, events: Any = None, moved: Any = None
) -> Drainer:
    sinks = [
        DecisionSink(decisions or DecisionWriter(database)),
        EventSink(
            events or EventWriter(database),
            codec,
            reload_codec=lambda: load_codec(database),
            definitions=PolicyReader(database).definitions,
            announce=moved or (lambda incarnations: None),
        ),
    ]
    return Drainer(spool, sinks, rng=random.Random(1))


def put(path: Path, data: bytes) -> None:
    """Have a segment appear as a whole: a drain takes one without a lock as complete."""
    path.with_suffix(".copy").write_bytes(data)
    path.with_suffix(".copy").rename(path)


def segments(spool: Path, suffix: str = ".journal") -> list[Path]:
    """The files of a spool that end so, oldest first."""
    return sorted(spool.glob(f"*{suffix}"))


async def codec_of(url: str) -> TokenCodec:
    database = Database(DatabaseUrl.parse(url))
    try:
        return await load_codec(database)
    finally:
        await database.dispose()


async def stored_requests(url: str) -> list[int]:
    return [number for (number,) in await query(url, "SELECT request_id::int FROM decisions ORDER BY 1")]


# Decisions


async def test_what_is_appended_is_stored_soon_and_the_segment_goes_with_its_writer(
    database_url: str, make_journal, drain, codec, spool: Path
) -> None:
    drainer = drain()
    journal = make_journal()
    for number in range(100):
        append(journal, codec, number, version=1 + number // 50)
    await until_scalar(database_url, COUNT, 100)
    await until(lambda: drainer.undrained_bytes == 0, "all is drained")
    rows = await query(
        database_url,
        "SELECT arm, propensity, d.policy_version, reason, unit_id, request_id, session_id, segment, prompt_similarity,"
        " decision_day = decided_at::date, extract(epoch FROM decided_at) * 1e6, arms, probabilities"
        " FROM decisions d JOIN allocations USING (allocation_id) ORDER BY decided_at",
    )
    third = float(np.float64(1 / 3))
    assert rows == [
        (
            *(n % 3, 1 / 3, 1 + n // 50, "sampled", f"ünit-{n}", str(n), "", "", None, True),
            *(1_790_000_000_000_000 + n, [0, 1, 2], [third] * 3),
        )
        for n in range(100)
    ]
    assert len(segments(spool)) == 1
    journal.close()
    await until(lambda: segments(spool, "") == [], "the segment is removed")


async def test_an_open_segment_is_drained_within_a_fraction_of_a_second_though_it_was_idle(
    database_url: str, make_journal, drain, codec
) -> None:
    drain()
    journal = make_journal()
    append(journal, codec, 0)
    await until_scalar(database_url, COUNT, 1)
    await asyncio.sleep(2)  # long enough to be polled less often
    append(journal, codec, 1)

    async def stored() -> bool:
        return bool(await scalar(database_url, COUNT) == 2)

    assert await until(stored, "it is stored") < 1.0, "about 0.1 s, and a busy machine"


async def test_segments_rotate_and_go_once_they_are_drained(
    database_url: str, make_journal, drain, codec, spool: Path
) -> None:
    journal = make_journal(segment_bytes=4_096)
    for number in range(200):
        append(journal, codec, number)
    assert len(segments(spool)) > 5
    drain()
    await until_scalar(database_url, COUNT, 200)
    await until(lambda: len(segments(spool)) == 1, "only the open segment stays")
    assert await scalar(database_url, "SELECT count(*) FROM decision_log") == 0, "there is no such experiment"
    assert await scalar(database_url, "SELECT count(*) FROM allocations") == 1


async def test_a_stop_stores_what_is_there(database_url: str, make_journal, database, codec, spool: Path) -> None:
    journal = make_journal(segment_bytes=4_096)
    for number in range(200):
        append(journal, codec, number)
    journal.close()
    drainer = drainer_of(database, codec, spool)
    drainer.start()
    await drainer.stop()
    assert await scalar(database_url, COUNT) == 200
    assert segments(spool, "") == []


async def test_a_segment_that_was_drained_may_be_drained_again(
    database_url: str, make_journal, drain, codec, spool: Path
) -> None:
    journal = make_journal()
    for number in range(20):
        append(journal, codec, number)
    (path,) = segments(spool)
    copy = path.read_bytes()
    journal.close()
    drain()
    await until(lambda: not path.exists(), "it is drained")
    again = Journal(spool)
    for number in range(15, 30):
        append(again, codec, number)
    again.close()
    put(path, copy)
    await until(lambda: segments(spool) == [], "the copy is drained and removed")
    assert await stored_requests(database_url) == list(range(30))


@pytest.mark.parametrize("cut", [1, 4, 8, 20])
async def test_a_torn_tail_is_dropped_and_all_before_it_kept(
    database_url: str, make_journal, drain, codec, spool: Path, cut: int
) -> None:
    journal = make_journal()
    for number in range(20):
        append(journal, codec, number)
    (path,) = segments(spool)
    journal.close()
    os.truncate(path, path.stat().st_size - cut)
    drain()
    await until_scalar(database_url, COUNT, 19)
    await until(lambda: not path.exists(), "the torn segment is removed")
    assert len(segments(spool, ".damaged")) == 1


async def test_a_damaged_record_costs_itself_alone_and_is_set_aside(
    database_url: str, make_journal, drain, codec, spool: Path
) -> None:
    journal, ends = make_journal(), []
    for number in range(20):
        append(journal, codec, number)
        ends.append(segments(spool)[0].stat().st_size)
    (path,) = segments(spool)
    journal.close()
    data = bytearray(path.read_bytes())
    data[ends[9] - 3] ^= 0xFF  # within the tenth record
    path.write_bytes(data)
    drain()
    live = make_journal()
    append(live, codec, 100)
    await until_scalar(database_url, COUNT, 20)
    await until(lambda: not path.exists(), "the segment is removed")
    assert await stored_requests(database_url) == [*range(9), *range(10, 20), 100]
    (kept,) = segments(spool, ".damaged")
    assert kept.read_bytes() == data[ends[8] : ends[9]]


async def test_a_decision_needs_no_key_to_be_stored(database_url: str, make_journal, drain, codec) -> None:
    """One that another replica made later, or that is gone: the segment is the router's own."""
    journal = make_journal()
    append(journal, codec, 1)
    append(journal, TokenCodec(TokenKey(1, bytes(32)), {}), 2)
    drain()
    await until_scalar(database_url, COUNT, 2)


async def test_records_that_postgres_refuses_are_set_aside_and_hold_up_no_other(
    database_url: str, make_journal, drain, codec, spool: Path, caplog
) -> None:
    journal = make_journal()
    refused = (3, 7, 8)
    for number in range(60):
        # What the table does not take, and what its types do not.
        wrong = {"propensity": 0.0} if number == 3 else {"arm": 40_000} if number == 7 else {"incarnation": (1 << 64) - 1}
        append(journal, codec, number, **(wrong if number in refused else {}))
    drainer = drain()
    await until_scalar(database_url, COUNT, 57)
    journal._writer.append(frame(b"Z", b"of a newer version"))
    append(journal, codec, 60)
    await until_scalar(database_url, COUNT, 58)
    journal.close()
    await until(lambda: segments(spool) == [], "the segment is removed")
    assert await stored_requests(database_url) == [number for number in range(61) if number not in refused]
    assert drainer.refused == 4
    (kept,) = segments(spool, ".refused")
    assert [kind for kind, _ in frames(kept.read_bytes())[0]] == [b"D", b"D", b"D", b"Z"]
    assert "will never be stored and are kept in" in caplog.text


async def test_what_was_set_aside_is_a_segment_that_can_be_put_back(
    database_url: str, make_journal, drain, codec, spool: Path
) -> None:
    await query(database_url, "ALTER TABLE decisions ADD CONSTRAINT mistaken CHECK (request_id <> '5')")
    journal = make_journal()
    for number in range(10):
        append(journal, codec, number)
    journal.close()
    drain()
    await until_scalar(database_url, COUNT, 9)
    await query(database_url, "ALTER TABLE decisions DROP CONSTRAINT mistaken")
    await until(lambda: segments(spool) == [], "the rest is drained")
    (kept,) = segments(spool, ".refused")
    kept.rename(kept.with_suffix(""))
    await until_scalar(database_url, COUNT, 10)


async def test_a_privilege_that_is_missing_is_waited_for(database_url: str, make_journal, drain, codec, spool: Path) -> None:
    """It says nothing about the records, so none is set aside."""
    await query(database_url, "ALTER TABLE decisions RENAME TO elsewhere")
    journal = make_journal()
    append(journal, codec, 1)
    drainer = drain()
    await asyncio.sleep(0.5)
    assert drainer.undrained_bytes
    await query(database_url, "ALTER TABLE elsewhere RENAME TO decisions")
    await until_scalar(database_url, COUNT, 1)
    assert segments(spool, ".refused") == []


async def test_a_partition_that_was_dropped_is_made_again(database_url: str, make_journal, drain, codec, spool) -> None:
    journal = make_journal()
    append(journal, codec, 1)
    drain()
    await until_scalar(database_url, COUNT, 1)
    ((name,),) = await query(
        database_url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'decisions'::regclass"
    )
    await query(database_url, f"DROP TABLE {name}")
    append(journal, codec, 2)
    await until_scalar(database_url, COUNT, 1)
    assert segments(spool, ".refused") == []


async def test_decisions_repeated_by_their_request_id_are_stored_once(database_url: str, make_journal, drain, codec) -> None:
    drain()
    journals = [make_journal() for _ in range(3)]
    for number in range(50):
        for journal in journals:
            append(journal, codec, number)
        if number % 10 == 0:
            await until_scalar(database_url, COUNT, number + 1)
    await until_scalar(database_url, COUNT, 50)


async def test_a_long_backlog_drains_in_bounded_memory_and_new_segments_wait_their_turn(
    database_url: str, make_journal, drain, codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    real = DecisionSink.store

    async def store(self: DecisionSink, records: Any) -> Any:
        nonlocal largest
        largest = max(largest, sum(len(payload) for _, payload in records))
        return await real(self, records)

    monkeypatch.setattr(DecisionSink, "store", store)
    journal = make_journal(segment_bytes=200_000)
    for number in range(10_000):
        append(journal, codec, number, flush=number % 500 == 499)
    journal.close()
    drainer = drain()
    assert drainer.oldest_s >= 0
    await until_scalar(database_url, COUNT, 10_000)
    assert 300_000 < largest < 600_000
    assert drainer.oldest_s == 0


# Outages


async def test_what_waits_for_postgres_drains_by_itself(stoppable, stoppable_url: str, spool: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    database = Database(DatabaseUrl.parse(stoppable_url))
    codec = await load_codec(database)
    journal = Journal(spool)
    drainer = drainer_of(database, codec, spool)
    drainer.start()
    append(journal, codec, 1)
    await until_scalar(stoppable_url, COUNT, 1)
    stoppable.stop()
    for number in range(2, 40):
        append(journal, codec, number)
    await until(lambda: "decisions wait in the spool" in caplog.text, "it is said")
    assert drainer.undrained_bytes > 0
    await until(lambda: drainer.oldest_s > 0.5, "they grow old")
    stoppable.start()
    await until_scalar(stoppable_url, COUNT, 39)
    await until(lambda: "decisions flow from the spool again" in caplog.text, "it is said")
    assert caplog.text.count("decisions wait in the spool") == 1
    journal.close()
    await drainer.stop()
    await database.dispose()


async def test_attempts_are_few_while_postgres_is_away(database_url: str, make_journal, drain, codec) -> None:
    attempts: list[float] = []

    class Away:
        async def store(self, allocations: Any, decisions: Any) -> None:
            attempts.append(asyncio.get_running_loop().time())
            raise StorageUnavailableError("away")

        async def close(self) -> None: ...

    journal = make_journal()
    append(journal, codec, 1)
    drain(decisions=Away())
    await until(lambda: len(attempts) == 5, "five attempts")
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    for pause, longest in zip(pauses, (0.25, 0.5, 1.0, 2.0), strict=True):
        assert longest / 2 <= pause < longest + 0.5


async def test_connections_that_are_cut_lose_nothing(database_url: str, make_journal, drain, codec) -> None:
    drain()
    journal = make_journal()
    for number in range(300):
        append(journal, codec, number)
        if number % 60 == 0:
            await terminate_others(database_url)
            await asyncio.sleep(0.02)
    await until_scalar(database_url, COUNT, 300)


# Events


@pytest.fixture
def make_spool(spool: Path) -> Iterator[Callable[..., FeedbackSpool]]:
    made: list[FeedbackSpool] = []

    def make(**limits: int) -> FeedbackSpool:
        made.append(FeedbackSpool(spool, **limits))
        return made[-1]

    yield make
    for feedback in made:
        feedback.close()


RECEIVED_US = 1_790_000_000_123_456


async def decisions_of(router: Router, count: int) -> list[str]:
    return [(await router.route(unit_id=str(number))).decision_id for number in range(count)]


async def test_spooled_events_are_applied_once_with_their_time_of_receipt(
    router: Router, make_spool, drain, spool: Path
) -> None:
    await router.run()
    decisions = await decisions_of(router, 20)
    events = [event(decision, 1.0, event_id=f"e-{n}").SerializeToString() for n, decision in enumerate(decisions)]
    feedback = make_spool()
    feedback.append(events[0], RECEIVED_US)
    feedback.extend((request, RECEIVED_US + n) for n, request in enumerate(events[1:], 1))
    feedback.extend((request, RECEIVED_US + 1_000) for request in events)
    await feedback.sync()
    await router.reward(decisions[0], 1.0, event_id="e-0")
    moved: list[int] = []
    drainer = drain(moved=moved.extend)
    await until_scalar(router.url, EVENTS, 20)
    await until(lambda: drainer.undrained_bytes == 0, "all is drained")
    rows = await query(
        router.url,
        "SELECT event_id, (extract(epoch FROM received_at) * 1e6)::bigint FROM events WHERE event_id <> 'e-0' ORDER BY 2",
    )
    assert rows == [(f"e-{n}", RECEIVED_US + n) for n in range(1, 20)]
    assert len(set(moved)) == 1
    arms = await router.arms()
    assert sum(arm.n for arm in arms.values()) == 20
    feedback.close()
    await until(lambda: segments(spool, ".events") == [], "the segment is removed")
    await assert_replay_agrees(router.url)


async def test_the_rule_of_the_decision_applies_though_it_changed_since(
    router: Router, make_spool, drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    await router.run()
    reads: list[int] = []
    real = PolicyReader.definitions

    async def definitions(self: PolicyReader, incarnations: Any) -> Any:
        reads.append(len(incarnations))
        return await real(self, incarnations)

    monkeypatch.setattr(PolicyReader, "definitions", definitions)
    feedback = make_spool()
    drain()
    old = (await router.route(eligible_arm_ids=["a"])).decision_id
    feedback.append(event(old, signal=types_pb2.SIGNAL_THUMBS_UP).SerializeToString(), RECEIVED_US)
    await until_scalar(router.url, EVENTS, 1)
    await router.update(experiment(signals={types_pb2.SIGNAL_THUMBS_UP: 0.25}, arms=("a", "b", "c")))
    new = (await router.route(eligible_arm_ids=["c"])).decision_id
    for decision, name in ((old, "later"), (new, "new"), (new, "newer")):
        feedback.append(event(decision, signal=types_pb2.SIGNAL_THUMBS_UP, event_id=name).SerializeToString(), RECEIVED_US)
    await until_scalar(router.url, EVENTS, 4)
    rows = dict(await query(router.url, "SELECT event_id, reward_micros FROM events WHERE event_id ~ '^[ln]'"))
    assert rows == {"later": 1_000_000, "new": 250_000, "newer": 250_000}
    assert reads == [1, 1], "once each time that a token is newer than what is known"


async def test_an_event_that_can_never_count_is_set_aside_loudly_and_holds_up_no_other(
    router: Router, make_spool, drain, spool: Path, caplog
) -> None:
    await router.run()
    good, gone = await decisions_of(router, 2)
    key = await codec_of(router.url)
    foreign = TokenCodec(TokenKey(1, bytes(32)), {})
    unknown, _ = key.mint(key.open(gone)._replace(incarnation=12345))
    requests = [
        event(good, 1.0, event_id="good"),
        event(unknown, 1.0, event_id="its experiment is gone"),
        event(foreign.mint(key.open(gone))[0], 1.0, event_id="forged"),
        event(gone[:-1] + ("A" if gone[-1] != "A" else "Q"), 1.0, event_id="altered"),
        event(gone, event_id="says nothing"),
        event(gone, 1.0, event_id="good too"),
    ]
    feedback = make_spool()
    feedback.extend((request.SerializeToString(), RECEIVED_US) for request in requests)
    feedback._writer.append(frame(b"R", b"\x01 no event"))
    drainer = drain()
    await until_scalar(router.url, EVENTS, 2)
    await until(lambda: drainer.undrained_bytes == 0, "all is drained")
    assert drainer.refused == 5
    (kept,) = segments(spool, ".events.refused")
    assert len(frames(kept.read_bytes())[0]) == 5
    assert "its experiment is no longer in the database" in caplog.text
    assert "signed by another deployment" in caplog.text


async def test_a_key_that_another_replica_made_meanwhile_is_found(router: Router, make_spool, drain) -> None:
    await router.run()
    (decision,) = await decisions_of(router, 1)
    feedback = make_spool()
    drain()
    feedback.append(event(decision, 1.0).SerializeToString(), RECEIVED_US)
    await until_scalar(router.url, EVENTS, 1)
    newer = TokenKey(77, bytes(range(32)))
    await query(router.url, "INSERT INTO token_keys (key_id, secret) VALUES (%s, %s)", newer.key_id, newer.secret)
    opened = (await codec_of(router.url)).open(decision)
    by_newer, _ = TokenCodec(newer, {}).mint(opened)
    feedback.append(event(by_newer, 1.0).SerializeToString(), RECEIVED_US)
    await until_scalar(router.url, EVENTS, 2)


async def test_events_that_are_stuck_hold_up_no_decisions(database_url: str, make_journal, make_spool, drain, codec) -> None:
    class Stuck:
        async def apply(self, rows: Any) -> Any:
            await asyncio.Event().wait()

        async def close(self) -> None: ...

    make_spool().append(b"", RECEIVED_US)
    journal = make_journal()
    drain(events=Stuck())
    append(journal, codec, 1)
    await until_scalar(database_url, COUNT, 1)


# Processes

DECIDING_PROCESS = """
import asyncio, sys
sys.path.insert(0, {support!r})
from running import Router
from pathlib import Path

async def main(url, spool):
    router = await Router.start(url, Path(spool), keeper=False)
    number = 0
    while True:
        reply = await router.route(unit_id=f"u-{{number}}")
        print(reply.decision_id, flush=True)
        number += 1

asyncio.run(main(*sys.argv[1:]))
"""

KEEPING_PROCESS = """
import asyncio, sys
from router.keeper import Keeper
from router.settings import WorkerSettings

async def main(url, spool):
    keeper = Keeper(WorkerSettings(host="127.0.0.1", port=0, database_url=url, spool_dir=spool))
    await keeper.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def spawn(script: str, *arguments: str | Path, output: Path) -> subprocess.Popen[bytes]:
    with output.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=file,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


async def test_kill_9_of_writers_and_keepers_loses_and_doubles_no_answered_decision(
    database_url: str, start_router, tmp_path: Path
) -> None:
    """Two processes decide, two others drain their spool at the same time; all of them are killed, some of them twice."""
    survivor = await start_router(database_url, keeper=False)
    await survivor.run()
    deciding = DECIDING_PROCESS.format(support=str(ROOT / "tests" / "support"))
    answers = [tmp_path / f"answers-{n}" for n in range(2)]
    arguments = (database_url, tmp_path / "spool")
    writers = [spawn(deciding, *arguments, output=path) for path in answers]
    keepers = [spawn(KEEPING_PROCESS, *arguments, output=tmp_path / f"keeper-{n}") for n in range(2)]
    try:
        for path in answers:
            await until(lambda path=path: path.read_text().count("\n") > 200, "200 answers", 60)
        kill(keepers[0])
        keepers[0] = spawn(KEEPING_PROCESS, *arguments, output=tmp_path / "keeper-again")
        for path in answers:
            await until(lambda path=path: path.read_text().count("\n") > 400, "400 answers", 60)
    finally:
        for process in (*writers, *keepers):
            kill(process)
    lines = [line for path in answers for line in path.read_text().split("\n")[:-1]]
    codec = await codec_of(database_url)
    answered = {codec.open(line).decision_key for line in lines}
    assert len(answered) == len(lines)
    await start_router(database_url)

    async def all_stored() -> bool:
        keys = {key.bytes for (key,) in await query(database_url, "SELECT decision_key FROM decisions")}
        return keys >= answered

    await until(all_stored, "every answered decision is in the log")
    stored = await scalar(database_url, COUNT)
    assert len(answered) <= stored <= len(answered) + 2, "at most the answers that were under way come on top"
    (spool,) = (path for path in (tmp_path / "spool").iterdir() if path.is_dir())
    await until(lambda: len(segments(spool)) == 2, "the segments of the dead are gone, those of the two routers stay")


async def test_two_keepers_that_drain_the_same_segments_are_harmless(
    database_url: str, make_journal, make_spool, start_router, tmp_path: Path
) -> None:
    """As processes, on decisions and on events, from the same moment on."""
    world = await start_router(database_url, keeper=False)
    await world.run()
    (spool,) = (path for path in (tmp_path / "spool").iterdir() if path.is_dir())
    decisions = await decisions_of(world, 300)
    feedback = FeedbackSpool(spool, segment_bytes=5_000)
    feedback.extend(
        (event(decision, 1.0, event_id="e").SerializeToString(), RECEIVED_US + n) for n, decision in enumerate(decisions)
    )
    feedback.close()
    saved = tmp_path / "saved"
    shutil.copytree(spool, saved)
    keepers = [spawn(KEEPING_PROCESS, database_url, tmp_path / "spool", output=tmp_path / f"keeper-{n}") for n in range(2)]
    try:
        await until_scalar(database_url, COUNT, 300)
        await until_scalar(database_url, EVENTS, 300)
        for path in saved.glob("*.events"):
            put(spool / f"again-{path.name}", path.read_bytes())
        await until(lambda: segments(spool, ".events")[:1] == segments(spool, ".events"), "they are drained again", 30)
    finally:
        for process in keepers:
            kill(process)
    assert await scalar(database_url, "SELECT sum(n) FROM evidence") == 300
    await assert_replay_agrees(database_url)
    assert segments(spool, ".refused") == []
