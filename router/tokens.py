"""Decision ids and interleaving ids: signed tokens that carry all that feedback needs to know about its origin.

Layout of a decision id, big endian, then unpadded base64url::

    format 1 | key id 4 | incarnation 8 | decision key 16 | arm 2 | reward rule version 2 | flags 1 | policy version 8
    | propensity 8 | decided at, microseconds 8 | unit 8 | session 8 | turn 8 | segment length 1 | segment | MAC 16

An interleaving id::

    format 2 | key id 4 | incarnation 8 | interleaving key 16 | MAC 16

The MAC is keyed BLAKE2b over all that precedes it, personalised by the kind of id: neither passes for the other. Unit,
session and turn are keyed hashes, 0 where absent, so that a token tells nothing about a user. Only the canonical form is
accepted, so that one decision has one id.
"""

import binascii
import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple, Self

from router.errors import InvalidArgumentError

FORMAT = 1
_HEAD = struct.Struct("!BIQ16sHHBQdQ8s8s8sB")
_MAC_BYTES = 16
_CONTENT_BYTES = 12
_INTERLEAVING_FORMAT = 2
_INTERLEAVING = struct.Struct("!BIQ16s")
_NOT_LEARNED = 1
_ABSENT = bytes(8)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")


class DecisionToken(NamedTuple):
    """What a decision id says. A named tuple: two are made for every decision that is rewarded."""

    #: The experiment, by its incarnation: a number never used twice.
    incarnation: int
    #: 16 bytes, unique to the decision; with the day it is the key of the decision's rows.
    decision_key: bytes
    #: The arm's number within the experiment.
    arm: int
    #: The reward rule in force when the decision was made.
    reward_rule_version: int
    #: False for decisions that were forced or made for a unit that is held out.
    learned: bool
    policy_version: int
    propensity: float
    #: Microseconds since the epoch.
    decided_at_us: int
    #: 8-byte keyed hashes; zeros where there is none.
    unit_hash: bytes
    session_hash: bytes
    turn_hash: bytes
    segment: str


