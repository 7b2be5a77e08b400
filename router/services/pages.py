"""Page tokens: opaque to clients, where a page begins to the router."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from router.errors import InvalidArgumentError


def page_token(place: str) -> str:
    """Return the token of the page that begins behind a place: its kind, then where."""
    return urlsafe_b64encode(place.encode()).decode()


def place_of(page_token: str, kind: str, method: str, *, number: bool = False) -> str:
    """Return what a token says after its kind; empty for the first page. InvalidArgumentError if it is none of `method`."""
    if not page_token:
        return ""
    try:
        text = urlsafe_b64decode(page_token.encode()).decode()
    except (binascii.Error, UnicodeError, ValueError):
        text = ""
    place = text.removeprefix(kind)
    valid = place.isascii() and place.isdecimal() and len(place) <= 18 if number else "\x00" not in place
    if not (text.startswith(kind) and valid):
        raise InvalidArgumentError.of_field(
            "page_token", f"is not a token that {method} returned", reason="INVALID_PAGE_TOKEN"
        )
    return place
