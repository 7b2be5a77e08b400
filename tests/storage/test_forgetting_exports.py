"""A unit is forgotten in exported files, those of days that the database has dropped included."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from growth import add_experiments, day

from router.analysis import forgetting
from router.analysis.manifest import alone
from router.analysis.parquet import export_experiment
from router.cli.main import main
from router.storage.connecting import DatabaseUrl, connect
from router.storage.labels import is_label
from router.storage.traces import Trace

FIRST, DAYS, PER_DAY = day(-100), 3, 40
DROPPED = f"day={FIRST}"
UNIT, SESSION, PHONE = "u3", "session-of-u3", "+49301234567"
#: Of each day: u0 to u9, four decisions each, an event with metadata for every second one.
OWN = PER_DAY // 10


@pytest.fixture
def url(database_url: str) -> DatabaseUrl:
    add_experiments(database_url, 2, 2)
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute("INSERT INTO token_keys (key_id, secret) VALUES (1, %s)", (bytes(32),))
        connection.execute("INSERT INTO reward_rules SELECT incarnation, 1, '{}' FROM experiments")
        connection.execute("INSERT INTO allocations VALUES (md5('v')::uuid, 1, 1, '{0,1}', '{0.25,0.75}')")
        for number in range(DAYS):
            of_day = FIRST + timedelta(days=number)
            for table in ("decisions", "events", "outcomes"):
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table}_{of_day:%Y%m%d} PARTITION OF {table}"
                    f" FOR VALUES FROM ('{of_day}') TO ('{of_day + timedelta(days=1)}')"
                )
            connection.execute(
                "INSERT INTO decisions SELECT %(day)s, md5(x || '/' || %(day)s || i)::uuid, x, i %% 2,"
                " %(day)s::timestamp + i * interval '1 minute', 0.25 + i %% 2 * 0.5, 1, md5('v')::uuid, 'sampled',"
                " 'u' || i %% 10, 'session-of-u' || i %% 10, 't', 'r', '', 'f', NULL"
                " FROM generate_series(1, 2) x, generate_series(0, %(last)s) i",
                {"day": of_day, "last": PER_DAY - 1},
            )
        connection.execute(
            "INSERT INTO events (decision_day, decision_key, event_id, incarnation, arm, segment, bucket, kind, rank,"
            " decided_at, occurred_at, received_at, reward_micros, status, reward_rule_version, policy_version, content,"
            " details) SELECT decision_day, decision_key, 'e', incarnation, arm, '', decided_at, 'reward', 4, decided_at,"
            " decided_at, decided_at, 250000, 'applied', 1, 1, '1',"
            " jsonb_build_object('latency_ms', 1.5, 'error', 'zu spät') || CASE WHEN arm = 1"
            " THEN jsonb_build_object('metadata', jsonb_build_object('phone', %s || unit_id)) ELSE '{}' END"
            " FROM decisions",
            (PHONE,),
        )
    return DatabaseUrl.parse(database_url)


def forget(url: DatabaseUrl, *arguments: str, unit: str = UNIT) -> Result:
    where = ["--database-url", url.url, "--data-dir", "/nonexistent"]
    return CliRunner().invoke(main, ["forget", unit, "--json", "--actor", "a", *where, *arguments])


def result(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def table(directory: Path, dataset: str, of_day: str = "*") -> pa.Table:
    files = sorted((directory / dataset).glob(f"{'day=*' if of_day == '*' else of_day}/*.parquet"))
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files])


def held(directory: Path) -> set[str]:
    """The traces of the unit that are in a value of a file."""
    said = json.dumps([table(directory, name).to_pylist() for name in ("decisions", "events")], default=str)
    return {trace for trace in (f'"{UNIT}"', SESSION, PHONE + UNIT) if trace in said}


def layout(path: Path) -> list[list[tuple[str, bool, int]]]:
    """How a file is written, by row group and column."""
    found = pq.read_metadata(path)
    groups = [found.row_group(i) for i in range(found.num_row_groups)]
    columns = [[group.column(i) for i in range(group.num_columns)] for group in groups]
    return [[(column.compression, column.has_dictionary_page, column.num_values) for column in group] for group in columns]


def drop(url: DatabaseUrl) -> None:
    with psycopg.connect(url.url) as connection:
        for name in ("decisions", "events", "outcomes"):
            connection.execute(f"DROP TABLE {name}_{FIRST:%Y%m%d}")


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "lz4", "none"])
def test_a_unit_is_forgotten_in_files_of_days_that_are_dropped(url: DatabaseUrl, tmp_path: Path, compression: str) -> None:
    export_experiment(url, "x-1", tmp_path, compression=compression)
    drop(url)
    before = {name: table(tmp_path, name) for name in ("decisions", "events")}
    path = tmp_path / "decisions" / DROPPED / "part-0.parquet"
    # As if it were larger.
    pq.write_table(pq.ParquetFile(path).read(), path, row_group_size=16, compression=compression)
    layouts = {path: layout(path) for path in tmp_path.rglob("*.parquet")}
    dry = result(forget(url, "--export", str(tmp_path), "--dry-run"))
    assert held(tmp_path) == {f'"{UNIT}"', SESSION, PHONE + UNIT}

    done = result(forget(url, "--export", str(tmp_path)))
    assert {**dry, "dry_run": False} == done
    files = {"directory": str(tmp_path), "decisions": OWN * DAYS, "events": OWN * DAYS, "files": 2 * DAYS}
    assert done["exports"] == [files]
    assert held(tmp_path) == set()
    # One unit still, and the same as in the days that the database has.
    (label,) = {unit for unit in table(tmp_path, "decisions").column("unit_id").to_pylist() if is_label(unit)}
    with psycopg.connect(url.url) as connection:
        kept = connection.execute("SELECT DISTINCT unit_id FROM decisions WHERE unit_id <> '' AND incarnation = 1")
        assert label in {unit for (unit,) in kept}
    # What is not the unit's is as it was, and how it is written.
    for name, of_before in before.items():
        now = table(tmp_path, name)
        assert now.schema.equals(of_before.schema)
        erased = {"unit_id", "session_id", "turn_id", "request_id", "prompt_fingerprint"}
        for one, other in zip(of_before.to_pylist(), now.to_pylist(), strict=True):
            if name == "decisions" and one["unit_id"] == UNIT:
                assert {other[column] for column in erased - {"unit_id"}} == {""}
                assert {k: v for k, v in one.items() if k not in erased} == {
                    k: v for k, v in other.items() if k not in erased
                }
            elif name == "events" and PHONE + UNIT in one["details"]:
                assert json.loads(other.pop("details")) == {"latency_ms": 1.5, "error": "zu spät"}
                assert {k: v for k, v in one.items() if k != "details"} == other
            else:
                assert one == other
    assert {path: layout(path) for path in layouts} == layouts
    assert len(layouts[path]) == 3
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    sizes = {e["file"]: e["bytes"] for days in manifest["datasets"].values() for e in days.values() if e["file"]}
    assert sizes == {str(p.relative_to(tmp_path)): p.stat().st_size for p in tmp_path.rglob("*.parquet")}
    assert result(forget(url, "--export", str(tmp_path)))["exports"] == [{**files, "decisions": 0, "events": 0, "files": 0}]

    # The next export reads what the database has; nothing of the unit comes back.
    found = {one.dataset: one for one in export_experiment(url, "x-1", tmp_path)}
    assert found["decisions"].rows == PER_DAY * DAYS
    assert held(tmp_path) == set()


def test_an_export_alone_is_told_that_a_unit_was_forgotten(url: DatabaseUrl, tmp_path: Path) -> None:
    """Without --export: days that the database has are written anew, and others keep the unit."""
    export_experiment(url, "x-1", tmp_path)
    drop(url)
    assert result(forget(url))["exports"] == []
    written = {one.dataset: one.days_written for one in export_experiment(url, "x-1", tmp_path)}
    assert (written["decisions"], written["events"]) == (DAYS - 1, DAYS - 1)
    units = {of_day.name: set(table(tmp_path, "decisions", of_day.name).column("unit_id").to_pylist())
             for of_day in (tmp_path / "decisions").iterdir()}  # fmt: skip
    assert [name for name, found in units.items() if UNIT in found] == [DROPPED]


def test_metadata_of_decisions_that_never_reached_the_log(url: DatabaseUrl, tmp_path: Path) -> None:
    with connect(url) as connection:
        (own,) = Trace(connection, UNIT, None).hashes
    with psycopg.connect(url.url) as connection:
        connection.execute(
            "UPDATE events SET details = details || jsonb_build_object('unit_hash', %s::text)"
            " WHERE details -> 'metadata' ->> 'phone' = %s",
            (own.hex(), PHONE + UNIT),
        )
        connection.execute("DELETE FROM decisions WHERE unit_id = %s", (UNIT,))
    export_experiment(url, "x-1", tmp_path)
    drop(url)
    (found,) = result(forget(url, "--export", str(tmp_path)))["exports"]
    assert (found["decisions"], found["events"]) == (0, OWN * DAYS)
    assert held(tmp_path) == set()
    assert own.hex() not in json.dumps(table(tmp_path, "events").column("details").to_pylist())


def test_a_run_that_was_cut_off_goes_on(url: DatabaseUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_experiment(url, "x-1", tmp_path)
    drop(url)
    (tmp_path / "decisions" / DROPPED / "part-0.parquet.tmp").write_bytes(UNIT.encode())
    real = forgetting._labelled

    def full(label: str) -> Any:
        def change(rows: pa.Table, its: pa.Array) -> pa.Table:
            raise OSError(28, "No space left on device")

        return change

    monkeypatch.setattr(forgetting, "_labelled", full)
    failed = forget(url, "--export", str(tmp_path))
    assert failed.exit_code == 1
    assert "No space left on device; the database has forgotten the unit" in failed.output
    monkeypatch.setattr(forgetting, "_labelled", real)
    (found,) = result(forget(url, "--export", str(tmp_path)))["exports"]
    assert found["decisions"] == OWN * DAYS
    assert held(tmp_path) == set()
    assert list(tmp_path.rglob("*.tmp")) == []


def test_what_is_no_export_of_it_is_refused_before_anything_is_erased(url: DatabaseUrl, tmp_path: Path) -> None:
    export_experiment(url, "x-1", tmp_path / "one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("[")
    for arguments, message in (
        (["--export", str(tmp_path / "empty")], "holds no export"),
        (["--export", str(tmp_path / "torn")], "is no manifest of an export"),
        (["--experiment", "x-2", "--export", str(tmp_path / "one")], "holds an export of experiment 'x-1'"),
    ):
        refused = forget(url, *arguments)
        assert refused.exit_code == 2, refused.output
        assert message in " ".join(refused.output.split())
    with alone(tmp_path / "one"):
        refused = forget(url, "--export", str(tmp_path / "one"))
    assert refused.exit_code == 2
    assert "another export is writing there" in " ".join(refused.output.split())
    with psycopg.connect(url.url) as connection:
        assert connection.execute("SELECT count(*) FROM decisions WHERE unit_id = %s", (UNIT,)).fetchone() == (
            2 * OWN * DAYS,
        )


def test_a_file_that_cannot_be_read_is_named(url: DatabaseUrl, tmp_path: Path) -> None:
    export_experiment(url, "x-1", tmp_path)
    torn = tmp_path / "decisions" / DROPPED / "part-0.parquet"
    torn.write_bytes(torn.read_bytes()[:-9])
    failed = forget(url, "--export", str(tmp_path))
    assert failed.exit_code == 1
    assert f"{torn}: cannot be read, and may hold the unit" in failed.output
