"""Exports to Parquet on a real Postgres: what is in the files, and that an export goes on where it was cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from growth import add_experiments, day

import router.analysis.logs as logs
import router.analysis.parquet as parquet
from router.analysis import AnalysisError, decisions, events, outcomes
from router.analysis.manifest import alone
from router.analysis.parquet import Exported, export_experiment
from router.cli.main import main
from router.storage.database import DatabaseUrl

#: A day long over, and what is decided on it.
FIRST, PER_DAY, DAYS = day(-100), 300, 3


@pytest.fixture
def url(database_url: str) -> DatabaseUrl:
    """Two experiments, with decisions, events and outcomes on three days, and one of today."""
    add_experiments(database_url, 2, 2)
    today = datetime.now(UTC).date()
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(
            "INSERT INTO reward_rules (incarnation, version, reward_rule) SELECT incarnation, 1, '{}' FROM experiments"
        )
        connection.execute("INSERT INTO allocations VALUES (md5('v')::uuid, 1, 1, '{0,1}', '{0.25,0.75}')")
        for number, of_day in enumerate([*(FIRST + timedelta(days=n) for n in range(DAYS)), today]):
            for table in ("decisions", "events", "outcomes"):
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table}_{of_day:%Y%m%d} PARTITION OF {table}"
                    f" FOR VALUES FROM ('{of_day}') TO ('{of_day + timedelta(days=1)}')"
                )
            add(connection, of_day, range(number * PER_DAY, (number + 1) * PER_DAY))
    return DatabaseUrl.parse(database_url)


def add(connection: psycopg.Connection[Any], of_day: date, numbers: range) -> None:
    """Decisions of both experiments, a third of them with an event and its outcome."""
    values = {"day": of_day, "first": numbers.start, "last": numbers.stop - 1}
    connection.execute(
        "INSERT INTO decisions SELECT %(day)s, md5(x || '/' || i)::uuid, x, i %% 2,"
        " %(day)s::timestamp + i %% 300 * interval '1 minute', 0.25 + i %% 2 * 0.5, 1, md5('v')::uuid, 'sampled', 'u' || i,"
        " '', '', '', '', '', NULL FROM generate_series(1, 2) x, generate_series(%(first)s::int, %(last)s::int) i",
        values,
    )
    connection.execute(
        "INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank,"
        " decided_at, occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content,"
        " details)"
        " SELECT decision_day, decision_key, 'e', incarnation, arm, '', decided_at, 'reward', 4, decided_at, decided_at,"
        " decided_at, 250000, 'applied', 1, 1, '', '{\"metadata\": {\"who\": \"kim\"}}' FROM decisions"
        " WHERE decision_day = %(day)s AND substr(unit_id, 2)::int BETWEEN %(first)s AND %(last)s"
        " AND substr(unit_id, 2)::int %% 3 = 0",
        values,
    )
    connection.execute(
        "INSERT INTO outcomes SELECT decision_day, decision_key, incarnation, arm, '', bucket, rank, occurred_at, event_id,"
        " reward_micros FROM events e WHERE decision_day = %(day)s ON CONFLICT DO NOTHING",
        values,
    )


def done(found: list[Exported]) -> dict[str, tuple[int, int]]:
    """By dataset: days written, and days left as they were."""
    return {one.dataset: (one.days_written, one.days_kept) for one in found}


def test_the_files_hold_what_the_tables_hold(url: DatabaseUrl, tmp_path: Path) -> None:
    found = {one.dataset: one for one in export_experiment(url, "x-1", tmp_path)}
    for name, read in (("decisions", decisions), ("events", events), ("outcomes", outcomes)):
        expected = read(url.url, "x-1").sort_by("decision_key")
        exported = pq.ParquetDataset(tmp_path / name).read()
        # Hive's way: the day is in the path.
        assert {str(one) for one in exported.column("day").unique().to_pylist()} >= {f"{FIRST}"}
        exported = exported.drop(["day"]).sort_by("decision_key")
        assert exported.to_pylist() == expected.to_pylist()
        assert found[name].rows == found[name].rows_written == expected.num_rows > 0
        assert found[name].bytes == sum(file.stat().st_size for file in (tmp_path / name).rglob("*.parquet"))
    assert found["decisions"].rows == PER_DAY * (DAYS + 1)
    (file,) = (tmp_path / "decisions" / f"day={FIRST}").iterdir()
    assert pq.read_schema(file).equals(decisions(url.url, "x-1").schema)
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"


def test_finished_days_are_written_once_and_the_moving_one_each_time(url: DatabaseUrl, tmp_path: Path) -> None:
    assert done(export_experiment(url, "x-1", tmp_path, ["decisions"])) == {"decisions": (DAYS + 1, 0)}
    assert done(export_experiment(url, "x-1", tmp_path, ["decisions"])) == {"decisions": (1, DAYS)}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entries = manifest["datasets"]["decisions"]
    today = datetime.now(UTC).date().isoformat()
    assert {name: entry["moving"] for name, entry in entries.items()} == {name: name == today for name in entries}
    assert {entry["rows"] for entry in entries.values()} == {PER_DAY}
    assert all(datetime.fromisoformat(entry["as_of"]).utcoffset() is not None for entry in entries.values())
    assert done(export_experiment(url, "x-1", tmp_path, ["decisions"], rewrite=True)) == {"decisions": (DAYS + 1, 0)}


def test_outcomes_move_for_as_long_as_feedback_counts(url: DatabaseUrl, tmp_path: Path) -> None:
    with psycopg.connect(url.url) as connection:
        connection.execute('UPDATE reward_rules SET reward_rule = \'{"attribution_window": "8726400s"}\'')  # 101 days
    found = done(export_experiment(url, "x-1", tmp_path))
    again = done(export_experiment(url, "x-1", tmp_path))
    assert again["decisions"] == (1, DAYS)
    age = (datetime.now(UTC).date() - FIRST).days
    moving = sum(1 for n in range(DAYS) if age - n - 1 < 101) + 1
    assert again["outcomes"] == again["events"] == (moving, DAYS + 1 - moving)
    assert found["outcomes"] == (DAYS + 1, 0)


@pytest.mark.parametrize(
    ("dataset", "change"),
    [
        ("decisions", "UPDATE decisions SET unit_id = '' WHERE unit_id = 'u1' AND incarnation = 1"),
        ("events", "UPDATE events SET details = NULL WHERE decision_day = '{day}'"),
        ("events", "DELETE FROM events WHERE decision_key IN (SELECT decision_key FROM events"
                   " WHERE decision_day = '{day}' AND incarnation = 1 LIMIT 1)"),
        ("outcomes", "UPDATE outcomes SET reward_micros = 7 WHERE decision_day = '{day}'"),
        # Corrections that add up to nothing: each outcome has the reward, or the winner, of another one.
        ("outcomes", "UPDATE outcomes SET reward_micros = CASE WHEN decision_key IN (SELECT min(decision_key::text)::uuid"
                     " FROM outcomes WHERE decision_day = '{day}' AND incarnation = 1) THEN 0 ELSE 500000 END"
                     " WHERE decision_key::text IN (SELECT decision_key::text FROM outcomes WHERE decision_day = '{day}'"
                     " AND incarnation = 1 ORDER BY 1 LIMIT 2)"),
        ("outcomes", "UPDATE outcomes SET event_id = 'later' WHERE decision_key IN (SELECT decision_key FROM outcomes"
                     " WHERE decision_day = '{day}' AND incarnation = 1 LIMIT 1)"),
    ],
)  # fmt: skip
def test_a_finished_day_that_changed_all_the_same_is_written_again(
    url: DatabaseUrl, tmp_path: Path, dataset: str, change: str
) -> None:
    export_experiment(url, "x-1", tmp_path)
    with psycopg.connect(url.url) as connection:
        connection.execute(change.format(day=FIRST))
    again = done(export_experiment(url, "x-1", tmp_path))
    assert again.pop(dataset) == (2, DAYS - 1)
    assert set(again.values()) == {(1, DAYS), (0, 0)}


def test_an_export_that_was_cut_off_goes_on(url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = parquet.pq.ParquetWriter
    opened = iter(range(100))

    class CutOff(real):  # type: ignore[misc, valid-type]
        def write_table(self, *arguments: Any, **named: Any) -> None:
            if next(opened) == 2:
                raise OSError(28, "No space left on device")
            super().write_table(*arguments, **named)

    monkeypatch.setattr(parquet.pq, "ParquetWriter", CutOff)
    with pytest.raises(OSError, match="No space left"):
        export_experiment(url, "x-1", tmp_path, ["decisions"])
    whole = sorted(tmp_path.rglob("*.parquet"))
    assert len(whole) == 2
    assert all(pq.read_metadata(path).num_rows == PER_DAY for path in whole)
    assert list(tmp_path.rglob("*.tmp")) == []
    # As a kill would leave it.
    (whole[0].with_name("part-0.parquet.tmp")).write_bytes(b"torn")
    assert done(export_experiment(url, "x-1", tmp_path, ["decisions"])) == {"decisions": (DAYS - 1, 2)}
    assert pq.ParquetDataset(tmp_path / "decisions").read().num_rows == PER_DAY * (DAYS + 1)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_file_that_went_missing_is_written_again(url: DatabaseUrl, tmp_path: Path) -> None:
    export_experiment(url, "x-1", tmp_path, ["decisions"])
    next((tmp_path / "decisions" / f"day={FIRST}").iterdir()).unlink()
    assert done(export_experiment(url, "x-1", tmp_path, ["decisions"])) == {"decisions": (2, DAYS - 1)}


def test_days_that_retention_dropped_stay_in_the_export(url: DatabaseUrl, tmp_path: Path) -> None:
    export_experiment(url, "x-1", tmp_path, ["decisions"])
    with psycopg.connect(url.url) as connection:
        connection.execute(f"DROP TABLE decisions_{FIRST:%Y%m%d}")
    (found,) = export_experiment(url, "x-1", tmp_path, ["decisions"])
    assert (found.days_written, found.days_kept, found.rows) == (1, DAYS - 1, PER_DAY * (DAYS + 1))
    assert (tmp_path / "decisions" / f"day={FIRST}" / "part-0.parquet").is_file()


def test_a_day_is_read_from_one_state(url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions and their outcomes that arrive while the day is written are all in its files, or none of them is."""
    today = datetime.now(UTC).date()

    def late(done: int, days: int, rows: int) -> None:
        if rows > (PER_DAY + PER_DAY // 3) * DAYS:
            number = next(numbers)
            with psycopg.connect(url.url, autocommit=True) as connection:
                add(connection, today, range(number, number + 3))

    numbers = iter(range(100_000, 200_000, 3))
    export_experiment(url, "x-1", tmp_path, progress=late, datasets=("decisions", "outcomes"))
    keys = {
        name: set(pq.read_table(tmp_path / name / f"day={today}" / "part-0.parquet").column("decision_key").to_pylist())
        for name in ("decisions", "outcomes")
    }
    assert next(numbers) > 100_000, "something arrived meanwhile"
    assert keys["outcomes"] <= keys["decisions"]
    assert len(keys["decisions"]) == PER_DAY


def test_arms_that_are_added_meanwhile_are_in_the_days_that_have_them(url: DatabaseUrl, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    left = ["arms are added once"]

    def added(done: int, days: int, rows: int) -> None:
        if rows and left:
            left.pop()
            with psycopg.connect(url.url, options="-c timezone=UTC") as connection:
                connection.execute(
                    "INSERT INTO arms (incarnation, arm, position, arm_id, version, model, family, role, config, active)"
                    " VALUES (1, 2, 2, 'new', 3, '', '', 'challenger', '{}', true)"
                )
                connection.execute("INSERT INTO allocations VALUES (md5('w')::uuid, 1, 2, '{0,2}', '{0.5,0.5}')")
                connection.execute(
                    "UPDATE decisions SET arm = 2, allocation_id = md5('w')::uuid"
                    " WHERE decision_day = %s AND incarnation = 1",
                    (today,),
                )

    export_experiment(url, "x-1", tmp_path, ["decisions"], progress=added)
    assert not left
    for of_day, arms, drawn_from in ((FIRST, ["a0", "a1"], ["a0", "a1"]), (today, ["new"], ["a0", "new"])):
        found = pq.read_table(tmp_path / "decisions" / f"day={of_day}" / "part-0.parquet")
        assert sorted(set(found.column("arm_id").to_pylist())) == arms
        assert set(map(tuple, found.column("allocation_arm_ids").to_pylist())) == {tuple(drawn_from)}
    assert set(found.column("arm_version").to_pylist()) == {3}


def test_another_experiment_that_takes_the_name_meanwhile_is_not_mixed_in(url: DatabaseUrl, tmp_path: Path) -> None:
    def renamed(done: int, days: int, rows: int) -> None:
        if done == 1:
            with psycopg.connect(url.url) as connection:
                connection.execute("UPDATE experiments SET experiment_id = 'old' WHERE incarnation = 1")
                connection.execute("UPDATE experiments SET experiment_id = 'x-1' WHERE incarnation = 2")

    with pytest.raises(AnalysisError, match="experiment 'x-1': became another one of that name while it was exported"):
        export_experiment(url, "x-1", tmp_path, ["decisions"], progress=renamed)


def test_vectors_that_were_forgotten_are_read_again(
    url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few are kept and asked for at once, each decision has its own vector; null where the database lacks it."""
    with psycopg.connect(url.url) as connection:
        connection.execute(
            "INSERT INTO allocations SELECT md5(i::text)::uuid, 1, i,"
            " CASE WHEN i % 2 = 0 THEN '{1}' ELSE '{1,0}' END::int2[],"
            " CASE WHEN i % 2 = 0 THEN array[1.0] ELSE array[i / 256.0, 1 - i / 256.0] END FROM generate_series(0, 99) i"
        )
        connection.execute(
            "UPDATE decisions SET allocation_id = md5((substr(unit_id, 2)::int % 101)::text)::uuid WHERE incarnation = 1"
        )
    monkeypatch.setattr(logs, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(logs, "_ASKED", 6)
    export_experiment(url, "x-1", tmp_path, ["decisions"])
    rows = pq.ParquetDataset(tmp_path / "decisions").read().to_pylist()
    assert len(rows) == PER_DAY * (DAYS + 1)
    for row in rows:
        i = int(row["unit_id"][1:]) % 101
        of_i = (None, None) if i == 100 else (["a1"], [1.0]) if i % 2 == 0 else (["a1", "a0"], [i / 256, 1 - i / 256])
        assert (row["allocation_arm_ids"], row["allocation"]) == of_i


def test_row_groups_are_bounded_by_their_bytes(url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1)
    with psycopg.connect(url.url) as connection:
        connection.execute("UPDATE decisions SET request_id = repeat('x', 200) || random()::text")
    monkeypatch.setattr(logs, "LOGS", {**logs.LOGS, "decisions": replace(logs.LOGS["decisions"], pages=1)})
    export_experiment(url, "x-1", tmp_path, ["decisions"], first=FIRST, last=FIRST)
    (file,) = (tmp_path / "decisions" / f"day={FIRST}").iterdir()
    found = pq.ParquetFile(file).metadata
    assert found.num_rows == PER_DAY
    assert found.num_row_groups > 5, "one for each stretch"


def test_a_range_of_days(url: DatabaseUrl, tmp_path: Path) -> None:
    second = FIRST + timedelta(days=1)
    (found,) = export_experiment(url, "x-1", tmp_path, ["decisions"], first=second, last=second)
    assert (found.days_written, found.rows) == (1, PER_DAY)
    assert [path.name for path in (tmp_path / "decisions").iterdir()] == [f"day={second}"]


def test_what_it_refuses(url: DatabaseUrl, tmp_path: Path) -> None:
    export_experiment(url, "x-1", tmp_path, ["decisions"])
    with pytest.raises(AnalysisError, match=r"holds an export of experiment 'x-1': give each experiment a directory"):
        export_experiment(url, "x-2", tmp_path, ["decisions"])
    with pytest.raises(AnalysisError, match="experiment 'nope': there is no such experiment"):
        export_experiment(url, "nope", tmp_path)
    with alone(tmp_path), pytest.raises(AnalysisError, match="another export is writing there"):
        export_experiment(url, "x-1", tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(AnalysisError, match="is no manifest of an export"):
        export_experiment(url, "x-1", tmp_path)


def test_the_command(url: DatabaseUrl, tmp_path: Path) -> None:
    where = ["--database-url", url.url, "--experiment", "x-1", "--to", str(tmp_path / "files")]
    shown = CliRunner().invoke(main, ["export", "all", *where])
    assert shown.exit_code == 0, shown.output
    assert f"decisions: 1,200 rows of {DAYS + 1} days written, 0 days as they were; 1,200 rows" in shown.stdout
    end = FIRST + timedelta(days=1)
    told = CliRunner().invoke(
        main, ["export", "outcomes", *where, "--json", "--rewrite", "--start", f"{FIRST}", "--end", f"{end}"]
    )
    (outcome,) = json.loads(told.stdout)["datasets"]
    assert (outcome["days_written"], outcome["rows_written"], outcome["rows"]) == (1, PER_DAY // 3, 4 * PER_DAY // 3)
    for arguments, says in (
        (["--start", "2026-11-02", "--end", "2026-11-02"], "--start 2026-11-02: must be before --end 2026-11-02"),
        (["--start", "noon"], "'noon' does not match the format"),
        (["--experiment", "nope"], "no such experiment"),
    ):
        refused = CliRunner().invoke(main, ["export", "decisions", *where, *arguments])
        assert refused.exit_code == 2
        assert says in " ".join(refused.output.split())
