"""Decision ids: signed tokens that carry all that a reward needs to know about its decision.

Layout, big endian, then unpadded base64url::

    format 1 | key id 4 | incarnation 8 | decision key 16 | arm 2 | reward rule version 2 | flags 1 | policy version 8
    | propensity 8 | decided at, microseconds 8 | unit 8 | session 8 | turn 8 | segment length 1 | segment | MAC 16

The MAC is keyed BLAKE2b over all that precedes it. Unit, session and turn are keyed hashes, 0 where absent, so that a
token tells nothing about a user. Only the canonical form is accepted, so that one decision has one id.
"""

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest

from router.errors import InvalidArgumentError

FORMAT = 1
_HEAD = struct.Struct("!BIQ16sHHBQdQ8s8s8sB")
_MAC_BYTES = 16
_NOT_LEARNED = 1
_ABSENT = bytes(8)


@dataclass(frozen=True, slots=True)
class DecisionToken:
    """What a decision id says."""

    #: The experiment, by its incarnation: a number never used twice.
    incarnation: int
    #: 16 bytes, unique to the decision; with the day it is the key of the decision's rows.
    decision_key: bytes
    #: The arm's number within the experiment.
    arm: int
    #: The reward rule in force when the decision was made.
    reward_rule_version: int
    #: False for forced decisions.
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


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A signing key: 32 secret bytes under a random 32-bit id."""

    key_id: int
    secret: bytes


class TokenCodec:
    """Mints and opens decision ids. The newest key signs; every known key verifies."""

    def __init__(self, signing: TokenKey, verifying: Mapping[int, bytes]) -> None:
        self._signing = signing
        self._secrets = {**verifying, signing.key_id: signing.secret}

    @property
    def secret(self) -> bytes:
        """The signing secret, which also keys the draws of retried requests."""
        return self._signing.secret

    def hash_id(self, value: str) -> bytes:
        """Return the 8-byte keyed hash of a unit, session or turn id; zeros for an empty one."""
        if not value:
            return _ABSENT
        return blake2b(value.encode(), key=self._signing.secret, digest_size=8, person=b"identifier").digest()

    def mint(self, token: DecisionToken) -> tuple[str, bytes]:
        """Return the decision id and the signed bytes it encodes."""
        segment = token.segment.encode()
        body = (
            _HEAD.pack(
                FORMAT,
                self._signing.key_id,
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
        raw = body + _mac(self._signing.secret, body)
        return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii"), raw

    def open(self, decision_id: str) -> DecisionToken:
        """Verify a decision id and return what it says.

        Raises InvalidArgumentError with reason DECISION_ID_MALFORMED, DECISION_ID_FOREIGN or DECISION_ID_TAMPERED.
        """
        return self.open_raw(_decode(decision_id))

    def open_raw(self, raw: bytes) -> DecisionToken:
        """As `open`, from the signed bytes."""
        if len(raw) < _HEAD.size + _MAC_BYTES or raw[0] != FORMAT:
            raise _refused("MALFORMED", "is not a decision id of this router: send back what Route returned, unchanged")
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        (
            _,
            key_id,
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
        ) = _HEAD.unpack_from(body)
        if len(body) != _HEAD.size + segment_bytes:
            raise _refused("MALFORMED", "is cut short or has bytes too many")
        secret = self._secrets.get(key_id)
        if secret is None:
            raise _refused("FOREIGN", "was signed by another deployment, or by a key that this one no longer keeps")
        if not compare_digest(mac, _mac(secret, body)):
            raise _refused("TAMPERED", "was altered: its signature does not hold")
        return DecisionToken(
            incarnation=incarnation,
            decision_key=decision_key,
            arm=arm,
            reward_rule_version=rule_version,
            learned=not flags & _NOT_LEARNED,
            policy_version=policy_version,
            propensity=propensity,
            decided_at_us=decided_at_us,
            unit_hash=unit,
            session_hash=session,
            turn_hash=turn,
            segment=body[_HEAD.size :].decode(),
        )


def _mac(secret: bytes, body: bytes) -> bytes:
    return blake2b(body, key=secret, digest_size=_MAC_BYTES, person=b"decision id").digest()


def _decode(decision_id: str) -> bytes:
    try:
        encoded = decision_id.encode("ascii")
        raw = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise _refused("MALFORMED", "is not unpadded base64url") from None
    # Decoding forgives padding, foreign characters and stray bits; re-encoding does not.
    if urlsafe_b64encode(raw).rstrip(b"=") != encoded:
        raise _refused("MALFORMED", "is not in the canonical form that Route returned")
    return raw


def _refused(kind: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError.of_field("decision_id", description, reason=f"DECISION_ID_{kind}")
