"""The queue example: a real queue, a real router, and producers that are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from example_router import ExampleRouter, example_router
from postgres import TestCluster
from processes import wait_until

from router.client import Decision, RouteRequest

EXAMPLE = Path(__file__).parents[2] / "examples" / "queue_feedback"


@pytest.fixture
def queue_url(cluster: TestCluster) -> Iterator[str]:
    """A database of the application's own."""
    with cluster.database_from_template("template0") as url:
        yield url


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleRouter]:
    """A router, for all tests: the last one stops it."""
    with example_router(tmp_path_factory.mktemp("router")) as router:
        yield router


def decision_ids(router: ExampleRouter, count: int) -> list[str]:
    with router.client() as client:
        decisions = client.batch_route([RouteRequest("support-model") for _ in range(count)])
    return [decision.decision_id for decision in decisions if isinstance(decision, Decision)]


def put(url: str, bodies: list[Any]) -> None:
    """As the application does: through the example's own queue."""
    script = "import json, sys, feedback_queue as f; f.FeedbackQueue(sys.argv[1]).put(json.load(sys.stdin))"
    command = [sys.executable, "-c", script, url]
    subprocess.run(command, cwd=EXAMPLE, input=json.dumps(bodies), text=True, check=True, timeout=60)


def producer(url: str, router: ExampleRouter, *options: str) -> subprocess.Popen[str]:
    environment = {**router.environment, "QUEUE_URL": url}
    command = [sys.executable, "producer.py", *options]
    return subprocess.Popen(command, cwd=EXAMPLE, env=environment, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    """What it said, once it ended as it should."""
    _, said = process.communicate(timeout=90)
    assert process.returncode == 0, said
    return said


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[arg-type]


@pytest.mark.slow
def test_each_message_counts_once_though_producers_die(router: ExampleRouter, queue_url: str) -> None:
    before, count = router.outcomes(), 400
    put(queue_url, [{"decision_id": found, "reward": 0.5} for found in decision_ids(router, count)])
    # Killed at different points: after some of its batches were settled, and others only told.
    for left_over in (count - 50, count - 120):
        victim = producer(queue_url, router, "--batch", "10", "--lease", "2")
        wait_until(lambda: rows(queue_url, "SELECT count(*) FROM feedback_queue")[0][0] <= left_over, "some are settled")  # noqa: B023
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=20)
    # Two at once, and what the dead ones had leased comes back.
    others = [producer(queue_url, router, "--batch", "10", "--lease", "20") for _ in range(2)]
    wait_until(lambda: not rows(queue_url, "SELECT id FROM feedback_queue"), "all are settled", 60)
    for process in others:
        process.send_signal(signal.SIGTERM)
        finished(process)
    assert router.outcomes() - before == count
    assert rows(queue_url, "SELECT * FROM feedback_dead_letters") == []


@pytest.mark.slow
def test_what_was_told_and_not_settled_is_a_duplicate(router: ExampleRouter, queue_url: str) -> None:
    before = router.outcomes()
    put(queue_url, [{"decision_id": found, "signal": "thumbs_up"} for found in decision_ids(router, 5)])
    copied = rows(queue_url, "SELECT id, body FROM feedback_queue ORDER BY id")
    assert "applied=5" in finished(producer(queue_url, router, "--until-empty"))
    # As if the reader had died between the router's answer and the settling.
    with psycopg.connect(queue_url) as connection:
        for number, body in copied:
            connection.execute(
                "INSERT INTO feedback_queue (id, body) OVERRIDING SYSTEM VALUE VALUES (%s, %s)", (number, json.dumps(body))
            )
    assert "duplicate=5" in finished(producer(queue_url, router, "--until-empty"))
    assert router.outcomes() - before == 5


def test_poison_is_set_aside_and_holds_nothing_up(router: ExampleRouter, queue_url: str) -> None:
    before = router.outcomes()
    good, spoiled = decision_ids(router, 2)
    forged = spoiled[:-4] + ("AAAA" if spoiled[-4:] != "AAAA" else "BBBB")
    put(
        queue_url,
        [
            {"decision_id": forged, "signal": "thumbs_up"},
            {"decision_id": good, "signal": "thumbs_up", "occurred_at": "2026-03-01T12:00:00Z"},
            {"signal": "thumbs_up"},
            "no object",
            {"decision_id": good, "signal": "applause"},
            {"decision_id": good, "reward": "much"},
            {"decision_id": good, "reward": 2},
            {"decision_id": good, "signal": "thumbs_up", "occurred_at": "yesterday"},
            {"decision_id": good, "signal": "thumbs_up", "metadata": {"n": 1}},
            {"decision_id": good, "signal": "thumbs_up", "metadata": {"n": "x" * 20_000}},
            {"decision_id": good, "signal": "thumbs_up", "colour": "red"},
        ],
    )
    # One that kills its readers: it was leased often, and never settled.
    put(queue_url, [{"decision_id": spoiled, "signal": "thumbs_up"}])
    rows(queue_url, "UPDATE feedback_queue SET attempts = 5 WHERE id = 12 RETURNING id")
    said = finished(producer(queue_url, router, "--until-empty"))
    assert "applied=1 dead=11" in said
    reasons = dict(rows(queue_url, "SELECT id, reason FROM feedback_dead_letters"))
    assert router.outcomes() - before == 1
    expected = {
        1: "DECISION_ID_TAMPERED",
        3: "no decision_id",
        4: "no decision_id",
        5: "signal must be one of",
        6: "'much' is no number",
        7: "reward",
        8: "yesterday",
        9: "texts by name",
        10: "longer than 16384 bytes",
        11: "unknown fields colour",
        12: "leased 6 times",
    }
    assert reasons.keys() == expected.keys()
    assert [number for number, words in expected.items() if words not in reasons[number]] == [], reasons
    assert rows(queue_url, "SELECT id FROM feedback_queue") == []


@pytest.mark.slow
def test_an_outage_of_the_router_loses_nothing(router: ExampleRouter, queue_url: str) -> None:
    before = router.outcomes()
    put(queue_url, [{"decision_id": found, "signal": "task_completed"} for found in decision_ids(router, 20)])
    router.stop()
    waiting = producer(queue_url, router)
    wait_until(
        lambda: rows(queue_url, "SELECT 1 FROM feedback_queue WHERE available_at > now() AND attempts = 0"), "released"
    )
    assert rows(queue_url, "SELECT count(*) FROM feedback_queue") == [(20,)]
    with router.again() as again:
        wait_until(lambda: not rows(queue_url, "SELECT id FROM feedback_queue"), "all are settled", 60)
        assert again.outcomes() - before == 20
        waiting.send_signal(signal.SIGTERM)
        said = finished(waiting)
    assert "released=20" in said
    assert rows(queue_url, "SELECT * FROM feedback_dead_letters") == []
