"""Reads experiment files, and says all that is wrong with one.

A file passes three gates: it must be YAML (`yaml_lines`), have the right keys and types (`shape`), and keep the rules
of the proto and of `router.experiment_rules`. Text that is not YAML has one problem, the first. After that all are
collected, but rules across fields wait until keys and types are right: with a key misspelt, they would miss its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from protovalidate import Validator
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router import durations
from router.config.errors import ExperimentFileError, FileProblem
from router.config.shape import SHAPES, ExperimentShape, SignalName, StateName
from router.config.translation import to_proto
from router.config.yaml_lines import Document, YamlSyntaxError, parse
from router.experiment_rules import cross_field_problems
from router.field_problems import Steps, did_you_mean
from router.shadow_rules import shadow_state_problems
from router.v1.experiments_pb2 import Experiment
from router.v1.types_pb2 import Signal

#: A hundred arms with all their parameters are far smaller.
MAX_BYTES: Final = 1024 * 1024

_EXPECTED: Final = {
    "string_type": "text",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
}
_ID_HINT: Final = "start with a letter or digit, then use only letters, digits and . _ : / @ -"
#: Where off is a word, and not what some readers of YAML make of it.
_WORDS: Final = (("shadow", "text"),)
_VALIDATOR: Final = Validator()


@dataclass(frozen=True, slots=True)
class ExperimentFile:
    """An experiment that somebody wrote down."""

    #: ready for CreateExperiment or UpdateExperiment; what the file leaves out is absent
    experiment: Experiment
    #: the state the file asks for; None if it does not say
    state: StateName | None
    #: the file's name, for messages
    source: str


def load_experiment_file(content: Path | str | bytes, source_name: str | None = None) -> ExperimentFile:
    """Read an experiment from a file (a Path) or from its content (text, or bytes in UTF-8).

    `source_name` is what messages call it: by default the path, or `<text>`. Raises ExperimentFileError, and nothing
    else, for whatever keeps the file from being read or the experiment from being valid.
    """
    source = source_name or (str(content) if isinstance(content, Path) else "<text>")
    try:
        value, document = parse(_text(content), _WORDS)
    except YamlSyntaxError as error:
        raise ExperimentFileError(source, [error.problem]) from error
    problems = list(document.problems)
    shape = _shape(value, document, problems)
    if shape is not None:
        experiment = to_proto(shape)
        sound = not problems
        problems += _field_problems(experiment, document)
        if sound:
            problems += _rule_problems(experiment, document, shape.state)
        if not problems:
            return ExperimentFile(experiment, shape.state, source)
    # What was found first about a value explains what else is wrong with it.
    first = {(problem.line, problem.column, problem.path): problem for problem in reversed(problems)}
    raise ExperimentFileError(source, (first[place] for place in sorted(first)))


def _text(content: Path | str | bytes) -> str:
    try:
        if isinstance(content, Path):
            with content.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
        if len(data) > MAX_BYTES:
            raise YamlSyntaxError(0, 0, "the file is larger than 1 MiB")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise YamlSyntaxError(line, 0, "not UTF-8", "save the file as UTF-8") from error
    except (OSError, ValueError) as error:
        raise YamlSyntaxError(0, 0, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _shape(value: Any, document: Document, problems: list[FileProblem]) -> ExperimentShape | None:
    """The file's content in its shape; None if it has not got it. Unknown keys are reported, then overlooked."""
    if not isinstance(value, dict):
        message = "the file is empty" if value is None else f"must be a mapping with experiment and arms, not {_kind(value)}"
        problems.append(document.problem((), message, "`bandit-router init` writes an example"))
        return None
    try:
        return ExperimentShape.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems += (_shape_problem(detail, document) for detail in details)
    if any(detail["type"] != "extra_forbidden" for detail in details):
        return None
    for detail in details:
        parent = value
        for step in detail["loc"][:-1]:
            parent = parent[step]
        del parent[detail["loc"][-1]]
    # Without the unknown keys, what spans the others shows.
    return _shape(value, document, problems)


