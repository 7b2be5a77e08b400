"""The saved copy: what the keeper writes of a database, and what a start reads back of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from running import Router, arm, experiment, query, until

from router.policy import compile_policy
from router.storage.database import Database
from router.storage.migrate import needed_revision
from router.storage.policies import EvidenceReading
from router.storage.reader import PolicyReader
from router.storage.saved import FILE, Origin, SavedCopyError, SavedFile, find_copy
from router.storage.saver import Saver
from router.storage.token_keys import deployment_id, load_codec

DEPLOYMENT = UUID(int=7)
ADDRESS = "db.internal:5432/name"


def origin(**changed: Any) -> Origin:
    return Origin(
        **{"deployment_id": DEPLOYMENT, "address": ADDRESS, "revision": "0001", "as_of": datetime.now(UTC), **changed}
    )


@pytest.fixture
async def save(database: Database, tmp_path: Path) -> AsyncIterator[Callable[[], Saver]]:
    """Starts savers; they end with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def start() -> Saver:
        saver = Saver(
            database, await deployment_id(database), tmp_path, clock_us=lambda: time.time_ns() // 1000, rest_s=0.01
        )
        tasks.append(asyncio.create_task(saver.run()))
        return saver

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def files_of(directory: Path) -> list[Path]:
    """The copy and its side files."""
    return sorted(directory.glob(f"{FILE}*"))


def reading(path: Path) -> contextlib.closing[SavedFile]:
    return contextlib.closing(SavedFile(path))


async def until_saved(saver: Saver) -> None:
    """Wait for a round that began after this moment."""
    loop = asyncio.get_running_loop()
    for _ in range(2):
        now = loop.time()
        await until(lambda now=now: saver.saved_at is not None and saver.saved_at > now, "it is saved")


async def test_what_is_saved_compiles_to_the_same_policies(router: Router, database: Database, save, tmp_path: Path) -> None:
    """Every kind of experiment: bucket tables, configs with numbers that jsonb changes, retired arms, old reward rules."""
    await router.run(
        experiment(arms=[arm("a", config={"max_tokens": 1024.0, "t": 0.5, "big": 1e300}), "b", "c"], floor=0.05)
    )
    await router.run(experiment("fixed", kind="FIXED", weights={"a": 0.25, "b": 0.75}, assignment="STICKY_HASH"))
    await router.run(experiment("sticky", assignment="STICKY_STORED", ttl_s=60, prior=(2, 3)))
    await router.create(experiment("draft"))
    await router.learn("a", 30, 4)
    await router.learn("b", 3, 9)
    await router.update(experiment(arms=["a", "b"], floor=0.02, window_s=100))
    saver = await save()
    await until_saved(saver)
    with reading(tmp_path / FILE) as file:
        saved = {definition.incarnation: (definition, reading) for definition, reading in file.experiments()}
        assert file.origin().revision == needed_revision()
        assert file.origin().address == database.url.shown
        assert file.origin().deployment_id == await deployment_id(database)
        token = file.codec().open((await router.route()).decision_id)
        assert file.codec().secret == (await load_codec(database)).secret
    assert token.incarnation in saved
    reader = PolicyReader(database)
    definitions, readings = await reader.read(list(saved), {})
    await reader.close()
    assert len(definitions) == 4
    for definition in definitions:
        known, counts = saved[definition.incarnation]
        assert known == definition
        now: EvidenceReading = next(r for r in readings if r.incarnation == definition.incarnation)
        assert counts.evidence == now.evidence
        assert counts.policy_version == now.policy_version
        if definition.active_arms:
            expected = compile_policy(definition, now.policy_version, now.evidence)
            found = compile_policy(known, counts.policy_version, counts.evidence)
            assert found.everyone.probabilities.tolist() == expected.everyone.probabilities.tolist()
            assert found.everyone.allocation_id == expected.everyone.allocation_id


async def test_the_copy_follows_what_changes_and_reads_no_more_than_that(
    router: Router, save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    real = SavedFile.save_definitions
    await router.run()
    await router.run(experiment("other"))
    saver = await save()

    def counted(self: SavedFile, found: Any, as_of: Any) -> None:
        # The keeper of the router saves a copy of its own, whenever it likes.
        if self._connection.execute("PRAGMA database_list").fetchone()[2] == str(tmp_path / FILE):
            rows.append(len(found))
        real(self, found, as_of)

    monkeypatch.setattr(SavedFile, "save_definitions", counted)
    await until_saved(saver)
    assert rows == [2]
    await router.learn("a", 5)
    await until_saved(saver)
    assert rows == [2], "the definition is as it was"
    with reading(tmp_path / FILE) as file:
        evidence = {d.experiment_id: r.evidence for d, r in file.experiments()}
        assert evidence["support"][0].n == 5
        assert evidence["other"] == {}
    await router.move("Pause")
    await until_saved(saver)
    assert rows == [2, 1]
    with reading(tmp_path / FILE) as file:
        assert {d.experiment_id: d.state for d, _ in file.experiments()} == {"support": "paused", "other": "running"}


async def test_the_copy_says_when_it_was_right_last_though_nothing_changes(router: Router, save, tmp_path: Path) -> None:
    saver = await save()
    await until_saved(saver)
    with reading(tmp_path / FILE) as file:
        first = file.origin().as_of
    await until_saved(saver)
    with reading(tmp_path / FILE) as file:
        assert first < file.origin().as_of <= datetime.now(UTC)


async def test_two_savers_of_one_directory_agree(router: Router, save, tmp_path: Path) -> None:
    await router.run()
    savers = [await save(), await save()]
    for _ in range(5):
        await router.learn("a", 2)
        for saver in savers:
            await until_saved(saver)
        with reading(tmp_path / FILE) as file:
            ((_, found),) = file.experiments()
    assert found.evidence[0].n == 10


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "another format", "no database"])
async def test_a_damaged_copy_is_set_aside_and_made_anew(
    router: Router, save, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE
    await router.run()
    with reading(path) as file, file.transaction():
        file.save_origin(origin())
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:5_000])
        case "overwritten":
            data = bytearray(path.read_bytes())
            data[4_096:9_000] = b"\xa5" * (9_000 - 4_096)
            path.write_bytes(data)
        case "another format":
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA user_version = 99")
        case _:
            path.write_bytes(b"not a database at all" * 1_000)
    damaged = path.read_bytes()
    saver = await save()
    await until_saved(saver)
    assert "is damaged" in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == damaged
    with reading(path) as file:
        assert [definition.experiment_id for definition, _ in file.experiments()] == ["support"]


