"""Datasets: what a line may hold, and what is said of lines that are wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from router.llm.evaluate import dataset as module
from router.llm.evaluate.dataset import open_dataset
from router.llm.evaluate.errors import EvaluationError


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "golden.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


def test_a_line_with_everything(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2+2?"},
    ]
    line = {"id": "a", "prompt": messages, "system": "Short.", "expected": 4, "checks": ["regex:4"], "metadata": {"t": 1}}
    path = written(tmp_path, line)
    (item,) = open_dataset(path)
    assert (item.id, item.line, item.prompt, item.system, item.expected) == ("a", 1, "2+2?", "Short.", 4)
    assert list(item.messages) == messages
    assert item.checks == ["regex:4"]
    assert item.plain() == {
        "id": "a",
        "prompt": "2+2?",
        "messages": messages,
        "system": "Short.",
        "expected": 4,
        "metadata": {"t": 1},
    }


def test_a_prompt_may_be_a_text_and_the_system_prompt_a_message(tmp_path: Path) -> None:
    with_system = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    first, second = open_dataset(written(tmp_path, {"id": 1, "prompt": "P"}, {"id": "2", "prompt": with_system}))
    assert (first.id, list(first.messages), first.system) == ("1", [{"role": "user", "content": "P"}], "")
    assert (second.system, list(second.messages)) == ("S", [{"role": "user", "content": "U"}])


def test_byte_order_marks_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "prompt": "caf\xc3\xa9"}\r\n\r\n  \n{"id": "b", "prompt": "x"}')
    found = open_dataset(path)
    assert [(item.id, item.line, item.prompt) for item in found] == [("a", 1, "café"), ("b", 4, "x")]
    assert found.items == 2
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()


GOOD = {"id": "x", "prompt": "p"}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b'{"id": "a"', "not JSON: "),
        (b"[1]", "must be a JSON object"),
        (b'{"id": "a", "prompt": "\xff"}', "not UTF-8"),
        (b'{"id": "a", "id": "b", "prompt": "p"}', "key 'id' is there twice"),
        (b'{"id": "a", "prompt": "p", "expected": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        ({"prompt": "p"}, "id is missing"),
        ({"id": "", "prompt": "p"}, "id must be a text of 1 to 200 characters"),
        ({"id": "i" * 201, "prompt": "p"}, "id must be a text of 1 to 200 characters"),
        ({"id": True, "prompt": "p"}, "id must be a text"),
        ({"id": "a"}, "prompt is missing"),
        ({"id": "a", "prompt": " "}, "prompt is empty"),
        ({"id": "a", "prompt": 7}, "prompt must be a text, or a list of messages"),
        ({"id": "a", "prompt": []}, "the last message of prompt must have the role user"),
        ({"id": "a", "prompt": [{"role": "user"}]}, "prompt[0] must be an object with role and content"),
        ({"id": "a", "prompt": [{"role": "tool", "content": "x"}]}, "prompt[0].role is 'tool'"),
        ({"id": "a", "prompt": [{"role": "user", "content": ""}]}, "prompt[0].content must be a text that is not empty"),
        ({"id": "a", "prompt": [{"role": ["user"], "content": "x"}]}, "prompt[0].role is ['user']"),
        (
            {"id": "a", "prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "the last message of prompt must have the role user",
        ),
        (
            {"id": "a", "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "system": "t"},
            "both",
        ),
        ({"id": "a", "prompt": "p", "system": 1}, "system must be a text"),
        ({"id": "a", "prompt": "p", "expcted": 1}, "unknown key 'expcted' (did you mean 'expected'?)"),
        ({"id": "a", "prompt": "p", "checks": "regex"}, "checks must be a list"),
        ({"id": "a", "prompt": "p", "checks": []}, "checks must be a list"),
        ({"id": "a", "prompt": "p", "metadata": [1]}, "metadata must be an object"),
        (GOOD, "id 'x' is that of line 1 already"),
    ],
)
def test_errors_name_file_line_and_rule(tmp_path: Path, line: Any, rule: str) -> None:
    path = written(tmp_path, GOOD, line, {"id": "y", "prompt": "p"})
    with pytest.raises(EvaluationError) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert rule in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_that_is_wrong_is_said_but_not_without_end(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        open_dataset(written(tmp_path, {"id": "a"}, GOOD, {"id": "b"}))
    assert [line.split(": ")[0].rpartition(":")[2] for line in str(caught.value).splitlines()] == ["1", "3"]
    with pytest.raises(EvaluationError) as caught:
        open_dataset(written(tmp_path, *[{"id": "a"}] * 1000))
    assert len(str(caught.value).splitlines()) == 21


def test_what_a_check_says_of_an_item_is_an_error_of_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, {"id": "y", "prompt": "p"})
    with pytest.raises(EvaluationError, match=r"golden\.jsonl:2: no expected"):
        open_dataset(path, lambda item: "no expected" if item.id == "y" else None)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_dataset_without_items(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match="no items"):
        open_dataset(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"missing\.jsonl: cannot be read \(No such file"):
        open_dataset(tmp_path / "missing.jsonl")
    with pytest.raises(EvaluationError, match="Is a directory"):
        open_dataset(tmp_path)


def test_lines_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 100)
    with pytest.raises(EvaluationError, match=r"golden\.jsonl:2: the line is longer"):
        open_dataset(written(tmp_path, GOOD, {"id": "y", "prompt": "p" * 200}))


def test_a_dataset_that_changed_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    found = open_dataset(path)
    path.write_text("nonsense\n")
    with pytest.raises(EvaluationError, match=":1: not JSON"):
        list(found)
