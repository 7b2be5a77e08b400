"""What is wrong with a definition, and where: values that the rules return and that files and the API show."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: Field names, list positions and map keys that lead to a value: ("arms", 1, "cap").
Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A rule that a definition breaks."""

    #: the way to the field, in the proto's names
    steps: Steps
    #: what is wrong with it
    message: str
    #: what to do about it; may be empty
    hint: str = ""

    @property
    def path(self) -> str:
        """The field as text: `arms[1].cap`."""
        return render_path(self.steps)


def render_path(steps: Steps) -> str:
    """Return the steps as people write them, on one line: `arms[1].cap`, `weights["a.b"]`."""
    text = ""
    for step in steps:
        plain = isinstance(step, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", step)
        text += f".{step}" if plain else f"[{json.dumps(step)[:128]}]"
    return text.removeprefix(".")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the hint that names the choice most like a mistyped word, or an empty string if none is near."""
    # Comparing takes quadratic time, and no choice is nearly that long.
    near = difflib.get_close_matches(word, list(choices), n=1) if len(word) <= 256 else []
    return f"did you mean {near[0]!r}?" if near else ""
