"""What replicas poll: cheap sums that move with every change, and the versions of all experiments in one value."""

from __future__ import annotations

import numpy as np
import pytest
from running import Router, experiment, query

from router.storage.database import Database, DatabaseUrl
from router.storage.policies import read_digest, read_evidence, read_version_table, read_versions


@pytest.fixture
async def database(database_url: str):
    database = Database(DatabaseUrl.parse(database_url))
    yield database
    await database.dispose()


async def test_of_no_experiments(database: Database):
    async with database.snapshot() as connection:
        assert tuple(await read_digest(connection)) == (0, 0, 0)
        assert (await read_version_table(connection)).shape == (0, 3)
        assert await read_versions(connection) == {}
        assert await read_evidence(connection, [1]) == []


async def test_every_change_moves_the_digest(database: Database, router: Router):
    async def digest() -> tuple[int, ...]:
        async with database.snapshot() as connection:
            return tuple(await read_digest(connection))

    seen = [await digest()]
    await router.create(experiment())
    seen.append(await digest())
    await router.move("Start")
    seen.append(await digest())
    await router.learn("a", 1)
    seen.append(await digest())
    await router.update(experiment(description="another"))
    seen.append(await digest())
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen), "versions only grow"
    await router.posterior()
    assert await digest() == seen[-1]


async def test_the_versions_of_all_experiments(database: Database, database_url: str):
    await query(
        database_url,
        "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment, reward_rule,"
        " reward_rule_version) SELECT 4611686018427387903 - i, 'x' || i, '', 'draft', '', '{}', '{}', '{}', 1"
        " FROM generate_series(1, 300) i",
    )
    await query(
        database_url,
        "INSERT INTO policy_versions (incarnation, policy_version, definition_version)"
        " SELECT incarnation, incarnation % 1000 + 1, 7 FROM experiments",
    )
    rows = await query(database_url, "SELECT incarnation, policy_version, definition_version FROM policy_versions")
    async with database.snapshot() as connection:
        table = await read_version_table(connection)
        versions = await read_versions(connection)
    assert table.dtype == np.int64
    assert sorted(map(tuple, table.tolist())) == sorted(rows)
    assert versions == {incarnation: (policy, definition) for incarnation, policy, definition in rows}
