"""Files of historical outcomes: what they add up to, and what is refused, by name and row."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandit.reward import Evidence, to_micros
from router.analysis import AnalysisError
from router.analysis.history import read_history

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Rows = list[dict[str, Any]]


def rows(n: int = 200) -> Rows:
    rng = random.Random(1)
    return [
        {
            "arm": rng.choice(["a", "NULL", "007", "日本"]),
            "reward": rng.choice([0.0, 1.0, rng.random(), 0.1 + 0.2]),
            "time": NOON + timedelta(seconds=i),
            "unit": f"u{i % 7}",
            "segment": rng.choice(["", "en"]),
        }
        for i in range(n)
    ]


def write(path: Path, given: Rows) -> Path:
    texts = [{**row, "time": row["time"].isoformat() if isinstance(row["time"], datetime) else row["time"]} for row in given]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(given), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    else:
        names = list(given[0])
        path.write_text("\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in texts)]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_file_adds_up_to_its_rows(tmp_path: Path, suffix: str) -> None:
    given = rows()
    path = write(tmp_path / f"outcomes{suffix}", given)
    expected: dict[tuple[str, str], Evidence] = {}
    for row in given:
        key = row["arm"], row["segment"]
        expected[key] = expected.get(key, Evidence()) + Evidence.of(to_micros(row["reward"]))
    found = read_history(path)
    assert found.evidence == expected
    assert (found.rows, found.units) == (200, 7)
    assert (found.first_at, found.last_at) == (NOON, NOON + timedelta(seconds=199))
    assert found.content_hash == hashlib.sha256(path.read_bytes()).digest()
    assert found.arm_ids == sorted({row["arm"] for row in given})
    assert found.of_arm("007") == expected["007", ""] + expected["007", "en"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_names_of_exports_will_do(tmp_path: Path, suffix: str) -> None:
    renamed = [{"arm_id": r["arm"], "reward": r["reward"], "decided_at": r["time"], "extra": 1} for r in rows(5)]
    plain = [{"arm": r["arm"], "reward": r["reward"], "time": r["time"]} for r in rows(5)]
    if suffix != ".parquet":
        renamed = [{**row, "decided_at": row["decided_at"].isoformat()} for row in renamed]
    path = tmp_path / f"renamed{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join([",".join(renamed[0]), *(",".join(map(str, row.values())) for row in renamed)]))
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, renamed)))
    else:
        pq.write_table(pa.Table.from_pylist(renamed), path)
    found = read_history(path)
    assert found.evidence == read_history(write(tmp_path / "plain.parquet", plain)).evidence
    assert found.units is None


def test_offsets_are_respected(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("arm,reward,time\na,1,2026-01-01T14:00:00+02:00\na,0,2026-01-01 12:30:00Z\n")
    found = read_history(path)
    assert (found.first_at, found.last_at) == (NOON, NOON + timedelta(minutes=30))


def with_row(**changes: Any) -> Rows:
    return [*rows(2), {**rows(3)[2], **changes}, {**rows(3)[2], **changes}]


@pytest.mark.parametrize(
    ("suffix", "given", "says"),
    [
        (".csv", with_row(reward=1.5), r"row 3 \(and 1 more rows\): reward 1\.5 must be in \[0, 1\]"),
        (".jsonl", with_row(reward=-0.1), r"row 3 .*: reward -0\.1 must be in"),
        (".parquet", with_row(reward=float("nan")), r"row 3 .*: reward nan must be in"),
        (".parquet", with_row(reward=None), r"row 3 .*: reward None must have a value"),
        (".jsonl", with_row(arm=None), r"row 3 .*: arm None must have a value"),
        (".csv", with_row(arm=""), r"row 3 .*: arm '' must be the id of an arm"),
        (".csv", with_row(reward="good"), "column 'reward' must hold numbers, not string"),
        (".csv", with_row(time="2026-01-01T12:00:00"), r"row 3 .*: time '2026-01-01T12:00:00' must have a time zone"),
        (".jsonl", with_row(time="2026-01-01"), r"row 3 .*: time '2026-01-01' must have a time zone"),
        (".csv", with_row(time="2026-13-01T12:00:00Z"), "column 'time' holds what is no time"),
        (".csv", with_row(segment="a b"), r"row 3 .*: segment 'a b' must match"),
        (".csv", [{**row, "segment": f"s{i}"} for i, row in enumerate(rows())], "column 'segment' has 200 values; at most"),
        (".csv", [{"arm": "a", "reward": 1}], "needs a column 'time' or 'decided_at'"),
        (".jsonl", [{"reward": 1, "time": "2026-01-01T00:00:00Z"}], "needs a column 'arm' or 'arm_id'"),
        (".csv", [{**row, "arm_id": "a"} for row in rows(2)], "has the columns 'arm' and 'arm_id', which mean the same"),
        (".txt", rows(2), r"must be a \.parquet, \.csv or \.jsonl file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, suffix: str, given: Rows, says: str) -> None:
    path = tmp_path / f"x{suffix}"
    if "time" in given[0]:
        write(path, given)
    else:
        path.write_text("arm,reward\na,1\n")
    with pytest.raises(AnalysisError, match=says) as raised:
        read_history(path)
    assert str(path) in str(raised.value)


def test_naive_times_of_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "time": row["time"].replace(tzinfo=None)} for row in rows(2)]), path)
    with pytest.raises(AnalysisError, match="column 'time' has no time zone"):
        read_history(path)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".parquet", b"no"), (".csv", b""), (".jsonl", b"{"), (".csv", b"arm,reward,time\n")],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(AnalysisError, match=r"cannot be read|has no rows"):
        read_history(path)
