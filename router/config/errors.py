"""What is wrong with an experiment file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileProblem:
    """One mistake in an experiment file."""

    #: from 1; 0 if the mistake has no line, as when the file cannot be read
    line: int
    #: from 1; 0 if it has none
    column: int
    #: where in the file's structure, as in `arms[1].cap`; empty if the mistake is not about one value
    path: str
    #: what is wrong
    message: str
    #: what to do about it; may be empty
    hint: str = ""


class ExperimentFileError(ValueError):
    """An experiment file that cannot be used; its text is a line `FILE:LINE: path: message (hint)` for each problem."""

    def __init__(self, source: str, problems: Iterable[FileProblem]) -> None:
        self.source = source
        #: in the order of the file, at least one
        self.problems = tuple(problems)
        super().__init__("\n".join(_line(source, problem) for problem in self.problems))


def _line(source: str, problem: FileProblem) -> str:
    where = f"{source}:{problem.line}: " if problem.line else f"{source}: "
    path = f"{problem.path}: " if problem.path else ""
    hint = f" ({problem.hint})" if problem.hint else ""
    return where + path + problem.message + hint
