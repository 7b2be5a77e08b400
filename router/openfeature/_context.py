"""What an evaluation context says about a request."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import InvalidContextError

from router.client._requests import RouteOptions

_Text: TypeAlias = Literal["session_id", "turn_id", "request_id", "segment", "prompt_fingerprint", "force_arm_id"]
_TEXTS: Final[tuple[_Text, ...]] = get_args(_Text)


def route_options(context: EvaluationContext | None) -> RouteOptions:
    """Return the arguments of `route` that a context holds: `unit_id` is its targeting key, the others are attributes.

    Attributes of other names are other providers' and left alone; so is None. Raises InvalidContextError, which names the
    attribute, its value and what it must be. Only types are checked here: the field rules are the router's.
    """
    if context is None:
        return {}
    options: RouteOptions = {"unit_id": _text("targeting_key", context.targeting_key or "")}
    attributes = context.attributes
    for name in _TEXTS:
        if attributes.get(name) is not None:
            options[name] = _text(name, attributes[name])
    if attributes.get("eligible_arm_ids") is not None:
        options["eligible_arm_ids"] = _arm_ids(attributes["eligible_arm_ids"])
    if attributes.get("prompt_similarity") is not None:
        options["prompt_similarity"] = _number("prompt_similarity", attributes["prompt_similarity"])
    return options


def session_of(context: EvaluationContext | None) -> str:
    """Return the session that a context names, empty if none or not as text."""
    value = context.attributes.get("session_id") if context is not None else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _text(name: str, value: Any) -> str:
    # Turns and users are often numbered.
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise InvalidContextError(f"{name} {value!r}: must be text or a whole number")


def _number(name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise InvalidContextError(f"{name} {value!r}: must be a number")


def _arm_ids(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(arm_id, str) for arm_id in value):
        return tuple(value)
    raise InvalidContextError(f"eligible_arm_ids {value!r}: must be a list of arm ids")
