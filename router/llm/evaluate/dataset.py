"""Datasets: JSON Lines of items, each a prompt with what its answer is checked against.

A dataset is read twice, a line at a time, and never held in memory: once to find all that is wrong with it before money is
spent, and once to ask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from router.field_problems import did_you_mean
from router.llm.evaluate.errors import EvaluationError

_KEYS: Final = ("id", "prompt", "system", "expected", "checks", "metadata")
_ROLES: Final = ("user", "assistant")
#: The longest line, in bytes.
MAX_LINE: Final = 16 * 1024 * 1024
_MAX_ID: Final = 200
_MOST_PROBLEMS: Final = 20


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a dataset."""

    id: str
    #: From 1.
    line: int
    messages: Sequence[Mapping[str, str]]
    system: str = ""
    #: What a check compares with, of any JSON type; None where there is nothing.
    expected: Any = None
    #: The checks of this item in place of the run's; None for those of the run.
    checks: Sequence[str] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last message of the user."""
        return self.messages[-1]["content"]

    def plain(self) -> dict[str, Any]:
        """Return the item as a line has it, for checks of one's own."""
        return {
            "id": self.id,
            "prompt": self.prompt,
            "messages": [dict(message) for message in self.messages],
            "system": self.system,
            "expected": self.expected,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that was read once from its first to its last line, and had nothing wrong with it."""

    path: Path
    items: int
    #: SHA-256 of the file, in hexadecimal.
    digest: str

    def __iter__(self) -> Iterator[Item]:
        """Read the items again. Raises EvaluationError if the file has changed so that a line is wrong."""
        for number, line in _lines(self.path, lambda _: None):
            yield _item(line, number, self.path)


class _LineError(ValueError):
    """A rule that a line breaks."""


def open_dataset(path: Path, accept: Callable[[Item], str | None] = lambda item: None) -> Dataset:
    """Read a dataset through, and return it if every line keeps the rules.

    `accept` returns what else is wrong with an item, or None. Raises EvaluationError with a line `FILE:LINE: rule` for each
    of the first problems.
    """
    digest = hashlib.sha256()
    seen: dict[str, int] = {}
    problems: list[str] = []
    for number, line in _lines(path, digest.update):
        try:
            item = _item(line, number, path)
        except EvaluationError as error:
            problems.append(str(error))
        else:
            if item.id in seen:
                problems.append(f"{path}:{number}: id {item.id!r} is that of line {seen[item.id]} already: ids are unique")
            elif wrong := accept(item):
                problems.append(f"{path}:{number}: {wrong}")
            seen.setdefault(item.id, number)
        if len(problems) >= _MOST_PROBLEMS:
            problems.append("… and perhaps more")
            break
    if problems:
        raise EvaluationError("\n".join(problems))
    if not seen:
        raise EvaluationError(f"{path}: no items: a dataset has one JSON object a line, with id and prompt")
    return Dataset(path, len(seen), digest.hexdigest())


def _lines(path: Path, passed: Callable[[bytes], None]) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not blank, with their numbers; `passed` gets every byte."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                passed(line)
                if len(line) > MAX_LINE:
                    raise EvaluationError(f"{path}:{number}: the line is longer than {MAX_LINE // 2**20} MiB")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror or error})") from error


def _item(line: bytes, number: int, path: Path) -> Item:
    try:
        return _parsed(_object(line), number)
    except _LineError as error:
        raise EvaluationError(f"{path}:{number}: {error}") from error


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _LineError("not UTF-8: save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise _LineError(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _LineError("not JSON that can be read: it is nested too deeply") from error
    if not isinstance(value, dict):
        raise _LineError("must be a JSON object with id and prompt")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _LineError(f"key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise _LineError(f"not JSON: {name} is no JSON number")


def _parsed(value: Mapping[str, Any], number: int) -> Item:
    for key in value:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise _LineError(f"unknown key {key[:60]!r}" + (f" ({hint})" if hint else f": the keys are {', '.join(_KEYS)}"))
    checks, metadata = value.get("checks"), value.get("metadata") or {}
    if checks is not None and not (isinstance(checks, list) and checks and all(isinstance(one, str) for one in checks)):
        raise _LineError("checks must be a list of texts, as --check has them")
    if not isinstance(metadata, dict):
        raise _LineError("metadata must be an object")
    messages, system = _messages(value)
    return Item(_id(value), number, messages, system, value.get("expected"), checks, metadata)


def _id(value: Mapping[str, Any]) -> str:
    if "id" not in value:
        raise _LineError("id is missing")
    found = value["id"]
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found.strip() or len(found) > _MAX_ID:
        raise _LineError(f"id must be a text of 1 to {_MAX_ID} characters, or a whole number")
    return found


def _messages(value: Mapping[str, Any]) -> tuple[list[dict[str, str]], str]:
    """Return the messages, and the system prompt: the key of that name, or a first message of that role."""
    if "prompt" not in value:
        raise _LineError("prompt is missing")
    prompt, system = value["prompt"], value.get("system")
    if system is not None and not isinstance(system, str):
        raise _LineError("system must be a text")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise _LineError("prompt is empty")
        return [{"role": "user", "content": prompt}], system or ""
    if not isinstance(prompt, list):
        raise _LineError("prompt must be a text, or a list of messages with role and content")
    for i, message in enumerate(prompt):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise _LineError(f"prompt[{i}] must be an object with role and content")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise _LineError(f"prompt[{i}].content must be a text that is not empty")
    if prompt and prompt[0]["role"] == "system":
        if system:
            raise _LineError("prompt[0] and system are both the system prompt: keep one")
        system, prompt = prompt[0]["content"], prompt[1:]
    for i, message in enumerate(prompt):
        if message["role"] not in _ROLES:
            raise _LineError(f"prompt[{i}].role is {message['role']!r}: it must be user or assistant")
    if not prompt or prompt[-1]["role"] != "user":
        raise _LineError("the last message of prompt must have the role user")
    return prompt, system or ""
