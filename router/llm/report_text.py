"""Text of a report that others wrote, such as the answers of models, made safe to show."""

from __future__ import annotations

import unicodedata

#: Characters that move a cursor, ring a bell or turn the direction of what follows around.
_UNSAFE = ("Cc", "Cs", "Co", "Cn")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029")


def visible(text: str) -> str:
    """Return a text without control characters, unpaired surrogates and marks of direction; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if _harmless(one) else "\ufffd" for one in text.replace("\r\n", "\n"))


def shortened(text: str, length: int) -> str:
    """Return a text on one line, at most `length` characters long."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: max(0, length - 1)] + "…"


def _harmless(one: str) -> bool:
    return one in "\n\t" or (unicodedata.category(one) not in _UNSAFE and one not in _BIDI)
