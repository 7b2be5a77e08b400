"""Shares of units: exactly so many outcomes of a unit count, in whatever batches and through however many processes."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from growth import (
    BASE_US,
    DAY_US,
    HOUR_US,
    add_experiments,
    day,
    event_connection,
    event_row,
    folded,
    stored_evidence,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import assert_replay_agrees, locked, query, scalar, until_waiting

from bandit.reward import Evidence
from router.storage import maturing
from router.storage.database import Database
from router.storage.events import EventRow, EventStatus, apply_events
from router.storage.partitions import ensure_partitions
from router.storage.retention import drop_expired
from router.storage.shares import ONCE, number_of
from router.storage.writer import EventWriter

SHARE = 3
#: Experiments: the property below takes one for each example, and more while it shrinks one that fails.
EXAMPLES = 1_000


def of_unit(decision: int, day_number: int = 0, event: str = "e", reward: int | None = 1_000_000, **fields: Any) -> EventRow:
    """An event of a decision of a unit, number 1 unless told otherwise."""
    return event_row(decision, day_number, event, reward, **{"unit_hash": 1, "share": SHARE, **fields})


@pytest.fixture
def url(database_url: str) -> str:
    add_experiments(database_url, EXAMPLES, 3)
    return database_url


@pytest.fixture
async def writers(url: str, database: Database):
    writers = [EventWriter(database) for _ in range(2)]
    yield writers
    for writer in writers:
        await writer.close()


async def shares(url: str) -> list[tuple[Any, ...]]:
    return await query(url, "SELECT unit_hash, incarnation, share_day::text, n FROM unit_shares ORDER BY 1, 2, 3")


async def assert_learned(url: str, rows: Sequence[EventRow]) -> None:
    """What was learned is the fold of these events, and the log bears it out."""
    assert await stored_evidence(url) == folded(rows)
    await assert_replay_agrees(url)


def test_a_hash_is_a_number_and_none_is_0():
    assert number_of(bytes(8)) == 0
    assert number_of(b"\x00" * 7 + b"\x01") == 1
    assert number_of(b"\xff" * 8) == -1


# One after the other


async def test_a_unit_counts_up_to_its_share(url: str, writers):
    rows = [of_unit(n, reward=250_000 * (n % 5)) for n in range(8)]
    limited = [(await writers[n % 2].apply([row])).limited for n, row in enumerate(rows)]
    assert limited == [frozenset()] * SHARE + [frozenset({0})] * 5
    await assert_learned(url, rows[:SHARE])
    assert await shares(url) == [(1, 1, str(day(0)), SHARE)]
    assert await scalar(url, "SELECT count(*) FROM outcomes") == SHARE


async def test_a_limited_event_is_kept_and_says_what_it_would_have_been_worth(url: str, writers):
    await writers[0].apply([of_unit(n) for n in range(SHARE)])
    await writers[0].apply([of_unit(7, reward=300_000, details='{"metadata": {"a": "b"}}'), of_unit(8, reward=0)])
    assert await query(
        url, "SELECT reward_micros, status, details FROM events WHERE status <> 'applied' ORDER BY details -> 'metadata'"
    ) == [
        (None, "limited", {"metadata": {"a": "b"}, "reward_micros": 300_000}),
        (None, "limited", {"reward_micros": 0}),
    ]


async def test_corrections_are_free_and_what_is_limited_stays_so(url: str, writers):
    first = [of_unit(n) for n in range(5)]
    assert (await writers[0].apply(first)).limited == {3, 4}
    later = [of_unit(n, event="later", reward=0, occurred_at_us=BASE_US + DAY_US) for n in range(5)]
    result = await writers[1].apply(later)
    assert (result.limited, result.known) == ({3, 4}, frozenset())
    again = await writers[0].apply([*first, *later])
    assert (again.known, again.limited, again.contradictions, again.moved) == (frozenset(range(10)), frozenset(), 0, ())
    await assert_learned(url, [*first[:3], *later[:3]])
    assert await shares(url) == [(1, 1, str(day(0)), SHARE)]


async def test_what_maps_to_no_reward_takes_nothing(url: str, writers):
    neutral = [of_unit(n, reward=None) for n in range(9)]
    late = [of_unit(n, reward=None, event="late", status=EventStatus.LATE) for n in range(9)]
    result = await writers[0].apply([*neutral, *late])
    assert (result.limited, await shares(url)) == (frozenset(), [])
    assert (await writers[0].apply([of_unit(n, event="sent") for n in range(9)])).limited == set(range(SHARE, 9))
    neutral_later = await writers[0].apply([of_unit(8, reward=None, event="call")])
    assert neutral_later.limited == frozenset()
    assert await query(url, "SELECT status, count(*) FROM events GROUP BY 1 ORDER BY 1") == [
        ("applied", 3),
        ("late", 9),
        ("limited", 6),
        ("neutral", 10),
    ]


async def test_units_days_and_experiments_have_shares_of_their_own(url: str, writers):
    rows = [
        of_unit(
            n,
            day_number,
            unit_hash=unit,
            incarnation=incarnation,
            arm=n % 3,
            decision_key=bytes([unit, n, incarnation] + [0] * 13),
        )
        for n in range(SHARE)
        for unit in (1, 2)
        for day_number in (0, 1)
        for incarnation in (1, 2)
    ]
    assert (await writers[0].apply(rows)).limited == frozenset()
    await assert_learned(url, rows)
    assert {n for *_, n in await shares(url)} == {SHARE}
    more = [row._replace(decision_key=row.decision_key[:-1] + b"\1") for row in rows]
    assert (await writers[1].apply(more)).limited == frozenset(range(len(more)))
    await assert_learned(url, rows)


async def test_no_unit_and_no_share_have_no_limit(url: str, writers):
    rows = [of_unit(n, unit_hash=0, share=0) for n in range(20)] + [of_unit(n, unit_hash=5, share=0) for n in range(20, 40)]
    assert (await writers[0].apply(rows)).limited == frozenset()
    await assert_learned(url, rows)
    assert await shares(url) == []


# In one batch


async def test_in_a_batch_decisions_take_their_turns_in_its_order(url: str, writers):
    """Whatever their keys, ranks and times say: the first events of decisions decide."""
    rows = [
        of_unit(5, event="a", reward=None),
        of_unit(4, rank=2),
        of_unit(3, rank=4, occurred_at_us=BASE_US + HOUR_US),
        of_unit(9, unit_hash=2),
        of_unit(2),
        of_unit(4, event="b", rank=4, reward=0),
        of_unit(5, event="b", reward=500_000),
        of_unit(1),
    ]
    assert (await writers[0].apply(rows)).limited == {4, 7}
    await assert_learned(url, [row for n, row in enumerate(rows) if n not in (4, 7)])


async def test_what_a_batch_has_of_decisions_with_an_outcome_takes_no_turn(url: str, writers):
    await writers[0].apply([of_unit(0), of_unit(1)])
    rows = [of_unit(0, event="b", reward=0), of_unit(1, event="b", reward=0), of_unit(2), of_unit(3)]
    assert (await writers[0].apply(rows)).limited == {3}
    assert (await stored_evidence(url))[(1, 0)].n == SHARE
    await assert_replay_agrees(url)


async def test_a_flood_in_one_batch(url: str, writers):
    rows = [of_unit(n % 400, event=f"e{n // 400}") for n in range(4_000)]
    result = await writers[0].apply(rows)
    counted = {n for n in range(4_000) if n % 400 < SHARE}
    assert result.limited == set(range(4_000)) - counted
    await assert_learned(url, [rows[n] for n in sorted(counted)])
    assert await shares(url) == [(1, 1, str(day(0)), SHARE)]


async def test_rules_that_differ_use_the_same_count(url: str, writers):
    assert (await writers[0].apply([of_unit(n) for n in range(4)])).limited == {3}
    assert (await writers[0].apply([of_unit(n, share=5) for n in range(4, 8)])).limited == {2, 3}
    assert (await writers[0].apply([of_unit(n, share=2) for n in range(8, 10)])).limited == {0, 1}
    assert await shares(url) == [(1, 1, str(day(0)), 5)]
    # In one batch those of the smaller share, which are limited, take turns too: never more than any share says.
    mixed = [of_unit(n, unit_hash=2, share=1 if n < 23 else 3) for n in range(20, 26)]
    assert (await writers[0].apply(mixed)).limited == {1, 2, 3, 4, 5}
    assert (await stored_evidence(url))[(1, 0)].n == 6
    await assert_replay_agrees(url)


# Once for good


async def test_a_unit_that_counts_once_counts_once_whatever_the_day(url: str, writers):
    once = [of_unit(n, n % 4, share=ONCE) for n in range(8)]
    assert (await writers[0].apply(once)).limited == set(range(1, 8))
    assert (await writers[0].apply([of_unit(0, 0, "b", 0, share=ONCE)])).limited == frozenset(), "a correction"
    assert (await writers[1].apply([of_unit(20, 6, share=ONCE)])).limited == {0}
    assert (await writers[1].apply([of_unit(21, 6, share=ONCE, unit_hash=2)])).limited == frozenset()
    assert (await writers[1].apply([of_unit(22, 6, share=ONCE, incarnation=2)])).limited == frozenset()
    assert [row[:3] for row in await shares(url)] == [(1, 1, "-infinity"), (1, 2, "-infinity"), (2, 1, "-infinity")]
    assert {key: counted.n for key, counted in (await stored_evidence(url)).items()} == {(1, 0): 2, (2, 0): 1}
    await assert_replay_agrees(url)


async def test_days_are_dropped_with_their_shares_and_once_is_once_all_the_same(url: str, writers, database):
    await writers[0].apply([of_unit(0, 0, share=ONCE), *(of_unit(n, 0, unit_hash=2) for n in range(1, 6)), of_unit(6, 3)])
    async with await database.connect(autocommit=True) as connection:
        await drop_expired(connection, day(3), 1)
    assert await shares(url) == [(1, 1, "-infinity", 1), (1, 1, str(day(3)), 1)]
    late = await writers[1].apply([of_unit(9, 0, unit_hash=2)])
    assert (late.dropped, late.limited) == ({0}, frozenset())
    assert (await writers[1].apply([of_unit(10, 3, share=ONCE)])).limited == {0}
    assert (await stored_evidence(url))[(1, 0)].n == 1 + SHARE + 1
    await assert_replay_agrees(url)


# Outcomes that wait


async def test_an_outcome_that_waits_has_taken_its_share(url: str, writers, database):
    async with await database.connect(autocommit=True) as leader:
        await maturing.begin(leader, 1, BASE_US - 1)
        rows = [of_unit(n, decided_at_us=BASE_US + n) for n in range(6)]
        assert (await writers[0].apply(rows[:4])).limited == {3}
        assert await shares(url) == [(1, 1, str(day(0)), SHARE)]
        assert await stored_evidence(url) == {}
        assert await scalar(url, "SELECT count(*) FROM pending_outcomes") == SHARE
        assert (await writers[1].apply(rows[4:])).limited == {0, 1}
        await assert_replay_agrees(url)
        await maturing.advance(leader, 1, BASE_US + HOUR_US)
        await assert_learned(url, rows[:SHARE])
        assert (await writers[0].apply([of_unit(9)])).limited == {0}
        assert await scalar(url, "SELECT count(*) FROM pending_outcomes") == 0


# Through several processes


async def test_who_comes_second_sees_what_the_first_took(url: str, writers):
    """Both batches wait for the lock: the share is read after it is held, or both would take all of it."""
    with locked(url, "policy_versions", "incarnation = 1"):
        # A connection's partitions are made before.
        writing = [
            asyncio.ensure_future(writer.apply([of_unit(10 * number + n) for n in range(SHARE)]))
            for number, writer in enumerate(writers)
        ]
        await until_waiting(url, backends=2)
    results = await asyncio.gather(*writing)
    assert sorted(len(result.limited) for result in results) == [0, SHARE]
    assert (await stored_evidence(url))[(1, 0)] == Evidence(SHARE * 1_000_000, 0, SHARE)
    await assert_replay_agrees(url)


events = st.tuples(
    st.integers(0, 11),  # the decision
    st.sampled_from("abc"),  # the event's id
    st.sampled_from([None, 0, 400_000, 1_000_000]),
    st.sampled_from([2, 4]),  # the rank
)
batches = st.lists(st.lists(events, min_size=1, max_size=8), min_size=1, max_size=5)


def example_row(incarnation: int, share: int, given: tuple[int, str, int | None, int]) -> EventRow:
    decision, event, reward, rank = given
    return of_unit(
        decision,
        decision // 3 % 2,
        event,
        reward,
        decision_key=incarnation.to_bytes(8, "big") + decision.to_bytes(8, "big"),
        incarnation=incarnation,
        unit_hash=1 + decision % 2,
        share=share,
        rank=rank,
    )


@pytest.mark.parametrize("share", [2, ONCE])
def test_any_interleaving_counts_exactly_what_the_shares_permit(url: str, share: int):
    """Of every unit and day the least of its share and its decisions with a reward, over two connections at once."""
    incarnations = iter(range(1, EXAMPLES + 1))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ours=batches, theirs=batches)
    def check(ours: list[list[Any]], theirs: list[list[Any]]) -> None:
        incarnation = next(incarnations)
        rows = [[[example_row(incarnation, share, e) for e in batch] for batch in side] for side in (ours, theirs)]
        asyncio.run(both(rows))
        sent: dict[tuple[bytes, int, str], list[EventRow]] = defaultdict(list)
        for row in (row for side in rows for batch in side for row in batch):
            sent[row.key].append(row)
        with psycopg.connect(url) as connection:
            stored = connection.execute(
                "SELECT decision_key, event_id, status, reward_micros, decision_day FROM events WHERE incarnation = %s",
                (incarnation,),
            ).fetchall()
            outcomes = connection.execute(
                "SELECT decision_key, decision_day FROM outcomes WHERE incarnation = %s", (incarnation,)
            ).fetchall()
            taken = connection.execute(
                "SELECT unit_hash, share_day::text, n FROM unit_shares WHERE incarnation = %s", (incarnation,)
            ).fetchall()
        assert len(stored) == len(sent)
        unit = lambda key: 1 + key.bytes[-1] % 2  # noqa: E731
        wanting, counted = defaultdict(set), defaultdict(set)
        for key, _, status, _, of_day in stored:
            if status in ("applied", "limited"):
                wanting[unit(key), of_day if share > 0 else None].add((key, of_day))
        for key, of_day in outcomes:
            counted[unit(key), of_day if share > 0 else None].add((key, of_day))
        assert {of: len(of_unit) for of, of_unit in counted.items()} == {
            of: min(abs(share), len(of_unit)) for of, of_unit in wanting.items()
        }
        assert {(number, of_day): n for number, of_day, n in taken} == {
            (number, str(of_day) if share > 0 else "-infinity"): len(of_unit)
            for (number, of_day), of_unit in counted.items()
        }
        has_outcome = set(outcomes)
        for key, _, status, micros, of_day in stored:
            assert status != "limited" or (micros is None and (key, of_day) not in has_outcome)
            assert status != "applied" or (micros is not None and (key, of_day) in has_outcome)

    async def both(rows: Sequence[Sequence[Sequence[EventRow]]]) -> None:
        connections = [await event_connection(url) for _ in rows]

        async def write(connection: psycopg.AsyncConnection[Any], batches: Sequence[Sequence[EventRow]]) -> None:
            for batch in batches:
                # A batch has distinct keys.
                await apply_events(connection, list({row.key: row for row in batch}.values()))

        try:
            await ensure_partitions(connections[0], [day(0), day(1)])
            await asyncio.gather(*(write(c, batches) for c, batches in zip(connections, rows, strict=True)))
        finally:
            for connection in connections:
                await connection.close()

    check()
    asyncio.run(assert_replay_agrees(url))


async def test_many_units_and_writers_at_once(url: str, writers):
    """Every event comes twice, in another order and through another writer."""
    rng = random.Random(4)
    rows = [
        of_unit(n, n % 2, f"e{k}", rng.choice([0, 1_000_000]), unit_hash=1 + n % 7) for n in range(140) for k in range(3)
    ]

    async def write(writer: EventWriter, own: list[EventRow]) -> None:
        for start in range(0, len(own), 30):
            await writer.apply(own[start : start + 30])

    await asyncio.gather(*(write(writer, rng.sample(rows, len(rows))) for writer in writers))
    assert await query(url, "SELECT DISTINCT n FROM unit_shares") == [(SHARE,)]
    assert await scalar(url, "SELECT count(*) FROM unit_shares") == 14
    assert await scalar(url, "SELECT count(*) FROM outcomes") == 14 * SHARE
    assert await scalar(url, "SELECT count(*) FROM events") == len(rows)
    assert sum(counted.n for counted in (await stored_evidence(url)).values()) == 14 * SHARE
    await assert_replay_agrees(url)
