"""The tables of real outcomes, and what one could earn on them.

Shapes
    scores    (T, K)  the score in [0, 1] of arm k on prompt t
    costs     (T, K)  US dollars, where the source has them
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FAMILIES = {
    "codegemma": "google",
    "gemma": "google",
    "gemini": "google",
    "llama-3.1-8b-instruct": "meta",
    "llama-3.1-nemotron": "nvidia",
    "llama-3.3-nemotron": "nvidia",
    "llama3-chatqa": "nvidia",
    "mistral": "mistral",
    "qwen": "alibaba",
}


@dataclass(frozen=True, slots=True)
class Table:
    """The outcome of every arm on every prompt."""

    name: str
    arm_ids: tuple[str, ...]
    #: What the arms are called by their vendors; aligned with the arms.
    models: tuple[str, ...]
    #: The task or benchmark of each prompt.
    tasks: tuple[str, ...]
    #: Read-only.
    scores: Array
    #: Read-only; None where the source does not say.
    costs: Array | None

    def shuffled(self, rng: np.random.Generator, prompts: int | None = None) -> Table:
        """Return the prompts in random order, only the first `prompts` of them if given."""
        order = rng.permutation(len(self.scores))[:prompts]
        return replace(
            self,
            tasks=tuple(self.tasks[i] for i in order),
            scores=_frozen(self.scores[order]),
            costs=None if self.costs is None else _frozen(self.costs[order]),
        )

    def baselines(self) -> Baselines:
        """Return what choices without learning earn."""
        means = self.scores.mean(axis=0)
        best = int(means.argmax())
        return Baselines(
            uniform=float(means.mean()),
            best_fixed=float(means[best]),
            best_fixed_arm=self.arm_ids[best],
            oracle=float(self.scores.max(axis=1).mean()),
            means=tuple(means.tolist()),
        )


@dataclass(frozen=True, slots=True)
class Baselines:
    """Average rewards over all prompts of a table."""

    #: Every arm alike.
    uniform: float
    #: The arm of the largest mean, on every prompt.
    best_fixed: float
    best_fixed_arm: str
    #: On every prompt the arm that is best on it: no router without a look at the prompt can earn this.
    oracle: float
    #: The mean of each arm.
    means: tuple[float, ...]


def load(arms: int) -> Table:
    """Return the table of 9 or of 3 arms, in the order of its file: sorted by task, so shuffle before use."""
    name, task, score, cost = {
        9: ("llm_outcomes_9arms", "task", "", None),
        3: ("llm_outcomes_3arms_cost", "source", ":reward", ":cost_usd"),
    }[arms]
    text = (files("router") / "data" / f"{name}.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    taken = {"prompt_no", task}
    models = [
        column.removesuffix(score)
        for column in rows[0]
        if column not in taken and column.endswith(score) and not (cost and column.endswith(cost))
    ]
    return Table(
        name=name,
        arm_ids=tuple(model.rpartition("/")[2] for model in models),
        models=tuple(models),
        tasks=tuple(row[task] for row in rows),
        scores=_frozen(np.array([[float(row[model + score]) for model in models] for row in rows])),
        costs=None if cost is None else _frozen(np.array([[float(row[model + cost]) for model in models] for row in rows])),
    )


def family(model: str) -> str:
    """Return the vendor of a model, by its name; empty if unknown."""
    vendor, slash, name = model.rpartition("/")
    if slash:
        return vendor
    return next((family for prefix, family in _FAMILIES.items() if name.startswith(prefix)), "")


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array
