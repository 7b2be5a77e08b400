"""What the loopback models know: how good each is, on the prompts of the project's data and on any other.

A prompt that carries "[prompt N]", N being a `prompt_no` of `router/data/llm_outcomes_9arms.csv`, is answered by each of
the nine models of that table with a text that ends in "[quality S]", S being the score of that model on that prompt. So
whoever reads the answer, a judge or a user, can learn what the table says, and nothing else can be learned from it. On other
prompts S is drawn around the model's own mean, always the same for the same model and prompt.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

_PROMPT: Final = re.compile(r"\[prompt (\d{1,6})\]")
_QUALITY: Final = re.compile(r"\[quality (\d(?:\.\d+)?)\]")
#: How far a quality strays from its model's mean, at most.
_SPREAD: Final = 0.15
#: Models of the experiment file that `bandit-router init` writes, and their like; the qualities are invented.
_COMMON: Final = {
    "claude-haiku-4-5-20251001": 0.6,
    "claude-sonnet-4-6": 0.7,
    "gpt-5-mini": 0.6,
    "gpt-5": 0.7,
}


@dataclass(frozen=True, slots=True)
class World:
    """How the models of one server behave, beyond what their names say."""

    #: Models to know beside the nine of the data, with their mean quality in [0, 1].
    models: Mapping[str, float] = field(default_factory=lambda: dict(_COMMON))
    #: The least and the greatest latency of models whose name gives none; drawn by model and request.
    latency_ms: tuple[float, float] = (0.0, 0.0)
    #: What "loopback-429" and "loopback-529" say in retry-after.
    retry_after_s: float = 1.0

    def means(self) -> Mapping[str, float]:
        """Return the mean quality of every model that answers."""
        return {**_data_means(), **self.models}

    def quality(self, model: str, prompt: str) -> float:
        """Return how good the model's answer to a prompt is, in [0, 1]."""
        numbered = _PROMPT.search(prompt)
        table = _data()
        if numbered and model in table and int(numbered.group(1)) < len(table[model]):
            return table[model][int(numbered.group(1))]
        mean = self.means()[model]
        reach = min(_SPREAD, mean, 1 - mean)
        return mean + reach * (2 * fraction("quality", model, prompt) - 1)


def mark(quality: float) -> str:
    """Return the text from which a quality can be learned."""
    return f"[quality {quality:.6f}]"


def marks(text: str) -> list[float]:
    """Return the qualities that a text tells, in order."""
    return [float(found) for found in _QUALITY.findall(text)]


def quality_of(answer: str) -> float | None:
    """Return the quality that the answer of a loopback model tells; None where it is no such answer."""
    found = marks(answer)
    return found[-1] if found else None


def fraction(*parts: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for the same parts."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


@functools.cache
def _data() -> Mapping[str, tuple[float, ...]]:
    """Return the scores of each model, by prompt_no: the rows of the file are in its order, from 0."""
    text = (files("router") / "data" / "llm_outcomes_9arms.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return {model: tuple(float(row[model]) for row in rows) for model in rows[0] if model not in ("prompt_no", "task")}


@functools.cache
def _data_means() -> Mapping[str, float]:
    return {model: sum(scores) / len(scores) for model, scores in _data().items()}
