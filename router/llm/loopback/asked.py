"""One request, whichever protocol it came in: what the behaviours look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

#: What changes how an answer travels, or whom it is billed to, but not the answer.
_NO_CONTENT: Final = ("stream", "stream_options", "metadata", "user", "safety_identifier", "service_tier")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that passed the checks of its protocol."""

    model: str
    #: Every text in it, for counting tokens.
    whole: str
    #: The last message of the user.
    last: str
    #: The JSON Schema that the answer must follow; None for free text.
    schema: Mapping[str, Any] | None
    max_tokens: int | None
    stream: bool
    #: Whether a stream must end with the usage.
    stream_usage: bool
    #: The request as canonical JSON, without what does not change the answer: the seed of everything drawn.
    content: str


def text_of(content: Any) -> str:
    """Return the text of a message's content: a string, or blocks of which some have text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable):
        return ""
    return "\n".join(str(block["text"]) for block in content if isinstance(block, Mapping) and "text" in block)


def canonical(body: Mapping[str, Any]) -> str:
    """Return what a request asks, always the same for the same question."""
    kept = {name: value for name, value in body.items() if name not in _NO_CONTENT}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)
