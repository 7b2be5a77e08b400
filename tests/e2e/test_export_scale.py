"""Many decisions are exported in bounded memory, by the command as a user runs it. Prints how fast, under -s."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from growth import add_experiments
from processes import COMMAND

#: BANDIT_ROUTER_EXPORT_ROWS=10000000 for the figures in docs/analysis.md.
ROWS = int(os.environ.get("BANDIT_ROUTER_EXPORT_ROWS", "1000000"))
#: The process alone, with the Arrow and Python that it loads. Not a quarter of what the decisions take in memory.
MOST_BYTES = 512 * 1024 * 1024
#: The target on two free cores, with few arms. Fewer rows say little of the rate.
MOST_SECONDS, TIMED_ROWS = 60.0, 10_000_000

# Texts as long as ids are, and keys that grow, as those of decisions do.
_FILL = """
INSERT INTO decisions
SELECT date '2026-11-01', (lpad(to_hex(i), 16, '0') || substr(md5(i::text), 1, 16))::uuid, 1, i % 3,
       timestamptz '2026-11-01 00:00Z' + i * interval '1 ms', 0.1 + random() * 0.9, i / {each},
       md5('a' || i / {each} % {vectors})::uuid, 'sampled', 'user-' || (random() * 1e6)::int, 'session-' || i / 5,
       'turn-' || i % 5, 'req-' || md5(i::text), 'segment-' || i % 4, substr(md5(i::text), 1, 16),
       CASE WHEN i % 2 = 0 THEN random() END
FROM generate_series(1, {rows}) i
"""
_VECTORS = """
INSERT INTO allocations
SELECT md5('a' || i)::uuid, 1, i, (SELECT array_agg(a ORDER BY a) FROM generate_series(0, {arms} - 1) a),
       (SELECT array_agg(random() * 2 / {arms}) FROM generate_series(1, {arms}) WHERE i >= 0)
FROM generate_series(0, {vectors} - 1) i
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("arms", "rows", "each", "vectors"),
    [
        pytest.param(3, ROWS, 200, 20_000, id="few arms"),
        # Vectors that are thirty times as long, and a new one for every ten decisions.
        pytest.param(100, min(ROWS, 1_000_000), 10, 100_000, id="many arms"),
    ],
)
def test_memory_is_bounded(database_url: str, tmp_path: Path, arms: int, rows: int, each: int, vectors: int) -> None:
    add_experiments(database_url, 1, arms)
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(
            "CREATE TABLE decisions_20261101 PARTITION OF decisions FOR VALUES FROM ('2026-11-01') TO ('2026-11-02')"
        )
        connection.execute(_VECTORS.format(arms=arms, vectors=vectors))
        connection.execute(_FILL.format(rows=rows, each=each, vectors=vectors))
        connection.execute("VACUUM ANALYZE decisions, allocations")
    arguments = [
        "export",
        "decisions",
        "--experiment",
        "x-1",
        "--to",
        str(tmp_path),
        "--database-url",
        database_url,
        "--json",
    ]
    began = time.monotonic()
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    seconds = time.monotonic() - began
    assert process.returncode == 0
    (found,) = json.loads(told)["datasets"]
    assert found["rows_written"] == rows
    print(
        f"\n{rows:,} decisions of {arms} arms in {seconds:.1f} s, {used.ru_maxrss / 1024:.0f} MiB,"
        f" {used.ru_utime + used.ru_stime:.1f} s of the command's CPU, {found['bytes'] / rows:.0f} bytes a decision"
    )
    assert used.ru_maxrss * 1024 < MOST_BYTES
    if arms == 3 and rows >= TIMED_ROWS:
        assert seconds < MOST_SECONDS * rows / TIMED_ROWS