async def test_a_copy_is_for_its_owner_alone(save, tmp_path: Path) -> None:
    saver = await save()
    await until_saved(saver)
    assert len(files_of(tmp_path)) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in files_of(tmp_path))


async def test_the_copy_holds_no_password(router: Router, save, tmp_path: Path) -> None:
    await router.run()
    saver = await save()
    await until_saved(saver)
    secret = router.url.split(":")[2].split("@")[0].encode()
    assert len(secret) > 20
    assert all(secret not in path.read_bytes() for path in files_of(tmp_path))


async def test_an_experiment_that_cannot_be_read_costs_itself_alone(router: Router, save, tmp_path: Path) -> None:
    await router.run()
    await router.run(experiment("other"))
    saver = await save()
    await until_saved(saver)
    path = tmp_path / "later" / FILE
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("VACUUM INTO ?", (str(path),))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE experiments SET definition = '{}' WHERE definition LIKE '%\"other\"%'")
        connection.commit()
    with reading(path) as file:
        assert [definition.experiment_id for definition, _ in file.experiments()] == ["support"]


async def test_an_experiment_that_is_gone_is_forgotten(router: Router, save, tmp_path: Path) -> None:
    await router.run()
    await router.run(experiment("other"))
    saver = await save()
    await until_saved(saver)
    await query(
        router.url,
        "WITH x AS (SELECT incarnation FROM experiments WHERE experiment_id = 'other'),"
        " a AS (DELETE FROM arms WHERE incarnation IN (SELECT * FROM x)),"
        " r AS (DELETE FROM reward_rules WHERE incarnation IN (SELECT * FROM x))"
        " DELETE FROM policy_versions WHERE incarnation IN (SELECT * FROM x)",
    )
    await until_saved(saver)
    with reading(tmp_path / FILE) as file:
        assert [definition.experiment_id for definition, _ in file.experiments()] == ["support"]


# Which copy to start from


def write_copy(spool: Path, name: str, **changed: Any) -> Path:
    from router.tokens import TokenKey

    path = spool / name / FILE
    path.parent.mkdir(parents=True)
    with reading(path) as file, file.transaction():
        file.save_origin(origin(**changed))
        file.save_keys([TokenKey(1, bytes(32))])
    return path


class TestFinding:
    def test_the_one_of_this_database(self, tmp_path: Path) -> None:
        write_copy(tmp_path, "other", address="elsewhere:5432/name")
        path = write_copy(tmp_path, "mine", as_of=datetime.now(UTC) - timedelta(days=100))
        assert find_copy(tmp_path, ADDRESS, "0001") == path

    def test_none(self, tmp_path: Path) -> None:
        write_copy(tmp_path, "other", address="elsewhere:5432/name")
        with pytest.raises(SavedCopyError, match=f"holds no saved copy of {ADDRESS}"):
            find_copy(tmp_path, ADDRESS, "0001")
        with pytest.raises(SavedCopyError, match="holds no saved copy"):
            find_copy(tmp_path / "missing", ADDRESS, "0001")

    def test_of_another_schema(self, tmp_path: Path) -> None:
        write_copy(tmp_path, "mine", revision="0001")
        with pytest.raises(SavedCopyError, match="is of schema revision 0001, not 0002"):
            find_copy(tmp_path, ADDRESS, "0002")

    def test_several(self, tmp_path: Path) -> None:
        write_copy(tmp_path, "one")
        write_copy(tmp_path, "two")
        with pytest.raises(SavedCopyError, match=r"/one, .*/two hold copies of different databases"):
            find_copy(tmp_path, ADDRESS, "0001")

    def test_damaged(self, tmp_path: Path) -> None:
        write_copy(tmp_path, "mine").write_bytes(b"nothing of use" * 100)
        with pytest.raises(SavedCopyError, match="file is not a database"):
            find_copy(tmp_path, ADDRESS, "0001")

    def test_without_keys(self, tmp_path: Path) -> None:
        path = write_copy(tmp_path, "mine")
        with reading(path) as file, file.transaction():
            file.save_keys([])
        with pytest.raises(SavedCopyError, match="cannot be read"):
            find_copy(tmp_path, ADDRESS, "0001")
