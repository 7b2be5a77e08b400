"""What a caller may tell of a prompt without sending it: how much it resembles the one before.

Model
    Both texts are case-folded, compatibility-normalised (NFKC), and every run of other characters than letters and digits
    becomes one space. Each becomes a multiset of its trigrams of characters, with a space before and after. The similarity
    is Dice's coefficient, 2 |A and B| / (|A| + |B|): 1 for the same words in the same order, 0 with nothing in common. A
    question put in other words shares most of its trigrams; another question few.

Source
    Dice (1945), "Measures of the amount of ecologic association between species"; trigrams for approximate matching of
    text: Angell, Freund & Willett (1983).
"""

import re
import unicodedata
from collections import Counter

_OTHER = re.compile(r"[\W_]+")
_LENGTH = 3
#: More of a text than this costs a caller time and says little more.
_MOST_CHARACTERS = 20_000


def prompt_similarity(prompt: str, previous: str) -> float:
    """Return how much a prompt resembles the previous one of its session, in [0, 1], for `RouteRequest.prompt_similarity`.

    Symmetric. Two prompts without letters and digits are alike; one such prompt is unlike any other. Of longer texts the
    first 20,000 characters are compared.
    """
    ours, theirs = _trigrams(prompt), _trigrams(previous)
    total = ours.total() + theirs.total()
    if not total:
        return 1.0
    return 2.0 * (ours & theirs).total() / total


def _trigrams(text: str) -> Counter[str]:
    words = _OTHER.sub(" ", unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).casefold()).strip()
    padded = f" {words} " if words else ""
    return Counter(padded[i : i + _LENGTH] for i in range(len(padded) - _LENGTH + 1))