class InterleavingToken(NamedTuple):
    """What an interleaving id says."""

    #: The experiment.
    incarnation: int
    #: 16 bytes: the key of the list's row.
    interleaving_key: bytes


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A signing key: 32 secret bytes under a random 32-bit id."""

    key_id: int
    secret: bytes = field(repr=False)
    #: From when it signs, until a later one does, in microseconds since the epoch.
    activates_at_us: int = 0
    #: Whether what it signed is refused.
    retired: bool = False


class _Keyed:
    """The keyed hashes of one key. Copying a keyed state costs less than half of keying a new one."""

    __slots__ = ("_content", "_identifier", "_interleaving", "_mac", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._mac = blake2b(key=secret, digest_size=_MAC_BYTES, person=b"decision id")
        self._identifier = blake2b(key=secret, digest_size=8, person=b"identifier")
        self._interleaving = blake2b(key=secret, digest_size=_MAC_BYTES, person=b"interleaving id")
        self._content = blake2b(key=secret, digest_size=_CONTENT_BYTES, person=b"event content")

    def mac(self, body: bytes) -> bytes:
        state = self._mac.copy()
        state.update(body)
        return state.digest()

    def interleaving_mac(self, body: bytes) -> bytes:
        state = self._interleaving.copy()
        state.update(body)
        return state.digest()

    def identifier(self, value: str) -> bytes:
        state = self._identifier.copy()
        state.update(value.encode())
        return state.digest()

    def content(self, sent: bytes) -> bytes:
        state = self._content.copy()
        state.update(sent)
        return state.digest()


class TokenCodec:
    """Mints and opens decision ids. One key signs, every known key verifies, and the first key there was names units.

    That one is never replaced: a unit keeps its hash, and a repeated request its draw, while signing keys come and go.
    """

    def __init__(self, signing: TokenKey, verifying: Mapping[int, bytes], identity: bytes | None = None) -> None:
        """`identity` is the secret that names units; by default the signing one."""
        #: The oldest first.
        self.keys: Sequence[TokenKey] = (signing,)
        self._set(signing, verifying, signing.secret if identity is None else identity)

    @classmethod
    def of(cls, keys: Sequence[TokenKey], now_us: int) -> Self:
        """Return a codec of these keys, the oldest first; there must be one."""
        codec = cls(keys[0], {})
        codec.follow(keys, now_us)
        return codec

    def follow(self, keys: Sequence[TokenKey], now_us: int) -> None:
        """Have these keys from now on, the oldest first. The one that was activated last signs, by this host's clock."""
        self.keys = tuple(keys)
        active = [key for key in keys if not key.retired and key.activates_at_us <= now_us]
        # The clocks of this host and of Postgres may differ by more than the age of the first key.
        signing = max(active, key=lambda key: key.activates_at_us) if active else keys[0]
        self._set(signing, {key.key_id: key.secret for key in keys if not key.retired}, keys[0].secret)

    def _set(self, signing: TokenKey, verifying: Mapping[int, bytes], identity: bytes) -> None:
        self._key_id = signing.key_id
        self._keyed = {key_id: _Keyed(secret) for key_id, secret in {**verifying, signing.key_id: signing.secret}.items()}
        self._signing = self._keyed[signing.key_id]
        self._identity = _Keyed(identity)

    @property
    def key_id(self) -> int:
        """The id of the key that signs."""
        return self._key_id

    @property
    def secret(self) -> bytes:
        """The secret that keys the draws of repeated requests: the same for as long as the deployment lives."""
        return self._identity.secret

    def hash_id(self, value: str) -> bytes:
        """Return the 8-byte keyed hash of a unit, session or turn id; zeros for an empty one."""
        return self._identity.identifier(value) if value else _ABSENT

    def hash_content(self, sent: bytes) -> bytes:
        """Return the 12-byte keyed hash of what an event held, whichever key signs: guesses cannot be tried on it."""
        return self._identity.content(sent)

    def mint(self, token: DecisionToken) -> tuple[bytes, bytes]:
        """Return the decision id, in ASCII, and the signed bytes it encodes."""
        segment = token.segment.encode()
        body = (
            _HEAD.pack(
                FORMAT,
                self._key_id,
                token.incarnation,
                token.decision_key,
                token.arm,
                token.reward_rule_version,
                0 if token.learned else _NOT_LEARNED,
                token.policy_version,
                token.propensity,
                token.decided_at_us,
                token.unit_hash,
                token.session_hash,
                token.turn_hash,
                len(segment),
            )
            + segment
        )
        raw = body + self._signing.mac(body)
        return _encode(raw), raw

    def open(self, decision_id: str) -> DecisionToken:
        """Verify a decision id and return what it says.

        Raises InvalidArgumentError with reason DECISION_ID_MALFORMED, DECISION_ID_FOREIGN or DECISION_ID_TAMPERED.
        """
        raw = _decode(decision_id, "decision_id")
        try:
            token = parse_token(raw)
        except ValueError as error:
            raise _refused("MALFORMED", str(error)) from None
        self._verify(raw, "decision_id", _Keyed.mac)
        return token

    def mint_interleaving(self, token: InterleavingToken) -> str:
        """Return the interleaving id."""
        body = _INTERLEAVING.pack(_INTERLEAVING_FORMAT, self._key_id, token.incarnation, token.interleaving_key)
        return _encode(body + self._signing.interleaving_mac(body)).decode()

    def open_interleaving(self, interleaving_id: str) -> InterleavingToken:
        """Verify an interleaving id and return what it says; raises as `open`."""
        field = "interleaving_id"
        raw = _decode(interleaving_id, field)
        if len(raw) != _INTERLEAVING.size + _MAC_BYTES or raw[0] != _INTERLEAVING_FORMAT:
            raise _refused(
                "MALFORMED",
                "is not an interleaving id of this router: send back what Interleave returned, unchanged",
                field,
            )
        self._verify(raw, field, _Keyed.interleaving_mac)
        _, _, incarnation, key = _INTERLEAVING.unpack_from(raw)
        return InterleavingToken(incarnation, key)

    def _verify(self, raw: bytes, field: str, mac: Callable[[_Keyed, bytes], bytes]) -> None:
        keyed = self._keyed.get(int.from_bytes(raw[1:5], "big"))
        if keyed is None:
            raise _refused("FOREIGN", "was signed by another deployment, or by a key that this one no longer keeps", field)
        if not compare_digest(raw[-_MAC_BYTES:], mac(keyed, raw[:-_MAC_BYTES])):
            raise _refused("TAMPERED", "was altered: its signature does not hold", field)


def parse_token(raw: bytes) -> DecisionToken:
    """Return what signed bytes say without verifying who signed them: for files that nobody else can write.

    Raises ValueError if they have another layout.
    """
    if len(raw) < _HEAD.size + _MAC_BYTES or raw[0] != FORMAT:
        raise ValueError("is not a decision id of this router: send back what Route returned, unchanged")
    (
        _,
        _,
        incarnation,
        decision_key,
        arm,
        rule_version,
        flags,
        policy_version,
        propensity,
        decided_at_us,
        unit,
        session,
        turn,
        segment_bytes,
    ) = _HEAD.unpack_from(raw)
    if len(raw) != _HEAD.size + segment_bytes + _MAC_BYTES:
        raise ValueError("is cut short or has bytes too many")
    return DecisionToken(
        incarnation,
        decision_key,
        arm,
        rule_version,
        not flags & _NOT_LEARNED,
        policy_version,
        propensity,
        decided_at_us,
        unit,
        session,
        turn,
        raw[_HEAD.size : _HEAD.size + segment_bytes].decode(errors="replace"),
    )


def _encode(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=")


def _decode(text: str, field: str) -> bytes:
    try:
        encoded = text.encode("ascii")
        raw = a2b_base64(encoded.translate(_STANDARD) + b"=" * (-len(encoded) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise _refused("MALFORMED", "is not unpadded base64url", field) from None
    # Decoding forgives padding, foreign characters and stray bits; re-encoding does not.
    if _encode(raw) != encoded:
        raise _refused("MALFORMED", "is not in the canonical form that the router returned", field)
    return raw


def _refused(kind: str, description: str, field: str = "decision_id") -> InvalidArgumentError:
    return InvalidArgumentError.of_field(field, description, reason=f"DECISION_ID_{kind}")
