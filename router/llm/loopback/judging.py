"""How a loopback judge judges: by the qualities that the answers tell, in whatever schema it is asked to reply in.

The last two marks "[quality S]" in the user's message are those of answer A and answer B, in this order. With one mark, it
is that answer's score. A schema is filled by the kind of each property: an enum by its value that means A, B or a tie; a
number by the quality (of A or B where its name ends in "_a" or "_b", scaled to minimum and maximum); a text by a reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from router.llm.loopback.asked import Asked
from router.llm.loopback.world import fraction, marks

_MEANINGS: Final[Mapping[str, frozenset[str]]] = {
    "A": frozenset({"a", "answer a", "answer_a", "response a", "response_a", "first", "1", "left"}),
    "B": frozenset({"b", "answer b", "answer_b", "response b", "response_b", "second", "2", "right"}),
    "tie": frozenset({"tie", "equal", "same", "draw", "both", "neither", "c"}),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a judge found."""

    #: "A", "B" or "tie".
    better: str
    #: Of answer A, or of the only answer; in [0, 1].
    quality_a: float = 0.5
    quality_b: float = 0.5


def compare(text: str) -> Finding:
    """Return which of the two answers in a text is the better one by its own telling."""
    told = marks(text)
    if not told:
        return Finding("tie")
    if len(told) == 1:
        return Finding("tie", told[0], told[0])
    first, second = told[-2:]
    return Finding("A" if first > second else "B" if second > first else "tie", first, second)


def mislead(finding: Finding, share: float, model: str, content: str) -> Finding:
    """Return another verdict for this share of all requests."""
    if fraction("misled", model, content) >= share:
        return finding
    others = [verdict for verdict in ("A", "B", "tie") if verdict != finding.better]
    return Finding(others[int(2 * fraction("misled to", model, content))], finding.quality_b, finding.quality_a)


def reply(asked: Asked, finding: Finding) -> str:
    """Return what a judge writes."""
    reason = {"A": "The first answer is better.", "B": "The second answer is better.", "tie": "Neither is better."}
    if asked.schema is None:
        return f"{reason[finding.better]} Verdict: {finding.better}"
    return fill(asked.schema, finding, reason[finding.better])


def fill(schema: Mapping[str, Any], finding: Finding, text: str) -> str:
    """Return JSON that follows a schema and says what was found."""
    return json.dumps(_value("", schema, schema, finding, text), ensure_ascii=False)


def _value(name: str, schema: Mapping[str, Any], root: Mapping[str, Any], finding: Finding, text: str) -> Any:
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choice(schema["enum"], finding.better)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            properties: Mapping[str, Any] = schema.get("properties", {})
            return {key: _value(key, inner, root, finding, text) for key, inner in properties.items()}
        case "array":
            return []
        case "number" | "integer":
            return _number(name, schema, kind, finding)
        case "boolean":
            return finding.better != "tie"
        case "null":
            return None
        case _:
            return text


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference into the schema's own definitions, and the first of several alternatives."""
    if "$ref" in schema:
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[step]
        return _resolved(found, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return _resolved(schema[several][0], root)
    return schema


def _choice(values: Sequence[Any], better: str) -> Any:
    meant = [value for value in values if str(value).strip().lower() in _MEANINGS[better]]
    # Asked to choose without a tie on offer, or from other words: the first value, so that a reply is always valid.
    return meant[0] if meant else values[0]


def _number(name: str, schema: Mapping[str, Any], kind: str, finding: Finding) -> float | int:
    least, most = float(schema.get("minimum", 0)), float(schema.get("maximum", 1))
    quality = finding.quality_b if name.lower().endswith("_b") else finding.quality_a
    value = least + (most - least) * quality
    return math.floor(value + 0.5) if kind == "integer" else round(value, 6)
