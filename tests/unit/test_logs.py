"""Log lines: what they say, and that nothing in them breaks the line."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from opentelemetry import trace

from router.logs import JsonFormatter, TextFormatter, configure_logging, configured_format


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(message: str = "a ramp goes on", **extra: object) -> logging.LogRecord:
    made = logging.getLogger("router.test").makeRecord(
        "router.test", logging.WARNING, "file.py", 7, message, (), None, extra=extra
    )
    made.created, made.process = 1_700_000_000.25, 4711
    return made


def test_a_json_line_has_every_field() -> None:
    line = JsonFormatter().format(record(experiment="support", arm="sonnet", turn=3, share=0.25))
    found = json.loads(line)
    assert found == {
        "time": "2023-11-14T22:13:20.250000+00:00",
        "level": "warning",
        "logger": "router.test",
        "message": "a ramp goes on",
        "pid": 4711,
        "experiment": "support",
        "arm": "sonnet",
        "turn": 3,
        "share": 0.25,
    }
    assert datetime.fromisoformat(found["time"]).timestamp() == 1_700_000_000.25


def test_a_json_line_is_one_line_of_json_whatever_it_carries() -> None:
    odd = {"path": Path("/tmp"), 3: float("nan"), "many": (1, {"x"})}
    line = JsonFormatter().format(record("two\nlines\u2028", odd=odd, worst=float("-inf"), half="\ud800"))
    assert len(line.splitlines()) == 1
    assert line.isascii()

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    found = json.loads(line, parse_constant=refuse)
    assert found["message"] == "two\nlines\u2028"
    assert found["odd"] == {"path": "/tmp", "3": "nan", "many": [1, ["x"]]}
    assert found["worst"] == "-inf"


def test_a_field_never_replaces_what_the_line_says() -> None:
    found = json.loads(JsonFormatter().format(record(level="debug", pid=1, time="never")))
    assert (found["level"], found["pid"], found["time"][:4]) == ("warning", 4711, "2023")


def test_an_exception_is_a_member() -> None:
    made = record()
    try:
        raise KeyError("which")
    except KeyError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "KeyError: 'which'" in json.loads(line)["exception"]
    assert len(line.splitlines()) == 1
    text = TextFormatter().format(made)
    assert text.splitlines()[-1] == "KeyError: 'which'"


def test_a_text_line_ends_with_its_fields() -> None:
    line = TextFormatter().format(record(experiment="support", arm="a b", session="", turn=3, note='say "x"\nagain'))
    head, _, tail = line.partition(" WARNING ")
    assert len(head) == len("2023-11-14 22:13:20,250")
    assert tail == (
        '4711 router.test: a ramp goes on experiment=support arm="a b" session="" turn=3 note="say \\"x\\"\\nagain"'
    )
    assert TextFormatter().format(record()).endswith("router.test: a ramp goes on")


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_is_configured_can_be_asked(root: logging.Logger, style: str, capsys: pytest.CaptureFixture[str]) -> None:
    root.handlers[:] = []  # pytest's own
    assert configured_format() == "text"
    configure_logging("warning", style)  # type: ignore[arg-type]
    assert configured_format() == style
    log = logging.getLogger("router.test")
    log.info("not shown")
    log.warning("shown %d", 1, extra={"experiment": "support"})
    (line,) = capsys.readouterr().err.splitlines()
    if style == "json":
        assert {"message": "shown 1", "experiment": "support", "level": "warning"}.items() <= json.loads(line).items()
    else:
        assert line.endswith("router.test: shown 1 experiment=support")


def test_a_line_says_which_trace_it_is_of() -> None:
    ids = trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(ids)):
        found = json.loads(JsonFormatter().format(record(arm="a")))
        text = TextFormatter().format(record(arm="a"))
    assert (found["trace_id"], found["span_id"]) == ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7")
    assert text.endswith(" arm=a trace_id=0af7651916cd43dd8448eb211c80319c span_id=00f067aa0ba902b7")
    assert "trace_id" not in JsonFormatter().format(record())