def _shape_problem(detail: ErrorDetails, document: Document) -> FileProblem:
    path, value, kind = detail["loc"], detail["input"], detail["type"]
    if path[-1] == "[key]":
        valid = list(get_args(SignalName))
        return document.problem(path[:-1], "unknown key", did_you_mean(value, valid) or f"use {_either(valid)}")
    if kind == "extra_forbidden":
        valid = list(_shape_at(path[:-1]).model_fields)
        return document.problem(path, "unknown key", did_you_mean(str(path[-1]), valid) or f"use {_either(valid)}")
    if kind == "missing":
        return document.problem(path, "is required")
    if kind == "no_value":
        return document.problem(path, "has no value", "leave the key out for the default")
    if kind == "literal_error":
        valid = re.findall(r"'(\w+)'", detail["ctx"]["expected"])
        return document.problem(path, f"must be {_either(valid)}, not {_kind(value)}", did_you_mean(str(value), valid))
    if kind == "too_short":
        return document.problem(path, "is empty", "leave the key out for the default")
    if kind == "two_of_one":
        return document.problem(path, f"{detail['msg']}, it must have exactly one of them")
    if kind == "value_error":
        return document.problem(path, str(detail["ctx"]["error"]), durations.HINT)
    hint = ""
    if kind == "string_type" and isinstance(value, int | float):
        hint = "put it in quotes"
    elif kind == "float_type" and isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+", value):
        hint = "remove the quotes"
    return document.problem(path, f"must be {_EXPECTED[kind]}, not {_kind(value)}", hint)


def _shape_at(path: Steps) -> type[BaseModel]:
    names = tuple(step for step in path if isinstance(step, str))
    # The priors of single arms are by the id of the arm.
    return SHAPES[names[:2] if names[:2] == ("allocation", "priors") else names]


def _field_problems(experiment: Experiment, document: Document) -> Iterable[FileProblem]:
    """What the proto's own rules say."""
    for violation in _VALIDATOR.collect_violations(experiment):
        steps: list[str | int] = []
        for element in violation.proto.field.elements if violation.proto.field else ():
            steps.append(element.field_name)
            if element.subscript is not None:
                steps.append(element.subscript.value)
        if steps and steps[-1] == "bound":
            yield document.problem(_file_path(tuple(steps[:-1]), experiment), "must have limit or ratio")
            continue
        path, value = _file_path(tuple(steps), experiment), violation.field_value
        got = f"{_kind(value)} " if isinstance(value, str | float) else ""
        hint = _ID_HINT if path[-1:] in (("experiment",), ("id",)) else ""
        yield document.problem(path, got + violation.proto.message, hint)


def _rule_problems(experiment: Experiment, document: Document, state: StateName | None) -> Iterable[FileProblem]:
    of_state = shadow_state_problems(experiment) if state == "shadow" else ()
    for problem in [*cross_field_problems(experiment), *of_state]:
        yield document.problem(_file_path(problem.steps, experiment), problem.message, problem.hint)


def _file_path(steps: Steps, experiment: Experiment) -> Steps:
    """Where the file has the field that the proto has at these steps."""
    match steps:
        case ("experiment_id",):
            return ("experiment",)
        case ("arms", int(i), "arm_id"):
            return ("arms", i, "id")
        case ("reward_rule", "signals", int(i), *_):
            name = Signal.Name(experiment.reward_rule.signals[i].signal)
            return ("rewards", name.removeprefix("SIGNAL_").lower())
        case ("reward_rule", *rest):
            return tuple(rest)
        case ("ramp", "challenger_arm_id"):
            return ("ramp", "challenger")
    return steps


def _kind(value: object) -> str:
    """The value, or what it is, as the end of a message."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "null" if value is None else str(value).lower().removesuffix(".0")


def _either(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"
