"""The FastAPI example: a real backend, models and router, over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_router import ExampleRouter, example_router
from processes import wait_until

from router.llm.loopback import serve_loopback

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_backend"


class Backend:
    """The example, running."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, **body: str) -> tuple[int, Any]:
        """Return status and body of a call."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@contextlib.contextmanager
def backend(router: ExampleRouter, directory: Path) -> Iterator[Backend]:
    log = directory / "backend.log"
    with serve_loopback() as models, log.open("w") as stderr:
        environment = {
            **router.environment,
            "ANTHROPIC_BASE_URL": models.anthropic_url,
            "ANTHROPIC_API_KEY": "any",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"], cwd=EXAMPLE, env=environment, stderr=stderr
        )
        try:
            found = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
            wait_until(lambda: found.search(log.read_text()) or process.poll() is not None, "the backend answers")
            started = found.search(log.read_text())
            assert started, log.read_text()
            yield Backend(started[1])
        finally:
            process.terminate()
            # It shuts down in order and then ends by the signal.
            assert process.wait(20) in (0, -signal.SIGTERM), log.read_text()
            assert "Application shutdown complete" in log.read_text()


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleRouter]:
    """A router, for all tests: the last one stops it."""
    with example_router(tmp_path_factory.mktemp("router")) as router:
        yield router


def test_answers_are_routed_and_feedback_is_learned_from(router: ExampleRouter, tmp_path: Path) -> None:
    with backend(router, tmp_path) as app:
        receipts = []
        for turn in range(10):
            asked = {"session_id": "s-1", "turn_id": str(turn), "text": f"Question {turn}", "previous_text": "Question"}
            status, answer = app.post("/answers", **asked)
            assert (status, bool(answer["text"]), bool(answer["receipt"])) == (200, True, True)
            receipts.append(answer["receipt"])
        assert len(set(receipts)) == 10
        for turn, receipt in enumerate(receipts):
            action = ("copied", "again", "up", "down")[turn % 4]
            told = {"receipt": receipt, "session_id": "s-1", "turn_id": str(turn), "action": action}
            assert app.post("/feedback", **told) == (202, {"status": "applied"})
            assert app.post("/feedback", **told) == (202, {"status": "duplicate"})
        assert router.outcomes() == 10
        forged = {"receipt": "forged", "session_id": "s-1", "turn_id": "1", "action": "up"}
        assert app.post("/feedback", **forged)[0] == 422
        assert app.post("/answers", session_id="s-1", turn_id="1")[0] == 422


@pytest.mark.slow
def test_an_outage_of_the_router_costs_no_answer(router: ExampleRouter, tmp_path: Path) -> None:
    with backend(router, tmp_path) as app:
        asked = {"session_id": "s-1", "turn_id": "1", "text": "Question"}
        before = app.post("/answers", **asked)[1]
        router.stop()
        status, answer = app.post("/answers", **asked)
        assert (status, bool(answer["text"]), answer["receipt"]) == (200, True, "")
        # Feedback on that answer is nobody's; feedback on the one before has to wait.
        told = {"session_id": "s-1", "turn_id": "1", "action": "up"}
        assert app.post("/feedback", receipt="", **told) == (202, {"status": "not_sent"})
        assert app.post("/feedback", receipt=before["receipt"], **told)[0] == 503
