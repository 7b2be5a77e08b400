"""API keys: how they look, what is known of them, and the set of them that a process checks against.

A key is `brk_`, 12 hexadecimal digits that name it, `_`, and 43 characters of base64url: 256 random bits. Kept is the
SHA-256 of the whole text. A hash without salt or stretching is enough: nobody guesses 256 bits.
"""

import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest

from router.access.buckets import TokenBucket
from router.access.roles import Role

_KEY = re.compile(r"brk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII).fullmatch
_KEY_ID = re.compile(r"[0-9a-f]{12}", re.ASCII).fullmatch
#: What the secret of a key that there is not is compared with, so that both take the same time.
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. The key itself is known to its holder alone."""

    key_id: str
    #: Who has it.
    name: str
    #: SHA-256 of the key.
    secret_hash: bytes = field(repr=False)
    roles: frozenset[Role]
    #: Ids of the experiments that it is for; None for all.
    experiments: frozenset[str] | None = None
    #: Calls and items of batches a second, and at once, in each worker; None for any number.
    rate: float | None = None
    burst: float | None = None
    #: Microseconds since the epoch; None for never.
    expires_at_us: int | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time that it is seen."""

    key_id: str
    text: str = field(repr=False)

    @property
    def secret_hash(self) -> bytes:
        """What is kept of it."""
        return hash_of(self.text)


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Who calls: a key, and its bucket in this process."""

    key: ApiKey
    bucket: TokenBucket | None = None

    @property
    def unscoped(self) -> bool:
        """Whether every experiment is in scope."""
        return self.key.experiments is None

    def may(self, role: Role) -> bool:
        """Whether the key has a role, or one that includes it."""
        return role in self.key.roles or (role is Role.READ and Role.ADMIN in self.key.roles)

    def reaches(self, experiment_id: str) -> bool:
        """Whether an experiment is in scope."""
        return self.key.experiments is None or experiment_id in self.key.experiments


#: Where no key is asked for.
ANYONE = Caller(ApiKey("", "", _NO_HASH, frozenset(Role)))


class KeyRing:
    """The keys that there are, at one time: replaced as a whole when one changes."""

    def __init__(self, callers: Iterable[Caller] = ()) -> None:
        self._callers = {caller.key.key_id: caller for caller in callers}
        #: By the text of the key. Each key has one text, so this does not grow beyond the keys.
        self._verified: dict[str, Caller] = {}

    def __contains__(self, caller: Caller) -> bool:
        """Whether the very same key is still known, and not revoked."""
        known = self._callers.get(caller.key.key_id)
        return known is not None and not known.key.revoked and known.key.secret_hash == caller.key.secret_hash

    @property
    def buckets(self) -> dict[str, TokenBucket]:
        """The bucket of each key that has one."""
        return {key_id: caller.bucket for key_id, caller in self._callers.items() if caller.bucket is not None}

    def find(self, text: str) -> Caller | None:
        """Return who holds a key; None if there is no such key. Whether it is revoked or expired is not asked."""
        return self._verified.get(text) or self._verify(text)

    def _verify(self, text: str) -> Caller | None:
        found = _KEY(text)
        if found is None:
            return None
        caller = self._callers.get(found[1])
        known = _NO_HASH if caller is None else caller.key.secret_hash
        if not compare_digest(known, hash_of(text)) or caller is None:
            return None
        self._verified[text] = caller
        return caller


def ring_of(keys: Iterable[ApiKey], before: KeyRing, clock: Callable[[], float]) -> KeyRing:
    """Return the ring of these keys; buckets of keys whose limit stays the same are those of the ring before."""
    buckets = before.buckets
    callers = []
    for key in keys:
        bucket = None
        if key.rate is not None and key.burst is not None:
            bucket = buckets.get(key.key_id)
            if bucket is None or (bucket.rate, bucket.burst) != (key.rate, key.burst):
                bucket = TokenBucket(key.rate, key.burst, clock)
        callers.append(Caller(key, bucket))
    return KeyRing(callers)


def new_key() -> NewKey:
    """Return a key of 256 random bits."""
    key_id = secrets.token_hex(6)
    return NewKey(key_id, f"brk_{key_id}_{secrets.token_urlsafe(32)}")


def hash_of(text: str) -> bytes:
    """Return what is kept of a key."""
    return sha256(text.encode()).digest()


def is_key(text: str) -> bool:
    """Whether a text looks like a key."""
    return _KEY(text) is not None


def is_key_id(text: str) -> bool:
    """Whether a text looks like the id of a key."""
    return _KEY_ID(text) is not None
