"""Turns a mirrored call into a record for the router: what text it may hold, and how it gets there.

Text leaves this process only as the experiment's shadow rule wants it: redacted first, cut after that, so that a redactor
always sees a secret whole.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, assert_never

from router.client import CallReport, Decision, ModelAnswer, ShadowRecord, TextMode, Unavailable
from router.llm.answers import Answer
from router.llm.dialect import Dialect
from router.llm.mirrors import Mirrored
from router.llm.shadow_answer import ServingAnswer, ShadowAnswer

#: What RecordShadow takes, in characters.
_LONGEST_TEXT: Final = 1_000_000
_ATTEMPTS: Final = 6
_FIRST_REST_S: Final = 0.1

Redact = Callable[[str], str]
Send = Callable[[ShadowRecord], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RecordStats:
    """What became of the records."""

    recorded: int = 0
    #: Refused by the router, or not taken after several attempts.
    lost: int = 0
    #: Recorded without any text, because the redactor raised or returned no text.
    unredacted: int = 0


class Recording:
    """Records both answers of a mirrored call. In the background's loop, but for `stats`."""

    def __init__(self, dialect: Dialect, send: Send, redact: Redact | None) -> None:
        self._dialect = dialect
        self._send = send
        self._redact = redact
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()

    async def record(self, mirrored: Mirrored, serving: ServingAnswer, shadow: ShadowAnswer) -> None:
        """Record a pair, trying again while the router cannot be reached."""
        record = self._of(mirrored, serving, shadow)
        rest_s = _FIRST_REST_S
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(rest_s)
                rest_s *= 2
            try:
                await self._send(record)
            except Unavailable:
                continue
            except Exception:
                break
            self._count("recorded")
            return
        self._count("lost")

    def stats(self) -> RecordStats:
        """Return the counts. From any thread."""
        with self._lock:
            return RecordStats(**self._counts)

    def _of(self, mirrored: Mirrored, serving: ServingAnswer, shadow: ShadowAnswer) -> ShadowRecord:
        prompt, served, mirror = self._texts(mirrored, _text(serving.answer), _text(shadow.answer))
        return ShadowRecord(
            mirrored.decision,
            shadow.arm_id,
            request_id=mirrored.request_id,
            prompt=prompt,
            serving=_side(served, serving.answer, serving.call),
            shadow=_side(mirror, shadow.answer, shadow.call),
        )

    def _texts(self, mirrored: Mirrored, *answers: str) -> tuple[str, ...]:
        """Return prompt and answers as they may be recorded."""
        limit = text_limit(mirrored.decision)
        if limit == 0:
            return ("",) * (1 + len(answers))
        try:
            asked = json.dumps(self._dialect.asked(mirrored.parameters), ensure_ascii=False)
            return tuple(_clean(text if self._redact is None else self._redact(text))[:limit] for text in (asked, *answers))
        except Exception:
            # Nobody knows what a redactor that fails would have left out.
            self._count("unredacted")
            return ("",) * (1 + len(answers))

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def text_limit(decision: Decision) -> int:
    """Return how many characters of each text the experiment lets be recorded; 0 for none."""
    match decision.shadow_text:
        case TextMode.FULL:
            return _LONGEST_TEXT
        case TextMode.TRUNCATED:
            return max(0, min(_LONGEST_TEXT, decision.shadow_text_limit))
        case TextMode.OFF | TextMode.UNSPECIFIED:
            return 0
        case _:
            assert_never(decision.shadow_text)


def _text(answer: Answer | None) -> str:
    return "" if answer is None else answer.text


def _side(text: str, answer: Answer | None, call: CallReport) -> ModelAnswer:
    if answer is None:
        return ModelAnswer(call=call)
    return ModelAnswer(
        text=text,
        call=call,
        model=_word(answer.model, 256),
        stop_reason=_word(answer.stop_reason, 128),
        provider_request_id=_word(answer.request_id, 256),
    )


def _clean(text: str) -> str:
    """Return a text that a message can hold: without NUL, and without halves of characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _word(text: str, longest: int) -> str:
    """Return a name of the provider's as the contract takes it."""
    return "".join(letter for letter in _clean(text) if letter >= " " and letter != "\x7f")[:longest]
