"""The decision journal: what was answered reaches Postgres once, whatever dies, fills up or is damaged in between."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from running import query, scalar, until, until_scalar

import router
from bandit.allocation import AllocationKind, AllocationRule
from router.errors import ResourceExhaustedError
from router.experiment import Arm, Definition, Rules
from router.journal import Journal
from router.policy import Policy, compile_policy
from router.storage.database import Database, DatabaseUrl
from router.storage.token_keys import load_codec
from router.storage.writer import Writer
from router.tokens import DecisionToken, TokenCodec, TokenKey
from router.v1 import routing_pb2

ROOT = Path(router.__file__).parents[1]


def policy(version: int = 1) -> Policy:
    arms = tuple(Arm(n, f"arm-{n}", 1, "", "", False, {}, None, None, True) for n in range(3))
    rule = AllocationRule(AllocationKind.UNIFORM, 0.0, (1.0,) * 3)
    now = datetime.now(UTC)
    definition = Definition(
        7, "x", "", "running", "", arms, {}, {}, {}, Rules(rule, (1.0, 1.0), "per_request", None), 1, {}, None, now, now, 1
    )
    return compile_policy(definition, version, {})


def token(number: int, **fields: object) -> DecisionToken:
    value = DecisionToken(
        incarnation=7,
        decision_key=number.to_bytes(16, "big"),
        arm=number % 3,
        reward_rule_version=1,
        learned=True,
        policy_version=1,
        propensity=1 / 3,
        decided_at_us=1_790_000_000_000_000 + number,
        unit_hash=bytes(8),
        session_hash=bytes(8),
        turn_hash=bytes(8),
        segment="",
    )
    return replace(value, **fields)  # type: ignore[arg-type]


def append(journal: Journal, codec: TokenCodec, number: int, version: int = 1, **fields: object) -> None:
    _, raw = codec.mint(token(number, policy_version=version, **fields))
    current = policy(version)
    assert current.everyone is not None
    request = routing_pb2.RouteRequest(experiment_id="x", unit_id=f"ünit-{number}", request_id=str(number))
    journal.append(raw, routing_pb2.REASON_SAMPLED, current.everyone, current, request)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.journal"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseUrl.parse(database_url))
    yield database
    await database.dispose()


@pytest.fixture
async def codec(database: Database) -> TokenCodec:
    return await load_codec(database)


@pytest.fixture
async def journals(database: Database, codec: TokenCodec, tmp_path: Path):
    """Makes journals of one directory; those not stopped by the test are stopped with it."""
    made: list[Journal] = []

    def make(**limits: int) -> Journal:
        journal = Journal(tmp_path / "spool", Writer(database), codec, **limits)
        made.append(journal)
        return journal

    yield make
    for journal in made:
        await journal.stop()


COUNT = "SELECT count(*) FROM decisions"


async def test_what_is_appended_is_stored_and_the_segment_removed(database_url: str, journals, codec, tmp_path: Path):
    journal = journals()
    journal.start()
    for number in range(100):
        append(journal, codec, number, version=1 + number // 50)
    await until_scalar(database_url, COUNT, 100)
    assert await until(lambda: journal.undrained_bytes == 0, "all is drained") is not None
    rows = await query(
        database_url,
        "SELECT arm, propensity, d.policy_version, reason, unit_id, request_id, arms, probabilities"
        " FROM decisions d JOIN allocations USING (allocation_id) ORDER BY decided_at",
    )
    third = float(np.float64(1 / 3))
    assert rows == [(n % 3, 1 / 3, 1 + n // 50, "sampled", f"ünit-{n}", str(n), [0, 1, 2], [third] * 3) for n in range(100)]
    await journal.stop()
    assert list((tmp_path / "spool").iterdir()) == []


async def test_segments_rotate_and_go_once_they_are_drained(database_url: str, journals, codec, tmp_path: Path):
    journal = journals(segment_bytes=4_096)
    for number in range(200):
        append(journal, codec, number)
    assert len(segments(tmp_path / "spool")) > 5
    journal.start()
    await until_scalar(database_url, COUNT, 200)
    await until(lambda: len(segments(tmp_path / "spool")) == 1, "only the open segment stays")
    assert await scalar(database_url, "SELECT count(*) FROM decision_log") == 0, "there is no such experiment"
    assert await scalar(database_url, "SELECT count(*) FROM allocations") == 1


async def test_a_stop_drains(database_url: str, journals, codec):
    journal = journals()
    for number in range(10):
        append(journal, codec, number)
    await journal.stop()
    assert await scalar(database_url, COUNT) == 10


async def test_a_journal_that_was_drained_may_be_drained_again(database_url: str, journals, codec, tmp_path: Path):
    first = journals()
    for number in range(20):
        append(first, codec, number)
    (path,) = segments(tmp_path / "spool")
    copy = path.read_bytes()
    await first.stop()
    path.write_bytes(copy)
    second = journals()
    second.start()
    await until(lambda: not path.exists(), "the copy is drained and removed")
    assert await scalar(database_url, COUNT) == 20


async def test_two_processes_never_adopt_a_live_segment(database_url: str, journals, codec, tmp_path: Path):
    one = journals()
    append(one, codec, 1)
    (live,) = segments(tmp_path / "spool")
    two = journals()
    two.start()
    append(two, codec, 2)
    await until_scalar(database_url, COUNT, 1)
    assert live.exists()
    assert await query(database_url, "SELECT request_id FROM decisions") == [("2",)]
    append(one, codec, 3)
    one.start()
    await until_scalar(database_url, COUNT, 3)


@pytest.mark.parametrize("cut", [1, 4, 8, 20])
async def test_a_torn_tail_is_dropped_and_all_before_it_kept(database_url: str, journals, codec, tmp_path: Path, cut: int):
    first = journals()
    for number in range(20):
        append(first, codec, number)
    (path,) = segments(tmp_path / "spool")
    data = path.read_bytes()
    await first.stop()
    await query(database_url, "DELETE FROM decisions")
    path.write_bytes(data[:-cut])
    journals().start()
    await until_scalar(database_url, COUNT, 19)
    await until(lambda: not path.exists(), "the torn segment is removed")


async def test_a_damaged_record_costs_itself_alone_and_is_set_aside(database_url: str, journals, codec, tmp_path: Path):
    first = journals()
    ends = []
    for number in range(20):
        append(first, codec, number)
        (path,) = segments(tmp_path / "spool")
        ends.append(path.stat().st_size)
    data = bytearray(path.read_bytes())
    await first.stop()
    await query(database_url, "DELETE FROM decisions")
    data[ends[9] - 3] ^= 0xFF  # within the tenth record
    path.write_bytes(data)
    second = journals()
    second.start()
    append(second, codec, 100)
    await until_scalar(database_url, COUNT, 20)
    await until(lambda: not path.exists(), "the segment is removed")
    rows = await query(database_url, "SELECT request_id::int FROM decisions ORDER BY 1")
    assert [number for (number,) in rows] == [*range(9), *range(10, 20), 100]
    (kept,) = (tmp_path / "spool").glob("*.damaged")
    assert kept.read_bytes() == data[ends[8] : ends[9]]


async def test_a_record_of_an_unknown_key_holds_up_no_other(database_url: str, journals, codec, tmp_path: Path):
    """A key that another replica made later, or that is gone: its record is passed over, or waits, alone."""
    first = journals()
    strange = TokenCodec(TokenKey(1, bytes(32)), {})
    append(first, codec, 1)
    append(first, strange, 2)
    append(first, codec, 3)
    first.start()
    append(first, codec, 4)
    await until_scalar(database_url, COUNT, 3)


async def test_a_record_that_postgres_refuses_holds_up_no_other(database_url: str, journals, codec):
    journal = journals()
    for number in range(6):
        append(journal, codec, number, **({"propensity": 0.0} if number == 3 else {}))
    journal.start()
    await until_scalar(database_url, COUNT, 5)


async def test_a_segment_that_cannot_be_drained_holds_up_no_other(database_url: str, journals, codec, tmp_path: Path):
    first = journals()
    append(first, TokenCodec(TokenKey(1, bytes(32)), {}), 1)
    (path,) = segments(tmp_path / "spool")
    data = path.read_bytes()
    await first.stop()
    path.write_bytes(data)
    second = journals(segment_bytes=1_000)
    second.start()
    for number in range(2, 30):
        append(second, codec, number)
    await until_scalar(database_url, COUNT, 28)


async def test_a_full_spool_refuses_and_takes_again_once_drained(database_url: str, journals, codec):
    journal = journals(spool_bytes=2_000)
    taken = 0
    while journal.undrained_bytes <= 2_000:
        append(journal, codec, taken)
        taken += 1
    assert 2 < taken < 20
    with pytest.raises(ResourceExhaustedError) as raised:
        append(journal, codec, taken)
    assert raised.value.retry_after_ms
    journal.start()
    await until_scalar(database_url, COUNT, taken)
    await until(lambda: journal.undrained_bytes == 0, "all is drained")
    append(journal, codec, 1_000)
    await until_scalar(database_url, COUNT, taken + 1)


async def test_a_full_disk_refuses_and_what_was_answered_is_whole(database_url: str, journals, codec, tmp_path: Path):
    """The limit on the size of a file stands for the disk: a record is cut short in its middle."""
    journal = journals()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        taken = []
        for number in range(40):
            try:
                append(journal, codec, number)
                taken.append(number)
            except ResourceExhaustedError as error:
                assert error.reason == "OVERLOADED"  # noqa: PT017
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 5 < len(taken) < 40
    (path,) = segments(tmp_path / "spool")
    assert path.stat().st_size <= 3_000
    append(journal, codec, 100)
    journal.start()
    await until_scalar(database_url, COUNT, len(taken) + 1)
    rows = await query(database_url, "SELECT request_id::int FROM decisions ORDER BY 1")
    assert [number for (number,) in rows] == [*taken, 100]


async def test_decisions_wait_for_postgres(stoppable, stoppable_url: str, tmp_path: Path):
    database = Database(DatabaseUrl.parse(stoppable_url))
    codec = await load_codec(database)
    journal = Journal(tmp_path / "spool", Writer(database), codec)
    journal.start()
    append(journal, codec, 1)
    await until_scalar(stoppable_url, COUNT, 1)
    stoppable.stop()
    for number in range(2, 40):
        append(journal, codec, number)
    stoppable.start()
    await until_scalar(stoppable_url, COUNT, 39)
    await journal.stop()
    await database.dispose()


# Processes that die

DECIDING_PROCESS = """
import asyncio, sys
sys.path.insert(0, {support!r})
from running import Router
from pathlib import Path

