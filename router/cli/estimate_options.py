"""What `estimate` may be asked: policies that never ran, and learners to replay, as options write them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

T = TypeVar("T")
_POLICIES = "write uniform, arm:ID or floor:0.05"
_LEARNERS = "write settings with commas between them, as in prior=6:4,discount=0.99: kind, prior, floor, discount, every"


@dataclass(frozen=True, slots=True)
class AskedPolicy:
    """A policy to value, by its option."""

    #: As it was written.
    text: str
    #: Always this arm; empty for another policy.
    arm_id: str = ""
    #: The logged allocations with this floor; None for another policy.
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class AskedLearner:
    """A learner to replay, by its option; None is as the experiment has it."""

    #: As it was written.
    text: str
    #: thompson or top_two.
    kind: str | None = None
    #: alpha and beta of every arm.
    prior: tuple[float, float] | None = None
    floor: float | None = None
    #: Nothing is forgotten unless it is said.
    discount: float = 1.0
    #: Outcomes between two allocations.
    every: int = 20


def policy_of(text: str) -> AskedPolicy:
    """Return the policy that `uniform`, `arm:ID` or `floor:F` stands for. Raises ValueError that says what to write."""
    kind, _, given = text.partition(":")
    if text == "uniform":
        return AskedPolicy(text)
    if kind == "arm" and given:
        return AskedPolicy(text, arm_id=given)
    if kind == "floor" and given:
        return AskedPolicy(text, floor=_floor(given))
    raise ValueError(f"this is no policy: {_POLICIES}")


def learner_of(text: str) -> AskedLearner:
    """Return the learner that `KEY=VALUE,…` stands for. Raises ValueError that says what to write."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, _, given = (piece.strip() for piece in part.partition("="))
        if key not in _SETTINGS or not given:
            raise ValueError(f"{part!r} is no setting of a learner: {_LEARNERS}")
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = _SETTINGS[key](given)
    return AskedLearner(text, **found)


def _kind(given: str) -> str:
    if given not in ("thompson", "top_two"):
        raise ValueError("kind is thompson or top_two")
    return given


def _prior(given: str) -> tuple[float, float]:
    numbers = [_number(part) for part in given.split(":")]
    if len(numbers) != 2 or any(number is None or not number > 0.0 for number in numbers):
        raise ValueError("a prior is two positive numbers, alpha and beta, as in 6:4")
    return float(numbers[0] or 0.0), float(numbers[1] or 0.0)


def _floor(given: str) -> float:
    found = _number(given)
    if found is None or not 0.0 <= found < 0.5:
        raise ValueError("a floor is a number from 0 to below 0.5")
    return found


def _discount(given: str) -> float:
    found = _number(given)
    if found is None or not 0.0 < found <= 1.0:
        raise ValueError(
            "a discount is a number above 0, and 1 at most: what evidence keeps of its weight with each outcome"
        )
    return found


def _every(given: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", given) or int(given) < 1:
        raise ValueError("every is a whole number of outcomes, 1 or more")
    return int(given)


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "kind": _kind,
    "prior": _prior,
    "floor": _floor,
    "discount": _discount,
    "every": _every,
}


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


class _Asked(click.ParamType[T]):
    """What `read` makes of the text of an option."""

    def __init__(self, name: str, read: Callable[[str], T]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        try:
            return self._read(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


POLICY = _Asked("policy", policy_of)
LEARNER = _Asked("learner", learner_of)
