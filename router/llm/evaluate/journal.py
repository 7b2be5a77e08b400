"""The journal of a run: a header with its settings, then one line for each answer, synced before it counts.

A run goes on where its journal ends. A line that a killed process left half written is dropped: its answer is asked for
again. Anything else that is wrong with the file is an error, since a line that cannot be read might hide an answer.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from router.llm.evaluate.errors import EvaluationError

FORMAT: Final = "bandit-router evaluation"
VERSION: Final = 1
#: The kind of error of a call that the budget no longer covers.
UNPAID: Final = "budget"

#: Item, arm and sample.
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of asking one arm for one item."""

    item: str
    #: The item's line in the dataset.
    line: int
    arm: str
    #: From 0.
    sample: int
    #: The beginning of the prompt, for reading.
    prompt: str
    #: None where there was an error.
    answer: str | None
    #: "kind: message"; None where there was an answer.
    error: str | None
    stop_reason: str
    #: The model as its server named it.
    model: str
    input_tokens: int | None
    output_tokens: int | None
    #: Of the call that succeeded.
    latency_s: float | None
    #: Of the answer; None where prices or tokens are unknown.
    cost_usd: float | None
    #: Of the answer, its failed attempts and its judges, at worst.
    charged_usd: float
    #: The checks that were to be made.
    checks: list[str]
    #: Of the checks that came to a score.
    scores: dict[str, float] = field(default_factory=dict)
    #: Why the others did not.
    check_errors: dict[str, str] = field(default_factory=dict)

    @property
    def unpaid(self) -> bool:
        """Whether the budget ended between two attempts: with more of it, the next run asks again."""
        return self.error is not None and self.error.startswith(f"{UNPAID}:")

    @property
    def key(self) -> Key:
        """What the result is of."""
        return (self.item, self.arm, self.sample)


_NAMES: Final = frozenset(one.name for one in fields(Result))


class Journal:
    """A journal open for writing, by one process at a time."""

    def __init__(self, path: Path, descriptor: int, charged_usd: float, done: Mapping[Key, bool]) -> None:
        self.path = path
        self._descriptor = descriptor
        #: What the answers in it were charged.
        self.charged_usd = charged_usd
        #: What it holds, and whether that is an answer.
        self.done = dict(done)
        #: How many of them are errors.
        self.errors = sum(not answered for answered in done.values())

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Self:
        """Open a journal to go on with it, or begin one. Raises EvaluationError, also if its settings are others."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise EvaluationError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            return cls._opened(path, descriptor, settings)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def _opened(cls, path: Path, descriptor: int, settings: Mapping[str, Any]) -> Self:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EvaluationError(f"{path}: another evaluation is writing to it") from error
        charged, done, end = 0.0, dict[Key, bool](), 0
        found: Mapping[str, Any] | None = None
        for after, number, value in _records(path):
            end = after
            if number == 1:
                found = _settings(path, value)
                _same(path, found, json.loads(json.dumps(settings)))
            else:
                result = _result(path, number, value)
                charged += result.charged_usd
                if not result.unpaid:
                    done[result.key] = result.error is None
        journal = cls(path, descriptor, charged, done)
        os.ftruncate(descriptor, end)
        if found is None:
            journal._write({"format": FORMAT, "version": VERSION, "settings": settings})
            _sync_directory(path)
        return journal

    def append(self, result: Result) -> None:
        """Write a result; on return it is on disk. Raises EvaluationError, for example if the disk is full."""
        self._write(asdict(result))
        answered = result.error is None
        # A result that was there before is replaced.
        self.errors += self.done.get(result.key, True) - answered
        self.done[result.key] = answered

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _write(self, value: Mapping[str, Any]) -> None:
        line = (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
        try:
            # A line cut short by a full disk is torn: the next run drops it.
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise EvaluationError(f"{self.path}: cannot be written ({error.strerror})") from error


def read_journal(path: Path, passed: Callable[[Result], None]) -> Mapping[str, Any]:
    """Give every result of a journal in its order, and return its settings. Raises EvaluationError."""
    settings: Mapping[str, Any] | None = None
    for _, number, value in _records(path):
        if number == 1:
            settings = _settings(path, value)
        else:
            passed(_result(path, number, value))
    if settings is None:
        raise EvaluationError(f"{path}: holds no evaluation yet")
    return settings


def _records(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Give the end, the number and the value of each line, without a torn one at the end."""
    end, number = 0, 0
    try:
        with path.open("rb") as file:
            for line in file:
                number, end = number + 1, end + len(line)
                try:
                    # A line without its end is torn, even if what there is of it happens to be JSON.
                    value = json.loads(line) if line.endswith(b"\n") else None
                except ValueError as error:
                    if file.read(1):
                        raise EvaluationError(f"{path}:{number}: not JSON: the journal is damaged, begin another") from error
                    value = None
                if value is None:
                    _check_torn(path, number, line)
                    return
                yield end, number, value
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror or error})") from error


def _check_torn(path: Path, number: int, line: bytes) -> None:
    """See that a half line is one of ours: what is no journal must not be cut short."""
    begin = json.dumps({"format": FORMAT})[:-1].encode()
    if number == 1 and not line.startswith(begin) and not begin.startswith(line):
        raise EvaluationError(f"{path}: is no journal of an evaluation: choose another --out")


def _settings(path: Path, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("settings"), dict):
        raise EvaluationError(f"{path}: is no journal of an evaluation: choose another --out")
    if value.get("version") != VERSION:
        raise EvaluationError(f"{path}: is of version {value.get('version')}, this program writes {VERSION}: begin another")
    return dict(value["settings"])


def _result(path: Path, number: int, value: Any) -> Result:
    if isinstance(value, dict) and set(value) == _NAMES:
        result = Result(**value)
        texts = (result.item, result.arm, *result.checks, *result.scores)
        numbers = (result.sample, result.charged_usd, *result.scores.values())
        if all(isinstance(one, str) for one in texts) and all(isinstance(one, int | float) for one in numbers):
            return result
    raise EvaluationError(f"{path}:{number}: is no result: the journal is damaged, begin another")


def _same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differences = list(_differences("", old, new))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise EvaluationError(
            f"{path}: holds answers of other settings: {'; '.join(differences[:3])}{more}. "
            "Run with the same settings, or choose another --out"
        )


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{name}.{key}".removeprefix("."), old.get(key), new.get(key))
    elif old != new:
        yield f"{name} was {_shown(old)} and is {_shown(new)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
