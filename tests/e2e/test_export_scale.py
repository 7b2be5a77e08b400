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

# A new vector for every 200 decisions, texts as long as ids are, and keys that grow, as those of decisions do.
_FILL = """
INSERT INTO decisions
SELECT date '2026-11-01', (lpad(to_hex(i), 16, '0') || substr(md5(i::text), 1, 16))::uuid, 1, i % 3,
       timestamptz '2026-11-01 00:00Z' + i * interval '1 ms', 0.1 + random() * 0.9, i / 200,
       md5('a' || i / 200 % 20000)::uuid, 'sampled', 'user-' || (random() * 1e6)::int, 'session-' || i / 5, 'turn-' || i % 5,
       'req-' || md5(i::text), 'segment-' || i % 4, substr(md5(i::text), 1, 16), CASE WHEN i % 2 = 0 THEN random() END
FROM generate_series(1, {rows}) i
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_bounded(database_url: str, tmp_path: Path) -> None:
    add_experiments(database_url, 1, 3)
    with psycopg.connect(database_url, autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(
            "CREATE TABLE decisions_20261101 PARTITION OF decisions FOR VALUES FROM ('2026-11-01') TO ('2026-11-02')"
        )
        connection.execute(
            "INSERT INTO allocations SELECT md5('a' || i)::uuid, 1, i, '{0,1,2}', array[0.2, 0.3, 0.5]"
            " FROM generate_series(0, 19999) i"
        )
        connection.execute(_FILL.format(rows=ROWS))
        connection.execute("VACUUM ANALYZE decisions")
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
    assert found["rows_written"] == ROWS
    print(
        f"\n{ROWS:,} decisions in {seconds:.1f} s, {used.ru_maxrss / 1024:.0f} MiB, {used.ru_utime + used.ru_stime:.1f} s of"
        f" the command's CPU, {found['bytes'] / ROWS:.0f} bytes a decision"
    )
    assert used.ru_maxrss * 1024 < MOST_BYTES
