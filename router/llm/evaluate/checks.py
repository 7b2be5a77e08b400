"""Checks: what turns an answer into a score in [0, 1].

A check is written as on the command line, and that text is its name: `exact_match`, `exact_match:strict`, `regex`,
`regex:PATTERN`, `json_schema:FILE`, `judge:PROVIDER:MODEL`, `python:MODULE:FUNCTION`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from router.field_problems import did_you_mean
from router.llm.evaluate.dataset import Item
from router.llm.evaluate.errors import EvaluationError

KINDS: Final = ("exact_match", "regex", "json_schema", "judge", "python")
_FENCE: Final = re.compile(r"\A```[a-zA-Z]*\s*\n(.*?)\n?```\Z", re.DOTALL)


class CheckError(Exception):
    """A check that came to no score; the answer stays, without one."""


@dataclass(slots=True)
class Tally:
    """The money of one answer and its checks: set aside for them, and charged."""

    reserved_usd: float = 0.0
    charged_usd: float = 0.0


class Check(Protocol):
    """Scores answers."""

    #: As it was written.
    name: str

    def lacks(self, item: Item) -> str | None:
        """Return what an item lacks for this check, as a rule; None if nothing."""

    async def score(self, item: Item, answer: str, tally: Tally) -> float:
        """Return the score of an answer, in [0, 1]. Raises CheckError."""


def normalised(text: str) -> str:
    """Return a text as `exact_match` compares it.

    Unicode in composed form, without case, each run of white space one space, none at the ends, and without one full stop
    at the end.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(folded.split()).removesuffix(".").rstrip()


class ExactMatch:
    """1 where the answer is the expected text, or one of the expected texts."""

    def __init__(self, name: str, *, strict: bool) -> None:
        self.name = name
        self._form: Callable[[str], str] = str if strict else normalised

    def lacks(self, item: Item) -> str | None:
        """Return what an item lacks for this check."""
        if not _texts(item.expected):
            return f"{self.name} needs expected: a text, a number, or a list of them that are all right"
        return None

    async def score(self, item: Item, answer: str, tally: Tally) -> float:
        """Return the score of an answer."""
        return float(self._form(answer) in [self._form(text) for text in _texts(item.expected)])


class Regex:
    """1 where the pattern is found in the answer; without a pattern of its own, that of each item's `expected`."""

    def __init__(self, name: str, pattern: str | None) -> None:
        self.name = name
        self._pattern = None if pattern is None else _compiled(pattern, name)

    def lacks(self, item: Item) -> str | None:
        """Return what an item lacks for this check."""
        if self._pattern is not None:
            return None
        if not isinstance(item.expected, str):
            return "regex without a pattern needs expected: the pattern"
        try:
            _compiled(item.expected, "expected")
        except EvaluationError as error:
            return str(error)
        return None

    async def score(self, item: Item, answer: str, tally: Tally) -> float:
        """Return the score of an answer."""
        pattern = self._pattern or _compiled(item.expected, "expected")
        return float(pattern.search(answer) is not None)


class JsonSchema:
    """1 where the answer is JSON that follows the schema; a code fence around it is taken off."""

    def __init__(self, name: str, path: Path) -> None:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
        from referencing.jsonschema import EMPTY_REGISTRY

        self.name = name
        try:
            schema = json.loads(path.read_bytes().decode("utf-8-sig"))
        except OSError as error:
            raise EvaluationError(f"{name}: {path} cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise EvaluationError(f"{name}: {path} is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise EvaluationError(f"{name}: {path} must hold a JSON Schema: an object")
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise EvaluationError(f"{name}: {path} is no JSON Schema: {error.message} at {error.json_path}") from error
        # The registry knows no other schema: a reference to elsewhere is an error, and is not fetched.
        self._validator = kind(schema, registry=EMPTY_REGISTRY)

    def lacks(self, item: Item) -> str | None:
        """Return what an item lacks for this check."""
        return None

    async def score(self, item: Item, answer: str, tally: Tally) -> float:
        """Return the score of an answer."""
        from referencing.exceptions import Unresolvable

        try:
            value = json.loads(unfenced(answer), parse_constant=_not_json)
            return float(self._validator.is_valid(value))
        except Unresolvable as error:
            raise CheckError(f"the schema refers to what it does not hold: {error}") from error
        except (ValueError, RecursionError):
            return 0.0


class PythonFunction:
    """What a function of one's own says: `function(item, answer)` gives a number in [0, 1], or true or false."""

    def __init__(self, name: str, module: str, function: str) -> None:
        self.name = name
        # As with `python -m`: what lies in the working directory can be imported.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module), function)
        except Exception as error:
            raise EvaluationError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise EvaluationError(f"{name}: {function} is no function")
        self._function = found

    def lacks(self, item: Item) -> str | None:
        """Return what an item lacks for this check."""
        return None

    async def score(self, item: Item, answer: str, tally: Tally) -> float:
        """Return the score of an answer. What the function raises is a CheckError that says so."""
        try:
            # In a thread: a function that takes its time must not keep the models waiting.
            found = await asyncio.to_thread(self._function, item.plain(), answer)
            if inspect.isawaitable(found):
                found = await found
        except Exception as error:
            raise CheckError(f"{type(error).__name__}: {error}") from error
        return score_of(found)


def score_of(value: Any) -> float:
    """Return a value as a score. Raises CheckError."""
    # Written so that NaN fails it too.
    if not isinstance(value, Real | np.bool_) or not 0.0 <= float(value) <= 1.0:
        raise CheckError(f"the score is {value!r}: it must be a number from 0 to 1, true or false")
    return float(value)


def unfenced(answer: str) -> str:
    """Return what is inside the code fence of an answer that is one; any other answer as it is."""
    found = _FENCE.match(answer.strip())
    return found.group(1) if found else answer


def plain_check(name: str) -> Check:
    """Return the check of a name, any but a judge. Raises EvaluationError."""
    kind, _, rest = name.partition(":")
    match kind:
        case "exact_match" if rest in ("", "strict"):
            return ExactMatch(name, strict=rest == "strict")
        case "exact_match":
            raise EvaluationError(f"check {name!r}: write exact_match or exact_match:strict")
        case "regex":
            return Regex(name, rest or None)
        case "json_schema":
            if not rest:
                raise EvaluationError(f"check {name!r}: write json_schema:FILE")
            return JsonSchema(name, Path(rest))
        case "python":
            module, _, function = rest.partition(":")
            if not module or not function:
                raise EvaluationError(f"check {name!r}: write python:MODULE:FUNCTION")
            return PythonFunction(name, module, function)
        case _:
            hint = did_you_mean(kind, KINDS)
            raise EvaluationError(
                f"check {name!r} is unknown" + (f" ({hint})" if hint else f": there are {', '.join(KINDS)}")
            )


def _texts(expected: Any) -> list[str]:
    """Return the texts that are right."""
    values = expected if isinstance(expected, list) else [expected]
    if not all(isinstance(value, str | int | float | bool) for value in values):
        return []
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise EvaluationError(f"{name}: not a regular expression: {error}") from error


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
