"""docs/security.md promises nothing without a test, and says of the code what is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from router.access.roles import METHODS, Role
from router.listening import MAX_MESSAGE_BYTES, Bounds

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text()
PROMISES = re.findall(r"^\| (.+?) \| `(tests/\S+?)::(\w+)` \|$", DOCUMENT, re.MULTILINE)


def section(title: str) -> str:
    """The text of a section."""
    return DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_row_of_the_promises_names_a_test() -> None:
    rows = [line for line in section("What is promised").splitlines() if line.startswith("| ")]
    assert len(PROMISES) == len(rows) - 1, "but the head"
    assert len(PROMISES) > 30


@pytest.mark.parametrize(("promise", "file", "name"), PROMISES, ids=[name for *_, name in PROMISES])
def test_a_promise_has_its_test(promise: str, file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in found, promise


@pytest.mark.parametrize("role", [Role.ROUTE, Role.REWARD])
def test_the_roles_open_what_it_says(role: Role) -> None:
    (row,) = [line for line in section("Keys").splitlines() if line.startswith(f"| `{role}` |")]
    said = set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert said == {path.rsplit("/", 1)[1] for path, rule in METHODS.items() if rule.role is role}


def test_the_bounds_are_those_of_the_code() -> None:
    text, bounds = section("Bounds"), Bounds()
    for said in (
        f"| Message | {MAX_MESSAGE_BYTES // 2**20} MiB |",
        f"| Metadata of a call | {bounds.metadata_bytes // 1024} KiB |",
        f"| Connections | {bounds.connections:,} |",
        f"| {bounds.calls_of_connection:,} and {bounds.calls:,} |",
        f"| Time for TLS and the greeting | {bounds.handshake_s:g} s |",
        f"| one in {bounds.ping_every_s:g} s,",
        f"| asked after {bounds.keepalive_s:g} s, answers within {bounds.keepalive_answer_s:g} s |",
        f"| A connection without calls | {bounds.idle_s / 60:g} minutes |",
    ):
        assert said in text
