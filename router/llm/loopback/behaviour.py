"""What a loopback model does, by its name.

| Name | Does |
|---|---|
| the nine models of `llm_outcomes_9arms.csv`, and `World.models` | answers with its name and "[quality S]", see `world` |
| `loopback-judge` | compares by the qualities that the answers tell; a tie where they are equal or missing |
| `loopback-judge-noisy`, `loopback-judge-noisy-35` | the same, but wrong in 20 (35) of 100 requests, seeded by the request |
| `loopback-judge-a` | always prefers the first answer |
| `loopback-judge-garbled` | replies with half a JSON |
| `loopback-judge-refuses`, `loopback-refusal` | refuses: stop reason "refusal" |
| `loopback-429`, `loopback-529` | rate limit, overloaded; both with retry-after |
| `loopback-500` | an internal error |
| `loopback-slow` | answers after 30 s |
| `loopback-cut-before` | closes the connection instead of answering |
| `loopback-cut-mid` | closes it in the middle of the answer, or of the stream |
| `loopback-error-mid` | a stream that ends in the provider's error event; without a stream, an internal error |
| `loopback-malformed` | 200 with a body that is no JSON |
| `loopback-no-answer` | 200 with JSON that is no answer |
| `loopback-empty` | an answer without text |

Any name may end in "@750ms" or "@150-400ms": so long it takes, drawn by model and request. Everything is the same again for
the same model and request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from router.llm.loopback import judging
from router.llm.loopback.asked import Asked
from router.llm.loopback.world import World, fraction, mark

_NAME: Final = re.compile(r"^(?P<base>[^@]+)(?:@(?P<least>\d{1,6})(?:-(?P<most>\d{1,6}))?ms)?$")
_NOISY: Final = re.compile(r"^loopback-judge-noisy(?:-(\d{1,2}))?$")
_SLOW_S: Final = 30.0
_JUDGES: Final = ("loopback-judge", "loopback-judge-noisy", "loopback-judge-a", "loopback-judge-garbled")
_REFUSING: Final = ("loopback-judge-refuses", "loopback-refusal")
_STATUS: Final = {"loopback-429": 429, "loopback-500": 500, "loopback-529": 529}
_BREAKING: Final = {
    "loopback-cut-before": "cut-before",
    "loopback-cut-mid": "cut-mid",
    "loopback-error-mid": "error-mid",
    "loopback-malformed": "malformed",
    "loopback-no-answer": "no-answer",
}
_PLAIN: Final = ("loopback-slow", "loopback-empty")
_SENTENCES: Final = (
    "Here is how I would go about it, step by step.",
    "In short: it depends, and here is on what.",
    "Let me take the question apart before I answer it.",
    "The usual way is the right one here, for three reasons.",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What to do with one request."""

    delay_s: float
    text: str
    #: "end_turn", "refusal" or "max_tokens": each protocol has its own words for them.
    stop: str = "end_turn"
    #: An error instead of an answer.
    status: int = 200
    retry_after_s: float | None = None
    #: "", or how the answer breaks: the values of `_BREAKING`.
    breaks: str = ""


def names(world: World) -> list[str]:
    """Return the models that a listing shows."""
    return [*world.means(), *_JUDGES, *_REFUSING, *_STATUS, *_BREAKING, *_PLAIN]


def knows(world: World, model: str) -> bool:
    """Return whether there is such a model."""
    parsed = _NAME.match(model)
    return parsed is not None and (parsed["base"] in names(world) or _NOISY.match(parsed["base"]) is not None)


def behave(world: World, asked: Asked) -> Behaviour:
    """Return what the model of a request does. Raises KeyError if there is no such model."""
    parsed = _NAME.match(asked.model)
    if parsed is None:
        raise KeyError(asked.model)
    base = parsed["base"]
    delay_s = _delay_s(world, asked, base, parsed)
    if base in _STATUS:
        retry_after_s = world.retry_after_s if _STATUS[base] != 500 else None
        return Behaviour(delay_s, "", status=_STATUS[base], retry_after_s=retry_after_s)
    if base in _REFUSING:
        return Behaviour(delay_s, "I can't help with that.", stop="refusal")
    text, stop = _limited(_text(world, asked, base), asked.max_tokens)
    return Behaviour(delay_s, text, stop=stop, breaks=_BREAKING.get(base, ""))


def tokens(text: str) -> int:
    """Return about how many tokens a text has: four characters each."""
    return -(-len(text) // 4)


def _delay_s(world: World, asked: Asked, base: str, parsed: re.Match[str]) -> float:
    if parsed["least"] is None:
        if base == "loopback-slow":
            return _SLOW_S
        least, most = world.latency_ms
    else:
        least, most = float(parsed["least"]), float(parsed["most"] or parsed["least"])
    return (least + (most - least) * fraction("delay", asked.model, asked.content)) / 1000


def _text(world: World, asked: Asked, base: str) -> str:
    noisy = _NOISY.match(base)
    if base == "loopback-judge":
        return judging.reply(asked, judging.compare(asked.last))
    if noisy:
        share = int(noisy.group(1) or 20) / 100
        return judging.reply(asked, judging.mislead(judging.compare(asked.last), share, asked.model, asked.content))
    if base == "loopback-judge-a":
        return judging.reply(asked, judging.Finding("A"))
    if base == "loopback-judge-garbled":
        return '{"verdict": "A", "reason": "the first answ'
    if base == "loopback-empty":
        return ""
    quality = world.quality(base, asked.last) if base in world.means() else 0.5
    sentence = _SENTENCES[int(len(_SENTENCES) * fraction("sentence", asked.model, asked.content))]
    answer = f"This is {asked.model}. {sentence} {mark(quality)}"
    return answer if asked.schema is None else judging.fill(asked.schema, judging.Finding("tie", quality), answer)


def _limited(text: str, max_tokens: int | None) -> tuple[str, str]:
    if max_tokens is None or tokens(text) <= max_tokens:
        return text, "end_turn"
    return text[: 4 * max_tokens], "max_tokens"
