"""A service with one experiment, and whether its database holds what its clients were told."""

from __future__ import annotations

from pathlib import Path

import grpc
from processes import run, wait_until

from router.client import CHANNEL_OPTIONS
from router.embedded import read_record
from router.storage.connecting import DatabaseUrl, connect
from router.storage.replay import replay

EXPERIMENT = """
experiment: support
arms:
  - {id: a, model: model-a, role: control, config: {max_tokens: 1024}}
  - {id: b, model: model-b}
"""


def experiment_at(directory: Path) -> Path:
    """Write the file of the experiment `support`."""
    path = directory / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return path


def apply(path: Path, target: str) -> None:
    """Create an experiment from its file and start it."""
    done = run("apply", "-f", path, "--server", target)
    assert done.returncode == 0, done.stderr


def connection_of_its_own(target: str) -> grpc.Channel:
    """Without this, clients of one process share a connection, and with it a worker."""
    return grpc.insecure_channel(target, options=(*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)))


def embedded_url(directory: Path) -> str:
    """The URL of the embedded Postgres of a service in this directory."""
    record = read_record(directory / "data")
    assert record is not None
    return record.url


def check_books(url: str, *, answered: int, rewarded: int) -> None:
    """Every answered decision and every acknowledged event is present once, and evidence is what the log says."""
    with connect(DatabaseUrl.parse(url), autocommit=True) as connection:

        def count(sql: str) -> int:
            row = connection.execute(sql).fetchone()  # type: ignore[arg-type]
            assert row is not None
            return int(row[0])

        wait_until(lambda: count("SELECT count(*) FROM decisions") >= answered, "the journal has drained")
        events = count("SELECT count(*) FROM events")
        assert events >= rewarded
        assert events == count("SELECT sum(n) FROM evidence") == count("SELECT count(*) FROM outcomes")
        assert (
            count(
                "SELECT count(*) FROM events e LEFT JOIN decisions d USING (decision_day, decision_key) WHERE d.arm IS NULL"
            )
            == 0
        )
    with connect(DatabaseUrl.parse(url)) as connection:
        report = replay(connection)
        assert report.agrees, report.disagreements
        assert report.events == events
