"""Definitions in Postgres: versions of arms, of rules and of bucket tables, and what each change leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from running import query

from router.experiment import Definition
from router.storage import experiments
from router.storage.database import Database, DatabaseUrl
from router.storage.errors import AlreadyExistsError, ConcurrentChangeError
from router.storage.experiments import NewArm, NewDefinition


def arm(arm_id: str, model: str = "m", **fields: object) -> NewArm:
    values = {"family": "", "is_control": False, "config": {}, "cap": None, "cost_usd": None, **fields}
    return NewArm(arm_id, model, **values)  # type: ignore[arg-type]


def definition(*arms: NewArm, **fields: object) -> NewDefinition:
    new = NewDefinition("x", "", arms, {}, {}, {})
    return replace(new, **fields)  # type: ignore[arg-type]


def shares(**weights: float) -> NewDefinition:
    """An A/B test."""
    return definition(
        *(arm(name) for name in weights),
        allocation={"kind": "KIND_FIXED", "weights": weights},
        assignment={"kind": "KIND_STICKY_HASH"},
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseUrl.parse(database_url))
    yield database
    await database.dispose()


async def create(database: Database, new: NewDefinition) -> Definition:
    async with database.begin() as connection:
        await experiments.create(connection, new)
    return await read(database)


async def read(database: Database) -> Definition:
    async with database.begin() as connection:
        found = await experiments.read(connection, "x")
    assert found is not None
    return found[0]


async def update(database: Database, new: NewDefinition) -> Definition:
    async with database.begin() as connection:
        found = await experiments.read(connection, "x", for_update=True)
        assert found is not None
        await experiments.update(connection, found[0], new)
    return await read(database)


def numbered(stored: Definition) -> list[tuple[str, int, int, bool]]:
    return [(a.arm_id, a.version, a.number, a.active) for a in stored.arms]


async def test_arms_are_numbered_once_and_for_ever(database: Database):
    stored = await create(database, definition(arm("a"), arm("b")))
    assert numbered(stored) == [("a", 1, 0, True), ("b", 1, 1, True)]
    stored = await update(database, definition(arm("c"), arm("a")))
    assert numbered(stored) == [("c", 1, 2, True), ("a", 1, 0, True), ("b", 1, 1, False)]
    stored = await update(database, definition(arm("a", model="new"), arm("b")))
    assert numbered(stored) == [("a", 2, 3, True), ("b", 1, 1, True), ("a", 1, 0, False), ("c", 1, 2, False)]
    stored = await update(database, definition(arm("a", config={"t": 1.0}), arm("b")))
    assert numbered(stored)[0] == ("a", 3, 4, True)
    stored = await update(database, definition(arm("a"), arm("b")))
    assert numbered(stored)[:2] == [("a", 1, 0, True), ("b", 1, 1, True)]


async def test_a_retired_arm_keeps_its_evidence_and_gets_it_back(database: Database, database_url: str):
    stored = await create(database, definition(arm("a"), arm("b")))
    await query(database_url, "INSERT INTO evidence VALUES (%s, 0, '', now(), 3000000, 0, 3)", stored.incarnation)
    await update(database, definition(arm("b")))
    await update(database, definition(arm("a"), arm("b")))
    rows = await query(database_url, "SELECT arm_id, arm_version, n, active FROM posterior_latest ORDER BY 1")
    assert rows == [("a", 1, 3, True), ("b", 1, 0, True)]


async def test_versions_and_etags_move_with_each_change_alone(database: Database, database_url: str):
    stored = await create(database, definition(arm("a")))
    seen = [stored.etag]
    for changes in ({"description": "d"}, {"allocation": {"floor": 0.2}}, {"assignment": {"kind": "KIND_STICKY_HASH"}}):
        new = definition(arm("a"), **changes)
        stored = await update(database, new)
        seen.append(stored.etag)
        assert stored == await update(database, new), "nothing differs, nothing changes"
    assert len(set(seen)) == 4
    assert await query(database_url, "SELECT policy_version, definition_version FROM policy_versions") == [(4, 4)]


async def test_a_rule_that_changes_is_a_version_and_old_ones_stay(database: Database):
    await create(database, definition(arm("a")))
    hour = {"attributionWindow": "3600s"}
    stored = await update(database, definition(arm("a"), reward_rule=hour))
    assert stored.reward_rule_version == 2
    stored = await update(database, definition(arm("a"), arm("b"), reward_rule=hour))
    assert stored.reward_rule_version == 2
    stored = await update(database, definition(arm("a")))
    assert stored.reward_rule_version == 3
    windows = {version: rule.attribution_window.total_seconds() for version, rule in stored.reward_rules.items()}
    assert windows == {1: 604_800, 2: 3_600, 3: 604_800}


async def test_buckets_move_as_little_as_the_shares(database: Database):
    stored = await create(database, shares(a=0.5, b=0.3, c=0.2))
    for new, moved in (
        (shares(a=0.4, b=0.3, c=0.3), 1_000),
        (shares(c=0.3, b=0.3, a=0.4), 0),
        (shares(a=0.4, b=0.3, c=0.2, d=0.1), 1_000),
        (shares(a=0.4, b=0.3, d=0.3), 2_000),
        (shares(a=0.3333, b=0.3333, d=0.3334), 667),
    ):
        before = stored.bucket_table
        stored = await update(database, new)
        assert before is not None
        assert stored.bucket_table is not None
        counts = Counter(stored.bucket_table)
        names = {a.number: a.arm_id for a in stored.active_arms}
        assert {names[number]: count / 10_000 for number, count in counts.items()} == new.allocation["weights"]
        assert sum(x != y for x, y in zip(before, stored.bucket_table, strict=True)) == moved


async def test_a_share_that_shrinks_and_grows_back_gets_its_buckets_again(database: Database):
    first = await create(database, shares(a=0.9, b=0.1))
    await update(database, shares(a=0.7, b=0.3))
    assert (await update(database, shares(a=0.9, b=0.1))).bucket_table == first.bucket_table


async def test_only_ab_tests_have_buckets(database: Database):
    assert (await create(database, shares(a=0.5, b=0.5))).bucket_table is not None
    assert (await update(database, definition(arm("a"), arm("b")))).bucket_table is None


async def test_an_id_is_taken_once(database: Database, database_url: str):
    await create(database, definition(arm("a")))
    with pytest.raises(AlreadyExistsError):
        await create(database, definition(arm("b")))
    assert await query(database_url, "SELECT arm_id FROM arms") == [("a",)]


async def test_a_state_changes_only_from_what_was_read(database: Database):
    stale = await create(database, definition(arm("a")))
    async with database.begin() as connection:
        await experiments.set_state(connection, stale, "running")
    with pytest.raises(ConcurrentChangeError):
        async with database.begin() as connection:
            await experiments.set_state(connection, stale, "concluded")
    assert (await read(database)).state == "running"


async def test_the_control_moves_from_one_arm_to_another(database: Database):
    await create(database, definition(arm("a", is_control=True), arm("b")))
    stored = await update(database, definition(arm("a"), arm("b", is_control=True)))
    assert [a.is_control for a in stored.active_arms] == [False, True]
    assert stored.rules.allocation.control == 1
