"""A shadow arm's answer cannot be given to a caller: the type checker refuses every way there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from anthropic.types import Message
from router.client import Decision
from router.llm.mirrors import Exchange, Mirrored
from router.llm.recording import Recording
from router.llm.routed import Routed, RoutedStream
from router.llm.shadow_answer import ServingAnswer, ShadowAnswer
from router.llm.streams import ServedStream

async def f(
    decision: Decision,
    serving: ServingAnswer,
    shadow: ShadowAnswer,
    message: Message,
    stream: ServedStream[str],
    exchange: Exchange,
    recording: Recording,
    mirrored: Mirrored,
) -> None:
    {statement}
"""
#: What passes, and the same with a shadow answer in its place, with what mypy says of it.
WAYS = {
    "an answer": (
        "Routed(message, decision)",
        "Routed(shadow, decision)",
        'Value of type variable "T" of "Routed" cannot be "ShadowAnswer"',
    ),
    "a stream": (
        "RoutedStream(stream, decision)",
        "RoutedStream(shadow, decision)",
        'Argument 1 to "RoutedStream" has incompatible type "ShadowAnswer"',
    ),
    "production's answer": (
        "exchange.served(serving)",
        "exchange.served(shadow)",
        'Argument 1 to "served" of "Exchange" has incompatible type "ShadowAnswer"; expected "ServingAnswer"',
    ),
    "the serving side of a record": (
        "await recording.record(mirrored, serving, shadow)",
        "await recording.record(mirrored, shadow, shadow)",
        'Argument 2 to "record" of "Recording" has incompatible type "ShadowAnswer"; expected "ServingAnswer"',
    ),
}


def mypy(tmp_path: Path, statement: str) -> str:
    """Check a program and return what the checker says; the cache of `make check` makes it quick."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(statement=statement))
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_the_right_types_pass(tmp_path: Path) -> None:
    statements = "\n    ".join(right for right, _, _ in WAYS.values())
    assert mypy(tmp_path, statements) == "Success: no issues found in 1 source file\n"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_shadow_answer_is_refused(tmp_path: Path, way: str) -> None:
    _, wrong, complaint = WAYS[way]
    said = mypy(tmp_path, wrong)
    assert complaint in said
    assert "Found 1 error in 1 file" in said