async def main(url, spool):
    router = await Router.start(url, Path(spool))
    number = 0
    while True:
        reply = await router.route(unit_id=f"u-{{number}}")
        print(reply.decision_id, flush=True)
        number += 1

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_loses_and_doubles_no_answered_decision(database_url: str, start_router, tmp_path: Path):
    survivor = await start_router(database_url)
    await survivor.run()
    script = DECIDING_PROCESS.format(support=str(ROOT / "tests" / "support"))
    answers = [(tmp_path / f"answers-{n}").open("w") for n in range(2)]
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it is only started here
            [sys.executable, "-c", script, database_url, str(tmp_path / "spool")],
            stdout=answers[n],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for n in range(2)
    ]
    try:
        for n in range(2):
            path = tmp_path / f"answers-{n}"
            await until(lambda path=path: path.read_text().count("\n") > 300, "300 answers", 60)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for file in answers:
            file.close()
    lines = [line for n in range(2) for line in (tmp_path / f"answers-{n}").read_text().split("\n")[:-1]]
    codec = await load_codec_of(database_url)
    answered = {codec.open(line).decision_key for line in lines}
    assert len(answered) == len(lines)
    adopter = await start_router(database_url)

    async def all_stored() -> bool:
        keys = {key.bytes for (key,) in await query(database_url, "SELECT decision_key FROM decisions")}
        return keys >= answered

    await until(all_stored, "every answered decision is in the log")
    stored = await scalar(database_url, COUNT)
    assert len(answered) <= stored <= len(answered) + 2, "at most the answers that were under way come on top"
    spool = next(path for path in (tmp_path / "spool").iterdir() if path.is_dir())
    await until(lambda: len(segments(spool)) == 2, "the segments of the dead are gone")
    await adopter.close()


async def load_codec_of(url: str) -> TokenCodec:
    database = Database(DatabaseUrl.parse(url))
    try:
        return await load_codec(database)
    finally:
        await database.dispose()
