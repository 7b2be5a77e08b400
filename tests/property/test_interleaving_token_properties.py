"""Interleaving ids: what was minted opens, and nothing else does, least of all a decision id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidArgumentError
from router.tokens import DecisionToken, InterleavingToken, TokenCodec, TokenKey, _encode

CODEC = TokenCodec(TokenKey(7, b"k" * 32), {})
OTHER = TokenCodec(TokenKey(8, b"o" * 32), {})
tokens = st.builds(
    InterleavingToken, incarnation=st.integers(0, 2**63 - 1), interleaving_key=st.binary(min_size=16, max_size=16)
)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
DECISION = DecisionToken(1, bytes(16), 0, 1, True, 1, 0.5, 1, bytes(8), bytes(8), bytes(8), "")


@given(tokens)
def test_what_was_minted_opens(token):
    interleaving_id = CODEC.mint_interleaving(token)
    assert CODEC.open_interleaving(interleaving_id) == token
    rotated = TokenCodec(TokenKey(9, b"n" * 32), {7: b"k" * 32})
    assert rotated.open_interleaving(interleaving_id) == token, "by a key that signs no more"
    with pytest.raises(InvalidArgumentError) as refused:
        OTHER.open_interleaving(interleaving_id)
    assert refused.value.reason == "DECISION_ID_FOREIGN"


@given(tokens, st.data())
def test_one_changed_character_is_refused(token, data):
    interleaving_id = CODEC.mint_interleaving(token)
    index = data.draw(st.integers(0, len(interleaving_id) - 1))
    character = data.draw(st.sampled_from(ALPHABET).filter(lambda c: c != interleaving_id[index]))
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open_interleaving(interleaving_id[:index] + character + interleaving_id[index + 1 :])
    assert refused.value.reason in {"DECISION_ID_TAMPERED", "DECISION_ID_FOREIGN", "DECISION_ID_MALFORMED"}
    assert refused.value.violations[0].field == "interleaving_id"


@given(st.text(max_size=100) | st.text(ALPHABET + "=+/ \n", max_size=100))
def test_anything_else_is_refused_and_never_crashes(text):
    with pytest.raises(InvalidArgumentError):
        CODEC.open_interleaving(text)


def test_the_kinds_are_kept_apart():
    decision_id = CODEC.mint(DECISION)[0].decode()
    interleaving_id = CODEC.mint_interleaving(InterleavingToken(1, bytes(16)))
    for refuse in (lambda: CODEC.open_interleaving(decision_id), lambda: CODEC.open(interleaving_id)):
        with pytest.raises(InvalidArgumentError) as refused:
            refuse()
        assert refused.value.reason == "DECISION_ID_MALFORMED"


def test_a_signature_of_one_kind_is_none_of_the_other():
    """Even where the bytes fit: the two kinds are signed apart."""
    interleaving_id = CODEC.mint_interleaving(InterleavingToken(1, bytes(16)))
    key = CODEC._signing
    raw = (2).to_bytes(1, "big") + (7).to_bytes(4, "big") + (1).to_bytes(8, "big") + bytes(16)
    assert _encode(raw + key.interleaving_mac(raw)).decode() == interleaving_id
    with pytest.raises(InvalidArgumentError) as refused:
        CODEC.open_interleaving(_encode(raw + key.mac(raw)).decode())
    assert refused.value.reason == "DECISION_ID_TAMPERED"
