"""Labels: what stands in the place of a forgotten unit.

A label is random and written down nowhere else, so that nobody can tell whose it was. The decisions of one unit get the same
one: they stay one cluster to estimates, one unit to guardrails and tests of the split, and have one share.
"""

import secrets

_PREFIX = "forgotten-"
_DIGITS = 32

#: A pattern for LIKE that labels match. No unit that somebody named is of this form, but by intent.
PATTERN = _PREFIX + "_" * _DIGITS


def new_label() -> str:
    """Return a label that nothing has yet."""
    return _PREFIX + secrets.token_hex(_DIGITS // 2)


def is_label(unit_id: str) -> bool:
    """Whether a unit's id is a label."""
    return len(unit_id) == len(PATTERN) and unit_id.startswith(_PREFIX)
